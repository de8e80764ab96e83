"""Reads of objects: the right bytes, at a known number of requests and bytes, within a bound of memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3, fake_s3
from tests.unit.s3.conftest import MakeClient, store_of
from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.caching.disk_files import BLOCK
from vhostfs.backends.s3.caching.memory import SLAB, Memory
from vhostfs.backends.s3.reading import PART_MOST, WINDOW_FREE, WINDOW_MOST, Reader, Target, Window
from vhostfs.backends.s3.store import ConditionError, RangeError, StoreError

pytestmark = pytest.mark.anyio

MIB = 1 << 20
DATA = random.Random(1).randbytes(6 * MIB + 4711)

type MakeReader = Callable[..., Reader]


@pytest.fixture
async def make_reader(server: FakeS3, make_client: MakeClient) -> AsyncIterator[MakeReader]:
    """Return what makes readers of an object of DATA, which share one memory."""
    etag = server.bucket.put("big", DATA, {}).etag
    caches: list[BlockCache] = []
    made: list[Reader] = []

    def make(memory: int = 64 * MIB) -> Reader:
        if not caches:
            caches.append(BlockCache(make_client(), Memory(memory)))
        made.append(Reader(caches[0], "big", etag, len(DATA)))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


async def _read(reader: Reader, offset: int, size: int) -> bytes:
    memory = bytearray(size)
    await reader.read(offset, Target([memoryview(memory)]), 0, size)
    return bytes(memory)


async def test_scattered_reads_cost_the_blocks_that_they_touch(
    make_reader: MakeReader, server: FakeS3
) -> None:
    """Once, whoever reads them."""
    reader, other = make_reader(), make_reader()
    offsets = [(number * 1_654_784) % (6 * MIB) // 4096 * 4096 for number in range(1, 30)]
    for offset in offsets:
        assert await _read(reader, offset, 4096) == DATA[offset : offset + 4096]
    assert server.sent == len({offset // BLOCK for offset in offsets}) * BLOCK
    server.requests.clear()
    for offset in offsets:
        assert await _read(other, offset, 4096) == DATA[offset : offset + 4096]
    assert not server.requests


async def test_a_block_that_is_on_its_way_is_not_asked_for_again(
    make_reader: MakeReader, server: FakeS3
) -> None:
    """However many want it."""
    reader, other = make_reader(), make_reader()
    server.latency = 0.01
    at = 3 * MIB
    found = await asyncio.gather(
        *(_read(each, at + number * 1009, 1000) for number in range(20) for each in (reader, other))
    )
    assert found == [DATA[at + n * 1009 : at + n * 1009 + 1000] for n in range(20) for _ in range(2)]
    assert server.requests == {"GetObject": 1}


async def test_blocks_side_by_side_are_one_request(make_reader: MakeReader, server: FakeS3) -> None:
    """And those between which something is known already are asked for at once."""
    reader = make_reader()
    at = 2 * MIB
    assert await _read(reader, at + 2 * BLOCK, 10) == DATA[at + 2 * BLOCK :][:10]
    server.requests.clear()
    assert await _read(reader, at + 10, 5 * BLOCK - 10) == DATA[at + 10 : at + 5 * BLOCK]
    assert server.requests == {"GetObject": 2}
    assert server.sent == 5 * BLOCK


async def test_a_large_read_that_goes_on_from_nothing_is_not_kept(
    make_reader: MakeReader, server: FakeS3
) -> None:
    """It goes to the guest's memory in one request."""
    reader = make_reader()
    assert await _read(reader, 2 * MIB, MIB) == DATA[2 * MIB : 3 * MIB]
    assert server.requests == {"GetObject": 1}
    assert await _read(reader, 4 * MIB + 5, MIB) == DATA[4 * MIB + 5 : 5 * MIB + 5]
    assert server.sent <= 2 * MIB + 2 * BLOCK


async def test_reading_on_fetches_ahead_and_everything_once(make_reader: MakeReader, server: FakeS3) -> None:
    """In few requests, of which some run at once."""
    reader = make_reader()
    server.latency = 0.005
    step = 128 << 10
    for offset in range(0, len(DATA), step):
        end = min(offset + step, len(DATA))
        assert await _read(reader, offset, end - offset) == DATA[offset:end]
    assert server.sent == len(DATA)
    assert server.requests["GetObject"] <= 8
    assert server.busiest >= 2


