"""The back-end's half of a vhost-user connection, without I/O.

The rules
---------
1. The machine neither reads nor writes a socket, keeps no clock and starts no thread. Bytes and descriptors
   that arrived go in by `receive`; what to do, or what to send, comes out.
2. It takes one message at a time. `wanted` says how many bytes the message at hand still lacks, and no more
   than that may be read from the socket: descriptors ride on bytes, and a read across two messages would
   blur whose they are.
3. A message either is settled by the machine (an `Answer`) or asks work of the device. Work is reported
   back by `succeeded` or `failed`, which return the bytes to send; until then `wanted` is 0. State changes
   at success, so that what the machine believes is what the device did.
4. Each descriptor has one owner. It belongs to the machine from `receive` on, to the receiver of an event
   from the moment that the event is returned, and is closed wherever a message ends otherwise.
5. What breaks the framing, or leaves a front-end waiting for an answer that will never come, raises
   ProtocolError with a sentence, and ends the connection. What is well-formed but cannot be had is refused:
   by an error acknowledgement if the message asks for one, and by a remark for the log.

Theory of operation
-------------------
vhost-user is a dialogue in which one side only asks. A message has a reply of its own (GET_FEATURES), or is
acknowledged by a number, 0 for success, where its header asks for that. The wish in the header is honoured
whether or not REPLY_ACK was negotiated: User-Mode Linux asks for an acknowledgement of the very message
that negotiates it.

There is little order to rely on. SET_OWNER comes first from some front-ends and seventh from others; the
set-up of a ring repeats after each stop, on the same connection and with the memory of before. So the
connection as a whole has no phases. What has states are the rings, and `RING_TABLE` is the whole of their
life:

- A ring runs if it is both *kicked* (SET_VRING_KICK gave it a descriptor to wake by) and *enabled*
  (SET_VRING_ENABLE, or once for all rings by a SET_FEATURES without the PROTOCOL_FEATURES bit). The two
  come in either order.
- GET_VRING_BASE takes the kick away, SET_VRING_ENABLE 0 the enabling, RESET_DEVICE both.
- A kicked ring that is not enabled may be given a size or base anew: User-Mode Linux never asks for a base,
  it disables and then sets up again, call descriptor first. A change of features stops such rings, and has
  all of them set up again.
- What the table does not list is refused: size and base of a running ring are not to be changed.

Guest memory is a set of regions that survives every stop and reset. Regions never overlap in guest physical
addresses.

A front-end may address more rings than GET_QUEUE_NUM announced (QEMU never asks). Rings below
`Offer.queue_limit` are served all the same; of those above, what only announces a ring is taken and
dropped, and what would start it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from vhostfs.errors import ProtocolError
from vhostfs.vhost_user.events import (
    Answer,
    BackchannelSet,
    DeviceReset,
    Event,
    FeaturesSet,
    LogSet,
    MemoryRegionAdded,
    MemoryRegionRemoved,
    MemoryTableReplaced,
    QueueAddressesSet,
    QueueBaseRequested,
    QueueBaseSet,
    QueueCallSet,
    QueueEnabled,
    QueueErrorSet,
    QueueKickSet,
    QueueSizeSet,
    Work,
)
from vhostfs.vhost_user.features import ProtocolFeature, VirtioFeature
from vhostfs.vhost_user.messages import (
    CONFIG_WINDOW,
    FRONTEND_MESSAGES,
    HEADER,
    MAX_CONFIG_SIZE,
    MAX_DESCRIPTORS,
    MAX_PAYLOAD,
    NO_DESCRIPTOR_BIT,
    NUMBER,
    VERSION,
    VRING_INDEX_MASK,
    VRING_STATE,
    ConfigWindow,
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
    build_reply,
)
from vhostfs.vhost_user.offer import Offer


class RingState(Enum):
    """Whether a ring was given a kick descriptor, and whether it is enabled."""

    STOPPED = auto()
    """Neither: the ring touches no guest memory."""
    ENABLED = auto()
    """Enabled, and not kicked."""
    KICKED = auto()
    """Kicked, and not enabled."""
    RUNNING = auto()
    """Both: the guest's requests are served."""


