"""Small files in the order of their listing are there before anybody asks; pages stay while they are true."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.filesystem import OpenReplyFlags
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

FILES = 200


@pytest.fixture
async def client(make_filesystem: MakeFilesystem, server: FakeS3) -> AsyncIterator[Client]:
    """Return a kernel that has a bucket of small files mounted."""
    for number in range(FILES):
        server.bucket.put(f"d/{number:03}", _data(number), {"x-amz-meta-uid": str(number)})
    async with mount(make_filesystem()) as client:
        yield client


def _data(number: int) -> bytes:
    return f"{number}".encode() * 100


async def _read(client: Client, number: int) -> None:
    assert (await client.stat(f"/d/{number:03}")).uid == number
    assert await client.read_bytes(f"/d/{number:03}") == _data(number)


async def test_files_that_are_read_in_order_are_one_request_each_and_wait_for_none(
    client: Client, server: FakeS3
) -> None:
    """Metadata and bytes come together, many at once."""
    await client.listdir("/d")
    server.requests.clear()
    server.latency = 0.001
    for number in range(FILES):
        await _read(client, number)
    assert FILES <= server.requests["GetObject"] <= FILES * 1.1  # a slow one may be made twice
    assert server.requests["HeadObject"] <= 20  # this kernel reads what is there and lets nobody else run
    assert server.busiest >= 16


async def test_threads_that_overtake_each_other_read_in_order_too(client: Client, server: FakeS3) -> None:
    """However they share the work."""
    await client.listdir("/d")
    server.requests.clear()
    waiting = iter(range(FILES))

    async def work() -> None:
        for number in waiting:
            await _read(client, number)

    await asyncio.gather(*(work() for _ in range(16)))
    assert FILES <= server.requests["GetObject"] <= FILES * 1.1  # a slow one may be made twice
    assert server.requests["HeadObject"] <= FILES // 2


async def test_who_reads_here_and_there_fetches_nothing_else(client: Client, server: FakeS3) -> None:
    """In a directory that is larger than what counts as near."""
    await client.listdir("/d")
    server.requests.clear()
    for number in (150, 10, 90, 190, 50, 130, 0):
        await _read(client, number)
    assert server.requests["GetObject"] == 7


async def test_nothing_is_fetched_that_no_listing_has_told(client: Client, server: FakeS3) -> None:
    """A directory that was not listed has no order."""
    for number in range(4):
        await _read(client, number)
    assert server.requests["GetObject"] == 4


async def test_order_costs_no_more_than_a_part_of_the_memory(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """Also where files are many and not that small."""
    for number in range(100):
        server.bucket.put(f"{number:03}", bytes(200_000), {})
    async with mount(make_filesystem(memory=8 << 20)) as client:
        await client.listdir("/")
        for number in range(3):
            assert len(await client.read_bytes(f"/{number:03}")) == 200_000
        await client.read_bytes("/003")
    assert server.requests["GetObject"] <= 4 * 3 + 8


async def test_a_sibling_that_changed_meanwhile_is_read_as_it_is(client: Client, server: FakeS3) -> None:
    """What was fetched of it before is another version."""
    await client.listdir("/d")
    for number in range(3):
        await _read(client, number)
    server.bucket.put("d/150", b"new", {})
    server.bucket.put("d/010", b"newer", {})
    for number in range(4, 10):
        await _read(client, number)
    assert await client.read_bytes("/d/010") in {b"newer", _data(10)}  # believed as long as the listing is
    for number in range(140, 150):
        await _read(client, number)
    assert await client.read_bytes("/d/150") == b"new"


async def test_failures_of_what_nobody_asked_for_are_nobodys(client: Client, server: FakeS3) -> None:
    """The file is asked for again when it is read."""
    await client.listdir("/d")
    for number in range(2):
        await _read(client, number)
    server.latency = 0.01
    await client.stat("/d/002")
    server.fail(Kind.STATUS, "GetObject", status=404, code="NoSuchKey", times=1000)
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await _read(client, 2)
    server.faults.clear()
    for number in range(3, 60):
        await _read(client, number)


# ---- The kernel's pages ----


async def _opened(client: Client, flags: int = os.O_RDONLY) -> bool:
    """Open and close a file; return whether the kernel is told to keep its pages."""
    node = (await client.lookup(client.root, "file")).nodeid
    opened = await client.open_node(node, flags)
    await client.flush(node, opened.fh)
    await client.release(node, opened.fh)
    return bool(opened.open_flags & OpenReplyFlags.KEEP_CACHE)


async def test_pages_stay_while_the_object_is_the_same(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """And are dropped with it."""
    server.bucket.put("file", b"one", {})
    async with mount(make_filesystem(seconds=0.0)) as client:
        assert not await _opened(client)
        assert await _opened(client)
        assert await _opened(client)
        server.bucket.put("file", b"two", {})
        assert not await _opened(client)
        assert await _opened(client)


async def test_pages_that_were_written_are_dropped_once(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """Whatever became of the writing."""
    server.bucket.put("file", b"one", {})
    async with mount(make_filesystem()) as client:
        assert not await _opened(client)
        await client.write_bytes("/file", b"two")
        assert not await _opened(client)
        assert await _opened(client)
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node, os.O_RDWR)).fh
        await client.write(node, handle, 0, b"lost")
        server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied", times=9)
        with pytest.raises(OSError, match=rf"^\[Errno {errno.EACCES}\]"):
            await client.flush(node, handle)
        await client.release(node, handle)
        assert not await _opened(client)


async def test_pages_of_two_versions_are_never_kept_together(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """While one who reads an older version is there, nothing is kept; who keeps pages gets no other's."""
    server.bucket.put("file", b"a" * 100_000, {})
    async with mount(make_filesystem(seconds=0.0)) as client:
        node = (await client.lookup(client.root, "file")).nodeid
        old = (await client.open_node(node)).fh
        assert await _opened(client)
        server.bucket.put("file", b"b" * 100_000, {})
        assert not await _opened(client)
        assert not await _opened(client)
        await client.release(node, old)
        assert not await _opened(client)
        keeping = await client.open_node(node)
        assert keeping.open_flags & OpenReplyFlags.KEEP_CACHE
        server.bucket.put("file", b"c" * 100_000, {})
        with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
            await client.read(node, keeping.fh, 0, 10)
        await client.release(node, keeping.fh)
        assert await client.read_bytes("/file") == b"c" * 100_000


