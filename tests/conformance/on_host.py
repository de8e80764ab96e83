"""Mounts on this host through /dev/fuse, one a kind of file system, kept for the run: a real kernel asks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.conformance.behind import behind
from tests.conformance.host import HostPlace
from tests.conformance.ring import devices_of
from tests.mounting.mounts import Daemon, daemon, device_of, unmount


class Mounts:
    """The mounts of a run, each made when it is first asked for."""

    def __init__(self, base: Path, mounts: Mapping[str, str], size: int, inodes: int) -> None:
        """Take mounts as `served` does."""
        self._base = base
        self._mounts = mounts
        self._stack = ExitStack()
        self._stand_on = self._stack.enter_context(behind(base, size, inodes))
        self._made: dict[str, tuple[Path, int, Daemon]] = {}

    def place(self, name: str, differences: frozenset[str]) -> HostPlace:
        """Return the mount of this name, with what the last one left."""
        if name not in self._made:
            mountpoint = self._base / name
            mountpoint.mkdir()
            configuration = self._base / f"{name}.yaml"
            configuration.write_text(devices_of({name: self._mounts[name]}, self._base, self._stand_on))
            self._stack.callback(_taken_away, mountpoint)
            process = self._stack.enter_context(
                daemon("-o", "allow_other,dev,suid", configuration, mountpoint)
            )
            # Other users have no way there by path.
            root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY)
            self._made[name] = mountpoint, root, process
        _, root, process = self._made[name]
        assert process.process.poll() is None, process.log
        return HostPlace(Path(f"/proc/self/fd/{root}"), differences)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """End the daemons, which unmount; each must end cleanly, and never have met a fault of its own.

        Unmounting here would leave one that another process has in a namespace of its own meanwhile.
        """
        with self._stack:
            for mountpoint, root, process in self._made.values():
                os.close(root)
                process.process.terminate()
                assert process.ended() == 0, process.log
                assert "Traceback" not in process.log, process.log
                assert " ERROR " not in process.log, process.log
                assert device_of(mountpoint) is None


def _taken_away(mountpoint: Path) -> None:
    """Unmount what a daemon left that was killed."""
    if device_of(mountpoint) is not None:
        unmount(mountpoint, "-l")