class RingInput(Enum):
    """What can happen to a ring."""

    SIZE = "SET_VRING_NUM"
    BASE = "SET_VRING_BASE"
    ADDRESS = "SET_VRING_ADDR"
    KICK = "SET_VRING_KICK"
    ENABLE = "SET_VRING_ENABLE 1"
    DISABLE = "SET_VRING_ENABLE 0"
    STOP = "GET_VRING_BASE"
    RESET = "RESET_DEVICE"


RING_TABLE: Final[dict[RingState, dict[RingInput, RingState]]] = {
    RingState.STOPPED: {
        RingInput.SIZE: RingState.STOPPED,
        RingInput.BASE: RingState.STOPPED,
        RingInput.ADDRESS: RingState.STOPPED,
        RingInput.KICK: RingState.KICKED,
        RingInput.ENABLE: RingState.ENABLED,
        RingInput.DISABLE: RingState.STOPPED,
        RingInput.STOP: RingState.STOPPED,
        RingInput.RESET: RingState.STOPPED,
    },
    RingState.ENABLED: {
        RingInput.SIZE: RingState.ENABLED,
        RingInput.BASE: RingState.ENABLED,
        RingInput.ADDRESS: RingState.ENABLED,
        RingInput.KICK: RingState.RUNNING,
        RingInput.ENABLE: RingState.ENABLED,
        RingInput.DISABLE: RingState.STOPPED,
        RingInput.STOP: RingState.ENABLED,
        RingInput.RESET: RingState.STOPPED,
    },
    RingState.KICKED: {
        RingInput.SIZE: RingState.KICKED,
        RingInput.BASE: RingState.KICKED,
        RingInput.ADDRESS: RingState.KICKED,
        RingInput.KICK: RingState.KICKED,
        RingInput.ENABLE: RingState.RUNNING,
        RingInput.DISABLE: RingState.KICKED,
        RingInput.STOP: RingState.STOPPED,
        RingInput.RESET: RingState.STOPPED,
    },
    RingState.RUNNING: {
        RingInput.ADDRESS: RingState.RUNNING,
        RingInput.KICK: RingState.RUNNING,
        RingInput.ENABLE: RingState.RUNNING,
        RingInput.DISABLE: RingState.KICKED,
        RingInput.STOP: RingState.ENABLED,
        RingInput.RESET: RingState.STOPPED,
    },
}

MAX_RING_SIZE: Final = 32768
"""Virtio's limit for both kinds of ring."""
ADDRESS_SPACE: Final = 1 << 64


@dataclass(slots=True)
class Ring:
    """What the machine knows of one ring."""

    state: RingState = RingState.STOPPED
    size: int = 0
    base: int = 0
    placed: bool = False
    """Whether SET_VRING_ADDR was carried out since the last reset."""


class _RefusedError(Exception):
    """A well-formed message cannot be carried out; the text says why."""

    def __init__(self, reason: str, *, vital: bool = False) -> None:
        super().__init__(reason)
        self.vital = vital


@dataclass(slots=True)
class _Message:
    """The message at hand: what arrived of it so far, and the descriptors that are still the machine's."""

    data: bytearray = field(default_factory=bytearray)
    descriptors: list[int] = field(default_factory=list)
    header: Header | None = None

    def take_one(self) -> int:
        """Hand over the only descriptor."""
        return self.descriptors.pop()

    def take_all(self) -> tuple[int, ...]:
        """Hand over all descriptors, in the order of their arrival."""
        taken = tuple(self.descriptors)
        self.descriptors.clear()
        return taken


