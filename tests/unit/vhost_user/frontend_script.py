"""A front-end on paper: it writes messages to a Backend and reads what comes back, without any socket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vhostfs.vhost_user.events import Answer, QueueBaseRequested, Work
from vhostfs.vhost_user.messages import (
    FRONTEND_MESSAGES,
    HEADER,
    NUMBER,
    FrontendRequest,
    Header,
    LogArea,
    MemoryRegion,
    MemoryTable,
    Number,
    Payload,
    SingleRegion,
    VringAddresses,
    VringState,
    build_request,
)
from vhostfs.vhost_user.offer import Offer
from vhostfs.vhost_user.state import Backend

R = FrontendRequest


class DescriptorLedger:
    """Numbers that stand for descriptors, each of which is to be closed or handed out exactly once."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self._next = 100

    def make(self, count: int = 1) -> list[int]:
        made = list(range(self._next, self._next + count))
        self._next += count
        self.open.update(made)
        return made

    def close(self, descriptor: int) -> None:
        self.open.remove(descriptor)


@dataclass(frozen=True)
class Sent:
    """A message of a script: what is sent, and how many descriptors go with it."""

    request: FrontendRequest
    payload: Payload | None = None
    need_reply: bool = False
    descriptors: int = 0


@dataclass
class Conversation:
    """A Backend and all that was said to it; work is carried out at once and always succeeds."""

    offer: Offer = field(default_factory=lambda: Offer(queues=2, queue_limit=8))
    base: int = 0
    ledger: DescriptorLedger = field(default_factory=DescriptorLedger)
    events: list[Work] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = Backend(self.offer, self.ledger.close)

    def feed(
        self, data: bytes, descriptors: Sequence[int] = (), cuts: Iterable[int] = ()
    ) -> Answer | Work | None:
        """Give the bytes of one message in the pieces that the machine wants, cut further at `cuts`."""
        event: Answer | Work | None = None
        marks = set(cuts)
        position = 0
        pending = list(descriptors)
        while position < len(data):
            assert event is None
            size = min(self.backend.wanted, len(data) - position)
            assert size > 0
            for mark in sorted(marks):
                if position < mark < position + size:
                    size = mark - position
                    break
            event = self.backend.receive(data[position : position + size], pending)
            pending = []
            position += size
        return event

    def carry_out(self, event: Work) -> bytes:
        """Succeed with an event, closing the descriptors that it owns."""
        self.events.append(event)
        self.release(event)
        return self.backend.succeeded(event, self.base if isinstance(event, QueueBaseRequested) else 0)

    def release(self, event: Work) -> None:
        """Close the descriptors that an event owns."""
        for descriptor in descriptors_of(event):
            self.ledger.close(descriptor)

    def send(
        self,
        request: FrontendRequest,
        payload: Payload | None = None,
        *,
        need_reply: bool = False,
        descriptors: int = 0,
    ) -> bytes:
        """Send one message and return all that comes back."""
        event = self.feed(
            build_request(request, payload, need_reply=need_reply), self.ledger.make(descriptors)
        )
        assert event is not None
        if isinstance(event, Answer):
            if event.remark is not None:
                self.remarks.append(event.remark)
            return event.data
        return self.carry_out(event)

    def play(self, script: Iterable[Sent]) -> None:
        """Send a script's messages; each gets the answer that the protocol owes it, and no other."""
        for message in script:
            answer = self.send(
                message.request,
                message.payload,
                need_reply=message.need_reply,
                descriptors=message.descriptors,
            )
            shape = FRONTEND_MESSAGES[message.request]
            if shape.reply is not None:
                header, body = split(answer)
                assert header.flags == 0x5
                assert header.request == message.request
                shape.reply.parse(body)
            elif message.need_reply:
                assert number_of(answer, message.request) == 0, message
            else:
                assert answer == b"", message


def descriptors_of(event: Work) -> tuple[int, ...]:
    """Return the descriptors that an event owns."""
    many: tuple[int, ...] | None = getattr(event, "descriptors", None)
    if many is not None:
        return many
    one: int | None = getattr(event, "descriptor", None)
    return () if one is None else (one,)


def split(answer: bytes) -> tuple[Header, bytes]:
    """Return the header and the payload of exactly one message."""
    header = HEADER.parse(answer[:12])
    assert header.size == len(answer) - 12
    return header, answer[12:]


