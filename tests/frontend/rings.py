"""The driver's side of a virtqueue, split (virtio 1.3, section 2.7) and packed (2.8).

A ring offers chains of descriptors and collects what the device has used. Indices are aligned 16-bit
values, stored in one piece. Where the driver must publish before it looks, it passes a full barrier: taking a
lock executes one on every processor that Python runs on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from tests.frontend.memory import PAGE, GuestMemory

SPLIT_DESCRIPTOR = Struct("<QIHH")
PACKED_DESCRIPTOR = Struct("<QIHH")

NEXT = 1
WRITE = 2
INDIRECT = 4

PACKED_AVAIL = 1 << 7
PACKED_USED = 1 << 15
EVENTS_ENABLED = 0
EVENTS_AT_DESCRIPTOR = 2

_FENCE = threading.Lock()


def full_barrier() -> None:
    """Order all earlier stores before all later loads."""
    with _FENCE:
        pass


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer of a chain: guest-physical address, length, and whether the device writes to it."""

    gpa: int
    size: int
    writable: bool = False


@dataclass(frozen=True, slots=True)
class RingAddresses:
    """Where the three areas of a ring lie in guest-physical memory."""

    descriptors: int
    driver: int
    device: int


class Ring(Protocol):
    """What a queue needs of either kind of ring."""

    size: int
    addresses: RingAddresses
    initial_base: int

    def add(self, chain: list[Buffer]) -> int:
        """Offer a chain and return the token that its completion will carry."""

    def needs_kick(self) -> bool:
        """Tell whether the device wants to hear of what was added since this was asked last."""

    def used(self) -> Iterator[tuple[int, int]]:
        """Yield (token, written bytes) of each chain that the device has completed."""

    def arm(self) -> None:
        """Ask the device to signal the next completion."""


def needs_event(event: int, new: int, old: int) -> bool:
    """Tell whether an index moved from old to new passes event: virtio's vring_need_event."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class SplitRing:
    """A split virtqueue."""

    initial_base = 0

    def __init__(self, memory: GuestMemory, size: int, *, event_idx: bool, indirect: bool) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.addresses = RingAddresses(
            memory.allocate(16 * size, alignment=PAGE),
            memory.allocate(6 + 2 * size, alignment=2),
            memory.allocate(6 + 8 * size, alignment=4),
        )
        self._table = memory.view(self.addresses.descriptors, 16 * size)
        self.driver = memory.view(self.addresses.driver, 6 + 2 * size).cast("H")
        self.device = memory.view(self.addresses.device, 6 + 8 * size).cast("H")
        self._elements = memory.view(self.addresses.device + 4, 8 * size).cast("I")
        self._free = list(range(size))
        self._held: dict[int, list[int]] = {}
        self._tables: dict[int, tuple[int, int]] = {}
        self._next_used = 0
        self._kicked = 0

    def add(self, chain: list[Buffer]) -> int:
        """Offer a chain, through an indirect table where that was negotiated."""
        if self.indirect:
            return self._add_indirect(chain)
        indices = [self._free.pop() for _ in chain]
        for position, (index, buffer) in enumerate(zip(indices, chain, strict=True)):
            last = position == len(chain) - 1
            flags = (0 if last else NEXT) | (WRITE if buffer.writable else 0)
            # What "next" holds in the last descriptor means nothing; Linux leaves garbage there too.
            follower = 0xFFFF if last else indices[position + 1]
            self.write_descriptor(index, buffer.gpa, buffer.size, flags, follower)
        self._held[indices[0]] = indices
        self.publish(indices[0])
        return indices[0]

    def write_descriptor(self, index: int, gpa: int, size: int, flags: int, follower: int) -> None:
        """Write one descriptor of the table, checking nothing."""
        SPLIT_DESCRIPTOR.pack_into(self._table, 16 * index, gpa, size, flags, follower)

    def publish(self, head: int) -> None:
        """Make a head visible to the device, checking nothing."""
        index = self.driver[1]
        self.driver[2 + index % self.size] = head
        self.driver[1] = (index + 1) & 0xFFFF

    def needs_kick(self) -> bool:
        """Look at the device's event index, or at its flags."""
        full_barrier()
        old, new = self._kicked, self.driver[1]
        self._kicked = new
        if self.event_idx:
            return needs_event(self.device[2 + 4 * self.size], new, old)
        return not self.device[0] & 1

    def used(self) -> Iterator[tuple[int, int]]:
        """Collect used elements."""
        while self._next_used != self.device[1]:
            slot = self._next_used % self.size
            head, written = self._elements[2 * slot], self._elements[2 * slot + 1]
            self._next_used = (self._next_used + 1) & 0xFFFF
            self._free.extend(self._held.pop(head, ()))
            if head in self._tables:
                self.memory.release(*self._tables.pop(head))
            yield head, written

    def arm(self) -> None:
        """Set the used event to the next completion, or clear the flag."""
        if self.event_idx:
            self.driver[2 + self.size] = self._next_used
        else:
            self.driver[0] = 0
        full_barrier()

    def _add_indirect(self, chain: list[Buffer]) -> int:
        table = self.memory.allocate(16 * len(chain))
        for position, buffer in enumerate(chain):
            last = position == len(chain) - 1
            flags = (0 if last else NEXT) | (WRITE if buffer.writable else 0)
            entry = SPLIT_DESCRIPTOR.pack(buffer.gpa, buffer.size, flags, 0 if last else position + 1)
            self.memory.write(table + 16 * position, entry)
        head = self._free.pop()
        self.write_descriptor(head, table, 16 * len(chain), INDIRECT, 0)
        self._held[head] = [head]
        self._tables[head] = (table, 16 * len(chain))
        self.publish(head)
        return head


