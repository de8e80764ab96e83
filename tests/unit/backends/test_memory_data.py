"""The contents of a memory file are those of a plain model, byte for byte and page for page."""

from __future__ import annotations

import errno
from collections.abc import Buffer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhostfs.backends.memory.data import RUN_LIMIT, SparseData
from vhostfs.backends.memory.space import PAGE, Space
from vhostfs.backends.ranges import Ranges

PAGES = 40
END = PAGES * PAGE
OFFSETS = st.one_of(
    st.integers(0, END), st.integers(0, PAGES).map(lambda page: page * PAGE), st.integers(0, PAGE)
)


class Source:
    """The data of a write."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    @property
    def segments(self) -> list[memoryview]:
        return [memoryview(self.data)]

    def __bytes__(self) -> bytes:
        return self.data

    def read_into(self, target: Buffer, offset: int = 0, /) -> int:
        view = memoryview(target)
        part = self.data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)

    def write_to_fd(self, descriptor: int, offset: int, /) -> int:
        raise NotImplementedError


class Sink:
    """Where a read goes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = b""

    @property
    def segments(self) -> list[memoryview]:
        raise NotImplementedError

    def write(self, data: Buffer, /) -> int:
        self.data += bytes(data)
        return memoryview(data).nbytes

    def read_from_fd(self, descriptor: int, offset: int, size: int | None = None, /) -> int:
        raise NotImplementedError


def read(data: SparseData, offset: int, size: int) -> bytes:
    sink = Sink(size)
    answer = data.read(offset, sink)
    if isinstance(answer, bytes):
        assert not sink.data
        return answer
    assert answer == len(sink.data)
    return sink.data


