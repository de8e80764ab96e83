"""Memory of one bound, in which the bytes of objects are received and stay while there is room.

It is made of slabs. Small pieces fill a slab one behind the other, large ones have slabs of their own, and
when there is no more room a whole slab is emptied: nothing is ever moved, and no gaps remain. A slab is
used again as it is, so that a daemon that reads for days touches no more pages than its bound.

Slabs that nobody has looked at for longest are emptied first; before them, those that were passed by, which
are used again before more memory is. One that is pinned (received into, or read from) is never emptied.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from typing import Final, Protocol

SLAB: Final = 1 << 20
ALIGNMENT: Final = 4096
"""What a piece takes at least: else descriptions of the smallest objects would outgrow these."""


class Tenant(Protocol):
    """What lies in a slab."""

    def evicted(self) -> int:
        """Forget the piece: its memory is used for something else from now on. Return its size."""


class Slab:
    """A stretch of memory, and what lies in it."""

    __slots__ = ("pins", "tenants", "used", "view")

    def __init__(self) -> None:
        """Map memory that goes back to the system when nobody refers to it."""
        self.view = memoryview(mmap.mmap(-1, SLAB))
        self.used = 0
        self.pins = 0
        """How many fetches and reads need it to stay as it is."""
        self.tenants: list[Tenant] = []


class Memory:
    """Memory up to a bound. For one event loop."""

    def __init__(self, size: int) -> None:
        """Memory of so many bytes, of which nothing is mapped yet."""
        self._most = max(1, size // SLAB)
        self._kept: OrderedDict[Slab, None] = OrderedDict()
        self._passed: OrderedDict[Slab, None] = OrderedDict()
        self._open: Slab | None = None
        self.evicted = 0
        """Bytes that had to go to make room."""

    @property
    def size(self) -> int:
        """Return the bound."""
        return self._most * SLAB

    @property
    def used(self) -> int:
        """Return how much is mapped."""
        return (len(self._kept) + len(self._passed)) * SLAB

    def take(self, size: int) -> tuple[Slab, memoryview] | None:
        """Return memory for a piece of up to SLAB bytes, pinned; None where all that there is is pinned."""
        room = -(-size // ALIGNMENT) * ALIGNMENT
        slab = self._open
        if slab is None or slab.used + room > SLAB:
            slab = self._empty()
            if slab is None:
                return None
            self._kept[slab] = None
            if room < SLAB:
                self._open = slab
        view = slab.view[slab.used : slab.used + size]
        slab.used += room
        slab.pins += 1
        return slab, view

    def touch(self, slab: Slab) -> None:
        """Take note that somebody has looked at a slab."""
        if slab in self._kept:
            self._kept.move_to_end(slab)
        else:
            self._passed.pop(slab, None)
            self._kept[slab] = None

    def pass_by(self, slab: Slab) -> None:
        """Take note that a slab was read to its end by one who will not come back."""
        if slab is not self._open and slab in self._kept:
            del self._kept[slab]
            self._passed[slab] = None

    def clear(self) -> None:
        """Forget all that is not pinned, and give its memory back to the system."""
        for slabs in (self._passed, self._kept):
            for slab in [slab for slab in slabs if not slab.pins]:
                del slabs[slab]
                self._vacate(slab)

    def _empty(self) -> Slab | None:
        """Return a slab without tenants."""
        for slabs in (self._passed, self._kept):
            if slabs is self._kept and self.used < self.size:
                return Slab()
            for slab in slabs:
                if not slab.pins:
                    del slabs[slab]
                    self.evicted += self._vacate(slab)
                    return slab
        return None

    def _vacate(self, slab: Slab) -> int:
        """Let the tenants of a slab go; return how many bytes they had."""
        if slab is self._open:
            self._open = None
        size = sum(tenant.evicted() for tenant in slab.tenants)
        slab.tenants.clear()
        slab.used = 0
        return size
