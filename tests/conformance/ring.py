"""One daemon process for the run, a device for each type of mount, a new front-end for each promise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conformance.behind import behind
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


def devices_of(mounts: Mapping[str, str], base: Path, stand_on: Mapping[str, str]) -> str:
    """Return the devices of a configuration, one for each mount, with sockets of the same names."""
    return "devices:" + "".join(
        DEVICE.format(socket=base / name, mount=mount.format(**stand_on)) for name, mount in mounts.items()
    )


@contextmanager
def served(base: Path, mounts: Mapping[str, str], size: int, inodes: int) -> Iterator[Devices]:
    """Serve mounts given as YAML, which stand on what is in braces: a tmpfs of this size, or a store.

    The daemon must end cleanly, and never have met a fault of its own.
    """
    with behind(base, size, inodes) as stand_on:
        configuration = base / "vhostfs.yaml"
        configuration.write_text("sandbox: {mode: none}\n" + devices_of(mounts, base, stand_on))
        command = [*VHOSTFS, "serve", f"--config={configuration}"]
        with running_daemon(command, configuration) as daemon:
            yield Devices(daemon, {name: base / name for name in mounts})
            assert daemon.stop() == 0, daemon.log()
            assert "Traceback" not in daemon.log(), daemon.log()
            assert " ERROR " not in daemon.log(), daemon.log()
