"""Guest memory: regions of guest-physical addresses, parts of memory files that the back-end maps too."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field

PAGE = 4096

USER_ADDRESS_SHIFT = 0x7F00_0000_0000
"""What is added to a guest-physical address for its user address, so that a mix-up of the two shows."""


class OutOfGuestMemoryError(Exception):
    """Raised when no region has room for an allocation."""


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """Where a region lies: in guest-physical memory, and at which offset of its file."""

    gpa: int
    size: int
    offset: int = 0


@dataclass(slots=True)
class Region:
    """A mapped region. free lists its unused (gpa, size) pieces, in order."""

    spec: RegionSpec
    descriptor: int
    mapping: mmap.mmap
    view: memoryview
    free: list[tuple[int, int]] = field(default_factory=list)

    @property
    def gpa(self) -> int:
        return self.spec.gpa

    @property
    def size(self) -> int:
        return self.spec.size

    @property
    def user_address(self) -> int:
        return self.spec.gpa + USER_ADDRESS_SHIFT

    def holds(self, gpa: int) -> bool:
        return self.gpa <= gpa < self.gpa + self.size


ONE_REGION = (RegionSpec(0x10_0000, 16 << 20),)

SCATTERED = (
    RegionSpec(0, 0xA_0000),
    RegionSpec(0x10_0000, 8 << 20, offset=0x10_0000),
    RegionSpec(0x10_0000 + (8 << 20), 4 << 20, offset=0x4000),
    RegionSpec(0x1_0000_0000, 4 << 20, offset=0x20_0000),
)
"""Regions at address 0, after a gap, adjacent to the one before, above 4 GiB; three at file offsets."""


class GuestMemory:
    """All memory of a guest, with an allocator for rings and buffers."""

    def __init__(self, layout: tuple[RegionSpec, ...] = ONE_REGION) -> None:
        self.regions: list[Region] = []
        for spec in layout:
            self.add(spec)

    def add(self, spec: RegionSpec, *, allocatable: bool = True) -> Region:
        """Create a region with a memory file of its own."""
        descriptor = os.memfd_create(f"guest-{spec.gpa:#x}")
        os.ftruncate(descriptor, spec.offset + spec.size)
        mapping = mmap.mmap(descriptor, spec.offset + spec.size)
        view = memoryview(mapping)[spec.offset :]
        free = [(spec.gpa, spec.size)] if allocatable else []
        region = Region(spec, descriptor, mapping, view, free)
        self.regions.append(region)
        return region

    def close(self) -> None:
        """Close the memory files; mappings go when their last view does."""
        for region in self.regions:
            os.close(region.descriptor)
        self.regions.clear()

    def region_at(self, gpa: int) -> Region:
        """Return the region that holds an address; KeyError where none does."""
        for region in self.regions:
            if region.holds(gpa):
                return region
        raise KeyError(hex(gpa))

    def user_address(self, gpa: int) -> int:
        """Return the address by which the front-end calls a guest-physical one."""
        return self.region_at(gpa).user_address + gpa - self.region_at(gpa).gpa

    def view(self, gpa: int, size: int) -> memoryview:
        """Return a writable view of memory that lies within one region."""
        region = self.region_at(gpa)
        begin = gpa - region.gpa
        assert begin + size <= region.size, "a view may not straddle regions"
        return region.view[begin : begin + size]

    def write(self, gpa: int, data: bytes) -> None:
        """Write bytes, across regions where they are adjacent."""
        at = 0
        while at < len(data):
            piece = self._room(gpa + at, len(data) - at)
            self.view(gpa + at, piece)[:] = data[at : at + piece]
            at += piece

    def read(self, gpa: int, size: int) -> bytes:
        """Read bytes, across regions where they are adjacent."""
        parts: list[bytes] = []
        at = 0
        while at < size:
            piece = self._room(gpa + at, size - at)
            parts.append(bytes(self.view(gpa + at, piece)))
            at += piece
        return b"".join(parts)

    def allocate(self, size: int, *, alignment: int = 16, region: Region | None = None) -> int:
        """Return the address of size free bytes, zeroed; give them back with release."""
        for candidate in [region] if region is not None else self.regions:
            for position, (begin, length) in enumerate(candidate.free):
                gpa = -(-begin // alignment) * alignment
                if gpa + size > begin + length:
                    continue
                pieces = [(begin, gpa - begin), (gpa + size, begin + length - gpa - size)]
                candidate.free[position : position + 1] = [piece for piece in pieces if piece[1]]
                candidate.view[gpa - candidate.gpa : gpa - candidate.gpa + size] = bytes(size)
                return gpa
        raise OutOfGuestMemoryError(f"no region has {size} bytes left")

    def release(self, gpa: int, size: int) -> None:
        """Give back what allocate returned."""
        free = self.region_at(gpa).free
        free.append((gpa, size))
        free.sort()
        merged: list[tuple[int, int]] = []
        for begin, length in free:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((begin, length))
        free[:] = merged

    def _room(self, gpa: int, size: int) -> int:
        region = self.region_at(gpa)
        return min(size, region.gpa + region.size - gpa)
