"""What the tests of a running daemon share."""

from __future__ import annotations

import socket as sockets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend
from vhostfs.fuse_abi.opcodes import ROOT_ID

REPOSITORY = Path(__file__).parents[3]

VHOSTFSD = [sys.executable, "-c", "import sys; from vhostfs.cli import daemon_main; sys.exit(daemon_main())"]
"""The command vhostfsd, whether or not it is installed."""

RunDaemon = Callable[..., AbstractContextManager[Daemon]]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory to share, with one file."""
    directory = tmp_path / "share"
    directory.mkdir()
    (directory / "file").write_bytes(b"content")
    return directory


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where a daemon shall listen."""
    return tmp_path / "socket"


@pytest.fixture
def run(share: Path, socket: Path) -> RunDaemon:
    """Run a daemon that serves the share at the socket, with more options; it has said that it is ready."""

    @contextmanager
    def start(*options: str) -> Iterator[Daemon]:
        command = [*VHOSTFSD, f"--socket-path={socket}", f"--shared-dir={share}", *options]
        with running_daemon(command, socket) as daemon:
            yield daemon

    return start


def read_file(path: Path, name: bytes = b"file") -> bytes:
    """Return what a guest reads of a file in the root directory, over a connection of its own."""
    with Frontend.start(path) as frontend:
        client = FuseClient(frontend)
        client.init()
        nodeid = client.lookup(ROOT_ID, name).nodeid
        return client.read(nodeid, client.open(nodeid).fh, 1 << 16)


def refused(*options: str) -> tuple[int, str]:
    """Return the exit status and the standard error of a daemon that does not start."""
    done = subprocess.run([*VHOSTFSD, *options], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


def wait_until_listening(path: Path) -> None:
    """Wait for a daemon that cannot say that it is ready."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with sockets.socket(sockets.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens at {path}")


def listening(path: Path) -> sockets.socket:
    """Return a listening socket, as a launcher makes one."""
    made = sockets.socket(sockets.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made
