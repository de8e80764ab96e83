"""Sets of whole numbers kept as ranges: pages that are reserved, bytes that were written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A set of numbers, as sorted ranges that neither overlap nor touch."""

    __slots__ = ("_begins", "_ends")

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        """Tell whether anything is in it."""
        return bool(self._begins)

    def add(self, begin: int, end: int) -> None:
        """Add the numbers from begin up to but without end."""
        first = bisect_left(self._ends, begin)
        last = bisect_right(self._begins, end)
        if first < last:
            begin = min(begin, self._begins[first])
            end = max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def remove(self, begin: int, end: int) -> int:
        """Remove the numbers from begin up to but without end; return how many were there."""
        first = bisect_right(self._ends, begin)
        last = bisect_left(self._begins, end)
        if first >= last:
            return 0
        removed = self.count(begin, end)
        begins, ends = [], []
        if self._begins[first] < begin:
            begins.append(self._begins[first])
            ends.append(begin)
        if self._ends[last - 1] > end:
            begins.append(end)
            ends.append(self._ends[last - 1])
        self._begins[first:last] = begins
        self._ends[first:last] = ends
        return removed

    def count(self, begin: int, end: int) -> int:
        """Return how many numbers from begin up to but without end are in it."""
        return sum(there - here for here, there in self.within(begin, end))

    def covers(self, begin: int, end: int) -> bool:
        """Tell whether all numbers from begin up to but without end are in it."""
        first = bisect_right(self._begins, begin) - 1
        return begin >= end or (first >= 0 and self._ends[first] >= end)

    def within(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges that lie between begin and end, cut there, in order."""
        first = bisect_right(self._ends, begin)
        last = bisect_left(self._begins, end)
        for index in range(first, last):
            yield max(begin, self._begins[index]), min(end, self._ends[index])

    def split(self, begin: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield all between begin and end as ranges that are in it (True) or not, in order."""
        at = begin
        for here, there in self.within(begin, end):
            if at < here:
                yield at, here, False
            yield here, there, True
            at = there
        if at < end:
            yield at, end, False
