"""The disk cache: there after a restart, within its bound, and never believed unchecked."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient
from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.caching.disk import DiskCache, Shelf
from vhostfs.backends.s3.caching.disk_files import BLOCK, BLOCKS, PAGE, is_ours
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.reading import Reader, Target

pytestmark = pytest.mark.anyio

MIB = 1 << 20
DATA = random.Random(2).randbytes(9 * MIB + 4711)

type Run = Callable[..., AbstractAsyncContextManager[BlockCache]]


@pytest.fixture
def run(make_client: MakeClient, tmp_path: Path) -> Run:
    """Return what runs a daemon: its memory is new, and its disk cache is in the same directory."""

    @asynccontextmanager
    async def run(size: int = 64 * MIB, store: str = "store") -> AsyncIterator[BlockCache]:
        disk = DiskCache.shared(tmp_path / "cache", size)
        cache = BlockCache(make_client(), Memory(64 * MIB), Shelf(disk, store))
        cache.begin()
        await disk.ready()
        try:
            yield cache
        finally:
            await cache.end()
            cache.close()

    return run


async def _read(cache: BlockCache, key: str, etag: str, size: int, offset: int, count: int) -> bytes:
    reader = Reader(cache, key, etag, size)
    memory = bytearray(count)
    try:
        await reader.read(offset, Target([memoryview(memory)]), 0, count)
    finally:
        reader.close()
    return bytes(memory)


async def _read_all(cache: BlockCache, key: str, etag: str, data: bytes) -> None:
    step = 256 << 10
    for offset in range(0, len(data), step):
        count = min(step, len(data) - offset)
        assert await _read(cache, key, etag, len(data), offset, count) == data[offset : offset + count]


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("cache/*"))


def _taken(path: Path) -> int:
    """Return what the files take of the disk, each with what the file system knows of it."""
    return sum(file.stat().st_blocks * 512 + PAGE for file in _files(path))


async def test_what_was_read_is_there_after_a_restart(server: FakeS3, run: Run, tmp_path: Path) -> None:
    """Without a request."""
    etag = server.bucket.put("big", DATA, {}).etag
    async with run() as cache:
        await _read_all(cache, "big", etag, DATA)
        await cache.end()
        assert cache.counters.disk_written == -(-len(DATA) // BLOCK)
    assert len(_files(tmp_path)) == 2
    server.requests.clear()
    async with run() as cache:
        await _read_all(cache, "big", etag, DATA)
        assert cache.counters.disk_hits == -(-len(DATA) // BLOCK)
    assert not server.requests


async def test_another_version_or_store_is_another_object(server: FakeS3, run: Run) -> None:
    """Although the key is the same."""
    etag = server.bucket.put("file", b"old", {}).etag
    async with run() as cache:
        assert await _read(cache, "file", etag, 3, 0, 3) == b"old"
    new = server.bucket.put("file", b"new", {}).etag
    async with run() as cache:
        assert await _read(cache, "file", new, 3, 0, 3) == b"new"
    server.bucket.put("file", b"its", {}, etag=new)
    async with run(store="other") as cache:
        assert await _read(cache, "file", new, 3, 0, 3) == b"its"
    async with run() as cache:
        assert await _read(cache, "file", new, 3, 0, 3) == b"new"
        assert await _read(cache, "file", etag, 3, 0, 3) == b"old"


async def test_a_part_of_an_object_is_enough(server: FakeS3, run: Run) -> None:
    """What is missing is asked for, what is there is not."""
    etag = server.bucket.put("big", DATA, {}).etag
    at = BLOCKS * BLOCK - BLOCK  # the last block of one file of the cache, and the first of the next
    async with run() as cache:
        assert await _read(cache, "big", etag, len(DATA), at, 2 * BLOCK) == DATA[at : at + 2 * BLOCK]
    server.sent = 0
    async with run() as cache:
        begin = at - 2 * BLOCK
        assert await _read(cache, "big", etag, len(DATA), begin, 6 * BLOCK) == DATA[begin : begin + 6 * BLOCK]
        assert cache.counters.disk_hits == 2
    assert server.sent == 4 * BLOCK


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x40]))


async def test_a_flipped_bit_is_noticed_wherever_it_is(
    server: FakeS3, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is removed, with a sentence, and the object asked for again."""
    data = DATA[: 3 * BLOCK + 100]
    etag = server.bucket.put("file", data, {}).etag
    places = [
        0,
        9,
        13,
        20,
        30,
        40,
        50,
        60,
        PAGE // 2 + 5,
        PAGE,
        PAGE + BLOCK,
        PAGE + 3 * BLOCK + 50,
    ]
    for place in places:
        async with run() as cache:
            await _read_all(cache, "file", etag, data)
        [file] = _files(tmp_path)
        _flip(file, place)
        caplog.clear()
        async with run() as cache:
            await _read_all(cache, "file", etag, data)
        assert "removed" in caplog.text, place


async def test_a_file_that_was_cut_or_replaced_is_noticed(server: FakeS3, run: Run, tmp_path: Path) -> None:
    """Whatever is there in its place."""
    data = DATA[: 3 * BLOCK + 100]
    etag = server.bucket.put("file", data, {}).etag
    other = server.bucket.put("other", data[::-1], {}).etag
    async with run() as cache:
        await _read_all(cache, "file", etag, data)
        await _read_all(cache, "other", other, data[::-1])
    one, two = _files(tmp_path)

    def make_link() -> None:
        one.unlink()
        one.symlink_to(two)

    def make_directory() -> None:
        one.unlink()
        one.mkdir()

    for spoil in (
        lambda: os.truncate(one, PAGE + BLOCK),
        lambda: os.truncate(one, 100),
        lambda: os.truncate(one, 0),
        lambda: one.write_bytes(two.read_bytes()),
        lambda: two.rename(one),
        make_link,
        make_directory,
    ):
        spoil()
        async with run() as cache:
            await _read_all(cache, "file", etag, data)
            await _read_all(cache, "other", other, data[::-1])
            if one.is_dir():
                one.rmdir()
        async with run() as cache:
            await _read_all(cache, "file", etag, data)
            await _read_all(cache, "other", other, data[::-1])


