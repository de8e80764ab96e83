"""A daemon process with one share, and what it holds open while front-ends come and go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend, FrontendOptions
from tests.frontend.messages import VRING_STATE, FrontendSocket, Request
from vhostfs.devices import RINGS_SERVED

PATIENCE = 20.0
"""Seconds after which a test has waited for too long."""

CONTENT = bytes(range(256)) * 1024
"""What the share's file holds: 256 KiB, each byte telling its offset modulo 256."""

DEVICE = """
  - tag: {tag}
    socket: {{path: {socket}}}
    {keys}
    mounts:
      /: {{type: passthrough, shared_dir: {directory}, locks: {{posix: host, flock: host}}}}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A device of a daemon, and the directory that it serves."""

    directory: Path
    daemon: Daemon
    socket: Path
    """Where front-ends connect."""

    @contextmanager
    def mounted(self, options: FrontendOptions | None = None) -> Iterator[tuple[Frontend, FuseClient]]:
        """Provide a front-end whose guest has begun a session."""
        with Frontend.start(self.socket, options) as frontend:
            client = FuseClient(frontend)
            client.init()
            yield frontend, client

    def settle(self) -> None:
        """Return when all earlier front-ends are gone and the device is clean: a new one is answered."""
        with FrontendSocket(self.socket, timeout=PATIENCE) as connection:
            connection.call(Request.GET_QUEUE_NUM)

    def touch_all_rings(self) -> None:
        """Have the daemon open whatever it keeps for each ring, so that it opens no more later."""
        with self.mounted() as (frontend, _):
            for index in range(RINGS_SERVED):
                frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 0))
        self.settle()

    def check(self) -> None:
        """Make sure that the daemon lives and serves its share to a new guest."""
        assert self.daemon.alive(), self.daemon.log()
        with self.mounted() as (_, client):
            assert read_file(client) == CONTENT

    def open_descriptors(self) -> list[str]:
        """Return what the daemon's descriptors refer to, sorted."""
        found = []
        for link in Path(f"/proc/{self.daemon.process.pid}/fd").iterdir():
            try:
                found.append(str(link.readlink()))
            except FileNotFoundError:
                continue
        return sorted(found)

    def mappings_of_guests(self) -> list[str]:
        """Return the lines of the daemon's memory map that belong to memory files of front-ends."""
        lines = Path(f"/proc/{self.daemon.process.pid}/maps").read_text().splitlines()
        return [line for line in lines if "memfd:" in line]


def read_file(client: FuseClient, *, name: bytes = b"file") -> bytes:
    """Read a file of the share in pieces of 64 KiB."""
    node = client.walk(name).nodeid
    handle = client.open(node).fh
    pieces: list[bytes] = []
    while piece := client.read(node, handle, 65536, sum(map(len, pieces))):
        pieces.append(piece)
    client.release(node, handle)
    return b"".join(pieces)


def eventually(promise: Callable[[], bool], what: str) -> None:
    """Wait for what another process does without a word; fail after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not promise():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def serving(place: Path, *, keys: str = "", options: tuple[str, ...] = ()) -> Iterator[Served]:
    """Provide a daemon that must end well when it is told to; `keys` go into its device's configuration."""
    with serving_many(place, ("share",), keys=keys, options=options) as (served,):
        yield served


@contextmanager
def serving_many(
    place: Path, tags: tuple[str, ...], *, keys: str = "", options: tuple[str, ...] = ()
) -> Iterator[tuple[Served, ...]]:
    """Provide a daemon with a device for each tag; each is as a daemon of its own to a front-end."""
    text = "sandbox: {mode: none}\ndevices:"
    directories = [place / tag for tag in tags]
    for directory in directories:
        directory.mkdir()
        (directory / "file").write_bytes(CONTENT)
        socket = place / f"{directory.name}.sock"
        text += DEVICE.format(tag=directory.name, socket=socket, directory=directory, keys=keys)
    configuration = place / "vhostfs.yaml"
    configuration.write_text(text)
    program = Path(sys.executable).parent / "vhostfsd"
    command = [str(program), "--config", str(configuration), *options]
    with running_daemon(command, place / f"{tags[0]}.sock") as daemon:
        yield tuple(Served(directory, daemon, place / f"{directory.name}.sock") for directory in directories)
        assert daemon.stop() == 0, daemon.log()
