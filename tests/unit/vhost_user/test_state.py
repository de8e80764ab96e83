"""The back-end's state machine keeps its rules, whatever a front-end says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.unit.vhost_user import frontend_script as script
from tests.unit.vhost_user.frontend_script import Conversation, R, number_of
from vhostfs.errors import ProtocolError
from vhostfs.vhost_user.events import (
    Answer,
    FeaturesSet,
    MemoryRegionAdded,
    QueueBaseRequested,
    QueueCallSet,
    QueueErrorSet,
    QueueKickSet,
)
from vhostfs.vhost_user.features import ProtocolFeature as P
from vhostfs.vhost_user.features import VirtioFeature as V
from vhostfs.vhost_user.messages import (
    FRONTEND_MESSAGES,
    MAX_PAYLOAD,
    NO_DESCRIPTOR_BIT,
    VRING_STATE,
    ConfigWindow,
    Empty,
    FrontendRequest,
    LogArea,
    MemoryRegion,
    MemoryTable,
    Number,
    SingleRegion,
    VringState,
    build_request,
)
from vhostfs.vhost_user.offer import Offer
from vhostfs.vhost_user.state import RING_TABLE, RingInput, RingState

OFFER = Offer(queues=2, queue_limit=4)


def started(rings: int = 2) -> Conversation:
    conversation = Conversation(OFFER)
    conversation.play(script.qemu_7_realize(rings))
    conversation.play(script.qemu_7_start(rings))
    return conversation


# What is offered.


def test_the_offer_is_what_a_file_system_device_can_keep() -> None:
    assert int(OFFER.features) == 0x174000000
    assert (
        OFFER.protocol_features
        == P.MQ | P.LOG_SHMFD | P.REPLY_ACK | P.BACKEND_REQ | P.RESET_DEVICE | P.CONFIGURE_MEM_SLOTS
    )
    with_tag = Offer(queues=2, queue_limit=4, config=bytes(44))
    assert with_tag.protocol_features == OFFER.protocol_features | P.CONFIG
    packed = Offer(queues=2, queue_limit=4, packed=True)
    assert packed.features == OFFER.features | V.RING_PACKED


@pytest.mark.parametrize(("queues", "limit"), [(0, 1), (3, 2), (257, 257)])
def test_an_offer_of_impossible_queues_is_a_mistake(queues: int, limit: int) -> None:
    with pytest.raises(ValueError, match="queues"):
        Offer(queues=queues, queue_limit=limit)


@pytest.mark.parametrize(
    ("request_", "value"),
    [
        (R.GET_FEATURES, 0x174000000),
        (R.GET_PROTOCOL_FEATURES, 0xA02B),
        (R.GET_QUEUE_NUM, 2),
        (R.GET_MAX_MEM_SLOTS, 509),
    ],
)
@pytest.mark.parametrize("need_reply", [False, True])
def test_a_question_is_answered_once_whether_or_not_it_asks_for_an_acknowledgement(
    request_: FrontendRequest, value: int, need_reply: bool
) -> None:
    assert number_of(Conversation(OFFER).send(request_, need_reply=need_reply), request_) == value


@pytest.mark.parametrize("bits", [1 << 33, 1 << 34, 1 << 24, 1 << 0, 1 << 41, 1 << 63])
def test_features_that_were_not_offered_end_the_connection(bits: int) -> None:
    with pytest.raises(ProtocolError, match="not offered"):
        Conversation(OFFER).send(R.SET_FEATURES, Number(0x170000000 | bits), need_reply=True)


@pytest.mark.parametrize("bits", [P.STATUS, P.CONFIG, P.INBAND_NOTIFICATIONS, 1 << 23, 1 << 63])
def test_protocol_features_that_were_not_offered_end_the_connection(bits: int) -> None:
    with pytest.raises(ProtocolError, match="not offered"):
        Conversation(OFFER).send(R.SET_PROTOCOL_FEATURES, Number(bits), need_reply=True)


def test_features_may_not_change_under_a_running_ring_except_for_logging() -> None:
    conversation = started()
    assert (
        number_of(conversation.send(R.SET_FEATURES, Number(0x174000000), need_reply=True), R.SET_FEATURES)
        == 0
    )
    assert (
        number_of(conversation.send(R.SET_FEATURES, Number(0x140000000), need_reply=True), R.SET_FEATURES)
        == 1
    )
    assert conversation.backend.features == V(0x174000000)


def test_a_change_of_features_stops_rings_that_are_not_enabled_and_wants_them_set_up_anew() -> None:
    conversation = started()
    conversation.play([script.enable(0, 0), script.enable(1, 0), script.features(0x174000000, True)])
    assert {ring.state for ring in conversation.backend.rings[:2]} == {RingState.KICKED}
    conversation.play([script.features(0x140000000, True)])
    assert conversation.events[-1] == FeaturesSet(V(0x140000000), stop_first=(0, 1))
    assert {ring.state for ring in conversation.backend.rings[:2]} == {RingState.STOPPED}
    answer = conversation.send(R.SET_VRING_KICK, Number(0), need_reply=True, descriptors=1)
    assert number_of(answer, R.SET_VRING_KICK) == 1


def test_without_the_protocol_features_bit_all_rings_are_enabled_at_once() -> None:
    conversation = Conversation(OFFER)
    conversation.send(R.SET_FEATURES, Number(0x130000000))
    assert {ring.state for ring in conversation.backend.rings} == {RingState.ENABLED}


# Acknowledgements.


def test_the_wish_for_an_acknowledgement_counts_before_reply_ack_is_negotiated() -> None:
    answer = Conversation(OFFER).send(R.SET_PROTOCOL_FEATURES, Number(P.REPLY_ACK), need_reply=True)
    assert number_of(answer, R.SET_PROTOCOL_FEATURES) == 0


@pytest.mark.parametrize("unknown", [0, 46, 1000, 2**32 - 1])
def test_an_unknown_message_is_refused_if_it_asks_and_ignored_otherwise(unknown: int) -> None:
    conversation = Conversation(OFFER)
    event = conversation.feed(struct.pack("=IIIQ", unknown, 0x9, 8, 7), conversation.ledger.make(1))
    assert isinstance(event, Answer)
    assert number_of(event.data, unknown) == 1
    event = conversation.feed(struct.pack("=III", unknown, 0x1, 0), conversation.ledger.make(1))
    assert event == Answer(b"", f"message {unknown} refused: there is no such message")
    assert not conversation.ledger.open


@pytest.mark.parametrize(
    "request_", [R.SEND_RARP, R.NET_SET_MTU, R.SET_STATUS, R.VRING_KICK, R.IOTLB_MSG, R.SET_VRING_ENDIAN]
)
def test_a_message_of_another_device_is_refused(request_: FrontendRequest) -> None:
    conversation = Conversation(OFFER)
    body = bytes(FRONTEND_MESSAGES[request_].payload.smallest)
    event = conversation.feed(struct.pack("=III", request_, 0x9, len(body)) + body)
    assert isinstance(event, Answer)
    assert number_of(event.data, request_) == 1


@pytest.mark.parametrize(
    "request_", [R.GET_INFLIGHT_FD, R.GET_STATUS, R.POSTCOPY_ADVISE, R.CHECK_DEVICE_STATE]
)
def test_a_question_that_nobody_will_answer_ends_the_connection(request_: FrontendRequest) -> None:
    body = bytes(FRONTEND_MESSAGES[request_].payload.smallest)
    with pytest.raises(ProtocolError, match="was not offered, and waits for a reply"):
        Conversation(OFFER).feed(struct.pack("=III", request_, 0x1, len(body)) + body)


def test_the_device_s_failure_reaches_a_front_end_that_asks() -> None:
    conversation = Conversation(OFFER)
    event = conversation.feed(
        build_request(R.ADD_MEM_REG, SingleRegion(script.LOW_MEMORY), need_reply=True),
        conversation.ledger.make(),
    )
    assert isinstance(event, MemoryRegionAdded)
    assert number_of(conversation.backend.failed(event, "no memory"), R.ADD_MEM_REG) == 1
    assert conversation.backend.regions == []


def test_a_vital_failure_that_the_front_end_would_not_hear_ends_the_connection() -> None:
    conversation = Conversation(OFFER)
    event = conversation.feed(
        build_request(R.ADD_MEM_REG, SingleRegion(script.LOW_MEMORY)), conversation.ledger.make()
    )
    assert isinstance(event, MemoryRegionAdded)
    with pytest.raises(ProtocolError, match="ADD_MEM_REG failed: no memory"):
        conversation.backend.failed(event, "no memory")


def test_a_ring_that_cannot_start_stays_stopped_and_costs_no_connection() -> None:
    conversation = started()
    conversation.play(script.qemu_7_stop())
    event = conversation.feed(build_request(R.SET_VRING_KICK, Number(0)), conversation.ledger.make())
    assert isinstance(event, QueueKickSet)
    assert conversation.backend.failed(event, "no such memory") == b""
    assert conversation.backend.rings[0].state is RingState.STOPPED
    assert conversation.send(R.GET_FEATURES)


def test_nothing_is_read_while_the_device_works() -> None:
    conversation = Conversation(OFFER)
    event = conversation.feed(build_request(R.GET_VRING_BASE, VringState(1, 0)))
    assert isinstance(event, QueueBaseRequested)
    assert conversation.backend.wanted == 0
    assert not conversation.backend.is_idle
    with pytest.raises(ValueError, match="0 are wanted"):
        conversation.backend.receive(b"x", conversation.ledger.make())
    assert not conversation.ledger.open


def test_an_answer_to_another_event_is_a_mistake() -> None:
    conversation = Conversation(OFFER)
    with pytest.raises(ValueError, match="awaited"):
        conversation.backend.succeeded(QueueBaseRequested(0))


def test_the_log_has_a_reply_of_its_own_once_log_shmfd_is_negotiated() -> None:
    conversation = Conversation(OFFER)
    assert conversation.send(R.SET_LOG_BASE, LogArea(4096, 0), descriptors=1) == b""
    conversation.send(R.SET_PROTOCOL_FEATURES, Number(P.LOG_SHMFD))
    assert number_of(conversation.send(R.SET_LOG_BASE, LogArea(4096, 0), descriptors=1), R.SET_LOG_BASE) == 0


# Framing.


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (struct.pack("=III", 1, 0x2, 0), "version 2 instead of 1"),
        (struct.pack("=III", 1, 0x0, 0), "version 0 instead of 1"),
        (struct.pack("=III", 1, 0x5, 0), "a reply to GET_FEATURES, to which nothing was asked"),
        (struct.pack("=III", 2, 0x1, MAX_PAYLOAD + 1), "SET_FEATURES announces"),
        (struct.pack("=III", 77, 0x1, 2**32 - 1), "message 77 announces 4294967295 bytes"),
        (struct.pack("=IIII", 2, 0x9, 4, 0), "SET_FEATURES: its payload has 4 bytes where 8 belong"),
        (struct.pack("=IIIQ", 1, 0x1, 8, 0), "GET_FEATURES: its payload has 8 bytes where 0 belong"),
        (struct.pack("=IIIII", 5, 0x1, 8, 1, 0), "SET_MEM_TABLE: its payload of 8 bytes is shorter"),
    ],
)
def test_a_broken_message_ends_the_connection_with_a_sentence(data: bytes, sentence: str) -> None:
    conversation = Conversation(OFFER)
    with pytest.raises(ProtocolError) as caught:
        conversation.feed(data, conversation.ledger.make(3))
    assert sentence in str(caught.value)
    assert conversation.backend.wanted == 0
    assert not conversation.ledger.open


@pytest.mark.parametrize(
    ("data", "descriptors", "sentence"),
    [
        (build_request(R.GET_FEATURES), 1, "1 descriptors where 0 belong"),
        (build_request(R.SET_VRING_KICK, Number(0)), 0, "0 descriptors where 1 belong"),
        (build_request(R.SET_VRING_CALL, Number(0)), 2, "2 descriptors where 1 belong"),
        (build_request(R.SET_VRING_CALL, Number(NO_DESCRIPTOR_BIT)), 1, "1 descriptors where 0 belong"),
        (
            build_request(R.SET_MEM_TABLE, MemoryTable((script.LOW_MEMORY,))),
            2,
            "2 descriptors where 1 belong",
        ),
        (
            build_request(R.SET_MEM_TABLE, MemoryTable((script.LOW_MEMORY,))),
            0,
            "0 descriptors where 1 belong",
        ),
        (build_request(R.ADD_MEM_REG, SingleRegion(script.LOW_MEMORY)), 0, "0 descriptors where 1 belong"),
        (
            build_request(R.REM_MEM_REG, SingleRegion(script.LOW_MEMORY)),
            2,
            "2 descriptors where 0 or 1 belong",
        ),
        (build_request(R.SET_BACKEND_REQ_FD), 0, "0 descriptors where 1 belong"),
    ],
)
def test_missing_and_surplus_descriptors_end_the_connection_and_are_closed(
    data: bytes, descriptors: int, sentence: str
) -> None:
    conversation = Conversation(OFFER)
    with pytest.raises(ProtocolError, match=sentence):
        conversation.feed(data, conversation.ledger.make(descriptors))
    assert not conversation.ledger.open


def test_a_message_cannot_gather_descriptors_byte_by_byte() -> None:
    conversation = Conversation(OFFER)
    message = struct.pack("=III", R.SET_MEM_TABLE, 0x1, MAX_PAYLOAD)
    conversation.feed(message[:1], conversation.ledger.make(253))
    with pytest.raises(ProtocolError, match="more than 253 descriptors"):
        conversation.feed(message[1:2], conversation.ledger.make(1))
    assert not conversation.ledger.open


def test_the_descriptors_of_half_a_message_are_closed_with_the_connection() -> None:
    conversation = Conversation(OFFER)
    conversation.feed(build_request(R.SET_VRING_KICK, Number(0))[:9], conversation.ledger.make())
    assert conversation.ledger.open
    conversation.backend.close()
    assert not conversation.ledger.open


# Configuration.


def test_a_read_of_the_configuration_brings_the_room_that_it_asks_for() -> None:
    with pytest.raises(ProtocolError, match="asks for 4 bytes and brings room for 0"):
        Conversation(OFFER).feed(struct.pack("=IIIIII", 24, 0x1, 12, 0, 4, 0))


@pytest.mark.parametrize(("offset", "size"), [(250, 7), (2**32 - 1, 1), (0, 1)])
def test_configuration_that_does_not_exist_is_answered_by_an_empty_reply(offset: int, size: int) -> None:
    config = b"" if offset == 0 else bytes(44)
    conversation = Conversation(Offer(queues=2, queue_limit=4, config=config))
    answer = conversation.send(R.GET_CONFIG, ConfigWindow(offset, size, 0, bytes(size)))
    assert answer == struct.pack("=III", R.GET_CONFIG, 0x5, 0)


def test_configuration_behind_its_last_field_reads_as_zeros() -> None:
    conversation = Conversation(Offer(queues=2, queue_limit=4, config=b"\1" * 44))
    answer = conversation.send(R.GET_CONFIG, ConfigWindow(40, 60, 1, bytes(60)))
    assert answer[12:] == struct.pack("=III", 40, 60, 1) + b"\1" * 4 + bytes(56)


def test_configuration_cannot_be_written() -> None:
    conversation = Conversation(Offer(queues=2, queue_limit=4, config=bytes(44)))
    assert (
        number_of(conversation.send(R.SET_CONFIG, ConfigWindow(0, 1, 0, b"x"), need_reply=True), R.SET_CONFIG)
        == 1
    )


# Memory.


@pytest.mark.parametrize(
    "region",
    [
        MemoryRegion(0x9F000, 0x1000, 0, 0),
        MemoryRegion(0, 0x100000, 0, 0),
        MemoryRegion(0x1000, 0x1000, 0, 0),
        MemoryRegion(0x200000, 0, 0, 0),
        MemoryRegion(2**64 - 0x1000, 0x2000, 0, 0),
        MemoryRegion(0x200000, 0x2000, 2**64 - 0x1000, 0),
        MemoryRegion(0x200000, 0x2000, 0, 2**64 - 0x1000),
    ],
)
def test_a_region_that_cannot_be_is_refused(region: MemoryRegion) -> None:
    conversation = Conversation(OFFER)
    conversation.play([script.add(script.LOW_MEMORY)])
    answer = conversation.send(R.ADD_MEM_REG, SingleRegion(region), need_reply=True, descriptors=1)
    assert number_of(answer, R.ADD_MEM_REG) == 1
    assert conversation.backend.regions == [script.LOW_MEMORY]
    with pytest.raises(ProtocolError):
        conversation.send(R.ADD_MEM_REG, SingleRegion(region), descriptors=1)
    assert not conversation.ledger.open


def test_regions_may_overlap_in_a_table_only_with_those_they_replace() -> None:
    conversation = Conversation(OFFER)
    conversation.play([script.add(script.LOW_MEMORY)])
    table = MemoryTable((script.LOW_MEMORY, script.HIGH_MEMORY))
    assert (
        number_of(conversation.send(R.SET_MEM_TABLE, table, need_reply=True, descriptors=2), R.SET_MEM_TABLE)
        == 0
    )
    twice = MemoryTable((script.LOW_MEMORY, script.LOW_MEMORY))
    assert (
        number_of(conversation.send(R.SET_MEM_TABLE, twice, need_reply=True, descriptors=2), R.SET_MEM_TABLE)
        == 1
    )
    assert "overlap" in conversation.remarks[-1]
    assert not conversation.ledger.open


def test_there_are_as_many_slots_as_announced_and_no_more() -> None:
    conversation = Conversation(Offer(queues=2, queue_limit=4, memory_slots=3))
    regions = [MemoryRegion(slot << 20, 1 << 20, slot << 20, 0) for slot in range(4)]
    conversation.play([script.add(region) for region in regions[:3]])
    answer = conversation.send(R.ADD_MEM_REG, SingleRegion(regions[3]), need_reply=True, descriptors=1)
    assert number_of(answer, R.ADD_MEM_REG) == 1


def test_one_guest_cannot_use_up_the_address_space_of_all() -> None:
    conversation = Conversation(Offer(queues=2, queue_limit=4, memory_limit=3 << 20))
    regions = [MemoryRegion(slot << 24, 1 << 20, slot << 24, 0) for slot in range(3)]
    conversation.play([script.add(region) for region in regions])
    more = SingleRegion(MemoryRegion(1 << 32, 0x1000, 1 << 32, 0))
    assert (
        number_of(conversation.send(R.ADD_MEM_REG, more, need_reply=True, descriptors=1), R.ADD_MEM_REG) == 1
    )
    with pytest.raises(ProtocolError, match="dirty log"):
        conversation.send(R.SET_LOG_BASE, LogArea(4 << 20, 0), descriptors=1)


@pytest.mark.parametrize("descriptors", [0, 1])
def test_a_region_goes_by_its_addresses_whatever_offset_it_names(descriptors: int) -> None:
    conversation = Conversation(OFFER)
    conversation.play([script.add(script.LOW_MEMORY), script.add(script.HIGH_MEMORY)])
    high = script.HIGH_MEMORY
    named = MemoryRegion(high.guest_address, high.size, high.user_address, 0)
    answer = conversation.send(R.REM_MEM_REG, SingleRegion(named), need_reply=True, descriptors=descriptors)
    assert number_of(answer, R.REM_MEM_REG) == 0
    assert conversation.backend.regions == [script.LOW_MEMORY]
    assert (
        number_of(conversation.send(R.REM_MEM_REG, SingleRegion(named), need_reply=True), R.REM_MEM_REG) == 1
    )
    assert not conversation.ledger.open


# Rings.


def test_the_table_knows_every_state_and_lets_every_ring_be_stopped_and_reset() -> None:
    assert set(RING_TABLE) == set(RingState)
    for moves in RING_TABLE.values():
        assert moves[RingInput.STOP] in (RingState.STOPPED, RingState.ENABLED)
        assert moves[RingInput.RESET] is RingState.STOPPED


@pytest.mark.parametrize("order", ["kick first", "enable first"])
def test_a_ring_runs_once_it_is_kicked_and_enabled_in_either_order(order: str) -> None:
    conversation = Conversation(OFFER)
    conversation.play(
        [script.features(0x170000000), script.size(0, 128), script.base(0, 0), script.addresses(0)]
    )
    steps = [script.kick(0), script.enable(0, 1)]
    conversation.play(steps if order == "kick first" else reversed(steps))
    assert conversation.backend.rings[0].state is RingState.RUNNING


def test_a_running_ring_keeps_its_size_and_base() -> None:
    conversation = started()
    assert (
        number_of(conversation.send(R.SET_VRING_NUM, VringState(0, 64), need_reply=True), R.SET_VRING_NUM)
        == 1
    )
    assert (
        number_of(conversation.send(R.SET_VRING_BASE, VringState(0, 9), need_reply=True), R.SET_VRING_BASE)
        == 1
    )
    assert (
        conversation.remarks[-1] == "SET_VRING_BASE refused: ring 0 is running, and takes no SET_VRING_BASE"
    )
    assert conversation.backend.rings[0].size == 128


@pytest.mark.parametrize("size", [0, 100, 65536, 2**32 - 1])
def test_a_split_ring_s_size_is_a_power_of_two_up_to_32768(size: int) -> None:
    conversation = Conversation(OFFER)
    assert (
        number_of(conversation.send(R.SET_VRING_NUM, VringState(0, size), need_reply=True), R.SET_VRING_NUM)
        == 1
    )


def test_a_packed_ring_may_have_any_size_and_a_base_of_32_bits() -> None:
    conversation = Conversation(Offer(queues=2, queue_limit=4, packed=True))
    conversation.play(
        [script.features(0x570000000), script.size(0, 100, True), script.base(0, 0x80008000, True)]
    )
    assert (conversation.backend.rings[0].size, conversation.backend.rings[0].base) == (100, 0x80008000)


def test_a_ring_without_size_or_addresses_does_not_start() -> None:
    conversation = Conversation(OFFER)
    conversation.play([script.features(0x170000000)])
    answer = conversation.send(R.SET_VRING_KICK, Number(1), need_reply=True, descriptors=1)
    assert number_of(answer, R.SET_VRING_KICK) == 1
    assert not conversation.ledger.open


def test_enabling_and_stopping_a_ring_that_the_guest_never_set_up_is_fine() -> None:
    conversation = Conversation(OFFER)
    conversation.play(
        [script.features(0x170000000), script.enable(1, 1, True), script.enable(1, 0, True), script.stop(1)]
    )
    assert not conversation.remarks


def test_more_rings_than_were_announced_are_served_up_to_the_limit() -> None:
    conversation = started(rings=4)
    assert {ring.state for ring in conversation.backend.rings} == {RingState.RUNNING}


def test_rings_beyond_the_limit_are_announced_in_vain_but_cost_no_connection() -> None:
    conversation = Conversation(OFFER)
    conversation.play(
        [script.call(9, True), script.error(9, True), script.enable(9, 1, True), script.stop(9)]
    )
    assert conversation.send(R.GET_VRING_BASE, VringState(9, 0))[12:] == VRING_STATE.build(VringState(9, 0))
    assert (
        number_of(conversation.send(R.SET_VRING_NUM, VringState(9, 128), need_reply=True), R.SET_VRING_NUM)
        == 1
    )
    assert (
        number_of(
            conversation.send(R.SET_VRING_KICK, Number(9), need_reply=True, descriptors=1), R.SET_VRING_KICK
        )
        == 1
    )
    assert "ring 9 is beyond the 4 that are served" in conversation.remarks[-1]
    assert not conversation.ledger.open


def test_call_and_error_may_come_without_a_descriptor() -> None:
    conversation = Conversation(OFFER)
    conversation.send(R.SET_VRING_CALL, Number(NO_DESCRIPTOR_BIT | 1))
    conversation.send(R.SET_VRING_ERR, Number(NO_DESCRIPTOR_BIT | 1))
    assert conversation.events == [QueueCallSet(1, None), QueueErrorSet(1, None)]


# Whatever is said.

_NUMBERS = st.sampled_from(
    [
        0,
        1,
        2,
        3,
        4,
        5,
        128,
        0x100,
        0x101,
        4096,
        0x100000,
        0x130000000,
        0x170000000,
        0x174000000,
        2**32 - 1,
        2**64 - 1,
    ]
)


@st.composite
def _messages(draw: st.DrawFn) -> tuple[bytes, int]:
    """Draw a message that is mostly well-formed, and how many descriptors come with it."""
    request = draw(st.one_of(st.sampled_from(list(FrontendRequest)).map(int), st.integers(0, 60)))
    flags = draw(st.sampled_from([0x1, 0x9, 0x1, 0x9, 0x1, 0x9, 0x5, 0x3]))
    if request in FRONTEND_MESSAGES:
        shape = FRONTEND_MESSAGES[FrontendRequest(request)]
        size = shape.payload.smallest + draw(st.sampled_from([0, 0, 0, 0, 32, 1]))
        wanted = (0, 1) if shape.descriptors is None else tuple(shape.descriptors)
    else:
        size, wanted = draw(st.integers(0, 64)), (0, 1)
    words = draw(st.lists(_NUMBERS, min_size=size // 8 + 1, max_size=size // 8 + 1))
    halves = draw(st.booleans())
    body = b"".join(
        struct.pack("=II", word & 3, word >> 2 & 0xFFFF) if halves else struct.pack("=Q", word)
        for word in words
    )[:size]
    descriptors = draw(st.one_of(st.sampled_from(wanted), st.integers(0, 3)))
    return struct.pack("=III", request, flags, size) + body, descriptors


@settings(max_examples=300)
@given(st.lists(st.tuples(_messages(), st.booleans()), max_size=25), st.booleans())
def test_no_conversation_leaks_a_descriptor_or_raises_anything_else(
    talk: list[tuple[tuple[bytes, int], bool]], set_up: bool
) -> None:
    conversation = started() if set_up else Conversation(OFFER)
    ended = False
    try:
        for (data, descriptors), succeeds in talk:
            event = conversation.feed(data, conversation.ledger.make(descriptors))
            assert event is not None
            if isinstance(event, Answer):
                continue
            if succeeds:
                conversation.carry_out(event)
            else:
                conversation.release(event)
                conversation.backend.failed(event, "the device says no")
            for ring in conversation.backend.rings:
                assert ring.state in (RingState.STOPPED, RingState.ENABLED) or (ring.size and ring.placed)
    except ProtocolError as error:
        note(str(error))
        ended = True
    assert conversation.backend.wanted == (0 if ended else 12)
    assert not conversation.ledger.open


@given(st.data())
def test_it_does_not_matter_how_a_stream_is_cut(data: st.DataObject) -> None:
    whole, cut = Conversation(OFFER), Conversation(OFFER)
    for message in [*script.qemu_7_realize(), *script.qemu_7_start(), *script.qemu_7_stop()]:
        built = build_request(message.request, message.payload or Empty(), need_reply=message.need_reply)
        answers = []
        for conversation in (whole, cut):
            cuts = data.draw(st.lists(st.integers(1, len(built)), max_size=4)) if conversation is cut else []
            event = conversation.feed(built, conversation.ledger.make(message.descriptors), cuts)
            assert event is not None
            answers.append(event.data if isinstance(event, Answer) else conversation.carry_out(event))
        assert answers[0] == answers[1]
    assert whole.events == cut.events
    assert [ring.state for ring in whole.backend.rings] == [ring.state for ring in cut.backend.rings]