async def test_a_sibling_that_is_written_while_it_is_fetched_stays_what_was_written(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """What the request for the old object tells of it comes too late."""
    for number in range(10):
        server.bucket.put(f"{number}", b"old", {"x-amz-meta-uid": "1"})
    async with mount(make_filesystem()) as client:
        await client.listdir("/")
        for number in range(10):
            await client.stat(f"/{number}")
        await client.read_bytes("/0")
        await client.read_bytes("/1")
        server.fail(Kind.SLOW, "GetObject", seconds=0.3, times=8)
        await client.read_bytes("/1")
        await client.write_bytes("/5", b"newer")
        await client.chown("/6", 7, 7)
        assert await client.read_bytes("/9") == b"old"  # the last one that was asked for
        assert (await client.stat("/5")).size == 5
        assert await client.read_bytes("/5") == b"newer"
        assert (await client.stat("/6")).uid == 7
    assert server.bucket.objects["6"].headers["x-amz-meta-uid"] == "7"


async def test_as_much_is_ahead_as_was_read_in_order(client: Client, server: FakeS3) -> None:
    """At first little: who stops soon has fetched little for nothing."""
    await client.listdir("/d")
    server.requests.clear()
    for number in range(3):
        await _read(client, number)
    while server.requests["GetObject"] < 3 + 32:
        await server.changed()
    for number in range(3, 100):
        await _read(client, number)
    while server.requests["GetObject"] < 150:
        await server.changed()
