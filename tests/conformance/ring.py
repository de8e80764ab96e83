"""One daemon process for the run, a device for each type of mount, a new front-end for each promise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conformance.detached import detached_tmpfs
from tests.conformance.requests import RequestPlace
from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend

VHOSTFS: Final = [sys.executable, "-c", "import sys; from vhostfs.cli import main; sys.exit(main())"]

DEVICE: Final = """
  - socket: {{path: {socket}}}
    mounts:
      /: {mount}
"""


class Devices:
    """The daemon, and the socket of each device, by the name of its mount."""

    def __init__(self, daemon: Daemon, sockets: Mapping[str, Path]) -> None:
        self._daemon = daemon
        self._sockets = sockets

    @contextmanager
    def place(self, name: str, differences: frozenset[str]) -> Iterator[RequestPlace]:
        """Provide the mount of this name as a guest sees it, with what the last one left."""
        assert self._daemon.alive(), self._daemon.log()
        with Frontend.start(self._sockets[name]) as frontend:
            client = FuseClient(frontend)
            client.init()
            yield RequestPlace(client, differences)


def devices_of(mounts: Mapping[str, str], base: Path, tmpfs: Path) -> str:
    """Return the devices of a configuration, one for each mount, with sockets of the same names."""
    shared = str(tmpfs).replace("self", str(os.getpid()))
    return "devices:" + "".join(
        DEVICE.format(socket=base / name, mount=mount.format(tmpfs=shared)) for name, mount in mounts.items()
    )


@contextmanager
def served(base: Path, mounts: Mapping[str, str], size: int, inodes: int) -> Iterator[Devices]:
    """Serve mounts given as YAML, in which {tmpfs} stands for a new tmpfs of this size.

    The daemon must end cleanly, and never have met a fault of its own.
    """
    with detached_tmpfs(size=str(size), nr_inodes=str(inodes), mode="755") as tmpfs:
        configuration = base / "vhostfs.yaml"
        configuration.write_text("sandbox: {mode: none}\n" + devices_of(mounts, base, tmpfs))
        command = [*VHOSTFS, "serve", f"--config={configuration}"]
        with running_daemon(command, configuration) as daemon:
            yield Devices(daemon, {name: base / name for name in mounts})
            assert daemon.stop() == 0, daemon.log()
            assert "Traceback" not in daemon.log(), daemon.log()
            assert " ERROR " not in daemon.log(), daemon.log()
