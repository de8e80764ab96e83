"""Daemons for the tests of operations: one a set of options, kept for the run, its share emptied each time.

VHOSTFS_DAEMON in the environment names another command to run instead of vhostfsd, a peer to compare with.
Peers serve one connection each, so that they are started again for each test.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.frontend.client import LINUX_7_2_FLAGS, FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend, FrontendOptions
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION, ROOT_ID
from vhostfs.fuse_abi.structures import InitOut

TAG = "share"

HOST_LOCKS = ("--posix-locks=host", "--flock=host")
"""Options that let the host hold locks."""

PEER = os.environ.get("VHOSTFS_DAEMON")


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host and the daemon that serves it."""

    directory: Path
    daemon: Daemon


@dataclass(frozen=True, slots=True)
class Mount:
    """A share as a guest has it mounted: connected, with a FUSE session."""

    share: Share
    frontend: Frontend
    client: FuseClient
    init: InitOut

    @property
    def directory(self) -> Path:
        """The shared directory, as the host sees it."""
        return self.share.directory

    @property
    def daemon(self) -> Daemon:
        """The daemon that serves it."""
        return self.share.daemon

    def node(self, path: str) -> int:
        """Return the nodeid of a path in the share; '' is the root."""
        return self.client.walk(path.encode()).nodeid if path else ROOT_ID

    def place(self, path: str) -> tuple[int, bytes]:
        """Return the nodeid of the directory that holds a path, and the last name."""
        parent, _, name = path.rpartition("/")
        return self.node(parent), name.encode()


def daemon_command(directory: Path, socket: Path, options: tuple[str, ...]) -> list[str]:
    """Return the command line of a daemon that serves a directory."""
    program = shlex.split(PEER) if PEER else [str(Path(sys.executable).parent / "vhostfsd")]
    sandbox = () if any(option.startswith("--sandbox") for option in options) else ("--sandbox=none",)
    return [
        *program,
        f"--socket-path={socket}",
        f"--shared-dir={directory}",
        f"--tag={TAG}",
        *sandbox,
        *options,
    ]


def empty(directory: Path) -> None:
    """Remove all that is in a directory."""
    for path in directory.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)


class Shares:
    """The daemons that run, by their options."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._running: dict[tuple[str, ...], Share] = {}
        self._stack = ExitStack()

    def get(self, *options: str) -> Share:
        """Return an empty share of a daemon with the given options."""
        share = self._running.get(options)
        if share is not None and PEER:
            share.daemon.close()
        if share is None or PEER:
            number = len(self._running) if share is None else list(self._running).index(options)
            place = self.base / f"share{number}"
            place.mkdir(exist_ok=True)
            directory, socket = place / "shared", place / "socket"
            directory.mkdir(exist_ok=True)
            command = daemon_command(directory, socket, options)
            share = Share(directory, self._stack.enter_context(running_daemon(command, socket)))
            self._running[options] = share
        assert share.daemon.alive(), f"the daemon has ended:\n{share.daemon.log()}"
        empty(share.directory)
        share.directory.chmod(0o755)
        return share

    def stop(self) -> list[tuple[Share, int]]:
        """End all daemons by SIGTERM; return each with its exit status."""
        with self._stack:
            return [(share, share.daemon.stop()) for share in self._running.values() if not PEER]

    @contextmanager
    def mounted(
        self,
        *options: str,
        frontend: FrontendOptions | None = None,
        flags: InitFlags = LINUX_7_2_FLAGS,
        minor: int = KERNEL_MINOR_VERSION,
    ) -> Iterator[Mount]:
        """Provide an empty share, mounted by a new front-end."""
        share = self.get(*options)
        with remounted(share, frontend=frontend, flags=flags, minor=minor) as mount:
            yield mount


@contextmanager
def remounted(
    share: Share,
    *,
    frontend: FrontendOptions | None = None,
    flags: InitFlags = LINUX_7_2_FLAGS,
    minor: int = KERNEL_MINOR_VERSION,
) -> Iterator[Mount]:
    """Provide a share as it is, mounted by a new front-end."""
    with Frontend.start(share.daemon.socket, frontend) as connected:
        client = FuseClient(connected)
        yield Mount(share, connected, client, client.init(flags, minor=minor))