def number_of(answer: bytes, request: FrontendRequest | int) -> int:
    """Return the number in a reply, whose header is checked as front-ends check it."""
    header, body = split(answer)
    assert header == Header(int(request), 0x5, 8)
    return NUMBER.parse(body).value


# What traced front-ends say, in their own order.


def kick(index: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_KICK, Number(index), need_reply, 1)


def call(index: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_CALL, Number(index), need_reply, 1)


def error(index: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_ERR, Number(index), need_reply, 1)


def enable(index: int, on: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_ENABLE, VringState(index, on), need_reply)


def size(index: int, entries: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_NUM, VringState(index, entries), need_reply)


def base(index: int, number: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_VRING_BASE, VringState(index, number), need_reply)


def addresses(index: int, need_reply: bool = False, flags: int = 0, log: int = 0) -> Sent:
    start = 0x7F0000000000 + index * 0x10000
    return Sent(
        R.SET_VRING_ADDR,
        VringAddresses(index, flags, start, start + 0x2000, start + 0x1000, log),
        need_reply,
    )


def stop(index: int, need_reply: bool = False) -> Sent:
    return Sent(R.GET_VRING_BASE, VringState(index, 0), need_reply)


def features(bits: int, need_reply: bool = False) -> Sent:
    return Sent(R.SET_FEATURES, Number(bits), need_reply)


LOW_MEMORY = MemoryRegion(0, 0xA0000, 0x7F1000000000, 0)
HIGH_MEMORY = MemoryRegion(0x100000, 0x1FF00000, 0x7F1000100000, 0x100000)


def add(region: MemoryRegion, need_reply: bool = True) -> Sent:
    return Sent(R.ADD_MEM_REG, SingleRegion(region), need_reply, 1)


def qemu_7_realize(rings: int = 2) -> list[Sent]:
    """QEMU 7.2.22 when the device is made."""
    return [
        Sent(R.GET_FEATURES),
        Sent(R.GET_PROTOCOL_FEATURES),
        Sent(R.SET_PROTOCOL_FEATURES, Number(0xA02B)),
        Sent(R.GET_QUEUE_NUM),
        Sent(R.GET_MAX_MEM_SLOTS),
        Sent(R.SET_BACKEND_REQ_FD, need_reply=True, descriptors=1),
        Sent(R.SET_OWNER),
        Sent(R.GET_FEATURES),
        *[message for index in range(rings) for message in (call(index), error(index))],
    ]


def qemu_7_start(rings: int = 2, bases: int = 0, with_memory: bool = True) -> list[Sent]:
    """QEMU 7.2.22 when the guest's driver is ready."""
    memory = [add(LOW_MEMORY), add(HIGH_MEMORY)] if with_memory else []
    set_up = [(size(i, 128), base(i, bases), addresses(i), kick(i)) for i in range(rings)]
    return [
        *[call(index) for index in range(rings)],
        features(0x170000000),
        *memory,
        *[message for ring in set_up for message in ring],
        *[enable(index, 1) for index in range(rings)],
        *[call(index) for index in range(rings)],
    ]


def qemu_7_stop(rings: int = 2) -> list[Sent]:
    """QEMU 7.2.22 when the guest resets, powers off, or is paused."""
    return [
        *[enable(index, 0) for index in range(rings)],
        *[stop(index) for index in range(rings)],
        *[call(index) for index in range(rings)],
    ]


RESET = Sent(R.RESET_DEVICE)


def qemu_11_realize(rings: int = 2) -> list[Sent]:
    """QEMU 11.1.3: as 7.2, more of it acknowledged, and a reset before the first features."""
    return [
        Sent(R.GET_FEATURES),
        Sent(R.GET_PROTOCOL_FEATURES),
        Sent(R.SET_PROTOCOL_FEATURES, Number(0xA02B)),
        Sent(R.GET_QUEUE_NUM),
        Sent(R.GET_MAX_MEM_SLOTS),
        Sent(R.SET_BACKEND_REQ_FD, need_reply=True, descriptors=1),
        Sent(R.SET_OWNER),
        Sent(R.GET_FEATURES),
        *[message for index in range(rings) for message in (call(index, True), error(index, True))],
        RESET,
    ]