class Backend:
    """One connection's protocol state; a new connection gets a new one.

    Three calls drive it: `receive` with what arrived, and `succeeded` or `failed` with the outcome of the
    event that `receive` returned. `close` ends it, and gives up the descriptors of a message that was cut
    short. Not safe for use by several threads at once.
    """

    def __init__(self, offer: Offer, close_descriptor: Callable[[int], None] = os.close) -> None:
        self.offer = offer
        self.features = VirtioFeature(0)
        self.protocol_features = ProtocolFeature(0)
        self.regions: list[MemoryRegion] = []
        self.rings = [Ring() for _ in range(offer.queue_limit)]
        self._message = _Message()
        self._pending: Work | None = None
        self._pending_header: Header | None = None
        self._closed = False
        self._close_descriptor = close_descriptor

    @property
    def wanted(self) -> int:
        """Return how many bytes to read next, at most; 0 while an event is unanswered, or after the end."""
        if self._closed or self._pending is not None:
            return 0
        header = self._message.header
        return HEADER.smallest + (0 if header is None else header.size) - len(self._message.data)

    @property
    def is_idle(self) -> bool:
        """Tell whether the connection is between two messages: where a front-end may leave."""
        return self._pending is None and not self._message.data

    def receive(self, data: bytes, descriptors: Sequence[int] = ()) -> Event | None:
        """Take bytes and the descriptors with them; return what the message asks for, once it is whole.

        `data` has 1 to `wanted` bytes; ValueError otherwise. Raises ProtocolError for a breach, after which
        the connection is to be closed. In every case the machine owns the descriptors.
        """
        self._message.descriptors.extend(descriptors)
        wanted = self.wanted
        if not 1 <= len(data) <= wanted:
            self.close()
            raise ValueError(f"{len(data)} bytes given where 1 to {wanted} are wanted")
        self._message.data += data
        try:
            if len(self._message.descriptors) > MAX_DESCRIPTORS:
                raise ProtocolError(f"a message came with more than {MAX_DESCRIPTORS} descriptors")
            return self._advance()
        except ProtocolError:
            self.close()
            raise

    def succeeded(self, event: Work, value: int = 0) -> bytes:
        """Take note that the device carried out `event`; return what to send, which may be nothing.

        `value` is the base of the ring for QueueBaseRequested, and nothing otherwise.
        """
        header = self._settle(event)
        self._commit(event, value)
        if isinstance(event, QueueBaseRequested):
            return build_reply(header.request, VRING_STATE.build(VringState(event.index, value)))
        if header.needs_reply or self._has_own_reply(header):
            return build_reply(header.request, NUMBER.build(Number(0)))
        return b""

    def failed(self, event: Work, reason: str) -> bytes:
        """Take note that the device could not carry out `event`; return what to send, which may be nothing.

        Raises ProtocolError if the front-end must know of the failure and asked for no acknowledgement.
        """
        header = self._settle(event)
        if header.needs_reply and not self._has_own_reply(header):
            return build_reply(header.request, NUMBER.build(Number(1)))
        if event.vital:
            self.close()
            raise ProtocolError(f"{_name(header.request)} failed: {reason}")
        return b""

    def close(self) -> None:
        """End the connection: close the descriptors that no event owns. Harmless when repeated."""
        self._closed = True
        self._pending = None
        self._drop_descriptors()

    # One message, from its first byte to its event.

    def _advance(self) -> Event | None:
        message = self._message
        if message.header is None:
            if len(message.data) < HEADER.smallest:
                return None
            message.header = self._checked_header(HEADER.parse(bytes(message.data)))
        if self.wanted > 0:
            return None
        header = message.header
        body = bytes(message.data[HEADER.smallest :])
        try:
            event = self._interpret(header, body)
        except _RefusedError as refusal:
            event = self._refusal(header, refusal)
        except ProtocolError as error:
            raise ProtocolError(f"{_name(header.request)}: {error}") from error
        finally:
            self._drop_descriptors()
        self._message = _Message()
        if not isinstance(event, Answer):
            self._pending = event
            self._pending_header = header
        return event

    @staticmethod
    def _checked_header(header: Header) -> Header:
        if header.version != VERSION:
            raise ProtocolError(
                f"a header with version {header.version} instead of {VERSION} (flags {header.flags:#x})"
            )
        if header.is_reply:
            raise ProtocolError(f"a reply to {_name(header.request)}, to which nothing was asked")
        if header.size > MAX_PAYLOAD:
            raise ProtocolError(
                f"{_name(header.request)} announces {header.size} bytes; no message exceeds {MAX_PAYLOAD}"
            )
        return header

    def _interpret(self, header: Header, body: bytes) -> Event:
        try:
            request = FrontendRequest(header.request)
        except ValueError:
            raise _RefusedError("there is no such message") from None
        shape = FRONTEND_MESSAGES[request]
        payload: Payload = shape.payload.parse(body)
        self._check_descriptors(shape.descriptors, payload)
        handler = self._HANDLERS.get(request)
        if handler is None:
            if shape.reply is not None:
                raise ProtocolError("it belongs to a feature that was not offered, and waits for a reply")
            raise _RefusedError("it belongs to a feature that was not offered")
        return handler(self, payload, header)

    def _check_descriptors(self, expected: range | None, payload: Payload) -> None:
        if expected is None:
            match payload:
                case MemoryTable(regions):
                    expected = range(len(regions), len(regions) + 1)
                case Number(value):
                    expected = range(1) if value & NO_DESCRIPTOR_BIT else range(1, 2)
                case _:
                    raise AssertionError(payload)
        count = len(self._message.descriptors)
        if count not in expected:
            counts = " or ".join(str(number) for number in expected)
            raise ProtocolError(f"it came with {count} descriptors where {counts} belong")

    def _refusal(self, header: Header, refusal: _RefusedError) -> Answer:
        remark = f"{_name(header.request)} refused: {refusal}"
        if header.needs_reply:
            return Answer(build_reply(header.request, NUMBER.build(Number(1))), remark)
        if refusal.vital:
            raise ProtocolError(f"{remark}, and it asked for no acknowledgement")
        return Answer(b"", remark)

    def _drop_descriptors(self) -> None:
        for descriptor in self._message.take_all():
            self._close_descriptor(descriptor)

    def _settle(self, event: Work) -> Header:
        if self._pending is not event or self._pending_header is None:
            raise ValueError("no answer to this event is awaited")
        self._pending = None
        return self._pending_header

    def _has_own_reply(self, header: Header) -> bool:
        if header.request == FrontendRequest.SET_LOG_BASE:
            return ProtocolFeature.LOG_SHMFD in self.protocol_features
        return FRONTEND_MESSAGES[FrontendRequest(header.request)].reply is not None

    @staticmethod
    def _number(header: Header, value: int) -> Answer:
        return Answer(build_reply(header.request, NUMBER.build(Number(value))))

    @staticmethod
    def _done(header: Header) -> Answer:
        """Settle a message that asks for nothing more than to be heard."""
        return Answer(build_reply(header.request, NUMBER.build(Number(0))) if header.needs_reply else b"")

    # Features, queues, configuration.

    def _get_features(self, _payload: Payload, header: Header) -> Event:
        return self._number(header, self.offer.features)

    def _set_features(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, Number)
        features = VirtioFeature(payload.value)
        unknown = payload.value & ~int(self.offer.features)
        if unknown:
            raise ProtocolError(f"it takes features that were not offered: {unknown:#x}")
        if self._alters_rings(features) and any(ring.state is RingState.RUNNING for ring in self.rings):
            raise _RefusedError("features other than LOG_ALL cannot change while a ring runs", vital=True)
        kicked = [index for index, ring in enumerate(self.rings) if ring.state is RingState.KICKED]
        return FeaturesSet(features, tuple(kicked) if self._alters_rings(features) else ())

    def _alters_rings(self, features: VirtioFeature) -> bool:
        """Tell whether a choice of features is one under which rings have to be set up anew."""
        return bool((features ^ self.features) & ~VirtioFeature.LOG_ALL)

    def _get_protocol_features(self, _payload: Payload, header: Header) -> Event:
        return self._number(header, self.offer.protocol_features)

    def _set_protocol_features(self, payload: Payload, header: Header) -> Event:
        assert isinstance(payload, Number)
        unknown = payload.value & ~int(self.offer.protocol_features)
        if unknown:
            raise ProtocolError(f"it takes protocol features that were not offered: {unknown:#x}")
        self.protocol_features = ProtocolFeature(payload.value)
        return self._done(header)

    def _get_queue_num(self, _payload: Payload, header: Header) -> Event:
        return self._number(header, self.offer.queues)

    def _get_max_mem_slots(self, _payload: Payload, header: Header) -> Event:
        return self._number(header, self.offer.memory_slots)

    def _get_config(self, payload: Payload, header: Header) -> Event:
        assert isinstance(payload, ConfigWindow)
        if payload.size != len(payload.data):
            raise ProtocolError(f"it asks for {payload.size} bytes and brings room for {len(payload.data)}")
        if not self.offer.config or payload.offset + payload.size > MAX_CONFIG_SIZE:
            remark = f"GET_CONFIG refused: there are no {payload.size} bytes at {payload.offset}"
            return Answer(build_reply(header.request, b""), remark)
        space = self.offer.config.ljust(MAX_CONFIG_SIZE, b"\0")
        data = space[payload.offset : payload.offset + payload.size]
        return Answer(
            build_reply(
                header.request,
                CONFIG_WINDOW.build(ConfigWindow(payload.offset, payload.size, payload.flags, data)),
            )
        )

    def _set_config(self, _payload: Payload, _header: Header) -> Event:
        raise _RefusedError("a file-system device's configuration is read-only")

    def _acknowledge(self, _payload: Payload, header: Header) -> Event:
        return self._done(header)

    def _set_log_fd(self, _payload: Payload, _header: Header) -> Event:
        raise _RefusedError("the dirty log is not announced through a descriptor")

    def _set_backend_req_fd(self, _payload: Payload, _header: Header) -> Event:
        return BackchannelSet(self._message.take_one())

    def _reset_device(self, _payload: Payload, _header: Header) -> Event:
        return DeviceReset()

    # Guest memory.

    def _set_mem_table(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, MemoryTable)
        checked: list[MemoryRegion] = []
        for region in payload.regions:
            self._check_region(region, checked)
            checked.append(region)
        return MemoryTableReplaced(payload.regions, self._message.take_all())

    def _add_mem_reg(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, SingleRegion)
        self._check_region(payload.region, self.regions)
        return MemoryRegionAdded(payload.region, self._message.take_one())

    def _rem_mem_reg(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, SingleRegion)
        wanted = payload.region
        for region in self.regions:
            if (region.guest_address, region.user_address, region.size) == (
                wanted.guest_address,
                wanted.user_address,
                wanted.size,
            ):
                return MemoryRegionRemoved(region)
        raise _RefusedError(f"there is no memory region {_describe(wanted)}", vital=True)

    def _check_region(self, region: MemoryRegion, others: list[MemoryRegion]) -> None:
        if region.size == 0:
            raise _RefusedError(f"the memory region at {region.guest_address:#x} is empty", vital=True)
        if max(region.guest_address, region.user_address, region.offset) + region.size > ADDRESS_SPACE:
            raise _RefusedError(f"the memory region {_describe(region)} leaves the address space", vital=True)
        if len(others) >= self.offer.memory_slots:
            raise _RefusedError(f"all {self.offer.memory_slots} memory slots are in use", vital=True)
        if region.size + sum(other.size for other in others) > self.offer.memory_limit:
            raise _RefusedError(f"guest memory exceeds {self.offer.memory_limit:#x} bytes", vital=True)
        for other in others:
            if region.guest_address < other.guest_end and other.guest_address < region.guest_end:
                raise _RefusedError(
                    f"the memory regions {_describe(region)} and {_describe(other)} overlap", vital=True
                )

    def _set_log_base(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, LogArea)
        if not 0 < payload.size <= self.offer.memory_limit or payload.offset + payload.size > ADDRESS_SPACE:
            raise ProtocolError(f"a dirty log of {payload.size} bytes at offset {payload.offset} cannot be")
        return LogSet(payload.size, payload.offset, self._message.take_one())

    # Rings.

    def _is_served(self, index: int) -> bool:
        return index < len(self.rings)

    def _step(self, index: int, happened: RingInput) -> RingState:
        """Return the state that a ring would have after `happened`; raise _RefusedError if that cannot be."""
        if not self._is_served(index):
            raise _RefusedError(
                f"ring {index} is beyond the {len(self.rings)} that are served; "
                "give the daemon more request queues, or the virtual machine fewer"
            )
        state = self.rings[index].state
        after = RING_TABLE[state].get(happened)
        if after is None:
            raise _RefusedError(f"ring {index} is {state.name.lower()}, and takes no {happened.value}")
        return after

    def _set_vring_num(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, VringState)
        self._step(payload.index, RingInput.SIZE)
        size = payload.number
        if not 1 <= size <= MAX_RING_SIZE:
            raise _RefusedError(f"ring {payload.index} cannot have {size} entries, but 1 to {MAX_RING_SIZE}")
        if size & (size - 1) and VirtioFeature.RING_PACKED not in self.features:
            raise _RefusedError(f"ring {payload.index} cannot have {size} entries: that is no power of two")
        return QueueSizeSet(payload.index, size)

    def _set_vring_base(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, VringState)
        self._step(payload.index, RingInput.BASE)
        if payload.number > 0xFFFF and VirtioFeature.RING_PACKED not in self.features:
            raise _RefusedError(
                f"ring {payload.index} cannot start at {payload.number:#x}: an index has 16 bits"
            )
        return QueueBaseSet(payload.index, payload.number)

    def _set_vring_addr(self, payload: Payload, _header: Header) -> Event:
        assert isinstance(payload, VringAddresses)
        self._step(payload.index, RingInput.ADDRESS)
        return QueueAddressesSet(
            payload.index,
            descriptor_table=payload.descriptor,
            available_ring=payload.available,
            used_ring=payload.used,
            log=bool(payload.flags & VringAddresses.LOG_FLAG),
            log_address=payload.log,
        )

    def _set_vring_kick(self, payload: Payload, _header: Header) -> Event:
        index, descriptor_comes = self._addressed(payload)
        self._step(index, RingInput.KICK)
        ring = self.rings[index]
        if ring.size == 0 or not ring.placed:
            raise _RefusedError(f"ring {index} cannot start before its size and its addresses are set")
        return QueueKickSet(index, self._message.take_one() if descriptor_comes else None)

    def _set_vring_call(self, payload: Payload, header: Header) -> Event:
        index, descriptor_comes = self._addressed(payload)
        if not self._is_served(index):
            return self._done(header)
        return QueueCallSet(index, self._message.take_one() if descriptor_comes else None)

    def _set_vring_err(self, payload: Payload, header: Header) -> Event:
        index, descriptor_comes = self._addressed(payload)
        if not self._is_served(index):
            return self._done(header)
        return QueueErrorSet(index, self._message.take_one() if descriptor_comes else None)

    @staticmethod
    def _addressed(payload: Payload) -> tuple[int, bool]:
        """Return the ring that a descriptor message is for, and whether the descriptor is there."""
        assert isinstance(payload, Number)
        return payload.value & VRING_INDEX_MASK, not payload.value & NO_DESCRIPTOR_BIT

    def _set_vring_enable(self, payload: Payload, header: Header) -> Event:
        assert isinstance(payload, VringState)
        if payload.number > 1:
            raise _RefusedError(
                f"ring {payload.index} is to be set to {payload.number}, which is neither on nor off"
            )
        if not self._is_served(payload.index):
            return self._done(header)
        self._step(payload.index, RingInput.ENABLE if payload.number else RingInput.DISABLE)
        return QueueEnabled(payload.index, bool(payload.number))

    def _get_vring_base(self, payload: Payload, header: Header) -> Event:
        assert isinstance(payload, VringState)
        if not self._is_served(payload.index):
            return Answer(build_reply(header.request, VRING_STATE.build(VringState(payload.index, 0))))
        self._step(payload.index, RingInput.STOP)
        return QueueBaseRequested(payload.index)

    # What a success changes.

    def _commit(self, event: Work, value: int) -> None:
        match event:
            case FeaturesSet(features):
                if self._alters_rings(features):
                    for ring in self.rings:
                        ring.state = RING_TABLE[ring.state][RingInput.STOP]
                        ring.size, ring.placed = 0, False
                self.features = features
                if VirtioFeature.PROTOCOL_FEATURES not in features:
                    for index in range(len(self.rings)):
                        self._move(index, RingInput.ENABLE)
            case MemoryTableReplaced(regions):
                self.regions = list(regions)
            case MemoryRegionAdded(region):
                self.regions.append(region)
            case MemoryRegionRemoved(region):
                self.regions.remove(region)
            case DeviceReset():
                self.features = VirtioFeature(0)
                for index in range(len(self.rings)):
                    self._move(index, RingInput.RESET)
                    self.rings[index] = Ring()
            case QueueSizeSet(index, size):
                self._move(index, RingInput.SIZE)
                self.rings[index].size = size
            case QueueBaseSet(index, base):
                self._move(index, RingInput.BASE)
                self.rings[index].base = base
            case QueueAddressesSet(index):
                self._move(index, RingInput.ADDRESS)
                self.rings[index].placed = True
            case QueueKickSet(index):
                self._move(index, RingInput.KICK)
            case QueueEnabled(index, enabled):
                self._move(index, RingInput.ENABLE if enabled else RingInput.DISABLE)
            case QueueBaseRequested(index):
                self._move(index, RingInput.STOP)
                self.rings[index].base = value
            case LogSet() | BackchannelSet() | QueueCallSet() | QueueErrorSet():
                pass

    def _move(self, index: int, happened: RingInput) -> None:
        self.rings[index].state = self._step(index, happened)

    _HANDLERS: Final[dict[FrontendRequest, Callable[[Backend, Payload, Header], Event]]] = {
        FrontendRequest.GET_FEATURES: _get_features,
        FrontendRequest.SET_FEATURES: _set_features,
        FrontendRequest.SET_OWNER: _acknowledge,
        # Deprecated; the specification allows to ignore it, and no front-end of today sends it.
        FrontendRequest.RESET_OWNER: _acknowledge,
        FrontendRequest.SET_MEM_TABLE: _set_mem_table,
        FrontendRequest.SET_LOG_BASE: _set_log_base,
        FrontendRequest.SET_LOG_FD: _set_log_fd,
        FrontendRequest.SET_VRING_NUM: _set_vring_num,
        FrontendRequest.SET_VRING_ADDR: _set_vring_addr,
        FrontendRequest.SET_VRING_BASE: _set_vring_base,
        FrontendRequest.GET_VRING_BASE: _get_vring_base,
        FrontendRequest.SET_VRING_KICK: _set_vring_kick,
        FrontendRequest.SET_VRING_CALL: _set_vring_call,
        FrontendRequest.SET_VRING_ERR: _set_vring_err,
        FrontendRequest.GET_PROTOCOL_FEATURES: _get_protocol_features,
        FrontendRequest.SET_PROTOCOL_FEATURES: _set_protocol_features,
        FrontendRequest.GET_QUEUE_NUM: _get_queue_num,
        FrontendRequest.SET_VRING_ENABLE: _set_vring_enable,
        FrontendRequest.SET_BACKEND_REQ_FD: _set_backend_req_fd,
        FrontendRequest.GET_CONFIG: _get_config,
        FrontendRequest.SET_CONFIG: _set_config,
        FrontendRequest.RESET_DEVICE: _reset_device,
        FrontendRequest.GET_MAX_MEM_SLOTS: _get_max_mem_slots,
        FrontendRequest.ADD_MEM_REG: _add_mem_reg,
        FrontendRequest.REM_MEM_REG: _rem_mem_reg,
    }


def _name(request: int) -> str:
    try:
        return FrontendRequest(request).name
    except ValueError:
        return f"message {request}"


def _describe(region: MemoryRegion) -> str:
    return f"{region.guest_address:#x}+{region.size:#x}"
