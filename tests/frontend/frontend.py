"""A vhost-user front-end: it owns the guest's memory and rings and drives a back-end over its socket.

It stands where QEMU stands. Everything that QEMU may vary is an option; what only a hostile front-end would
do is done through `socket`, `memory` and each queue's ring directly.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.frontend.memory import ONE_REGION, PAGE, GuestMemory, Region, RegionSpec
from tests.frontend.messages import (
    LOG,
    REGION,
    U64,
    VRING_ADDRESS,
    VRING_STATE,
    Features,
    FrontendSocket,
    ProtocolFeatures,
    Request,
)
from tests.frontend.queue import Queue
from tests.frontend.rings import PackedRing, SplitRing

ALL_PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.LOG_SHMFD
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
)


@dataclass(frozen=True, slots=True)
class FrontendOptions:
    """How a front-end behaves where front-ends differ. Features are used only if the back-end offers them."""

    layout: tuple[RegionSpec, ...] = ONE_REGION
    request_queues: int = 1
    queue_size: int = 128
    packed: bool = False
    event_idx: bool = True
    indirect: bool = True
    protocol_features: ProtocolFeatures = ALL_PROTOCOL_FEATURES


class DirtyLog:
    """The shared bitmap of guest pages that the back-end has written to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("dirty-log")
        os.ftruncate(self.descriptor, size)

    def take_pages(self) -> set[int]:
        """Return the numbers of the dirty pages and mark all clean."""
        bits = os.pread(self.descriptor, self.size, 0)
        os.pwrite(self.descriptor, bytes(self.size), 0)
        return {8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1}

    def close(self) -> None:
        """Close the bitmap's file."""
        os.close(self.descriptor)


