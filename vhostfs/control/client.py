"""What commands ask of a running daemon: what is mounted, more of it, and less; what a mount has to tell.

`vhostfs mounts add` opens the directories and files that a mount names, and passes them to the daemon, which
in its sandbox could not. As root it passes a directory as a copy of its mount that is attached nowhere:
nothing above it can be reached from there, as with the directories that the daemon began with.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import JsonValue

from vhostfs.backends.opening import named_paths
from vhostfs.config.schema import parse_mount
from vhostfs.control import messages
from vhostfs.errors import StartError
from vhostfs.sandbox import detached_mount

PATIENCE: Final = 120.0
"""Seconds to wait for an answer: opening what is mounted may take its time."""


def list_mounts(control: Path) -> list[messages.MountLine]:
    """Return what the devices of a daemon have mounted; StartError where it does not say."""
    return list(_ask(control, messages.List(), ()).mounts)


def add_mount(control: Path, device: str | None, place: str, mount: str) -> None:
    """Mount what the YAML text says; ConfigurationError where it is wrong, StartError where it is refused."""
    settings = parse_mount(mount, "MOUNT")
    paths = list(dict.fromkeys(named_paths(settings)))
    with ExitStack() as opened:
        descriptors = []
        for path in paths:
            descriptors.append(_opened(path))
            opened.callback(os.close, descriptors[-1])
        names = tuple(str(path) for path in paths)
        request = messages.Add(device=device, place=place, mount=mount, paths=names)
        _ask(control, request, descriptors)


def remove_mount(control: Path, device: str | None, place: str) -> None:
    """Take a mount away; StartError where it is refused."""
    _ask(control, messages.Remove(device=device, place=place), ())


def tell(
    control: Path,
    name: str,
    *,
    device: str | None = None,
    place: str | None = None,
    arguments: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    progress: Callable[[messages.ProgressLine], None] = lambda _: None,
) -> JsonValue:
    """Give the file system of a mount a command of its own, and return what it answers.

    `progress` is called as it goes on. StartError where it is refused, or nobody answers.
    """
    request = messages.Tell(device=device, place=place, name=name, arguments=arguments or {})
    return _ask(control, request, descriptors, progress).value


def _opened(path: PurePosixPath) -> int:
    """Open what a mount names, a directory without its surroundings where that is allowed."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            kind = os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)
        if stat.S_ISDIR(kind):
            try:
                return detached_mount(path)
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.ENOSYS, errno.EINVAL}:
                    raise
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if stat.S_ISREG(kind):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    raise StartError(f"{path}: neither a directory nor a file")


def _ask(
    control: Path,
    request: messages.Message,
    descriptors: Sequence[int],
    progress: Callable[[messages.ProgressLine], None] = lambda _: None,
) -> messages.Answer:
    line = messages.encode(request)
    if len(line) > messages.REQUEST_LIMIT or len(descriptors) > messages.DESCRIPTOR_LIMIT:
        raise StartError("that is too large for a request")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(os.fspath(control))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            sent = connection.sendmsg([line], rights if descriptors else [])
            if sent < len(line):
                connection.sendall(line[sent:])
            answer = _read_answer(connection, progress)
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise StartError(f"the daemon at {control} cannot be asked: {reason}") from None
    if answer.error is not None:
        raise StartError(answer.error)
    return answer


def _read_answer(
    connection: socket.socket, progress: Callable[[messages.ProgressLine], None]
) -> messages.Answer:
    with connection.makefile("rb") as lines:
        while True:
            try:
                answer = messages.decode_answer(lines.readline(messages.ANSWER_LIMIT))
            except ValueError:
                raise OSError(errno.EPROTO, "it has gone without an answer") from None
            if answer.progress is None:
                return answer
            progress(answer.progress)
