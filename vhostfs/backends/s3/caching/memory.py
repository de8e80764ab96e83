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
from typing import ClassVar, Final, Protocol

SLAB: Final = 1 << 20
ALIGNMENT: Final = 4096
"""What a piece takes at least: else descriptions of the smallest objects would outgrow these."""
ACTIVE_SECONDS: Final = 5.0
"""How long a stream counts as one after a read."""


class Tenant(Protocol):
    """What lies in a slab."""

    @property
    def owner(self) -> object:
        """Return whose it is."""

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

    _of_daemon: ClassVar[Memory | None] = None

    def __init__(self, size: int) -> None:
        """Memory of so many bytes, of which nothing is mapped yet."""
        self._most = max(1, size // SLAB)
        self._streams: OrderedDict[object, float] = OrderedDict()
        self._kept: OrderedDict[Slab, None] = OrderedDict()
        self._passed: OrderedDict[Slab, None] = OrderedDict()
        self._open: Slab | None = None
        self.evicted = 0
        """Bytes that had to go to make room."""

    @classmethod
    def shared(cls, size: int) -> Memory:
        """Return the memory of all mounts of this daemon: the largest size that one of them names counts."""
        found = cls._of_daemon
        if found is None:
            found = cls._of_daemon = cls(size)
        found._most = max(found._most, size // SLAB)
        return found

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

    def part(self, stream: object, now: float) -> int:
        """Take note that a stream is read at a time; return how much memory there is for each that is."""
        self._streams[stream] = now
        self._streams.move_to_end(stream)
        while next(iter(self._streams.values())) < now - ACTIVE_SECONDS:
            self._streams.popitem(last=False)
        return self.size * 3 // 4 // len(self._streams)

    def end(self, stream: object) -> None:
        """Take note that a stream has ended."""
        self._streams.pop(stream, None)

    def clear(self, owner: object) -> None:
        """Forget what is somebody's and not pinned, and give its memory back to the system."""
        for slabs in (self._passed, self._kept):
            for slab in [slab for slab in slabs if not slab.pins]:
                left = [tenant for tenant in slab.tenants if tenant.owner is not owner]
                if left:
                    for tenant in slab.tenants:
                        if tenant.owner is owner:
                            tenant.evicted()
                    slab.tenants = left
                else:
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
