"""Reading objects: exact ranges where reads are scattered, ever more ahead where they go on.

A reader looks at the offsets that are asked for. Who reads on where a read has ended, twice, is a stream:
parts ahead of it are fetched side by side, the first small, then larger, and as many as it takes that
nobody has to wait; reads that lead nowhere cost what they ask for and nothing more. Several streams of one
file are told apart.

What is fetched ahead lies in memory of one budget, which all readers of a daemon share. Every request names
the ETag: bytes of two versions of an object are never mixed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vhostfs.backends.s3.store import ObjectStore, RangeError

PART_LEAST: Final = 1 << 20
PART_MOST: Final = 8 << 20
WINDOW_MOST: Final = 128 << 20
STREAMS: Final = 4
"""How many streams of one reader are told apart."""

CONTIGUOUS_READS: Final = 2
"""How many reads on end make a stream: the first the kernel's read-ahead may pretend."""

SLACK: Final = 1 << 20
"""How far from where a stream is expected a read may begin: reads overtake each other on the way."""


class Target:
    """Where the bytes of a read go: memory in pieces, of which any stretch can be had."""

    __slots__ = ("_pieces", "size")

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        """A target of the pieces, in order."""
        self._pieces = pieces
        self.size = sum(map(len, pieces))

    def stretch(self, begin: int, end: int) -> list[memoryview]:
        """Return the memory from begin up to but without end."""
        found = []
        for piece in self._pieces:
            if begin < len(piece) and begin < end:
                found.append(piece[max(0, begin) : end])
            begin -= len(piece)
            end -= len(piece)
            if end <= 0:
                break
        return [piece for piece in found if len(piece)]

    def store(self, begin: int, data: memoryview) -> None:
        """Copy data to where it belongs."""
        for piece in self.stretch(begin, begin + len(data)):
            piece[:] = data[: len(piece)]
            data = data[len(piece) :]

    def clear(self, begin: int, end: int) -> None:
        """Store zeros."""
        for piece in self.stretch(begin, end):
            piece[:] = bytes(len(piece))


class Budget:
    """Memory for what is fetched ahead. For one event loop."""

    def __init__(self, size: int) -> None:
        """A budget of so many bytes."""
        self.size = size
        self.used = 0
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, size: int) -> bytearray | None:
        """Return memory, if there is some left."""
        spare = self._spare.get(size)
        if spare:
            return spare.pop()
        if self.used + size > self.size:
            self._drop_spare()
        if self.used + size > self.size:
            return None
        self.used += size
        return bytearray(size)

    def give_back(self, memory: bytearray) -> None:
        """Take memory back that nobody looks at any more."""
        self._spare.setdefault(len(memory), []).append(memory)

    def _drop_spare(self) -> None:
        self.used -= sum(size * len(pieces) for size, pieces in self._spare.items())
        self._spare.clear()


@dataclass(slots=True, eq=False)
class _Part:
    """A part of the object that is fetched, or was."""

    begin: int
    size: int
    memory: bytearray
    task: asyncio.Task[None]
    users: int = 0
    dropped: bool = False

    @property
    def end(self) -> int:
        """Return where it ends."""
        return self.begin + self.size


@dataclass(slots=True, eq=False)
class _Stream:
    """Reads that go on from each other."""

    position: int
    """Where the next read is expected."""
    contiguous: int = 1
    part: int = PART_LEAST
    window: int = PART_LEAST
    parts: deque[_Part] = field(default_factory=deque)

    @property
    def fetched_to(self) -> int:
        """Return up to where parts are fetched or under way."""
        return self.parts[-1].end if self.parts else self.position

    def part_at(self, offset: int) -> _Part | None:
        """Return the part that has an offset."""
        return next((part for part in self.parts if part.begin <= offset < part.end), None)


