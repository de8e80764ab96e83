"""Histories of overlays: beside a plain directory, and beside overlayfs of this machine's kernel.

From time to time the layers change hands: the upper one becomes a lower one below a new upper one, or the
kernel mounts what was written here, and the other way round.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ClassVar

from hypothesis.stateful import rule

from tests.conformance.detached import detached, detached_tmpfs
from tests.conformance.histories import PATHS, RENAMES, Histories
from tests.conformance.host import HostPlace
from tests.conformance.in_process import mounted
from tests.conformance.place import RENAME_WHITEOUT, Place
from tests.conformance.requests import RequestPlace
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.backends.overlay import OverlayFilesystem

LOWERS = 3
"""The most lower layers."""


class Overlays(Histories):
    """What the two have in common."""

    exact: ClassVar[bool] = False

    def close_files(self) -> None:
        """Close what is open."""
        while self.files:
            for file in self.files.pop():
                file.close()

    @rule(path=PATHS, new_path=PATHS, flags=RENAMES)
    def rename(self, path: str, new_path: str, flags: int) -> None:
        if not flags & RENAME_WHITEOUT:
            super().rename(path, new_path, flags)


class OverlayHistories(Overlays):
    """An overlay of memory file systems goes as a directory does."""

    def subject(self) -> Place:
        self.layers = [self.layer(), self.layer()]
        self.mounting = self.stack.enter_context(ExitStack())
        return self.mount()

    @staticmethod
    def layer() -> MemoryFilesystem:
        """Return an empty layer."""
        return MemoryFilesystem(size=1 << 40, inodes=1 << 20, mode=0o755)

    def mount(self) -> Place:
        """Begin a session with the layers."""
        overlay = OverlayFilesystem(self.layers[1:], self.layers[0])
        return RequestPlace(self.mounting.enter_context(mounted(overlay)))

    @rule()
    def begin_anew(self) -> None:
        """End the session, and begin another one."""
        self.close_files()
        self.mounting.close()
        self.checked = self.mount()

    @rule()
    def seal(self) -> None:
        """Put a new upper layer over all others; files part with their further names, which copies lose."""
        if len(self.layers) > LOWERS:
            return
        self.close_files()
        for path, about in self.portrait(self.real).items():
            if not stat.S_ISDIR(int(about[0], 8)) and self.real.stat(path).nlink > 1:
                self.both(lambda place, path=path: place.unlink(path))  # type: ignore[misc]
        self.mounting.close()
        self.layers.insert(0, self.layer())
        self.checked = self.mount()


class KernelHistories(Overlays):
    """An overlay of directories goes as overlayfs does, and either goes on where the other one stopped."""

    def __init__(self) -> None:
        self.layers: list[Path] = []
        super().__init__()

    def host(self) -> Place:
        root = self.stack.enter_context(detached_tmpfs(mode="755"))
        for owner in ("kernel", "vhostfs"):
            base = root / owner
            for path in ("work", "upper", "lower", "lower/a", "lower/a/c", "lower/b"):
                (base / path).mkdir(parents=True, mode=0o755)
            (base / "lower/c").write_bytes(b"lower")
            (base / "lower/a/b").write_bytes(b"more of it")
            (base / "lower/a/a").symlink_to("/dev/null")
            os.link(base / "lower/c", base / "lower/b/a")
            os.setxattr(base / "lower/a/b", "user.a", b"1")
            self.layers.append(base)
        self.kernels = self.stack.enter_context(ExitStack())
        self.ours = self.stack.enter_context(ExitStack())
        return self.mount_in_the_kernel()

    def subject(self) -> Place:
        return self.mount_here()

    def plant(self) -> None:
        """Leave the layers as they are: they hold something."""

    def mount_in_the_kernel(self) -> Place:
        """Have overlayfs mount the first of the two sets of layers."""
        base = self.layers[0]
        options = [
            ("lowerdir+", f"{base}/lower"),
            ("upperdir", f"{base}/upper"),
            ("workdir", f"{base}/work"),
            ("redirect_dir", "on"),
            ("xino", "off"),
        ]
        return HostPlace(self.kernels.enter_context(detached("overlay", *options)))

    def mount_here(self) -> Place:
        """Serve the second one of the two."""
        base = self.layers[1]
        lower, everything = [
            self.ours.enter_context(closing(DirectoryFilesystem(path))) for path in (base / "lower", base)
        ]
        overlay = OverlayFilesystem([lower], everything, upper_path="upper", work="work")
        return RequestPlace(self.ours.enter_context(mounted(overlay)))

    @rule()
    def change_hands(self) -> None:
        """Have each of the two go on where the other one has come to."""
        self.close_files()
        self.kernels.close()
        self.ours.close()
        self.layers.reverse()
        self.real, self.checked = self.mount_in_the_kernel(), self.mount_here()
