"""A channel in memory: what a data plane does for a session, without a guest."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Buffer, Callable, Sequence

from vhostfs.fuse_abi.opcodes import NotifyCode
from vhostfs.session.channel import RECORD, RecordKind


class Request:
    """One request that waits for its answer: (errno, payload)."""

    __slots__ = ("answer", "data", "payload", "token")

    def __init__(self, token: int, room: int, data: bytes) -> None:
        self.token = token
        self.payload = bytearray(room)
        self.data = data
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()


class MemoryChannel:
    """vhostfs.session.Channel over bytearrays. Answers become visible by `flush`, as a guest sees them."""

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        """What was not answered yet, by token."""
        self.notifications: list[tuple[NotifyCode, bytes]] = []
        """What the kernel was told, where it can be told."""
        self.notifies = True
        """Whether the kernel can be told anything, as over /dev/fuse; else `notify` raises ENOSYS."""
        self.flushes = 0
        self._receive: Callable[[memoryview], None] | None = None
        self._answered: list[tuple[Request, int, bytes]] = []
        self._last_token = 0
        self._batch: bytearray | None = None

    def connect(self, receive: Callable[[memoryview], None]) -> None:
        """Bring records to a session."""
        self._receive = receive

    # ---- The guest's side ----

    def request(
        self,
        message: bytes,
        *,
        room: int,
        data: bytes = b"",
        answered: bool = True,
        kind: RecordKind = RecordKind.REQUEST,
    ) -> Request:
        """Send a request, header and arguments, which has room for so many bytes of payload."""
        self._last_token += 1
        request = Request(self._last_token, room, data)
        if answered:
            self.requests[request.token] = request
        self.record(request.token if answered else 0, kind, message, room, len(data))
        return request

    def record(
        self, token: int, kind: RecordKind, message: bytes = b"", room: int = 0, data: int = 0
    ) -> None:
        """Send any record, at once or, between `hold` and `send`, with others in one batch."""
        record = RECORD.pack(token, kind, len(message), room, data) + message + bytes(-len(message) % 8)
        if self._batch is not None:
            self._batch += record
        else:
            self._deliver(record)

    def hold(self) -> None:
        """Collect records until `send`."""
        self._batch = bytearray()

    def send(self) -> None:
        """Bring what was collected as one batch."""
        batch, self._batch = self._batch, None
        self._deliver(bytes(batch or b""))

    def _deliver(self, records: bytes) -> None:
        assert self._receive is not None
        with memoryview(records) as batch:
            self._receive(batch)

    # ---- The session's side: vhostfs.session.Channel ----

    def _finish(self, token: int, error: int, payload: bytes) -> None:
        request = self.requests.pop(token, None)
        if request is not None:
            self._answered.append((request, error, payload))

    def reply(self, token: int, payload: Buffer) -> None:
        """Answer with these bytes; EIO where they are more than there is room for."""
        request = self.requests.get(token)
        copy = bytes(payload)
        if request is not None and len(copy) > len(request.payload):
            self._finish(token, errno.EIO, b"")
        else:
            self._finish(token, 0, copy)

    def reply_stored(self, token: int, size: int) -> None:
        """Answer with the first bytes of what was stored."""
        request = self.requests.get(token)
        if request is not None:
            self._finish(token, 0, bytes(request.payload[:size]))

    def reply_error(self, token: int, error: int) -> None:
        """Answer with an errno."""
        if not 1 <= error <= 511:
            raise ValueError(f"{error} is no errno")
        self._finish(token, error, b"")

    def flush(self) -> None:
        """Let who waits see what was answered."""
        self.flushes += 1
        answered, self._answered = self._answered, []
        for request, error, payload in answered:
            if not request.answer.done():
                request.answer.set_result((error, payload))

    def _open(self, token: int) -> Request:
        request = self.requests.get(token)
        if request is None:
            raise OSError(errno.EBADF, "the request is answered")
        return request

    def reply_segments(self, token: int, size: int) -> Sequence[memoryview]:
        """Return writable views of the payload's room: two, as memory of a guest is seldom in one piece."""
        view = memoryview(self._open(token).payload)[:size]
        return [view[: size // 2], view[size // 2 :]]

    def data_segments(self, token: int) -> Sequence[memoryview]:
        """Return read-only views of the data of a WRITE, two again."""
        view = memoryview(self._open(token).data)
        return [view[: len(view) // 2], view[len(view) // 2 :]]

    def store(self, token: int, offset: int, data: Buffer) -> int:
        """Copy bytes into the payload's room."""
        payload = self._open(token).payload
        view = memoryview(data).cast("B")
        count = max(0, min(len(view), len(payload) - offset))
        payload[offset : offset + count] = view[:count]
        return count

    def load(self, token: int, offset: int, target: Buffer) -> int:
        """Copy data of a WRITE."""
        view = memoryview(target).cast("B")
        part = self._open(token).data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def read_from_fd(self, token: int, position: int, size: int, descriptor: int, offset: int) -> int:
        """Read from a file into the payload's room."""
        with memoryview(self._open(token).payload) as view, view[position : position + size] as part:
            return os.preadv(descriptor, [part], offset)

    def write_to_fd(self, token: int, descriptor: int, offset: int) -> int:
        """Write the data of a WRITE to a file."""
        return os.pwrite(descriptor, self._open(token).data, offset)

    def notify(self, code: NotifyCode, payload: Sequence[Buffer]) -> None:
        """Note what the kernel is told."""
        if not self.notifies:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self.notifications.append((code, b"".join(payload)))