class Reader:
    """Reads one version of one object. For one event loop; reads may come at once and in any order."""

    def __init__(self, store: ObjectStore, budget: Budget, key: str, etag: str, size: int) -> None:
        """A reader of an object of a size."""
        self._store, self._budget = store, budget
        self._key, self._etag, self._size = key, etag, size
        self._streams: deque[_Stream] = deque()
        self._ends: deque[int] = deque(maxlen=STREAMS)

    async def read(self, offset: int, target: Target, begin: int, end: int) -> None:
        """Read from an offset on into a target, from begin to end; all of it lies within the object.

        Raise StoreError: ConditionError where the object is another one by now.
        """
        stream = self._stream_of(offset, end - begin)
        if stream is None:
            await self._fetch_exactly(offset, target, begin, end)
            return
        self._fetch_ahead(stream)
        while begin < end:
            part = stream.part_at(offset)
            if part is None:
                await self._fetch_exactly(offset, target, begin, end)
                break
            part.users += 1
            try:
                if not part.task.done():
                    stream.window = min(stream.window * 2, WINDOW_MOST)
                await asyncio.shield(part.task)
                count = min(end - begin, part.end - offset)
                at = offset - part.begin
                target.store(begin, memoryview(part.memory)[at : at + count])
            finally:
                part.users -= 1
                self._free_if_unused(part)
            begin += count
            offset += count
        self._drop_behind(stream)

    def close(self) -> None:
        """Give up what was fetched ahead."""
        while self._streams:
            self._drop_stream(self._streams.popleft())

    def _stream_of(self, offset: int, size: int) -> _Stream | None:
        """Return the stream that a read belongs to; None for one that goes on from nothing."""
        for stream in self._streams:
            if stream.position - SLACK <= offset <= stream.fetched_to + SLACK:
                stream.position = max(stream.position, offset + size)
                stream.contiguous += 1
                return stream if stream.contiguous >= CONTIGUOUS_READS else None
        if offset == 0 or offset in self._ends:
            if len(self._streams) == STREAMS:
                self._drop_stream(self._streams.popleft())
            stream = _Stream(offset + size, contiguous=2 if offset else 1)
            self._streams.append(stream)
            return stream if offset else None
        self._ends.append(offset + size)
        return None

    async def _fetch_exactly(self, offset: int, target: Target, begin: int, end: int) -> None:
        """Fetch a range into the target itself."""
        count, _ = await self._store.get(self._key, offset, target.stretch(begin, end), if_match=self._etag)
        if count != end - begin:
            raise RangeError(f"{self._key} is shorter than it was")

    def _fetch_ahead(self, stream: _Stream) -> None:
        """Fetch so far ahead of what is read as the stream's window says."""
        target = min(self._size, stream.position + stream.window)
        begin = stream.fetched_to
        while begin < target:
            size = min(stream.part, self._size - begin)
            memory = self._budget.take(size)
            if memory is None:
                return
            task = asyncio.ensure_future(self._fetch(begin, memory))
            task.add_done_callback(_look_at)
            stream.parts.append(_Part(begin, size, memory, task))
            begin += size
            stream.part = min(stream.part * 2, PART_MOST)

    async def _fetch(self, offset: int, memory: bytearray) -> None:
        count, _ = await self._store.get(self._key, offset, [memoryview(memory)], if_match=self._etag)
        if count != len(memory):
            raise RangeError(f"{self._key} is shorter than it was")

    def _drop_behind(self, stream: _Stream) -> None:
        """Give parts up that lie so far behind that no read on its way can want them."""
        while stream.parts and stream.parts[0].end + SLACK <= stream.position:
            self._drop(stream.parts.popleft())
        if stream.position >= self._size and all(part.task.done() for part in stream.parts):
            while stream.parts:
                self._drop(stream.parts.popleft())

    def _drop_stream(self, stream: _Stream) -> None:
        while stream.parts:
            self._drop(stream.parts.popleft())

    def _drop(self, part: _Part) -> None:
        part.dropped = True
        part.task.cancel()
        self._free_if_unused(part)

    def _free_if_unused(self, part: _Part) -> None:
        """Give memory back that no read and no request has any more."""
        if not part.dropped or part.users:
            return
        if part.task.done():
            self._budget.give_back(part.memory)
        else:
            part.task.add_done_callback(lambda _task: self._budget.give_back(part.memory))


def _look_at(task: asyncio.Task[None]) -> None:
    """Let nobody complain that the error of what was fetched in vain was never looked at."""
    if not task.cancelled():
        task.exception()
