"""Sockets that front-ends connect to: made at a path, inherited by number, or passed by systemd."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Final

from vhostfs.config.model import ActivatedSocket, InheritedSocket, PathSocket, SocketSettings
from vhostfs.errors import StartError

logger = logging.getLogger(__name__)

FIRST_PASSED_DESCRIPTOR: Final = 3
"""Where the descriptors that systemd passes begin: sd_listen_fds(3)."""

BACKLOG: Final = 8


class Listener:
    """A listening socket, and what is to be removed with it.

    The directory of a socket's path is kept open: a sandbox may hide it before the socket is removed.
    """

    def __init__(self, listening: socket.socket, directory: int | None = None, name: str = "") -> None:
        """Own the socket, and with it the descriptor of the directory in which it is called `name`."""
        self.socket = listening
        self._directory = directory
        self._name = name
        self._identity = _identity(directory, name) if directory is not None else None

    @property
    def directory(self) -> int | None:
        """Return the descriptor of the directory that the socket will be removed from, if it will be."""
        return self._directory

    def close(self) -> None:
        """Stop listening, and remove the socket's name if it still is this one's. Harmless when repeated."""
        self.socket.close()
        directory, self._directory = self._directory, None
        if directory is None:
            return
        try:
            if _identity(directory, self._name) == self._identity:
                os.unlink(self._name, dir_fd=directory)
        except OSError as error:
            if error.errno != errno.ENOENT:
                logger.warning("the socket %s stays behind: %s", self._name, error.strerror)
        finally:
            os.close(directory)


def _identity(directory: int, name: str) -> tuple[int, int]:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return status.st_dev, status.st_ino


def open_listener(settings: SocketSettings, environment: Mapping[str, str]) -> Listener:
    """Return the listening socket that the settings mean.

    Raise StartError, a sentence, where there is none: another daemon answers at the path, the descriptor is
    no listening socket, systemd passed no such one, the path cannot be used.
    """
    match settings:
        case PathSocket():
            return _make(settings)
        case InheritedSocket(fd):
            return Listener(_adopt(fd, str(settings)))
        case ActivatedSocket(name):
            return Listener(_adopt(_passed_descriptor(name, environment), str(settings)))


def forget_passed_sockets(environment: MutableMapping[str, str]) -> None:
    """Remove what systemd wrote about its sockets, so that no child takes it for its own."""
    for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environment.pop(key, None)


def _make(settings: PathSocket) -> Listener:
    path = settings.path
    group = _group_number(settings.group) if settings.group is not None else -1
    mode = settings.mode if settings.mode is not None else (0o600 if settings.group is None else 0o660)
    with ExitStack() as undo:
        try:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, directory)
            _clear(path)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(listening.close)
            # Nobody can connect before listen(), so owner and mode are right from the first connection on.
            listening.bind(str(path))
            undo.callback(os.unlink, path.name, dir_fd=directory)
            os.chown(path.name, -1, group, dir_fd=directory)
            os.chmod(path.name, mode, dir_fd=directory)
            listening.listen(BACKLOG)
            listener = Listener(listening, directory, path.name)
        except OSError as error:
            reason = error.strerror or error
            raise StartError(f"no socket can be made at {path}: {reason}") from None
        undo.pop_all()
        return listener


def _clear(path: PurePosixPath) -> None:
    """Remove the socket of a daemon that is gone; raise StartError where it is not one."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener with a full backlog would let a blocking connect wait.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - a pure path
            return
        except BlockingIOError:
            pass
    raise StartError(f"another process listens at {path}")


def _group_number(group: str) -> int:
    try:
        return int(group) if group.isascii() and group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StartError(f"there is no group {group}") from None


def _adopt(descriptor: int, name: str) -> socket.socket:
    """Take a descriptor that was left open for the daemon."""
    try:
        os.set_inheritable(descriptor, False)
        listening = socket.socket(fileno=descriptor)
    except OSError as error:
        raise StartError(f"{name} is no socket: {error.strerror}") from None
    if listening.family != socket.AF_UNIX or listening.type != socket.SOCK_STREAM:
        fault = "is no stream socket of the family AF_UNIX"
    elif not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        fault = "does not listen"
    else:
        return listening
    listening.detach()
    raise StartError(f"{name} {fault}")


def _passed_descriptor(name: str, environment: Mapping[str, str]) -> int:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        raise StartError(f"systemd passed no socket to this process, so there is none called {name}")
    passed = environment.get("LISTEN_FDS", "")
    count = int(passed) if passed.isascii() and passed.isdecimal() else 0
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if name in names[:count]:
        return FIRST_PASSED_DESCRIPTOR + names.index(name)
    if name.isascii() and name.isdecimal() and int(name) < count:
        return FIRST_PASSED_DESCRIPTOR + int(name)
    raise StartError(f"systemd passed {count} sockets, and none is called {name}")
