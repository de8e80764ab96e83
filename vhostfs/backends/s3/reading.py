"""Reading objects: whole blocks where reads are scattered, ever more ahead where they go on.

A reader looks at the offsets that are asked for. Who reads on where a read has ended, twice, is a stream:
parts ahead of it are fetched side by side, the first small, then larger, and as many as it takes that
nobody has to wait; reads that lead nowhere cost the blocks that they touch, each asked for once. Several
streams of one file are told apart, and one that turns out to leave most of what it passes unread is none.
For who reads backward, each time what lies before the last read, the same is done in that direction.

What is fetched lies in the cache's memory; all streams that read at a time share it. A large read for which
nothing is there yet, and that goes on from nothing, is received where the guest wants it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache, Fetch, Piece
from vhostfs.backends.s3.caching.disk_files import BLOCK

PART_LEAST: Final = 1 << 20
PART_MOST: Final = 4 << 20
WINDOW_MOST: Final = 128 << 20
GROWTH: Final = 4
"""How many times as far ahead is fetched once somebody had to wait."""

AHEAD_OF_READ: Final = 16
"""No more than so many times what was read is ahead then; twice as far as before it always may be."""

WINDOW_FREE: Final = 64 << 20
"""How far ahead is fetched as soon as somebody has to wait; beyond, only what a fast and far store needs."""

RATE_SECONDS: Final = 0.05
"""Over how long a stream's rate is measured."""

STREAMS: Final = 4
"""How many streams of one reader are told apart."""

CONTIGUOUS_READS: Final = 2
"""How many reads on end make a stream: the first the kernel's read-ahead may pretend."""

EAGER_READ: Final = 256 << 10
"""A first read of so much makes one, too: the kernel does not pretend it where a program asks for little."""

EAGER_WINDOW: Final = 8 << 20
"""How far ahead is fetched for it at first."""

BACKWARD_READS: Final = 3
"""How many reads each before the last make a way back: two of a database's pages lie so by chance."""

BACKWARD_WINDOW: Final = 256 << 10
"""How far before it is fetched at first."""

SLACK: Final = 1 << 20
"""How far from where a stream is expected a read may begin: reads overtake each other on the way."""

LARGE_PART: Final = 4
"""An object that would take more than such a part of the memory is not kept there as it is read on end."""

DENSITY_LEAST: Final = 4
"""A stream reads at least one byte of so many that it passes."""

DIRECT_LEAST: Final = 512 << 10
"""From this size on what is missing for a read that is no stream's goes to the guest's memory at once."""


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


@dataclass(slots=True)
class Window:
    """How far ahead of a stream is fetched.

    It grows when somebody has to wait. What helps at most is what arrives while a part is on its way, at
    the rate at which the stream was ever read: a window of twice that is not enlarged any more.
    """

    size: int = PART_LEAST
    rate: float = 0.0
    """The most bytes a second."""
    seconds: float = inf
    """The least time that a part of PART_MOST would have taken."""
    _since: float = 0.0
    _from: int = -1

    def took(self, size: int, seconds: float) -> None:
        """Take note of how long a fetch of a size took."""
        self.seconds = min(self.seconds, seconds * PART_MOST / size)

    def waits(self, position: int, read: int, now: float) -> None:
        """Take note that one who reads up to a position, and has read so much, has to wait."""
        if self._from < 0:
            self._from, self._since = position, now
        elif now - self._since >= RATE_SECONDS:
            self.rate = max(self.rate, (position - self._from) / (now - self._since))
            self._from, self._since = position, now
        needed = int(2 * self.rate * self.seconds) if self.rate and self.seconds < inf else 0
        most = min(WINDOW_MOST, max(WINDOW_FREE, needed))
        grown = max(self.size * 2, min(self.size * GROWTH, read * AHEAD_OF_READ))
        self.size = max(self.size, min(grown, most))


@dataclass(slots=True, eq=False)
class _Stream:
    """Reads that go on from each other."""

    begin: int
    position: int
    """Where the next read is expected."""
    contiguous: int = 1
    part: int = PART_LEAST
    window: Window = field(default_factory=Window)
    read: int = 0
    """How many bytes of what it passed were asked for."""
    fetched_to: int = 0
    """Up to where all was fetched, or is on its way."""
    ahead: deque[Piece] = field(default_factory=deque)
    """What was fetched ahead and not read to its end yet."""

    def may_have(self, offset: int) -> bool:
        """Tell whether a read at an offset may go on from it."""
        slack = SLACK if self.contiguous >= CONTIGUOUS_READS else BLOCK
        return self.position - slack <= offset <= max(self.position + slack, self.fetched_to)


