"""The contents of one file: runs of pages that hold data, and holes between them.

A run is a bytearray of whole pages that does not cross a multiple of RUN_LIMIT, so that an aligned request
of 1 MiB finds one, and so that no change moves more than that. What lies behind the end of the file is always
zero.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Buffer, Iterator
from typing import Final

from vhostfs.backends.memory.space import PAGE, Space, out_of_space
from vhostfs.backends.ranges import Ranges
from vhostfs.filesystem import ReadBuffer, WriteBuffer
from vhostfs.filesystem.refusals import refused

RUN_LIMIT: Final = 1 << 20
"""The most bytes of a run."""

SIZE_LIMIT: Final = (1 << 63) - 1
"""The most bytes of a file (the kernel's MAX_LFS_FILESIZE)."""

_MERGED: Final = 64 << 10
"""Up to how many bytes two runs that touch are made one: small enough for random writes to afford."""

_SMALL: Final = 32 << 10
"""Up to how many bytes a read is cheaper answered by a copy than by a call into the buffer."""

_ZEROES: Final = memoryview(bytes(RUN_LIMIT))


def _page_down(offset: int) -> int:
    return offset & -PAGE


def _page_up(offset: int) -> int:
    return (offset + PAGE - 1) & -PAGE


class SparseData:
    """The bytes of a file. `size` is its length, `pages` what it is charged, reserved pages included."""

    __slots__ = ("_reserved", "_runs", "_space", "_starts", "pages", "size")

    def __init__(self, space: Space) -> None:
        """Begin empty, charging what comes to `space`."""
        self._space = space
        self._starts: list[int] = []
        self._runs: list[bytearray] = []
        self._reserved = Ranges()
        self.pages = 0
        self.size = 0

    # ---- Reading ----

    def read(self, offset: int, buffer: ReadBuffer) -> bytes | int:
        """Answer a read: the bytes themselves, or how many were put into the buffer."""
        size = buffer.size
        if offset + size > self.size:
            size = self.size - offset
            if size <= 0:
                return b""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0:
            run = self._runs[index]
            begin = offset - self._starts[index]
            if begin + size <= len(run):
                view = memoryview(run)[begin : begin + size]
                return bytes(view) if size <= _SMALL else buffer.write(view)
        for piece in self.pieces(offset, offset + size):
            buffer.write(piece)
        return size

    def pieces(self, begin: int, end: int) -> Iterator[memoryview]:
        """Yield what lies between two offsets, zeroes for holes. The file may not change meanwhile."""
        starts, runs = self._starts, self._runs
        index = bisect_right(starts, begin) - 1
        while begin < end:
            if index >= 0 and begin < starts[index] + len(runs[index]):
                start = starts[index]
                piece = memoryview(runs[index])[begin - start : end - start]
            else:
                until = starts[index + 1] if index + 1 < len(starts) else end
                piece = _ZEROES[: min(until, end) - begin]
            begin += len(piece)
            yield piece
            if index + 1 < len(starts) and begin >= starts[index + 1]:
                index += 1

    def seek_data(self, offset: int) -> int:
        """Return where the next data begins, at `offset` or behind; ENXIO where there is none."""
        if 0 <= offset < self.size:
            starts = self._starts
            index = bisect_right(starts, offset) - 1
            if index >= 0 and offset < starts[index] + len(self._runs[index]):
                return offset
            if index + 1 < len(starts) and starts[index + 1] < self.size:
                return starts[index + 1]
        raise refused(errno.ENXIO)

    def seek_hole(self, offset: int) -> int:
        """Return where the next hole begins, which may be the end; ENXIO from the end on."""
        if not 0 <= offset < self.size:
            raise refused(errno.ENXIO)
        index = bisect_right(self._starts, offset) - 1
        while 0 <= index < len(self._starts) and self._starts[index] <= offset:
            offset = max(offset, self._starts[index] + len(self._runs[index]))
            index += 1
            if index < len(self._starts) and self._starts[index] != offset:
                break
        return min(offset, self.size)

    # ---- Writing ----

    def write(self, offset: int, data: WriteBuffer) -> int:
        """Store a write; return how many bytes there was room for. ENOSPC where there was none."""
        size = data.size
        index = bisect_right(self._starts, offset) - 1
        if index >= 0:
            run = self._runs[index]
            begin = offset - self._starts[index]
            if begin + size <= len(run):
                data.read_into(memoryview(run)[begin : begin + size])
                self.size = max(self.size, offset + size)
                return size
        size = self._make_room(offset, size)
        done = 0
        for view in self._backed(offset, offset + size):
            done += data.read_into(view, done)
        self.size = max(self.size, offset + size)
        return size

    def store(self, offset: int, data: Buffer) -> int:
        """Store bytes as `write` does."""
        source = memoryview(data)
        size = self._make_room(offset, source.nbytes)
        done = 0
        for view in self._backed(offset, offset + size):
            view[:] = source[done : done + len(view)]
            done += len(view)
        self.size = max(self.size, offset + size)
        return size

    def truncate(self, size: int) -> None:
        """Cut off or lengthen, by a hole; give back what is reserved behind the new end."""
        if size <= self.size:
            self._zero(size, _page_up(size))
            self._drop(_page_up(size), SIZE_LIMIT + 1)
        self.size = size

    def punch(self, begin: int, end: int) -> None:
        """Make a hole of the whole pages between two offsets, and zero the rest."""
        first, last = _page_up(begin), _page_down(end)
        if first > last:
            self._zero(begin, end)
            return
        self._zero(begin, first)
        self._zero(last, end)
        self._drop(first, last)

    def reserve(self, begin: int, end: int) -> None:
        """Charge the pages between two offsets that hold no data, all or, with ENOSPC, none."""
        begin, end = _page_down(begin), _page_up(end)
        gaps = list(self._gaps(begin, end))
        wanted = sum(
            (until - since) // PAGE - self._reserved.count(since // PAGE, until // PAGE)
            for since, until in gaps
        )
        self._space.take_pages(wanted)
        self.pages += wanted
        for since, until in gaps:
            self._reserved.add(since // PAGE, until // PAGE)

    def clear(self) -> None:
        """Give everything back."""
        self.truncate(0)

    # ---- Runs ----

    def _make_room(self, offset: int, size: int) -> int:
        """Have pages for a write, as many as there are; return how many of its bytes fit, ENOSPC for none."""
        fit = self._back(_page_down(offset), _page_up(offset + size)) - offset
        if fit <= 0 < size:
            raise out_of_space()
        return min(fit, size)

    def _backed(self, begin: int, end: int) -> Iterator[memoryview]:
        """Yield writable views of what lies between two offsets, in which there is no hole."""
        index = bisect_right(self._starts, begin) - 1
        while begin < end:
            start = self._starts[index]
            view = memoryview(self._runs[index])[begin - start : end - start]
            begin += len(view)
            index += 1
            yield view

    def _gaps(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches without data between two offsets, both at pages."""
        starts, runs = self._starts, self._runs
        index = max(0, bisect_right(starts, begin) - 1)
        while index < len(starts) and starts[index] < end:
            if begin < starts[index]:
                yield begin, starts[index]
            begin = max(begin, starts[index] + len(runs[index]))
            index += 1
        if begin < end:
            yield begin, end

    def _back(self, begin: int, end: int) -> int:
        """Fill holes between two offsets, both at pages, with zeroes until space is out; return how far."""
        for since, until in list(self._gaps(begin, end)):
            charged = self._charge(since, until)
            reached = self._insert(since, charged)
            if reached < charged:
                self.pages -= (charged - reached) // PAGE
                self._space.give_pages((charged - reached) // PAGE)
            if reached < until:
                return reached
        return end

    def _charge(self, begin: int, end: int) -> int:
        """Charge the pages of a gap, reserved ones being charged already; return how far space reached."""
        wanted = (end - begin) // PAGE
        if self._reserved:
            wanted -= self._reserved.count(begin // PAGE, end // PAGE)
            if wanted > self._space.pages_left:
                page, left = begin // PAGE, self._space.pages_left
                while left or self._reserved.count(page, page + 1):
                    left -= 1 - self._reserved.count(page, page + 1)
                    page += 1
                end = page * PAGE
                wanted = self._space.pages_left
            self._reserved.remove(begin // PAGE, end // PAGE)
        elif wanted > self._space.pages_left:
            wanted = self._space.pages_left
            end = begin + wanted * PAGE
        self._space.take_pages(wanted)
        self.pages += wanted
        return end

    def _insert(self, begin: int, end: int) -> int:
        """Put zeroes into a gap: longer runs before it, new ones, or the one behind it made longer.

        Return how far the machine's memory reached.
        """
        starts, runs = self._starts, self._runs
        while begin < end:
            index = bisect_right(starts, begin)
            size = min(end - begin, RUN_LIMIT - begin % RUN_LIMIT)
            try:
                if index and begin % RUN_LIMIT and starts[index - 1] + len(runs[index - 1]) == begin:
                    runs[index - 1] += _ZEROES[:size]
                    index -= 1
                else:
                    run = bytearray(size)
                    starts.insert(index, begin)
                    runs.insert(index, run)
            except MemoryError:
                return begin
            begin += size
            following = index + 1
            if (
                following < len(starts)
                and starts[following] == begin
                and begin % RUN_LIMIT
                and len(runs[index]) + len(runs[following]) <= _MERGED
            ):
                runs[index] += runs[following]
                del starts[following], runs[following]
        return end

    def _zero(self, begin: int, end: int) -> None:
        """Put zeroes where there is data between two offsets of one page."""
        index = bisect_right(self._starts, begin) - 1
        if begin < end and index >= 0:
            run = self._runs[index]
            begin -= self._starts[index]
            if begin < len(run):
                end -= self._starts[index]
                run[begin:end] = _ZEROES[: end - begin]

    def _drop(self, begin: int, end: int) -> None:
        """Make a hole between two offsets, both at pages."""
        starts, runs = self._starts, self._runs
        freed = self._reserved.remove(begin // PAGE, end // PAGE) if self._reserved else 0
        first = bisect_right(starts, begin) - 1
        if first < 0 or starts[first] + len(runs[first]) <= begin:
            first += 1
        last = bisect_left(starts, end)
        if first < last:
            kept: list[tuple[int, bytearray]] = []
            if starts[first] < begin:
                kept.append((starts[first], bytearray(memoryview(runs[first])[: begin - starts[first]])))
            if starts[last - 1] + len(runs[last - 1]) > end:
                kept.append((end, bytearray(memoryview(runs[last - 1])[end - starts[last - 1] :])))
            freed += sum(len(run) for run in runs[first:last]) // PAGE
            freed -= sum(len(run) for _, run in kept) // PAGE
            starts[first:last] = [start for start, _ in kept]
            runs[first:last] = [run for _, run in kept]
        self.pages -= freed
        self._space.give_pages(freed)
