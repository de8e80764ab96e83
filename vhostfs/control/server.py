"""The daemon's end of its control socket.

Who may connect may do all that it offers: the socket's owner and mode decide. Connections are served one
after the other; one that says nothing is dropped after a while.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import resource
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import anyio
import anyio.to_thread

from vhostfs.backends.opening import Passed, passing
from vhostfs.config.model import MOUNT_DESCRIPTORS_MINIMUM, FilesystemSettings, PassthroughSettings
from vhostfs.config.schema import parse_mount
from vhostfs.control import messages
from vhostfs.devices import native_mount
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Filesystem
from vhostfs.made_device import MadeDevice, NativeMount, PythonMount, close_quietly
from vhostfs.sandbox import Sandbox

logger = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a connection has to send its request, and to take the answer."""

_PAUSE: Final = 0.5
"""Seconds to wait where a connection cannot be accepted for want of descriptors or memory."""

_DESCRIPTOR_SHARE: Final = 16
"""A directory that is added keeps at most one in so many of the process's descriptors for nodes."""


class RefusedError(Exception):
    """Raised when a request cannot be fulfilled; the text is told to who made it."""


@dataclass(frozen=True, slots=True)
class Control:
    """What the control socket controls."""

    devices: Mapping[str, MadeDevice]
    """By what log lines call them."""
    network: bool
    """Whether mounts that need the host's network find it."""


async def serve_control(listener: socket.socket, control: Control) -> None:
    """Serve a listening AF_UNIX stream socket, set to non-blocking here, until cancelled."""
    listener.setblocking(False)
    while True:
        await anyio.wait_readable(listener)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            continue
        except OSError as error:
            logger.warning("a control connection cannot be accepted now: %s", error.strerror)
            await anyio.sleep(_PAUSE)
            continue
        connection.setblocking(False)
        with connection:
            await _serve_connection(connection, control)


async def _serve_connection(connection: socket.socket, control: Control) -> None:
    descriptors: list[int] = []
    try:
        with anyio.fail_after(PATIENCE):
            line = await _receive(connection, descriptors)
        answer = await _answer(line, descriptors, control)
        with anyio.fail_after(PATIENCE):
            await _send(connection, messages.encode(answer))
    except TimeoutError:
        logger.warning("a control connection was dropped: it took too long")
    except OSError as error:
        logger.warning("a control connection was lost: %s", error.strerror or error)
    finally:
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """Return what came up to a line's end, or an end; what descriptors came with it are appended."""
    received = b""
    room = socket.CMSG_SPACE(messages.DESCRIPTOR_LIMIT * array.array("i").itemsize)
    while b"\n" not in received and len(received) < messages.REQUEST_LIMIT:
        try:
            data, ancillary, flags, _ = connection.recvmsg(
                messages.REQUEST_LIMIT - len(received), room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await anyio.wait_readable(connection)
            continue
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "descriptors were lost: the daemon has no room for more open files")
        if len(descriptors) > messages.DESCRIPTOR_LIMIT:
            raise OSError(errno.E2BIG, "there came too many descriptors")
        if not data:
            break
        received += data
    return received


async def _send(connection: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[connection.send(data, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            await anyio.wait_writable(connection)


async def _answer(line: bytes, descriptors: Sequence[int], control: Control) -> messages.Answer:
    try:
        request = messages.decode_request(line)
        match request:
            case messages.List():
                return messages.Answer(mounts=_lines(control))
            case messages.Add():
                await _add(request, descriptors, control)
            case messages.Remove():
                await _device(control, request.device).remove(PurePosixPath(request.place))
    except OSError as error:
        return messages.Answer(error=_told(error))
    except (RefusedError, ConfigurationError, ValueError) as error:
        return messages.Answer(error=str(error))
    except Exception:
        # A mistake of ours, or of a file system's, shall not be the end of what guests have.
        logger.exception("a control request failed by a fault")
        return messages.Answer(error="the daemon met a fault, which its log tells")
    return messages.Answer()


def _told(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"


def _lines(control: Control) -> tuple[messages.MountLine, ...]:
    return tuple(
        messages.MountLine(device=name, place=str(mount.place), type=mount.type, faults=mount.faults)
        for name, device in control.devices.items()
        for mount in device.mounts()
    )


def _device(control: Control, name: str | None) -> MadeDevice:
    if name is None:
        if len(control.devices) > 1:
            raise RefusedError(f"which device is meant? There are {', '.join(control.devices)}")
        return next(iter(control.devices.values()))
    if name not in control.devices:
        raise RefusedError(f"there is no device {name}; there are {', '.join(control.devices)}")
    return control.devices[name]


async def _add(request: messages.Add, descriptors: Sequence[int], control: Control) -> None:
    device = _device(control, request.device)
    if len(request.paths) != len(descriptors):
        raise RefusedError(f"{len(request.paths)} paths came with {len(descriptors)} descriptors")
    settings = parse_mount(request.mount, "mount")
    passed = Passed(
        device.proc_self_descriptor,
        {PurePosixPath(path): number for path, number in zip(request.paths, descriptors, strict=True)},
    )
    place = PurePosixPath(request.place)
    if isinstance(settings, PassthroughSettings):
        await device.add(place, _native(settings, passed))
        return
    if settings.network and not control.network:
        raise RefusedError("it needs the host's network, which the daemon's sandbox has left")
    filesystem = await anyio.to_thread.run_sync(_open, settings, passed)
    try:
        await device.add(place, PythonMount(settings.type, filesystem))
    except BaseException:
        close_quietly(filesystem)
        raise


def _native(settings: PassthroughSettings, passed: Passed) -> NativeMount:
    root = passed.descriptors.get(settings.shared_dir)
    if root is None:
        raise RefusedError(f"no descriptor of {settings.shared_dir} was passed")
    sandbox = Sandbox({settings.shared_dir: root}, passed.proc_self_descriptor)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    budget = settings.descriptors or max(limit // _DESCRIPTOR_SHARE, MOUNT_DESCRIPTORS_MINIMUM)
    return native_mount(settings, sandbox, budget)


def _open(settings: FilesystemSettings, passed: Passed) -> Filesystem[Any]:
    with passing(passed):
        return settings.backend.open()
