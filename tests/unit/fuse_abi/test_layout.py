"""Structures survive packing and unpacking, and old, short forms are read as if the rest were 0."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuse_abi.structure_list import STRUCTURES
from vhostfs.fuse_abi.compatibility import OLD_SIZES, size_at
from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.structures import Attr, EntryOut, GetattrIn, InHeader, InitIn, InitOut, MknodIn, ReadIn


@given(st.data())
def test_any_bytes_survive_unpacking_and_packing(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(STRUCTURES))
    packed = data.draw(st.binary(min_size=kind.SIZE, max_size=kind.SIZE))
    assert kind.unpack_from(packed).pack() == packed


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda kind: kind.__name__)
def test_a_structure_of_which_nothing_is_named_is_zero(kind: type[Structure]) -> None:
    assert kind().pack() == bytes(kind.SIZE)
    assert kind.unpack_from(bytes(kind.SIZE)) == kind()


def test_fields_stand_in_the_machines_byte_order() -> None:
    assert GetattrIn(getattr_flags=1, fh=2).pack() == struct.pack("=IIQ", 1, 0, 2)
    packed = EntryOut(nodeid=7, attr=Attr(ino=9, flags=1)).pack()
    assert struct.unpack_from("=Q", packed) == (7,)
    assert struct.unpack_from("=Q", packed, 40) == (9,)
    assert struct.unpack_from("=I", packed, 124) == (1,)


def test_a_structure_can_be_written_and_read_in_the_middle_of_a_buffer() -> None:
    buffer = bytearray(100)
    header = InHeader(len=40, opcode=3, unique=2, nodeid=1)
    header.pack_into(buffer, 16)
    assert InHeader.unpack_from(buffer, 16) == header
    assert not any(buffer[:16])
    assert not any(buffer[56:])


def test_too_few_bytes_and_too_large_values_are_errors() -> None:
    with pytest.raises(struct.error):
        ReadIn.unpack_from(bytes(ReadIn.SIZE - 1))
    with pytest.raises(struct.error):
        GetattrIn(getattr_flags=1 << 32).pack()


def test_structures_are_values() -> None:
    assert ReadIn(fh=1) == ReadIn(fh=1)
    assert hash(ReadIn(fh=1)) == hash(ReadIn(fh=1))
    with pytest.raises(AttributeError):
        ReadIn().fh = 1  # type: ignore[misc]


@given(mode=st.integers(0, 0xFFFFFFFF), rdev=st.integers(0, 0xFFFFFFFF))
def test_a_short_form_of_an_older_minor_reads_as_zero_beyond_its_end(mode: int, rdev: int) -> None:
    assert MknodIn.unpack_prefix(struct.pack("=II", mode, rdev)) == MknodIn(mode=mode, rdev=rdev)
    assert InitIn.unpack_prefix(struct.pack("=IIII", 7, 31, 0, 0)) == InitIn(major=7, minor=31)


def test_bytes_of_a_newer_minor_are_ignored() -> None:
    assert GetattrIn.unpack_prefix(GetattrIn(fh=3).pack() + b"new") == GetattrIn(fh=3)


def test_sizes_follow_the_minor_version() -> None:
    assert [size_at(InitOut, minor) for minor in (4, 5, 22, 23, 45)] == [8, 24, 24, 64, 64]
    assert [size_at(EntryOut, minor) for minor in (8, 9)] == [120, 128]
    assert size_at(ReadIn, 1) == ReadIn.SIZE


def test_old_sizes_grow_with_the_minor_version() -> None:
    for kind, steps in OLD_SIZES.items():
        minors = [below for below, _ in steps]
        sizes = [*(size for _, size in steps), kind.SIZE]
        assert minors == sorted(minors)
        assert sizes == sorted(set(sizes))
