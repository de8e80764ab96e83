"""The daemon's end of its control socket.

Who may connect may do all that it offers: the socket's owner and mode decide. Connections are served side
by side, up to a number; one that says nothing is dropped after a while, sooner where another needs its place.
"""

from __future__ import annotations

import array
import logging
import os
import resource
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from vhostfs.backends.opening import Passed, passing
from vhostfs.config.model import MOUNT_DESCRIPTORS_MINIMUM, FilesystemSettings, PassthroughSettings
from vhostfs.config.schema import parse_mount
from vhostfs.control import messages
from vhostfs.devices import native_mount
from vhostfs.endings import carried_out
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Command, Filesystem, Order, Progress
from vhostfs.filesystem.commands import Value
from vhostfs.made_device import MadeDevice, NativeMount, PythonMount, close_quietly
from vhostfs.sandbox import Sandbox

logger = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a connection has to send its request, and to take the answer."""

REQUESTS_MAXIMUM: Final = 16
"""Most requests that are under way at once."""

CONNECTIONS_MAXIMUM: Final = 32
"""Most connections at once: more than requests, so that one that says nothing can make room."""

PROGRESS_SECONDS: Final = 0.2
"""How often who waits is told how far a command is, where it has gone on."""

LIFE_SECONDS: Final = 5.0
"""How often otherwise."""

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
    grows: bool = True
    """Whether mounts may come and go."""


@dataclass(slots=True, eq=False)
class _Visit:
    """A connection that is served."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    works: bool = False
    """What it asks for is being done."""


class _Visits:
    """The connections that are served. For one event loop."""

    def __init__(self) -> None:
        self._all: list[_Visit] = []

    def begin(self) -> _Visit:
        """Return a new one; where there are too many, the oldest that says nothing has to go."""
        if len(self._all) == CONNECTIONS_MAXIMUM:
            silent = next(visit for visit in self._all if not visit.works)
            silent.scope.cancel()
            self._all.remove(silent)
        visit = _Visit()
        self._all.append(visit)
        return visit

    def work(self, visit: _Visit) -> None:
        """Take note that a request has come; RefusedError where too many are under way."""
        if sum(each.works for each in self._all) == REQUESTS_MAXIMUM:
            raise RefusedError("the daemon has too many other requests to answer")
        visit.works = True

    def end(self, visit: _Visit) -> None:
        """Make room for another."""
        if visit in self._all:
            self._all.remove(visit)


async def serve_control(listener: socket.socket, control: Control) -> None:
    """Serve a listening AF_UNIX stream socket, set to non-blocking here, until cancelled."""
    listener.setblocking(False)
    visits = _Visits()
    async with anyio.create_task_group() as group:
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
            group.start_soon(_serve_connection, connection, visits, visits.begin(), control)


async def _serve_connection(
    connection: socket.socket, visits: _Visits, visit: _Visit, control: Control
) -> None:
    with connection, visit.scope:
        try:
            await _serve_request(connection, visits, visit, control)
        finally:
            visits.end(visit)


async def _serve_request(connection: socket.socket, visits: _Visits, visit: _Visit, control: Control) -> None:
    descriptors: list[int] = []
    try:
        try:
            with anyio.fail_after(PATIENCE):
                line = await _receive(connection, descriptors)
            # Who had to make room may have been told so while the line was on its way.
            await anyio.lowlevel.checkpoint_if_cancelled()
            visits.work(visit)
        except RefusedError as error:
            answer = messages.Answer(error=str(error))
        else:
            answer = await _answer(line, descriptors, control, connection)
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
    """Return what came up to a line's end, or an end; what descriptors came with it are appended.

    Raise RefusedError where descriptors are lost.
    """
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
        if flags & socket.MSG_CTRUNC or len(descriptors) > messages.DESCRIPTOR_LIMIT:
            raise RefusedError("more descriptors came than a request may have, or the daemon has room for")
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


async def _answer(
    line: bytes, descriptors: Sequence[int], control: Control, connection: socket.socket
) -> messages.Answer:
    try:
        request = messages.decode_request(line)
        match request:
            case messages.List():
                return messages.Answer(mounts=_lines(control))
            case messages.Add():
                await _add(request, descriptors, control)
            case messages.Remove():
                _check_grows(control)
                await _device(control, request.device).remove(PurePosixPath(request.place))
            case messages.Tell():
                report = _Report(connection)
                order = Order(request.arguments, descriptors, report.note)
                return messages.Answer(value=await _carried_out(_command(control, request), order, report))
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


def _check_grows(control: Control) -> None:
    if not control.grows:
        raise RefusedError("the mounts stay as they are here")


def _command(control: Control, request: messages.Tell) -> Command:
    """Return the command that is meant, of the one mount that is meant."""
    names = [request.device] if request.device is not None else list(control.devices)
    found = {
        (name, str(place)): mount.filesystem.commands()
        for name in names
        for place, mount in _device(control, name).bridged.items()
        if request.place in {None, str(place)}
    }
    if not found:
        raise RefusedError(f"there is no mount of a file system in Python at {request.place or 'any place'}")
    able = {where: commands[request.name] for where, commands in found.items() if request.name in commands}
    if not able:
        raise RefusedError(f"no mount that could be meant knows the command {request.name}")
    if len(able) > 1:
        places = ", ".join(f"{device} {place}" for device, place in able)
        raise RefusedError(f"which mount is meant? There are {places}")
    return next(iter(able.values()))


class _Report:
    """How far a command is, to be told to who waits."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._latest = messages.ProgressLine()

    def note(self, progress: Progress) -> None:
        """Take note of how far it is."""
        self._latest = messages.ProgressLine(what=progress.what, done=progress.done, total=progress.total)

    async def keep_telling(self) -> None:
        """Tell it as it goes on, and now and then in any case; raise OSError where nobody listens."""
        told, told_at = None, anyio.current_time()
        while True:
            await anyio.sleep(PROGRESS_SECONDS)
            if self._latest != told or anyio.current_time() - told_at >= LIFE_SECONDS:
                told, told_at = self._latest, anyio.current_time()
                # Half a line would make what follows unreadable.
                with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE):
                    await _send(self._connection, messages.encode(messages.Answer(progress=told)))


async def _carried_out(command: Command, order: Order, report: _Report) -> Value:
    """Return what a command answers; it is cancelled, and OSError raised, where nobody listens any more."""
    failure: Exception | None = None
    value: Value = None
    async with anyio.create_task_group() as group:

        async def tell() -> None:
            nonlocal failure
            try:
                await report.keep_telling()
            except OSError as error:
                failure = error
                group.cancel_scope.cancel()

        group.start_soon(tell)
        try:
            value = await command(order)
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return value


async def _add(request: messages.Add, descriptors: Sequence[int], control: Control) -> None:
    _check_grows(control)
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

    async def mount() -> None:
        try:
            await device.add(place, PythonMount(settings.type, filesystem))
        except Exception:
            close_quietly(filesystem)
            raise

    # Also where whoever asks is cancelled: it is mounted then, or closed.
    await carried_out(mount())


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
