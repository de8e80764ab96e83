"""A device that does nothing but remember what it was asked, and a front-end that speaks over a real
socket."""

from __future__ import annotations

import array
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.unit.vhost_user.frontend_script import Sent
from vhostfs.vhost_user.messages import (
    FRONTEND_MESSAGES,
    HEADER,
    NUMBER,
    FrontendRequest,
    Payload,
    build_request,
)
from vhostfs.virtqueue import Device, DeviceEvent, Region

PATIENCE = 20.0
"""Seconds after which a test has waited for too long."""


class FakeDevice(Device):
    """Records calls as tuples of name and arguments. `obstacles` run inside the call that they are named
    for."""

    def __init__(self, base: int = 0) -> None:  # the data plane's device is left out on purpose
        self.queues = 4
        self.base = base
        self.calls: list[tuple[object, ...]] = []
        self.obstacles: dict[str, Callable[[], None]] = {}
        self.disconnected = threading.Semaphore(0)
        self._events: deque[DeviceEvent] = deque()
        self._event_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._handle = None

    def _called(self, name: str, *arguments: object) -> None:
        if name in self.obstacles:
            self.obstacles[name]()
        self.calls.append((name, *arguments))

    def names(self) -> list[str]:
        return [str(call[0]) for call in self.calls]

    def tell(self, event: DeviceEvent) -> None:
        """Let the data plane tell something."""
        self._events.append(event)
        os.eventfd_write(self._event_descriptor, 1)

    def close(self) -> None:
        os.close(self._event_descriptor)

    def disconnect(self) -> None:
        self._called("disconnect")
        self.disconnected.release()

    def reset(self) -> None:
        self._called("reset")

    def set_features(self, features: int) -> None:
        self._called("set_features", int(features))

    @property
    def event_descriptor(self) -> int:
        return self._event_descriptor

    def next_event(self) -> DeviceEvent | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if not self._events:
            os.eventfd_read(self._event_descriptor)
        return event

    def add_memory(self, region: Region) -> None:
        os.fstat(region.descriptor)
        self._called("add_memory", region.guest_address)

    def remove_memory(self, region: Region) -> None:
        self._called("remove_memory", region.guest_address)

    def replace_memory(self, regions: Sequence[Region]) -> None:
        for region in regions:
            os.fstat(region.descriptor)
        self._called("replace_memory", *[region.guest_address for region in regions])

    def set_log(self, descriptor: int, size: int, offset: int) -> None:
        os.fstat(descriptor)
        self._called("set_log", size, offset)

    def set_queue_size(self, index: int, size: int) -> None:
        self._called("set_queue_size", index, size)

    def set_queue_addresses(
        self, index: int, *, flags: int, descriptors: int, used: int, available: int, log: int
    ) -> None:
        self._called("set_queue_addresses", index, flags, descriptors, used, available, log)

    def set_queue_base(self, index: int, base: int) -> None:
        self._called("set_queue_base", index, base)

    def _take(self, name: str, index: int, descriptor: int | None) -> None:
        if descriptor is not None:
            os.close(descriptor)
        self._called(name, index)

    def set_queue_kick(self, index: int, descriptor: int | None) -> None:
        self._take("set_queue_kick", index, descriptor)

    def set_queue_call(self, index: int, descriptor: int | None) -> None:
        self._take("set_queue_call", index, descriptor)

    def set_queue_error(self, index: int, descriptor: int | None) -> None:
        self._take("set_queue_error", index, descriptor)

    def enable_queue(self, index: int, enabled: bool) -> None:
        self._called("enable_queue", index, enabled)

    def stop_queue(self, index: int) -> int:
        self._called("stop_queue", index)
        return self.base


class SocketFrontend:
    """A front-end with a blocking socket, for use in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))

    def __enter__(self) -> SocketFrontend:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes, descriptors: int = 0) -> None:
        """Send bytes, with as many descriptors."""
        files = [os.eventfd(0) for _ in range(descriptors)]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        try:
            self.socket.sendmsg([data], rights)
        finally:
            for file in files:
                os.close(file)

    def receive(self) -> tuple[int, bytes]:
        """Return the next reply: its request and its payload."""
        header = HEADER.parse(self._exactly(12))
        assert header.flags == 0x5
        return header.request, self._exactly(header.size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the back-end hung up")
            data += piece
        return data

    def ask(
        self,
        request: FrontendRequest,
        payload: Payload | None = None,
        *,
        need_reply: bool = False,
        descriptors: int = 0,
    ) -> bytes:
        """Send one message that is answered, and return the payload of the answer."""
        self.send(build_request(request, payload, need_reply=need_reply), descriptors)
        answered, body = self.receive()
        assert answered == request
        return body

    def acknowledged(
        self, request: FrontendRequest, payload: Payload | None = None, *, descriptors: int = 0
    ) -> int:
        """Send one message with NEED_REPLY and return the number that acknowledges it."""
        return NUMBER.parse(self.ask(request, payload, need_reply=True, descriptors=descriptors)).value

    def play(self, script: Iterable[Sent]) -> None:
        """Send a script's messages, reading the answers that are owed."""
        for message in script:
            self.send(
                build_request(message.request, message.payload, need_reply=message.need_reply),
                message.descriptors,
            )
            if message.need_reply or FRONTEND_MESSAGES[message.request].reply is not None:
                answered, _ = self.receive()
                assert answered == message.request

    def settle(self) -> None:
        """Return when all that was sent before has been carried out."""
        self.ask(FrontendRequest.GET_QUEUE_NUM)

    def hung_up(self) -> bool:
        """Wait for the back-end to end the connection; False if it speaks instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