def qemu_11_start(rings: int = 2, bases: int = 0, with_memory: bool = True) -> list[Sent]:
    memory = [add(LOW_MEMORY), add(HIGH_MEMORY)] if with_memory else []
    set_up = [(size(i, 128), base(i, bases), addresses(i), kick(i, True)) for i in range(rings)]
    return [
        *[call(index, True) for index in range(rings)],
        features(0x170000000),
        *memory,
        *[message for ring in set_up for message in ring],
        *[enable(index, 1, True) for index in range(rings)],
        *[call(index, True) for index in range(rings)],
    ]


def qemu_11_stop(rings: int = 2) -> list[Sent]:
    return [
        *[enable(index, 0, True) for index in range(rings)],
        *[stop(index) for index in range(rings)],
        *[call(index, True) for index in range(rings)],
    ]


def qemu_11_migration_log(rings: int = 2) -> list[Sent]:
    """QEMU 11.1.3 when a migration starts while the guest runs."""
    return [
        Sent(R.SET_LOG_BASE, LogArea(0x1000, 0), descriptors=1),
        features(0x174000000, True),
        *[addresses(index, True, flags=1, log=0x1000) for index in range(rings)],
    ]


UML_MEMORY = MemoryRegion(0xC4F000, 0x10000000, 0xC4F000, 0xC4F000)


def uml_probe() -> list[Sent]:
    """User-Mode Linux 7.2.7 up to the reading of the tag (which needs room to read into)."""
    return [
        Sent(R.SET_OWNER),
        Sent(R.GET_FEATURES),
        Sent(R.GET_PROTOCOL_FEATURES),
        Sent(R.SET_PROTOCOL_FEATURES, Number(0x229), need_reply=True),
        Sent(R.SET_BACKEND_REQ_FD, descriptors=1, need_reply=True),
        Sent(R.GET_QUEUE_NUM),
    ]


def uml_start(rings: int = 2) -> list[Sent]:
    nowhere = (1 << 64) - 1
    set_up = [(call(i), size(i, 256), base(i, 0), addresses(i, log=nowhere)) for i in range(rings)]
    return [
        features(0x170000000),
        Sent(R.SET_MEM_TABLE, MemoryTable((UML_MEMORY,)), descriptors=1),
        *[message for ring in set_up for message in ring],
        *[message for index in range(rings) for message in (kick(index), enable(index, 1))],
    ]


def uml_stop(rings: int = 2) -> list[Sent]:
    return [*[enable(index, 0) for index in reversed(range(rings))], Sent(R.GET_FEATURES)]


def cloud_hypervisor_start(rings: int = 2) -> list[Sent]:
    """cloud-hypervisor: everything acknowledged, all sizes before the first address."""
    table = MemoryTable((LOW_MEMORY, HIGH_MEMORY))
    set_up = [(addresses(i, True), base(i, 0, True), call(i, True), kick(i, True)) for i in range(rings)]
    return [
        Sent(R.SET_OWNER, need_reply=True),
        Sent(R.GET_FEATURES),
        Sent(R.GET_PROTOCOL_FEATURES),
        Sent(R.SET_PROTOCOL_FEATURES, Number(0xB)),
        Sent(R.GET_QUEUE_NUM),
        features(0x170000000, True),
        Sent(R.SET_MEM_TABLE, table, True, 2),
        *[size(index, 1024, True) for index in range(rings)],
        *[message for ring in set_up for message in ring],
        *[enable(index, 1, True) for index in range(rings)],
    ]


def crosvm_start(rings: int = 2) -> list[Sent]:
    """crosvm: never asks for an acknowledgement, sets addresses before bases, and huge rings."""
    table = MemoryTable((LOW_MEMORY, HIGH_MEMORY))
    set_up = [(size(i, 32768), addresses(i), base(i, 0), call(i), kick(i)) for i in range(rings)]
    return [
        Sent(R.SET_OWNER),
        Sent(R.GET_FEATURES),
        Sent(R.GET_PROTOCOL_FEATURES),
        Sent(R.SET_PROTOCOL_FEATURES, Number(0x229)),
        Sent(R.GET_QUEUE_NUM),
        Sent(R.SET_BACKEND_REQ_FD, descriptors=1),
        features(0x170000000),
        Sent(R.SET_MEM_TABLE, table, descriptors=2),
        *[message for ring in set_up for message in ring],
        *[enable(index, 1) for index in range(rings)],
    ]
