"""The vhost-user socket of a device: messages in, the device's work done, replies out.

One front-end is served at a time; others wait in the listener's backlog. The protocol is decided by
vhostfs.vhost_user.state and the work done by vhostfs.virtqueue; what lives here is the order of things. A
message is carried out before the next one is read. What the device is asked to do may wait, for requests
under way or for a file of the front-end's choice, so it is done in a worker thread, one thing at a time for a
connection: the devices of one daemon do not wait for each other.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import ERROR, INFO, WARNING
from typing import Final

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from vhostfs.errors import ProtocolError
from vhostfs.transports.journal import Journal
from vhostfs.vhost_user.events import (
    Answer,
    BackchannelSet,
    DeviceReset,
    FeaturesSet,
    LogSet,
    MemoryRegionAdded,
    MemoryRegionRemoved,
    MemoryTableReplaced,
    QueueAddressesSet,
    QueueBaseRequested,
    QueueBaseSet,
    QueueCallSet,
    QueueEnabled,
    QueueErrorSet,
    QueueKickSet,
    QueueSizeSet,
    Work,
)
from vhostfs.vhost_user.messages import MAX_DESCRIPTORS, MemoryRegion, VringAddresses
from vhostfs.vhost_user.offer import Offer
from vhostfs.vhost_user.state import Backend
from vhostfs.virtqueue import Device, DeviceEvent, DeviceEventKind, Region

logger = logging.getLogger(__name__)

_DESCRIPTOR_SIZE: Final = array.array("i").itemsize
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * _DESCRIPTOR_SIZE)
_CREDENTIALS: Final = "=iII"
"""struct ucred: process, user, group."""
_CREDENTIALS_SIZE: Final = struct.calcsize(_CREDENTIALS)
_ACCEPT_AGAIN: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPT_PAUSE: Final = 0.5
"""Seconds to wait where a connection cannot be accepted for want of descriptors or memory."""


async def serve_device(
    listener: socket.socket, device: Device, offer: Offer, *, name: str, once: bool
) -> None:
    """Serve a device's front-ends, one after the other; with `once`, return when the first has gone.

    `listener` is a listening AF_UNIX stream socket, set to non-blocking here; it and the device stay the
    caller's. `name` stands for the device in the log. What a front-end does wrong costs its connection and
    one line in the log, and never raises. Cancellation stops and drains the rings first. Raises OSError
    where the listener fails.
    """
    listener.setblocking(False)
    journal = Journal(logger, name)
    while True:
        connection = await _accept(listener, journal)
        with connection:
            try:
                await _Connection(connection, device, offer, journal).serve()
            except Exception:
                # A mistake of ours, met by one front-end, shall not be the end for the next.
                logger.exception("%s: connection ended by a fault in this daemon", name)
        if once:
            return


async def _accept(listener: socket.socket, journal: Journal) -> socket.socket:
    while True:
        await anyio.wait_readable(listener)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            continue
        except OSError as error:
            if error.errno not in _ACCEPT_AGAIN:
                raise
            journal.write(WARNING, f"cannot accept a front-end now: {error.strerror}")
            await anyio.sleep(_ACCEPT_PAUSE)
            continue
        connection.setblocking(False)
        return connection


class _Connection:
    """One front-end, from its first message until it is gone and the device is clean again."""

    def __init__(self, connection: socket.socket, device: Device, offer: Offer, journal: Journal) -> None:
        self._socket = connection
        self._device = device
        self._journal = journal
        self._unwanted: list[int] = []
        self._machine = Backend(offer, self._unwanted.append)
        self._backchannel: int | None = None
        self._worker = anyio.CapacityLimiter(1)

    async def serve(self) -> None:
        """Talk until the front-end leaves, breaks the protocol, or loses its memory."""
        process, user, _ = struct.unpack(
            _CREDENTIALS, self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS_SIZE)
        )
        self._journal.write(INFO, f"a front-end connected (process {process} of user {user})")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_device, group.cancel_scope)
                await self._talk()
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._clean_up()

    async def _clean_up(self) -> None:
        self._machine.close()
        # A ring may have to wait for the host; what the device says of that is not to wait, too.
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_device, group.cancel_scope)
            await self._in_worker(self._device.disconnect)
            group.cancel_scope.cancel()
        if self._backchannel is not None:
            self._unwanted.append(self._backchannel)
        await self._close_unwanted()
        for event in self._device_events():
            self._report(event)

    async def _talk(self) -> None:
        try:
            while (received := await self._receive(self._machine.wanted)) is not None:
                reply = await self._handle(*received)
                if reply:
                    await self._send(reply)
                await self._close_unwanted()
                # A front-end that never pauses must not keep the other devices from theirs.
                await checkpoint()
        except ProtocolError as error:
            self._journal.write(ERROR, f"connection ended: {error}")
        except OSError as error:
            self._journal.write(ERROR, f"connection lost: {error.strerror}")
        else:
            where = "" if self._machine.is_idle else " in the middle of a message"
            self._journal.write(INFO, f"the front-end left{where}")

    async def _handle(self, data: bytes, descriptors: list[int]) -> bytes:
        event = self._machine.receive(data, descriptors)
        if event is None:
            return b""
        if isinstance(event, Answer):
            if event.remark is not None:
                self._journal.write(WARNING, event.remark)
            return event.data
        try:
            value = await self._in_worker(self._carry_out, event)
        except OSError as error:
            reason = error.strerror or str(error)
            reply = self._machine.failed(event, reason)
            self._journal.write(WARNING, f"{_describe(event)} failed: {reason}")
            return reply
        return self._machine.succeeded(event, value)

    # The device's work, in a worker thread.

    def _carry_out(self, event: Work) -> int:
        """Do what an event asks; return the value to succeed with. OSError where the device cannot."""
        device = self._device
        match event:
            case FeaturesSet(features, stop_first):
                for index in stop_first:
                    device.stop_queue(index)
                device.set_features(features)
            case DeviceReset():
                device.reset()
            case MemoryTableReplaced(regions, descriptors):
                with _closing(*descriptors):
                    device.replace_memory([_region(*pair) for pair in zip(regions, descriptors, strict=True)])
            case MemoryRegionAdded(region, descriptor):
                with _closing(descriptor):
                    device.add_memory(_region(region, descriptor))
            case MemoryRegionRemoved(region):
                device.remove_memory(_region(region, -1))
            case LogSet(size, offset, descriptor):
                with _closing(descriptor):
                    device.set_log(descriptor, size, offset)
            case BackchannelSet(descriptor):
                self._backchannel, old = descriptor, self._backchannel
                if old is not None:
                    self._unwanted.append(old)
            case QueueSizeSet(index, size):
                device.set_queue_size(index, size)
            case QueueBaseSet(index, base):
                device.set_queue_base(index, base)
            case QueueAddressesSet():
                device.set_queue_addresses(
                    event.index,
                    flags=VringAddresses.LOG_FLAG if event.log else 0,
                    descriptors=event.descriptor_table,
                    used=event.used_ring,
                    available=event.available_ring,
                    log=event.log_address,
                )
            case QueueKickSet(index, kick):
                device.set_queue_kick(index, kick)
            case QueueCallSet(index, call):
                device.set_queue_call(index, call)
            case QueueErrorSet(index, error):
                device.set_queue_error(index, error)
            case QueueEnabled(index, enabled):
                device.enable_queue(index, enabled)
            case QueueBaseRequested(index):
                return device.stop_queue(index)
        return 0

    async def _in_worker[Result, *Arguments](
        self, call: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        """Make a call that may wait, off the event loop. Cancellation neither prevents nor cuts it short."""
        with anyio.CancelScope(shield=True):
            result = await anyio.to_thread.run_sync(call, *arguments, limiter=self._worker)
        return result  # noqa: RET504 (for mypy, a cancel scope may swallow the return)

    # What the device tells.

    async def _watch_device(self, connection: anyio.CancelScope) -> None:
        """Report the device's events as they come; end the connection when its memory has gone."""
        while True:
            await anyio.wait_readable(self._device.event_descriptor)
            await checkpoint()
            for event in self._device_events():
                self._report(event)
                if event.kind is DeviceEventKind.MEMORY_GONE:
                    connection.cancel()

    def _device_events(self) -> Iterator[DeviceEvent]:
        """Take the events that wait now."""
        while (event := self._device.next_event()) is not None:
            yield event

    def _report(self, event: DeviceEvent) -> None:
        cause = "" if event.error is None else f" ({os.strerror(event.error)})"
        match event.kind:
            case DeviceEventKind.MEMORY_GONE:
                self._journal.write(ERROR, f"connection ended: {event.text}{cause}")
            case DeviceEventKind.QUEUE_BROKEN:
                self._journal.write(ERROR, f"{event.text}{cause}")
            case DeviceEventKind.WARNING:
                ring = "" if event.queue is None else f"ring {event.queue}: "
                self._journal.write(WARNING, f"{ring}{event.text}{cause}")
            case DeviceEventKind.SESSION:
                self._journal.write(INFO, event.text)

    # Bytes and descriptors.

    async def _close_unwanted(self) -> None:
        """Close what the front-end sent and nobody took; a file of its choice may make even that wait."""
        if self._unwanted:
            unwanted = tuple(self._unwanted)
            self._unwanted.clear()
            await self._in_worker(_close, *unwanted)

    async def _receive(self, wanted: int) -> tuple[bytes, list[int]] | None:
        """Return up to `wanted` bytes and the descriptors with them; None when the front-end is gone."""
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    wanted, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                continue
            except ConnectionResetError:
                return None
            descriptors = _descriptors(ancillary)
            if flags & socket.MSG_CTRUNC:
                self._unwanted += descriptors
                raise ProtocolError("descriptors were lost: the daemon has no room for more open files")
            if not data:
                return None
            return data, descriptors

    async def _send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._socket.send(data, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_SIZE])
    return found.tolist()


@contextmanager
def _closing(*descriptors: int) -> Iterator[None]:
    """Close descriptors at the end, whatever happens."""
    try:
        yield
    finally:
        _close(*descriptors)


def _close(*descriptors: int) -> None:
    """Close descriptors. Linux does that even where it reports an error, which is about the file's data."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def _region(region: MemoryRegion, descriptor: int) -> Region:
    return Region(region.guest_address, region.size, region.user_address, region.offset, descriptor)


def _describe(event: Work) -> str:
    """Return an event's name in words, with the ring that it is about."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__)
    index: int | None = getattr(event, "index", None)
    return words.strip() if index is None else f"{words.strip()} of ring {index}"