class Model:
    """The same file, kept as its bytes, the pages that hold data and the pages that are reserved."""

    def __init__(self) -> None:
        self.content = b""
        self.backed: set[int] = set()
        self.reserved: set[int] = set()

    @staticmethod
    def pages(begin: int, end: int) -> set[int]:
        return set(range(begin // PAGE, -(-end // PAGE))) if begin < end else set()

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.content = self.content.ljust(end, b"\0")
        self.content = self.content[:offset] + data + self.content[end:]
        self.backed |= self.pages(offset, end)
        self.reserved -= self.backed

    def truncate(self, size: int) -> None:
        if size <= len(self.content):
            last = -(-size // PAGE)
            self.backed = {page for page in self.backed if page < last}
            self.reserved = {page for page in self.reserved if page < last}
        self.content = self.content[:size].ljust(size, b"\0")

    def punch(self, begin: int, end: int) -> None:
        inside = self.content[begin:end]
        self.content = self.content[:begin] + bytes(len(inside)) + self.content[begin + len(inside) :]
        gone = set(range(-(-begin // PAGE), end // PAGE))
        self.backed -= gone
        self.reserved -= gone

    def reserve(self, begin: int, end: int) -> None:
        self.reserved |= self.pages(begin, end) - self.backed

    def seek(self, offset: int, *, data: bool) -> int | None:
        if offset >= len(self.content):
            return None
        while offset < len(self.content):
            if (offset // PAGE in self.backed) == data:
                return offset
            offset = (offset // PAGE + 1) * PAGE
        return None if data else len(self.content)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, st.integers(1, 6 * PAGE)),
        st.tuples(st.just("store"), OFFSETS, st.integers(1, 6 * PAGE)),
        st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
        st.tuples(st.just("punch"), OFFSETS, st.integers(1, 6 * PAGE)),
        st.tuples(st.just("reserve"), OFFSETS, st.integers(1, 6 * PAGE)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 3))
def test_a_file_is_what_was_done_to_it(steps: list[tuple[str, int, int]], where: int) -> None:
    # Also across the border between two runs.
    base = where * (RUN_LIMIT // 2 - 8 * PAGE) // PAGE * PAGE
    space = Space(1 << 30, 1)
    data, model = SparseData(space), Model()
    for number, (step, at, size) in enumerate(steps):
        offset = base + at
        content = bytes([number % 255 + 1]) * size
        if step == "write":
            assert data.write(offset, Source(content)) == size
            model.write(offset, content)
        elif step == "store":
            assert data.store(offset, content) == size
            model.write(offset, content)
        elif step == "truncate":
            data.truncate(offset)
            model.truncate(offset)
        elif step == "punch":
            data.punch(offset, offset + size)
            model.punch(offset, offset + size)
        else:
            data.reserve(offset, offset + size)
            model.reserve(offset, offset + size)
        assert data.size == len(model.content)
        assert data.pages == len(model.backed | model.reserved)
        assert space.pages_left == (1 << 30) // PAGE - data.pages
    assert read(data, 0, data.size + 10) == model.content
    for at in range(0, END + PAGE, PAGE // 2):
        assert read(data, base + at, PAGE) == model.content[base + at : base + at + PAGE]
        for is_data, seek in ((True, data.seek_data), (False, data.seek_hole)):
            expected = model.seek(base + at, data=is_data)
            if expected is None:
                with pytest.raises(OSError, match="No such device") as refused:
                    seek(base + at)
                assert refused.value.errno == errno.ENXIO
            else:
                assert seek(base + at) == expected
    data.clear()
    assert space.pages_left == (1 << 30) // PAGE


@given(st.integers(0, 12), st.sets(st.integers(0, 15)), st.integers(0, 8 * PAGE), st.integers(1, 8 * PAGE))
def test_a_write_takes_what_there_is_room_for(limit: int, reserved: set[int], offset: int, size: int) -> None:
    space = Space(limit * PAGE, 1)
    data = SparseData(space)
    kept = set()
    for page in sorted(reserved)[:limit]:
        data.reserve(page * PAGE, (page + 1) * PAGE)
        kept.add(page)
    left = limit - len(kept)
    fit = 0
    for page in range(offset // PAGE, -(-(offset + size) // PAGE)):
        if page not in kept:
            if left == 0:
                break
            left -= 1
        fit = min((page + 1) * PAGE, offset + size) - offset
    if fit == 0:
        with pytest.raises(OSError, match="No space") as refused:
            data.write(offset, Source(bytes(size)))
        assert refused.value.errno == errno.ENOSPC
        assert data.size == 0
    else:
        assert data.write(offset, Source(b"x" * size)) == fit
        assert data.size == offset + fit
        assert read(data, offset, size) == b"x" * fit
    assert space.pages_left == left


def test_reserving_is_all_or_nothing() -> None:
    space = Space(3 * PAGE, 1)
    data = SparseData(space)
    data.reserve(PAGE, 2 * PAGE)
    with pytest.raises(OSError, match="No space"):
        data.reserve(0, 4 * PAGE)
    assert (data.pages, space.pages_left) == (1, 2)
    data.reserve(0, 3 * PAGE)
    assert (data.pages, space.pages_left) == (3, 0)


RANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 10)), max_size=20)


@given(RANGES)
def test_ranges_are_a_set(steps: list[tuple[bool, int, int]]) -> None:
    ranges = Ranges()
    model: set[int] = set()
    for adds, begin, size in steps:
        numbers = set(range(begin, begin + size))
        if adds:
            ranges.add(begin, begin + size)
            model |= numbers
        else:
            assert ranges.remove(begin, begin + size) == len(model & numbers)
            model -= numbers
        assert bool(ranges) == bool(model)
        assert {number for number in range(45) if ranges.count(number, number + 1)} == model
        assert ranges.count(0, 45) == len(model)


def test_what_the_machine_has_no_memory_for_is_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(size: int) -> bytearray:
        if size > PAGE:
            raise MemoryError
        return bytearray(size)

    space = Space(END, 1)
    data = SparseData(space)
    data.store(0, b"first")
    with monkeypatch.context() as patch:
        patch.setattr("vhostfs.backends.memory.data.bytearray", scarce, raising=False)
        with pytest.raises(OSError, match="No space left"):
            data.store(2 * PAGE, b"x" * (2 * PAGE))
    assert (data.pages, space.pages_left) == (1, PAGES - 1)
    assert data.store(2 * PAGE, b"x" * (2 * PAGE)) == 2 * PAGE
    assert read(data, 0, END) == b"first".ljust(2 * PAGE, b"\0") + b"x" * (2 * PAGE)