class Frontend:
    """One connection to a back-end, the memory and the queues that it serves."""

    def __init__(self, path: Path, options: FrontendOptions) -> None:
        self.options = options
        self.socket = FrontendSocket(path)
        self.memory = GuestMemory(options.layout)
        self.features = Features.NONE
        self.offered_features = Features.NONE
        self.protocol_features = ProtocolFeatures.NONE
        self.queues: list[Queue] = []
        self.log: DirtyLog | None = None

    @classmethod
    def connect(cls, path: Path, options: FrontendOptions | None = None) -> Self:
        """Connect, and negotiate nothing yet."""
        return cls(path, options or FrontendOptions())

    @classmethod
    def start(cls, path: Path, options: FrontendOptions | None = None) -> Self:
        """Connect, negotiate, share the memory and start all queues."""
        frontend = cls.connect(path, options)
        try:
            frontend.negotiate()
            frontend.share_memory()
            frontend.create_queues()
            frontend.start_queues()
        except BaseException:
            frontend.close()
            raise
        return frontend

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave without a word, as a killed front-end does, and free everything."""
        self.socket.close()
        for queue in self.queues:
            queue.close()
        self.queues.clear()
        self.memory.close()
        if self.log is not None:
            self.log.close()

    def negotiate(self) -> None:
        """Own the device and agree on features; SET_FEATURES itself comes with start_queues."""
        self.socket.send(Request.SET_OWNER)
        self.offered_features = Features(self.get_u64(Request.GET_FEATURES))
        wanted = Features.VERSION_1 | Features.PROTOCOL_FEATURES
        if self.options.event_idx:
            wanted |= Features.EVENT_IDX
        if self.options.indirect:
            wanted |= Features.INDIRECT_DESC
        if self.options.packed:
            wanted |= Features.RING_PACKED
        self.features = self.offered_features & wanted
        if Features.PROTOCOL_FEATURES in self.features:
            offered = ProtocolFeatures(self.get_u64(Request.GET_PROTOCOL_FEATURES))
            self.protocol_features = offered & self.options.protocol_features
            self.socket.send(Request.SET_PROTOCOL_FEATURES, U64.pack(self.protocol_features))

    def tell(self, request: int, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """Send a message without a reply of its own, acknowledged where REPLY_ACK was agreed on."""
        if ProtocolFeatures.REPLY_ACK in self.protocol_features:
            self.socket.acknowledged(request, payload, descriptors)
        else:
            self.socket.send(request, payload, descriptors)

    def get_u64(self, request: int) -> int:
        """Return the one number that a message asks for."""
        value: int = U64.unpack(self.socket.call(request).payload)[0]
        return value

    def queue_num(self) -> int:
        """Ask how many queues the device has."""
        return self.get_u64(Request.GET_QUEUE_NUM)

    def share_memory(self) -> None:
        """Tell of all regions: one by one with CONFIGURE_MEM_SLOTS, else all in one table."""
        if ProtocolFeatures.CONFIGURE_MEM_SLOTS in self.protocol_features:
            for region in self.memory.regions:
                self.share_region(region)
            return
        self.set_memory_table()

    def set_memory_table(self) -> None:
        """Replace the back-end's table by all regions there are."""
        regions = self.memory.regions
        payload = VRING_STATE.pack(len(regions), 0) + b"".join(_describe(region) for region in regions)
        self.tell(Request.SET_MEM_TABLE, payload, tuple(region.descriptor for region in regions))

    def share_region(self, region: Region) -> None:
        """Tell of one region more."""
        self.tell(Request.ADD_MEM_REG, U64.pack(0) + _describe(region), (region.descriptor,))

    def forget_region(self, region: Region) -> None:
        """Take one region back."""
        self.tell(Request.REM_MEM_REG, U64.pack(0) + _describe(region))

    def create_queues(self) -> None:
        """Lay out the rings in memory: the hiprio queue, then the request queues."""
        kind = PackedRing if Features.RING_PACKED in self.features else SplitRing
        for index in range(1 + self.options.request_queues):
            ring = kind(
                self.memory,
                self.options.queue_size,
                event_idx=Features.EVENT_IDX in self.features,
                indirect=Features.INDIRECT_DESC in self.features,
            )
            self.queues.append(Queue(index, ring))

    def start_queues(self, bases: list[int] | None = None) -> None:
        """Set the features and start every queue, at the given bases or from the beginning."""
        self.tell(Request.SET_FEATURES, U64.pack(self.features))
        for queue in self.queues:
            base = queue.ring.initial_base if bases is None else bases[queue.index]
            self.start_queue(queue, base)
        for queue in self.queues:
            self.enable(queue)

    def start_queue(self, queue: Queue, base: int) -> None:
        """Tell of one ring, and give it its descriptors."""
        self.tell(Request.SET_VRING_NUM, VRING_STATE.pack(queue.index, queue.ring.size))
        self.tell(Request.SET_VRING_BASE, VRING_STATE.pack(queue.index, base))
        self.set_addresses(queue)
        self.tell(Request.SET_VRING_ERR, U64.pack(queue.index), (queue.error_descriptor,))
        self.tell(Request.SET_VRING_CALL, U64.pack(queue.index), (queue.call_descriptor,))
        self.tell(Request.SET_VRING_KICK, U64.pack(queue.index), (queue.kick_descriptor,))

    def set_addresses(self, queue: Queue) -> None:
        """Tell where a ring lies, and whether to log writes to it."""
        at = queue.ring.addresses
        logged = self.log is not None
        payload = VRING_ADDRESS.pack(
            queue.index,
            1 if logged else 0,
            self.memory.user_address(at.descriptors),
            self.memory.user_address(at.device),
            self.memory.user_address(at.driver),
            at.device if logged else 0,
        )
        self.tell(Request.SET_VRING_ADDR, payload)

    def enable(self, queue: Queue, *, on: bool = True) -> None:
        """Enable a ring, or disable it."""
        self.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(queue.index, int(on)))

    def stop_queue(self, queue: Queue) -> int:
        """Stop a ring and return the base to start it from again."""
        reply = self.socket.call(Request.GET_VRING_BASE, VRING_STATE.pack(queue.index, 0))
        index, base = VRING_STATE.unpack(reply.payload)
        assert index == queue.index
        return int(base)

    def stop_queues(self) -> list[int]:
        """Disable and stop all rings in QEMU's order; return their bases."""
        for queue in self.queues:
            self.enable(queue, on=False)
        return [self.stop_queue(queue) for queue in self.queues]

    def reset_device(self) -> None:
        """Reset the device, as QEMU does when the guest reboots."""
        self.tell(Request.RESET_DEVICE)

    def start_logging(self) -> DirtyLog:
        """Ask the back-end to log every page that it writes to, as for a migration."""
        end = max(region.gpa + region.size for region in self.memory.regions)
        self.log = DirtyLog(-(-end // (8 * PAGE)))
        self.socket.call(Request.SET_LOG_BASE, LOG.pack(self.log.size, 0), (self.log.descriptor,))
        self.features |= Features.LOG_ALL
        self.tell(Request.SET_FEATURES, U64.pack(self.features))
        for queue in self.queues:
            self.set_addresses(queue)
        return self.log

    def stop_logging(self) -> None:
        """End the logging."""
        self.features &= ~Features.LOG_ALL
        self.tell(Request.SET_FEATURES, U64.pack(self.features))


def _describe(region: Region) -> bytes:
    return REGION.pack(region.gpa, region.size, region.user_address, region.spec.offset)
