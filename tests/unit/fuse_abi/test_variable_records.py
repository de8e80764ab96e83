"""Directory listings and extensions survive packing, are aligned as the kernel wants, and reject nonsense."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostfs.fuse_abi.directory import DirectoryEntry, pack_entries, unpack_entries
from vhostfs.fuse_abi.extensions import Extensions, SecurityContext
from vhostfs.fuse_abi.structures import Attr, EntryOut

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)
PLAIN = st.builds(DirectoryEntry, name=NAMES, ino=U64, off=U64, type=st.integers(0, 15))
PLUS = st.builds(
    DirectoryEntry,
    name=NAMES,
    ino=U64,
    off=U64,
    type=st.integers(0, 15),
    entry=st.builds(EntryOut, nodeid=U64, generation=U64, attr=st.builds(Attr, ino=U64, mode=U32)),
)
GIDS = st.lists(U32, max_size=40).map(tuple)
CONTEXTS = st.lists(st.builds(SecurityContext, name=NAMES, context=st.binary(max_size=60)), max_size=4).map(
    tuple
)


@given(st.lists(PLAIN, max_size=20))
def test_a_listing_survives(entries: list[DirectoryEntry]) -> None:
    packed = pack_entries(entries, 1 << 20)
    assert len(packed) % 8 == 0
    assert list(unpack_entries(packed, plus=False)) == entries


@given(st.lists(PLUS, max_size=20))
def test_a_listing_with_attributes_survives(entries: list[DirectoryEntry]) -> None:
    packed = pack_entries(entries, 1 << 20)
    assert len(packed) % 8 == 0
    assert list(unpack_entries(packed, plus=True)) == entries


@given(st.lists(PLAIN, max_size=20), st.integers(0, 2000))
def test_a_listing_never_outgrows_its_buffer_and_loses_only_its_tail(
    entries: list[DirectoryEntry], size: int
) -> None:
    packed = pack_entries(entries, size)
    assert len(packed) <= size
    listed = list(unpack_entries(packed, plus=False))
    assert listed == entries[: len(listed)]
    if len(listed) < len(entries):
        assert len(packed) + len(entries[len(listed)].pack()) > size


@given(st.lists(PLAIN, min_size=1, max_size=5), st.data())
def test_a_record_cut_short_ends_the_listing(entries: list[DirectoryEntry], data: st.DataObject) -> None:
    whole = pack_entries(entries[:-1], 1 << 20)
    last = entries[-1]
    unpadded = 24 + len(last.name)
    cut = data.draw(st.integers(0, unpadded - 1))
    assert list(unpack_entries(whole + last.pack()[:cut], plus=False)) == entries[:-1]


def test_a_record_is_laid_out_as_the_kernel_reads_it() -> None:
    assert DirectoryEntry(b"abc", 5, 6, 8).pack() == struct.pack("=QQII", 5, 6, 3, 8) + b"abc" + bytes(5)
    plus = DirectoryEntry(b"abcdefgh", 5, 6, 8, EntryOut(nodeid=9)).pack()
    assert len(plus) == 160
    assert plus[152:] == b"abcdefgh"


@given(GIDS)
def test_groups_survive(groups: tuple[int, ...]) -> None:
    packed = Extensions(groups=groups).pack()
    assert len(packed) % 8 == 0
    assert Extensions.unpack(packed, security=False) == Extensions(groups=groups)


@given(CONTEXTS, GIDS)
def test_security_contexts_and_groups_survive(
    contexts: tuple[SecurityContext, ...], groups: tuple[int, ...]
) -> None:
    extensions = Extensions(contexts, groups)
    packed = extensions.pack()
    assert len(packed) % 8 == 0
    assert Extensions.unpack(packed, security=True) == extensions


def test_a_group_extension_is_laid_out_as_the_kernel_writes_it() -> None:
    assert Extensions(groups=(100,)).pack() == struct.pack("=IIII", 16, 32, 1, 100)
    assert Extensions(groups=(100, 101)).pack() == struct.pack("=IIIII4x", 24, 32, 2, 100, 101)


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_extensions_are_read_or_refused(packed: bytes, security: bool) -> None:
    try:
        extensions = Extensions.unpack(packed, security=security)
    except ValueError:
        return
    assert isinstance(extensions, Extensions)


@pytest.mark.parametrize(
    ("packed", "security"),
    [
        (struct.pack("=II", 16, 32), False),
        (struct.pack("=II", 0, 32), False),
        (struct.pack("=IIII", 16, 32, 2, 100), False),
        (struct.pack("=IIII", 16, 33, 1, 100), False),
        (struct.pack("=II", 8, 1), True),
        (struct.pack("=II", 4, 0), True),
        (struct.pack("=II", 8, 32), True),
        (struct.pack("=IIII", 16, 1, 0, 0) + b"name", True),
        (struct.pack("=IIII", 24, 1, 90, 0) + b"n\0ababab", True),
    ],
)
def test_contradictory_extensions_are_refused(packed: bytes, security: bool) -> None:
    with pytest.raises(ValueError, match=r"request|security context|extension"):
        Extensions.unpack(packed, security=security)
