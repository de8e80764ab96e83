"""A mount whose requests Python answers: the data plane's side of vhostfs.session.channel, for one loop.

The functions are those of csrc/core.h (handoff); each lets other threads of Python run meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Buffer, Callable, Sequence
from selectors import EpollSelector
from typing import Any, Final, Protocol

from vhostfs._core import ffi, lib
from vhostfs.fuse_abi.opcodes import NotifyCode
from vhostfs.virtqueue.device import Device

BATCH: Final = 64
"""Most requests that are taken at once, so that replies and other work of the loop come in between."""

BATCH_BYTES: Final = 256 * 1024
"""Room for their headers and arguments; the largest, a SETXATTR, has 72 KiB."""

PATIENCE_MILLISECONDS: Final = 10
"""How long the loop sleeps for the next request of /dev/fuse alone.

Less than the kernel's tick would be dear: each sleep would program a timer of the processor.
"""

ROUNDS: Final = 64
"""How often it does so, as long as requests come, before it takes a turn in any case."""

_BYTES: Final = ffi.typeof("uint8_t[]")

_SEGMENTS: Final = 64
"""Segments that are asked for at first: a READ of 256 KiB in single pages."""


class _Reply(Protocol):
    def __call__(self, token: int, payload: Buffer) -> None: ...


class _ReplyStored(Protocol):
    def __call__(self, token: int, size: int) -> None: ...


class _ReplyError(Protocol):
    def __call__(self, token: int, error: int) -> None: ...


class Handoff:
    """Requests of one mount, brought to the event loop, and the way back for their answers.

    Owned by the device, which must be closed after `close`. What vhostfs.session.channel says of threads
    holds: read_from_fd and write_to_fd may be called by any, all else is the loop's.
    """

    def __init__(self, device: Device, mount: int, opcodes: frozenset[int]) -> None:
        """Mount on a device, as this number; raise OSError where that fails."""
        made = ffi.new("vhostfs_handoff **")
        mask = sum(1 << opcode for opcode in opcodes)
        _checked(lib.vhostfs_device_mount_handoff(device.handle, mount, mask, made))
        self._handle: Any = made[0]
        self._device = device
        self._batch = ffi.new("uint64_t[]", BATCH_BYTES // 8)
        self._arena = ffi.cast("uint8_t *", self._batch)
        self._view = memoryview(ffi.buffer(self._batch)).toreadonly()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Callable[[memoryview, int], None] | None = None
        self._pumping = False
        self.reply, self.reply_stored, self.reply_error = self._answers()

    def start(self, receive: Callable[[memoryview, int], None]) -> None:
        """Bring batches to `receive`, with their sizes, on the running event loop, from now on."""
        self._loop = loop = asyncio.get_running_loop()
        take, handle, arena, view = lib.vhostfs_handoff_take, self._handle, self._arena, self._view

        def ready() -> None:
            taken = take(handle, arena, BATCH_BYTES, BATCH)
            if taken > 0:
                receive(view, taken)

        self._receive = receive
        loop.add_reader(lib.vhostfs_handoff_fd(handle), ready)

    def read_fuse(self) -> Callable[[], None]:
        """Read the requests of the device's /dev/fuse on the event loop, as no thread does.

        Return how to end that. No other thread is woken for a request. As a turn of the loop costs more than
        most requests, the next one is waited for without: by the loop's own epoll, as long as nothing else is
        there, and nothing is due.
        """
        loop: Any = self._loop
        receive = self._receive
        assert loop is not None
        assert receive is not None
        pump, handle, device = lib.vhostfs_handoff_pump, self._handle, self._device.handle
        arena, view = self._arena, self._view
        descriptor = lib.vhostfs_device_fuse_fd(device)
        epoll = _epoll_of(loop)

        def ready() -> None:
            self._pumping = True
            try:
                patience = 0
                for _ in range(ROUNDS):
                    taken = pump(handle, device, arena, BATCH_BYTES, BATCH, epoll, patience)
                    if taken <= 0:
                        break
                    receive(view, taken)
                    if epoll < 0:
                        continue
                    if loop._ready:
                        break
                    timers = loop._scheduled
                    patience = _until(timers[0].when() - loop.time()) if timers else PATIENCE_MILLISECONDS
            finally:
                self._pumping = False
                self.flush()
            if taken < 0:
                end()

        def end() -> None:
            loop.remove_reader(descriptor)

        loop.add_reader(descriptor, ready)
        return end

    def close(self) -> None:
        """Bring no more requests; what waits and what comes is answered EIO. Harmless when repeated."""
        if self._loop is not None:
            self._loop.remove_reader(lib.vhostfs_handoff_fd(self._handle))
            self._loop = None
        lib.vhostfs_handoff_close(self._handle)

    # ---- vhostfs.session.channel.Channel ----

    def _answers(self) -> tuple[_Reply, _ReplyStored, _ReplyError]:
        """Return the ways to answer, with all at hand that they need: each is called once a request."""
        answer, handle, null, from_buffer = (
            lib.vhostfs_handoff_answer,
            self._handle,
            ffi.NULL,
            ffi.from_buffer,
        )

        def reply(token: int, payload: Buffer) -> None:
            """Answer with these bytes; EIO where there is no room for them."""
            if type(payload) is bytes:
                answer(handle, token, 0, payload, len(payload))
            else:
                source = from_buffer(_BYTES, payload)
                answer(handle, token, 0, source, len(source))

        def reply_stored(token: int, size: int) -> None:
            """Answer with the first bytes of what was stored."""
            answer(handle, token, 0, null, size)

        def reply_error(token: int, error: int) -> None:
            """Answer with an errno."""
            answer(handle, token, error, null, 0)

        return reply, reply_stored, reply_error

    def flush(self) -> None:
        """Let the guest see what was answered."""
        # The next look at /dev/fuse does it otherwise.
        if not self._pumping:
            lib.vhostfs_handoff_flush(self._handle)

    def reply_segments(self, token: int, size: int) -> Sequence[memoryview]:
        """Return writable views of the payload's room."""
        return self._segments(token, 0, size)

    def data_segments(self, token: int) -> Sequence[memoryview]:
        """Return read-only views of the data of a WRITE."""
        return [view.toreadonly() for view in self._segments(token, 1, 0)]

    def _segments(self, token: int, written: int, size: int) -> list[memoryview]:
        room = _SEGMENTS
        while True:
            found = ffi.new("struct vhostfs_segment[]", room)
            count = _checked(lib.vhostfs_handoff_segments(self._handle, token, written, size, found, room))
            if count <= room:
                break
            room = count
        return [memoryview(ffi.buffer(found[i].start, found[i].size)).cast("B") for i in range(count)]

    def store(self, token: int, offset: int, data: Buffer) -> int:
        """Copy bytes into the payload's room."""
        source = ffi.from_buffer(_BYTES, data)
        return _checked(lib.vhostfs_handoff_store(self._handle, token, offset, source, len(source)))

    def load(self, token: int, offset: int, target: Buffer) -> int:
        """Copy data of a WRITE."""
        room = ffi.from_buffer(_BYTES, target, require_writable=True)
        return _checked(lib.vhostfs_handoff_load(self._handle, token, offset, room, len(room)))

    def read_from_fd(self, token: int, position: int, size: int, descriptor: int, offset: int) -> int:
        """Read from a file into the payload's room."""
        return _checked(lib.vhostfs_handoff_read(self._handle, token, position, size, descriptor, offset))

    def write_to_fd(self, token: int, descriptor: int, offset: int) -> int:
        """Write the data of a WRITE to a file, until all is written or no more is taken."""
        written = 0
        while step := _checked(
            lib.vhostfs_handoff_write(self._handle, token, written, descriptor, offset + written)
        ):
            written += step
        return written

    def notify(self, code: NotifyCode, payload: Sequence[Buffer]) -> None:
        """Tell the kernel something unasked, over /dev/fuse; Linux has no way for that over virtio-fs.

        By a thread of its own: the kernel may hold a lock for a request that this loop is to answer first.
        """
        pieces = [ffi.from_buffer(_BYTES, piece) for piece in payload]
        segments = ffi.new("struct vhostfs_segment[]", [(piece, len(piece)) for piece in pieces])
        _checked(lib.vhostfs_device_notify(self._device.handle, code, segments, len(pieces)))


def _epoll_of(loop: Any) -> int:
    """Return the descriptor of what an event loop of asyncio waits by; -1 where it is another kind of loop.

    No public name leads to it, nor to the callbacks that are due, at once (_ready) or later (_scheduled).
    """
    selector = getattr(loop, "_selector", None)
    if isinstance(selector, EpollSelector) and hasattr(loop, "_ready") and hasattr(loop, "_scheduled"):
        return selector.fileno()
    return -1


def _until(seconds: float) -> int:
    """Return how many milliseconds to sleep where a timer is due in so many seconds."""
    return max(0, min(int(seconds * 1000), PATIENCE_MILLISECONDS))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