@pytest.mark.parametrize("size", [4096, 5000, BLOCK, MIB])
async def test_reading_backward_fetches_what_lies_before_and_everything_once(
    make_reader: MakeReader, server: FakeS3, size: int
) -> None:
    """Within a window that grows: who ends early has fetched little in vain."""
    reader, end = make_reader(), len(DATA)
    first_of_all = end - MIB // 4
    while end > first_of_all - size:
        end -= size
        assert await _read(reader, end, size) == DATA[end : end + size]
    assert server.sent <= max(2 * MIB, 4 * size)
    while end > 0:
        size = min(size, end)
        end -= size
        assert await _read(reader, end, size) == DATA[end : end + size]
    assert server.requests["GetObject"] <= 24
    assert server.sent <= len(DATA) + 2 * BLOCK


async def test_pages_one_before_the_other_by_chance_fetch_no_more(
    make_reader: MakeReader, server: FakeS3
) -> None:
    reader = make_reader()
    for at in range(2 * MIB, 6 * MIB, MIB):
        for offset in (at, at - 4096, at - 4096 + 7 * BLOCK):
            assert await _read(reader, offset, 4096) == DATA[offset : offset + 4096]
    assert server.sent == 3 * 4 * BLOCK


async def test_several_streams_of_one_reader_are_told_apart(make_reader: MakeReader, server: FakeS3) -> None:
    """Each fetches ahead."""
    reader = make_reader()
    step = 64 << 10
    for offset in range(0, 2 * MIB, step):
        for begin in (0, 2 * MIB, 4 * MIB):
            at = begin + offset
            assert await _read(reader, at, step) == DATA[at : at + step]
    assert server.sent <= len(DATA)
    assert server.requests["GetObject"] <= 20


@pytest.mark.parametrize(
    "offsets",
    [range(0, 6 * MIB, 256 << 10), range(0, 6 * MIB, 96 << 10), range(6 * MIB, 0, -(256 << 10))],
    ids=["strides", "shorter strides", "backwards"],
)
async def test_reads_that_leave_most_unread_do_not_fetch_it(
    make_reader: MakeReader, server: FakeS3, offsets: range
) -> None:
    """Whichever way they go."""
    reader = make_reader()
    for offset in offsets:
        assert await _read(reader, offset, 4096) == DATA[offset : offset + 4096]
    assert server.sent <= len(offsets) * BLOCK + 2 * MIB


async def test_who_ends_early_has_fetched_little_in_vain(make_reader: MakeReader, server: FakeS3) -> None:
    """A window that nobody waited for does not grow."""
    reader = make_reader()
    for offset in range(0, 512 << 10, 64 << 10):
        await _read(reader, offset, 64 << 10)
    reader.close()
    make_reader()
    assert server.sent <= 5 * MIB


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    memory=st.sampled_from([MIB, 2 * MIB, 5 * MIB]),
    reads=st.lists(
        st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, MIB), st.booleans()), min_size=1, max_size=30
    ),
)
def test_any_reads_get_the_right_bytes_within_the_memory(
    memory: int, reads: list[tuple[int, int, bool]]
) -> None:
    """At once or one after another, on end or not; afterwards nothing is in use."""

    async def run() -> None:
        async with fake_s3() as server:
            etag = server.bucket.put("big", DATA, {}).etag
            store = store_of(server)
            cache = BlockCache(store, Memory(memory))
            reader = Reader(cache, "big", etag, len(DATA))

            async def check(offset: int, size: int) -> None:
                size = min(size, len(DATA) - offset)
                assert await _read(reader, offset, size) == DATA[offset : offset + size]
                assert cache.memory.used <= memory

            waiting: list[asyncio.Task[None]] = []
            at = 0
            for offset, size, on in reads:
                begin = at if on and at < len(DATA) else offset
                waiting.append(asyncio.create_task(check(begin, size)))
                at = begin + size
                if offset % 3:
                    await waiting[-1]
            await asyncio.gather(*waiting)
            reader.close()
            await cache.end()
            store.close()
            assert cache.status().versions == 0
            assert cache.memory.used == 0

    asyncio.run(run())


async def test_memory_is_bounded_and_goes_back(make_reader: MakeReader) -> None:
    """What was passed by makes room first, and a cache that is cleared has none."""
    reader = make_reader(memory=2 * MIB)
    for offset in range(0, len(DATA) - 4096, 100_000):
        assert await _read(reader, offset, 4096) == DATA[offset : offset + 4096]
        assert reader.cache.memory.used <= 2 * MIB
    assert reader.cache.memory.evicted
    reader.cache.clear()
    assert reader.cache.memory.used == 0
    assert await _read(reader, 5, 10) == DATA[5:15]