async def test_a_file_that_is_spoilt_while_it_is_used_is_noticed(
    server: FakeS3, run: Run, tmp_path: Path
) -> None:
    """And one that is removed."""
    data = DATA[: 4 * BLOCK]
    etag = server.bucket.put("file", data, {}).etag
    async with run() as cache:
        await _read_all(cache, "file", etag, data)
    async with run() as cache:
        assert await _read(cache, "file", etag, len(data), 0, 10) == data[:10]
        _flip(_files(tmp_path)[0], PAGE + BLOCK + 7)
        assert await _read(cache, "file", etag, len(data), BLOCK, 10) == data[BLOCK : BLOCK + 10]
        assert cache.counters.damaged == 1
    async with run() as cache:
        _files(tmp_path)[0].unlink()
        assert await _read(cache, "file", etag, len(data), BLOCK, 10) == data[BLOCK : BLOCK + 10]


async def test_foreign_files_are_left_alone(server: FakeS3, run: Run, tmp_path: Path) -> None:
    """They are no business of the cache's, even when it is cleared."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "notes").write_text("mine")
    etag = server.bucket.put("file", b"data", {}).etag
    async with run(size=MIB) as cache:
        assert await _read(cache, "file", etag, 4, 0, 4) == b"data"
    async with run() as cache:
        cache.clear()
    assert [file.name for file in _files(tmp_path)] == ["notes"]


async def test_the_bound_is_kept_at_any_moment(
    server: FakeS3, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made before anything is written; what was used longest ago goes first."""
    size = 2 * MIB
    seen = []
    pwritev = os.pwritev

    def watched(*arguments: object) -> int:
        done = pwritev(*arguments)  # type: ignore[arg-type]
        seen.append(_taken(tmp_path))
        return done

    monkeypatch.setattr(os, "pwritev", watched)
    rng = random.Random(3)
    etags = {}
    for number in range(60):
        data = DATA[: rng.randrange(1, 6 * BLOCK)]
        etags[f"{number}"] = (server.bucket.put(f"{number}", data, {}).etag, data)
    for _ in range(2):
        async with run(size=size) as cache:
            for key, (etag, data) in etags.items():
                await _read_all(cache, key, etag, data)
                await cache.end()
                await _read_all(cache, "0", *etags["0"])
    assert seen
    assert max(seen) <= size
    server.requests.clear()
    async with run(size=size) as cache:
        etag, data = etags["0"]
        await _read_all(cache, "0", etag, data)
        assert not server.requests
    async with run(size=MIB // 2):
        assert _taken(tmp_path) <= MIB // 2


async def test_an_object_larger_than_the_bound_is_kept_in_part(
    server: FakeS3, run: Run, tmp_path: Path
) -> None:
    """By whole files of the cache, none of which is too large."""
    etag = server.bucket.put("big", DATA, {}).etag
    async with run(size=4 * MIB) as cache:
        await _read_all(cache, "big", etag, DATA)
    assert 0 < _taken(tmp_path) <= 4 * MIB


async def test_some_of_the_disk_is_left_to_others(
    server: FakeS3, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written to a disk that is nearly full."""
    etag = server.bucket.put("big", DATA, {}).etag
    fstatvfs = os.fstatvfs

    def full(descriptor: int) -> os.statvfs_result:
        found = list(fstatvfs(descriptor))
        found[4] = 100  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", full)
    async with run() as cache:
        await _read_all(cache, "big", etag, DATA)
        await cache.end()
        assert cache.counters.disk_skipped
    assert not _files(tmp_path)


async def test_a_disk_that_fails_is_told_once_and_read_past(
    server: FakeS3,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who reads notices nothing."""

    def broken(*_arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwritev", broken)
    etag = server.bucket.put("big", DATA, {}).etag
    async with run() as cache:
        await _read_all(cache, "big", etag, DATA)
    assert caplog.text.count("Input/output error") == 1
    assert not _files(tmp_path)


async def test_two_mounts_of_a_daemon_share_a_directory_and_two_daemons_do_not(
    server: FakeS3, run: Run, tmp_path: Path
) -> None:
    """The second daemon reads without it."""
    etag = server.bucket.put("file", b"data", {}).etag
    async with run() as one, run() as two:
        assert one.disk is two.disk
        assert await _read(one, "file", etag, 4, 0, 4) == b"data"
        await one.end()
        server.requests.clear()
        assert await _read(two, "file", etag, 4, 0, 4) == b"data"
        assert not server.requests
        foreign = DiskCache(os.open(tmp_path / "cache", os.O_RDONLY), MIB)
        foreign.begin()
        assert foreign.status().files == 0


async def test_names_are_told_from_others() -> None:
    """What the cache gives has 48 digits and a number."""
    assert is_ours(f"{'a' * 48}-0")
    assert not is_ours(f"{'a' * 48}-")
    assert not is_ours(f"x{'a' * 47}-0")
    assert not is_ours("lost+found")


async def test_a_key_that_no_header_has_room_for_is_not_kept(
    server: FakeS3, run: Run, tmp_path: Path
) -> None:
    """It is read all the same."""
    key = "k" * 1000
    etag = server.bucket.put(key, b"data", {}).etag
    async with run(store="s" * 1500) as cache:
        assert await _read(cache, key, etag, 4, 0, 4) == b"data"
    assert not _files(tmp_path)