@dataclass(slots=True, eq=False)
class _WayBack:
    """Reads that end where the one before began: of a log's last lines, say."""

    end: int
    """Where the first of them ended."""
    position: int
    """Where the last one began."""
    part: int = BACKWARD_WINDOW
    window: Window = field(default_factory=lambda: Window(BACKWARD_WINDOW))
    fetched_from: int = 0
    """From where on all up to `position` was fetched, or is on its way."""
    ahead: list[Piece] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Return how much was read."""
        return self.end - self.position


class Reader:
    """Reads one version of one object. For one event loop; reads may come at once and in any order."""

    def __init__(self, cache: BlockCache, key: str, etag: str, size: int) -> None:
        """A reader of an object of a size."""
        self.cache = cache
        self._version = cache.version(key, etag, size)
        self._size = size
        self._streams: deque[_Stream] = deque()
        self._ends: deque[int] = deque(maxlen=STREAMS)
        self._lone_begin = 0
        """Where the last read began that no stream has."""
        self._backward = 0
        """How many of them, one after another, lie each before the last."""
        self._back: _WayBack | None = None

    async def read(self, offset: int, target: Target, begin: int, end: int) -> None:
        """Read from an offset on into a target, from begin to end; all of it lies within the object.

        Raise StoreError: ConditionError where the object is another one by now.
        """
        counters = self.cache.counters
        counters.served += end - begin
        stream = self._stream_of(offset, end - begin)
        back = self._way_back_of(offset, end - begin) if stream is None else None
        if self._fetch_missing(offset, offset + end - begin, direct=stream is None and back is None):
            counters.hits += 1
        else:
            counters.misses += 1
        if stream is not None:
            self._fetch_ahead(stream)
        elif back is not None:
            self._fetch_before(back)
        shift = begin - offset
        there = offset + end - begin
        while offset < there:
            piece = self._version.blocks.get(offset // BLOCK)
            if piece is None:
                # There was no memory for it, or it goes to the guest's at once.
                to = self._version.missing_to(offset, there)
                await self.cache.fetch_into(self._version, offset, target.stretch(offset + shift, to + shift))
            else:
                to = min(there, piece.end)
                if piece.fetch is not None:
                    await self._wait(piece, piece.fetch, stream or back)
                target.store(offset + shift, piece.view[offset - piece.begin : to - piece.begin])
                self.cache.memory.touch(piece.slab)
            offset = to
        if stream is not None:
            self._drop_behind(stream)

    def close(self) -> None:
        """Give up what was fetched ahead."""
        while self._streams:
            self._drop_stream(self._streams.popleft())
        self._drop_way_back()
        self._version.close()

    async def _wait(self, piece: Piece, fetch: Fetch, stream: _Stream | _WayBack | None) -> None:
        """Wait for a piece, which then stays until the next await."""
        if stream is not None:
            come = stream.position if isinstance(stream, _Stream) else stream.read
            stream.window.waits(come, stream.read, asyncio.get_running_loop().time())
        piece.slab.pins += 1
        try:
            await fetch.wait()
        finally:
            piece.slab.pins -= 1
        if stream is not None:
            stream.window.took(fetch.end - fetch.begin, asyncio.get_running_loop().time() - fetch.begun)

    def _stream_of(self, offset: int, size: int) -> _Stream | None:
        """Return the stream that a read belongs to; None for one that goes on from nothing."""
        near = [stream for stream in self._streams if stream.may_have(offset)]
        if near:
            stream = min(near, key=lambda stream: abs(stream.position - offset))
            stream.position = max(stream.position, offset + size)
            stream.contiguous += 1
            stream.read += size
            if stream.position - stream.begin - SLACK > stream.read * DENSITY_LEAST:
                self._streams.remove(stream)
                self._drop_stream(stream)
                return None
            return stream if stream.contiguous >= CONTIGUOUS_READS else None
        if offset == 0 or offset in self._ends:
            if len(self._streams) == STREAMS:
                self._drop_stream(self._streams.popleft())
            begun = offset > 0 or size >= EAGER_READ
            stream = _Stream(offset, offset + size, contiguous=CONTIGUOUS_READS if begun else 1, read=size)
            if size >= EAGER_READ:
                stream.window.size = EAGER_WINDOW
            self._streams.append(stream)
            return stream if begun else None
        self._ends.append(offset + size)
        return None

    def _way_back_of(self, offset: int, size: int) -> _WayBack | None:
        """Return the way back that a read belongs to; None for one that is on none."""
        goes_on = offset < self._lone_begin <= offset + size
        self._backward = self._backward + 1 if goes_on else 1
        self._lone_begin = offset
        if self._backward < BACKWARD_READS:
            self._drop_way_back()
            return None
        if self._back is None:
            self._back = _WayBack(offset + size, offset, fetched_from=offset // BLOCK * BLOCK)
        self._back.position = offset
        return self._back

    def _fetch_missing(self, begin: int, end: int, *, direct: bool) -> bool:
        """Begin to fetch what a read lacks; return whether it lacked nothing."""
        version = self._version
        found = True
        at = begin // BLOCK * BLOCK
        while at < end:
            piece = version.blocks.get(at // BLOCK)
            if piece is not None:
                found = found and piece.fetch is None
                at = piece.end
                continue
            found = False
            to = version.missing_to(at, min(-(-end // BLOCK) * BLOCK, self._size))
            if direct and to - at >= DIRECT_LEAST:
                at = to
                continue
            fetch = self.cache.fetch(version, at, to)
            if fetch is None:
                break
            at = fetch.end
        return found

    def _fetch_ahead(self, stream: _Stream) -> None:
        """Fetch so far ahead of what is read as the stream's window says."""
        version = self._version
        now = asyncio.get_running_loop().time()
        window = min(stream.window.size, self.cache.memory.part(stream, now))
        target = min(self._size, stream.position + window)
        at = max(stream.fetched_to, stream.position // BLOCK * BLOCK)
        while at < target:
            piece = version.blocks.get(at // BLOCK)
            if piece is not None:
                at = piece.end
                continue
            fetch = self.cache.fetch(version, at, version.missing_to(at, min(at + stream.part, self._size)))
            if fetch is None:
                break
            stream.ahead += fetch.pieces
            at = fetch.end
            stream.part = min(stream.part * 2, PART_MOST)
        stream.fetched_to = at

    def _fetch_before(self, back: _WayBack) -> None:
        """Fetch so far before what is read as the window says, the nearest first."""
        now = asyncio.get_running_loop().time()
        window = min(back.window.size, self.cache.memory.part(back, now))
        target = max(0, back.position - window)
        end = min(back.fetched_from, back.position // BLOCK * BLOCK)
        while end > target:
            begin = max(0, end - back.part)
            if not self._fetch_part_before(back, begin, end):
                break
            back.fetched_from = end = begin
            back.part = min(back.part * 2, PART_MOST)
        back.ahead = [piece for piece in back.ahead if piece.begin < back.position]

    def _fetch_part_before(self, back: _WayBack, begin: int, end: int) -> bool:
        """Begin to fetch what is not known of a part; False where there is no memory for it."""
        while begin < end:
            piece = self._version.blocks.get(begin // BLOCK)
            if piece is not None:
                begin = piece.end
                continue
            fetch = self.cache.fetch(self._version, begin, self._version.missing_to(begin, end))
            if fetch is None:
                return False
            back.ahead += fetch.pieces
            begin = fetch.end
        return True

    def _drop_behind(self, stream: _Stream) -> None:
        """Let memory go that lies so far behind that no read on its way can want it."""
        ended = stream.position >= self._size
        while stream.ahead and (ended or stream.ahead[0].end + SLACK <= stream.position):
            self._pass_by(stream.ahead.popleft())

    def _drop_stream(self, stream: _Stream) -> None:
        self.cache.memory.end(stream)
        for piece in stream.ahead:
            if piece.fetch is not None:
                piece.fetch.abandon()
            else:
                self._pass_by(piece)

    def _drop_way_back(self) -> None:
        back, self._back = self._back, None
        if back is not None:
            self.cache.memory.end(back)
            for piece in back.ahead:
                if piece.fetch is not None:
                    piece.fetch.abandon()

    def _pass_by(self, piece: Piece) -> None:
        """Let the memory of a large object's piece go: who reads so much on end seldom begins again."""
        if self._size > self.cache.memory.size // LARGE_PART:
            self.cache.memory.pass_by(piece.slab)
