"""A directory is listed once for all who look at it, and what changes meanwhile is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


@pytest.fixture
async def client(make_filesystem: MakeFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has the bucket mounted."""
    async with mount(make_filesystem()) as client:
        yield client


def _fill(server: FakeS3, count: int) -> list[str]:
    names = [f"{number:05}" for number in range(count)]
    for name in names:
        server.bucket.put(f"d/{name}", b"x", {})
    return names


async def test_two_who_list_a_directory_at_once_share_one_listing(client: Client, server: FakeS3) -> None:
    """Each sees all of it."""
    names = _fill(server, 2500)
    await client.stat("/d")
    server.requests.clear()
    server.latency = 0.001
    assert await asyncio.gather(*(client.listdir("/d") for _ in range(3))) == [names] * 3
    assert server.requests == {"ListObjectsV2": 3}


async def test_what_is_removed_while_a_directory_is_listed_does_not_come_back(
    client: Client, server: FakeS3
) -> None:
    """Though the store has told of it before."""
    names = _fill(server, 2500)
    await client.stat("/d")
    await client.stat("/d/01500")
    directory = (await client.lookup(client.root, "d")).nodeid
    handle = (await client.opendir(directory)).fh
    server.latency = 0.02
    first = asyncio.ensure_future(client.readdir(directory, handle, 0, size=4096))
    await asyncio.gather(first, client.unlink("/d/01500"), client.write_bytes("/d/new", b""))
    await client.releasedir(directory, handle)
    expected = sorted({*names, "new"} - {"01500"})
    assert sorted(await client.listdir("/d")) == expected
    assert not await client.exists("/d/01500")


async def test_a_listing_that_nobody_waits_for_ends(client: Client, server: FakeS3) -> None:
    """After the pages that it is ahead."""
    _fill(server, 9000)
    await client.stat("/d")
    server.requests.clear()
    directory = (await client.lookup(client.root, "d")).nodeid
    handle = (await client.opendir(directory)).fh
    assert await client.readdir(directory, handle, 0, size=4096)
    await client.releasedir(directory, handle)
    server.latency = 0.001
    await client.write_bytes("/other", b"")
    assert server.requests["ListObjectsV2"] <= 7
    assert len(await client.listdir("/d")) == 9000


async def test_a_listing_that_fails_is_told_and_begun_anew(client: Client, server: FakeS3) -> None:
    """What was seen of it before stays."""
    names = _fill(server, 1500)
    await client.stat("/d")
    await client.listdir("/")
    server.fail(Kind.STATUS, "ListObjectsV2", status=400, code="InvalidRequest")
    with pytest.raises(OSError, match="Errno"):
        await client.listdir("/d")
    assert await client.listdir("/d") == names


async def test_a_directory_lists_itself_and_its_parent(client: Client, server: FakeS3) -> None:
    """As every directory does; FUSE adds neither."""
    _fill(server, 1)
    directory = await client.lookup(client.root, "d")
    handle = (await client.opendir(directory.nodeid)).fh
    listed = [(each.name, each.ino) for each in await client.readdir(directory.nodeid, handle)]
    await client.releasedir(directory.nodeid, handle)
    assert listed[:2] == [(b".", directory.nodeid), (b"..", client.root)]


async def test_what_has_gone_meanwhile_is_not_listed(client: Client, server: FakeS3) -> None:
    names = _fill(server, 300)
    assert await client.listdir("/d") == names
    directory = (await client.lookup(client.root, "d")).nodeid
    handle = (await client.opendir(directory)).fh
    first = await client.readdir(directory, handle, 0, size=1024)
    await client.unlink(f"/d/{names[200]}")
    await client.rename(f"/d/{names[201]}", "/elsewhere")
    seen, offset = [each.name.decode() for each in first], first[-1].off
    while page := await client.readdir(directory, handle, offset, size=1024):
        seen += [each.name.decode() for each in page]
        offset = page[-1].off
    await client.releasedir(directory, handle)
    assert seen[2:] == names[:200] + names[202:]
