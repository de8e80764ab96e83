"""The messages lie on the wire as the specification and the traced front-ends have them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostfs.errors import ProtocolError
from vhostfs.vhost_user import messages as m

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
regions = st.builds(m.MemoryRegion, u64, u64, u64, u64)

PAYLOADS: list[tuple[m.Layout[Any], st.SearchStrategy[Any]]] = [
    (m.HEADER, st.builds(m.Header, u32, u32, u32)),
    (m.EMPTY, st.builds(m.Empty)),
    (m.NUMBER, st.builds(m.Number, u64)),
    (m.VRING_STATE, st.builds(m.VringState, u32, u32)),
    (m.VRING_ADDRESSES, st.builds(m.VringAddresses, u32, u32, u64, u64, u64, u64)),
    (m.MEMORY_TABLE, st.builds(m.MemoryTable, st.lists(regions, max_size=9).map(tuple))),
    (m.SINGLE_REGION, st.builds(m.SingleRegion, regions)),
    (m.LOG_AREA, st.builds(m.LogArea, u64, u64)),
    (m.CONFIG_WINDOW, st.builds(m.ConfigWindow, u32, u32, u32, st.binary(max_size=256))),
    (m.IOTLB_MESSAGE, st.builds(m.IotlbMessage, u64, u64, u64, u8, u8)),
    (m.INFLIGHT_AREA, st.builds(m.InflightArea, u64, u64, u16, u16)),
    (m.SHARED_OBJECT, st.builds(m.SharedObject, st.binary(min_size=16, max_size=16))),
    (m.DEVICE_STATE_TRANSFER, st.builds(m.DeviceStateTransfer, u32, u32)),
    (m.HOST_NOTIFIER, st.builds(m.HostNotifier, u64, u64, u64)),
    (m.SHARED_MEMORY_MAP, st.builds(m.SharedMemoryMap, u8, u64, u64, u64, u64)),
]


@pytest.mark.parametrize(
    ("layout", "payloads"), PAYLOADS, ids=lambda value: getattr(value, "kind", type(value)).__name__
)
def test_a_payload_survives_the_wire(layout: m.Layout[Any], payloads: st.SearchStrategy[Any]) -> None:
    @given(payloads)
    def survives(payload: Any) -> None:
        built = layout.build(payload)
        assert layout.smallest <= len(built) <= layout.largest
        assert layout.parse(built) == payload

    survives()


@given(st.sampled_from([layout for layout, _ in PAYLOADS]), st.binary(max_size=2100))
def test_any_bytes_are_a_payload_or_a_protocol_error(layout: m.Layout[Any], data: bytes) -> None:
    try:
        parsed = layout.parse(data)
    except ProtocolError:
        return
    assert layout.smallest <= len(data) <= layout.largest
    assert isinstance(parsed, layout.kind)


WIRE_IMAGES: list[tuple[m.Layout[Any], Any, bytes]] = [
    (m.HEADER, m.Header(5, 9, 72), struct.pack("=III", 5, 9, 72)),
    (m.VRING_STATE, m.VringState(1, 128), struct.pack("=II", 1, 128)),
    (m.VRING_ADDRESSES, m.VringAddresses(1, 1, 2, 3, 4, 5), struct.pack("=IIQQQQ", 1, 1, 2, 3, 4, 5)),
    (
        m.MEMORY_TABLE,
        m.MemoryTable((m.MemoryRegion(1, 2, 3, 4), m.MemoryRegion(5, 6, 7, 8))),
        struct.pack("=II8Q", 2, 0, *range(1, 9)),
    ),
    (m.SINGLE_REGION, m.SingleRegion(m.MemoryRegion(1, 2, 3, 4)), struct.pack("=Q4Q", 0, 1, 2, 3, 4)),
    (m.CONFIG_WINDOW, m.ConfigWindow(0, 2, 1, b"ab"), struct.pack("=III", 0, 2, 1) + b"ab"),
    (m.IOTLB_MESSAGE, m.IotlbMessage(1, 2, 3, 3, 1), struct.pack("=QQQBB6x", 1, 2, 3, 3, 1)),
    (m.INFLIGHT_AREA, m.InflightArea(1, 2, 3, 4), struct.pack("=QQHH4x", 1, 2, 3, 4)),
    (m.SHARED_MEMORY_MAP, m.SharedMemoryMap(1, 2, 3, 4, 1), struct.pack("=B7xQQQQ", 1, 2, 3, 4, 1)),
    (m.SHARED_MEMORY_CONFIG, m.SharedMemoryConfig(1, (7,) * 256), struct.pack("=II256Q", 1, 0, *(7,) * 256)),
]


@pytest.mark.parametrize(("layout", "payload", "image"), WIRE_IMAGES, ids=lambda value: type(value).__name__)
def test_fields_lie_where_the_specification_puts_them(
    layout: m.Layout[Any], payload: Any, image: bytes
) -> None:
    assert layout.build(payload) == image
    assert layout.parse(image) == payload


def test_a_memory_table_may_have_room_for_regions_it_does_not_fill() -> None:
    image = struct.pack("=II4Q", 1, 0, 1, 2, 3, 4) + bytes(32)
    assert m.MEMORY_TABLE.parse(image) == m.MemoryTable((m.MemoryRegion(1, 2, 3, 4),))


def test_a_memory_table_shorter_than_its_count_is_refused() -> None:
    with pytest.raises(ProtocolError, match="shorter than it says"):
        m.MEMORY_TABLE.parse(struct.pack("=II4Q", 2, 0, 1, 2, 3, 4))


def test_an_inflight_area_may_come_with_or_without_its_padding() -> None:
    image = struct.pack("=QQHH", 1, 2, 3, 4)
    assert (
        m.INFLIGHT_AREA.parse(image) == m.INFLIGHT_AREA.parse(image + bytes(4)) == m.InflightArea(1, 2, 3, 4)
    )


def test_every_message_of_both_directions_has_a_shape() -> None:
    assert set(m.FRONTEND_MESSAGES) == set(m.FrontendRequest)
    assert set(m.BACKEND_MESSAGES) == set(m.BackendRequest)
    assert [int(request) for request in m.FrontendRequest] == list(range(1, 46))


def test_requests_and_replies_have_the_flags_that_front_ends_compare() -> None:
    assert m.build_request(m.FrontendRequest.GET_FEATURES) == struct.pack("=III", 1, 0x1, 0)
    assert m.build_request(m.FrontendRequest.SET_OWNER, need_reply=True) == struct.pack("=III", 3, 0x9, 0)
    assert m.build_reply(17, struct.pack("=Q", 2)) == struct.pack("=IIIQ", 17, 0x5, 8, 2)
    assert m.build_request(m.BackendRequest.CONFIG_CHANGE) == struct.pack("=III", 2, 0x1, 0)


def test_the_configuration_space_is_struct_virtio_fs_config() -> None:
    config = m.VirtioFsConfig("größe", 4)
    assert config.to_bytes() == struct.pack("<36sII", "größe".encode(), 4, 0)
    assert len(config.to_bytes()) == m.VirtioFsConfig.SIZE


@pytest.mark.parametrize("tag", ["", "x" * 37, "ö" * 19])
def test_a_tag_has_one_to_36_bytes(tag: str) -> None:
    with pytest.raises(ValueError, match="1 to 36"):
        m.VirtioFsConfig(tag, 1).to_bytes()