class PackedRing:
    """A packed virtqueue."""

    initial_base = 0x8000_8000

    def __init__(self, memory: GuestMemory, size: int, *, event_idx: bool, indirect: bool) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.indirect = indirect
        self.addresses = RingAddresses(
            memory.allocate(16 * size, alignment=PAGE),
            memory.allocate(4, alignment=4),
            memory.allocate(4, alignment=4),
        )
        self._table = memory.view(self.addresses.descriptors, 16 * size)
        self._words = self._table.cast("H")
        self.driver = memory.view(self.addresses.driver, 4).cast("H")
        self.device = memory.view(self.addresses.device, 4).cast("H")
        self._free_ids = list(range(size))
        self._slots: dict[int, int] = {}
        self._tables: dict[int, tuple[int, int]] = {}
        self._next_avail, self._avail_wrap = 0, True
        self._next_used, self._used_wrap = 0, True
        self._added = 0

    def add(self, chain: list[Buffer]) -> int:
        """Offer a chain, through an indirect table where that was negotiated."""
        token = self._free_ids.pop()
        if self.indirect:
            table = self.memory.allocate(16 * len(chain))
            self._tables[token] = (table, 16 * len(chain))
            for position, buffer in enumerate(chain):
                entry = PACKED_DESCRIPTOR.pack(buffer.gpa, buffer.size, 0, WRITE if buffer.writable else 0)
                self.memory.write(table + 16 * position, entry)
            self.write_slots([(table, 16 * len(chain), token, INDIRECT)])
        else:
            last = len(chain) - 1
            slots = []
            for position, buffer in enumerate(chain):
                flags = (NEXT if position < last else 0) | (WRITE if buffer.writable else 0)
                # The id counts in the last descriptor alone.
                slots.append((buffer.gpa, buffer.size, token if position == last else 0xFFFF, flags))
            self.write_slots(slots)
        self._slots[token] = 1 if self.indirect else len(chain)
        return token

    def write_slots(self, slots: list[tuple[int, int, int, int]]) -> None:
        """Write consecutive descriptors (gpa, size, id, flags), the first flags last; checks nothing."""
        first = self._next_avail
        first_flags = 0
        for position, (gpa, size, token, flags) in enumerate(slots):
            available = flags | (PACKED_AVAIL if self._avail_wrap else PACKED_USED)
            index = self._next_avail
            if position == 0:
                first_flags = available
                SPLIT_DESCRIPTOR.pack_into(
                    self._table, 16 * index, gpa, size, token, self._words[8 * index + 7]
                )
            else:
                PACKED_DESCRIPTOR.pack_into(self._table, 16 * index, gpa, size, token, available)
            self._next_avail += 1
            if self._next_avail == self.size:
                self._next_avail, self._avail_wrap = 0, not self._avail_wrap
        self._words[8 * first + 7] = first_flags
        self._added += len(slots)

    def needs_kick(self) -> bool:
        """Look at the device's event suppression area."""
        full_barrier()
        added, self._added = self._added, 0
        off_wrap, flags = self.device
        if flags == EVENTS_AT_DESCRIPTOR:
            event = off_wrap & 0x7FFF
            if bool(off_wrap >> 15) != self._avail_wrap:
                event -= self.size
            return needs_event(event, self._next_avail, self._next_avail - added)
        return flags == EVENTS_ENABLED

    def used(self) -> Iterator[tuple[int, int]]:
        """Collect used descriptors."""
        while True:
            flags = self._words[8 * self._next_used + 7]
            if not bool(flags & PACKED_AVAIL) == bool(flags & PACKED_USED) == self._used_wrap:
                return
            _, written, token, _ = PACKED_DESCRIPTOR.unpack_from(self._table, 16 * self._next_used)
            self._next_used += self._slots.pop(token, 1)
            if self._next_used >= self.size:
                self._next_used, self._used_wrap = self._next_used - self.size, not self._used_wrap
            self._free_ids.append(token)
            if token in self._tables:
                self.memory.release(*self._tables.pop(token))
            yield token, written

    def arm(self) -> None:
        """Ask for an event at the next used descriptor, or for all events."""
        if self.event_idx:
            self.driver[0] = self._next_used | self._used_wrap << 15
            self.driver[1] = EVENTS_AT_DESCRIPTOR
        else:
            self.driver[1] = EVENTS_ENABLED
        full_barrier()
