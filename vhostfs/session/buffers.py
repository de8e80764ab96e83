"""Guest memory lent to one operation: what `read` and `write` are handed, until the request is answered."""

from __future__ import annotations

import threading
from collections.abc import Buffer, Callable, Sequence

from vhostfs.session.channel import Channel


class Piece:
    """Lends one stretch of guest memory out, and knows whether anybody still has it.

    A memoryview can be released, a slice of it that somebody kept cannot; but all of them come from here
    (PEP 688), and the last one that goes says so.
    """

    __slots__ = ("_memory", "lent")

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.lent = 0

    def __buffer__(self, flags: int, /) -> memoryview:
        """Lend the memory to a memoryview."""
        self.lent += 1
        return memoryview(self._memory)

    def __release_buffer__(self, view: memoryview, /) -> None:
        """Note that a memoryview, and all slices of it, are gone."""
        self.lent -= 1


class Loan:
    """What both kinds of buffers have in common: an end, at which nobody may be inside.

    One that nobody has any more may begin again, for another request (session/files.py).

    The event loop ends a loan by setting the token to 0 and looking at `inside` then; a thread counts itself
    in and looks at the token then. Whoever comes second sees the other.
    """

    # Defaults are the class's, so that making one costs three assignments.
    _inside = 0
    _views: tuple[memoryview, ...] | None = None
    _pieces: tuple[Piece, ...] = ()
    _idle: Callable[[], None] | None = None
    _counting = threading.Lock()

    def __init__(self, channel: Channel, token: int, size: int) -> None:
        self._channel = channel
        self._token = token
        self.size = size
        """How many bytes the request is about."""

    def _held(self) -> int:
        token = self._token
        if token == 0:
            raise ValueError("the operation that this buffer belonged to has ended")
        return token

    def _memory(self, token: int) -> Sequence[memoryview]:
        raise NotImplementedError

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory itself; ValueError once the operation has ended."""
        token = self._held()
        views = self._views
        if views is None:
            self._pieces = tuple(Piece(memory) for memory in self._memory(token))
            self._views = views = tuple(memoryview(piece) for piece in self._pieces)
        return views

    def _enter(self) -> int:
        with self._counting:
            self._inside += 1
        token = self._token
        if token == 0:
            self._leave()
        return self._held()

    def _leave(self) -> None:
        with self._counting:
            self._inside -= 1
            idle = None if self._inside else self._idle
            if idle is not None:
                self._idle = None
        if idle is not None:
            idle()

    @property
    def entangled(self) -> bool:
        """Tell whether ending takes more than `end`: memory was handed out, or a thread is inside."""
        return self._views is not None or self._inside != 0

    def end(self) -> None:
        """Let every later use raise ValueError."""
        self._token = 0

    def kept(self) -> bool:
        """Release what was handed out; tell whether somebody still has some of it. After `end`."""
        views, self._views = self._views, None
        for view in views or ():
            try:
                view.release()
            except BufferError:
                return True
        return any(piece.lent for piece in self._pieces)

    def when_idle(self, act: Callable[[], None]) -> bool:
        """Have `act` called, by whichever thread, when the last one is out. False where none is inside."""
        with self._counting:
            if self._inside:
                self._idle = act
                return True
        return False


class GuestReadBuffer(Loan):
    """vhostfs.filesystem.ReadBuffer over the payload's room of a READ."""

    _filled = 0

    def _memory(self, token: int) -> Sequence[memoryview]:
        return self._channel.reply_segments(token, self.size)

    def write(self, data: Buffer, /) -> int:
        """Append data; return how much there was room for."""
        token = self._held()
        room = self.size - self._filled
        view = memoryview(data)
        if view.nbytes > room:
            view = view.cast("B")[:room]
        stored = self._channel.store(token, self._filled, view)
        self._filled += stored
        return stored

    def read_from_fd(self, descriptor: int, offset: int, size: int | None = None, /) -> int:
        """Append what preadv(2) reads from a file; return how much."""
        token = self._enter()
        try:
            room = self.size - self._filled
            wanted = room if size is None else max(0, min(size, room))
            done = self._channel.read_from_fd(token, self._filled, wanted, descriptor, offset)
            self._filled += done
            return done
        finally:
            self._leave()


class GuestWriteBuffer(Loan):
    """vhostfs.filesystem.WriteBuffer over the data of a WRITE."""

    def _memory(self, token: int) -> Sequence[memoryview]:
        return self._channel.data_segments(token)

    def __bytes__(self) -> bytes:
        """Return a copy of all."""
        views = self._channel.data_segments(self._held())
        return bytes(views[0]) if len(views) == 1 else b"".join(views)

    def read_into(self, target: Buffer, offset: int = 0, /) -> int:
        """Copy what lies from an offset on into writable memory; return how many bytes."""
        if offset < 0:
            raise ValueError("an offset into the data of a write cannot be negative")
        return self._channel.load(self._held(), offset, target)

    def write_to_fd(self, descriptor: int, offset: int, /) -> int:
        """Write all to a file with pwritev(2); return how many bytes."""
        token = self._enter()
        try:
            return self._channel.write_to_fd(token, descriptor, offset)
        finally:
            self._leave()