@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.CUT, Kind.DROP, Kind.WHOLE, Kind.LONGER])
async def test_what_fails_for_good_is_an_error_and_then_forgotten(
    make_reader: MakeReader, server: FakeS3, kind: Kind
) -> None:
    """Whoever waits is told; the next one asks again."""
    reader = make_reader(memory=MIB)
    server.fail(kind, "GetObject", status=403, code="AccessDenied", times=100)
    at = 3 * MIB
    found = await asyncio.gather(*(_read(reader, at, 10) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, StoreError) or each == DATA[at : at + 10] for each in found)
    server.faults.clear()
    assert await _read(reader, at, 10) == DATA[at : at + 10]


async def test_another_version_is_refused(make_reader: MakeReader, server: FakeS3) -> None:
    """By the server's own word, or because it tells another ETag."""
    reader = make_reader()
    assert await _read(reader, 0, 10) == DATA[:10]
    server.bucket.put("big", bytes(len(DATA)), {})
    with pytest.raises(ConditionError):
        await _read(reader, 4 * MIB, 10)
    server.heeds_conditions = False
    with pytest.raises(ConditionError):
        await _read(reader, 4 * MIB, 10)
    with pytest.raises(ConditionError):
        await _read(reader, 4 * MIB, MIB)
    assert await _read(reader, 0, 10) == DATA[:10]


async def test_an_object_that_is_shorter_than_it_was_said_to_be_is_an_error(
    server: FakeS3, make_client: MakeClient
) -> None:
    """Nothing is made up."""
    etag = server.bucket.put("short", b"abc", {}).etag
    reader = Reader(BlockCache(make_client(), Memory(MIB)), "short", etag, 10)
    with pytest.raises(RangeError):
        await _read(reader, 0, 10)
    reader.close()


async def test_the_smallest_objects_fill_no_more_than_the_memory(
    server: FakeS3, make_client: MakeClient
) -> None:
    """Many lie in one slab."""
    cache = BlockCache(make_client(), Memory(SLAB))
    for number in range(300):
        etag = server.bucket.put(f"{number}", b"x" * number, {}).etag
        reader = Reader(cache, f"{number}", etag, number)
        if number:
            assert await _read(reader, 0, number) == b"x" * number
        reader.close()
    assert cache.memory.used == SLAB
    assert cache.status().versions <= 256


async def test_all_mounts_of_a_daemon_share_one_memory(server: FakeS3, make_client: MakeClient) -> None:
    """The larger size counts; what one mount gives up, the others keep."""
    memory = Memory.shared(MIB)
    assert Memory.shared(4 * MIB) is memory
    assert memory.size >= 4 * MIB
    one, two = BlockCache(make_client(), memory), BlockCache(make_client(), memory)
    etag = server.bucket.put("file", b"data", {}).etag
    for cache in (one, two):
        reader = Reader(cache, "file", etag, 4)
        assert await _read(reader, 0, 4) == b"data"
        reader.close()
    used = memory.used
    assert server.requests == {"GetObject": 2}
    await one.end()
    assert memory.used == used
    reader = Reader(two, "file", etag, 4)
    assert await _read(reader, 0, 4) == b"data"
    reader.close()
    assert server.requests == {"GetObject": 2}
    await two.end()
    assert memory.used == used - SLAB


def _window_after(rate: float, latency: float, bandwidth: float, seconds: float) -> int:
    """Return the window of a stream that reads at most at a rate, of a store of a latency and a bandwidth."""
    window = Window()
    at, now = 0.0, 0.0
    while now < seconds:
        part = latency + PART_MOST / bandwidth
        window.waits(int(at), int(at), now)
        now += part
        window.took(PART_MOST, part)
        at += min(window.size, rate * part)
    return window.size


async def test_a_window_grows_by_the_rate_and_by_how_long_parts_take() -> None:
    """A fast store that is far away needs the most; one that gives no more anyway is not asked for more."""
    mib = float(MIB)
    assert _window_after(100 * mib, 0.01, 90 * mib, 20.0) == WINDOW_FREE
    assert _window_after(600 * mib, 0.015, 90 * mib, 20.0) in range(WINDOW_FREE, 90 * MIB)
    assert _window_after(2000 * mib, 0.1, 90 * mib, 20.0) == WINDOW_MOST
