"""A directory is listed once for all who look at it, and what changes meanwhile is seen."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import AsyncIterator

import pytest

from tests.fake_s3.bucket import Bucket, StoredObject
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


class Hesitant(Bucket):
    """A bucket whose listings begin with pages of nothing, as those of S3 may where much was deleted."""

    def page(
        self, prefix: str, delimiter: str, after: str, most: int, *, goes_on: bool = True
    ) -> tuple[list[tuple[str, StoredObject]], list[str], str | None]:
        """Return a page."""
        if len(after) < 3:
            return [], [], f"{after} "
        return super().page(prefix, delimiter, after.strip(), most, goes_on=goes_on)


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


async def test_a_page_of_nothing_is_not_the_end(client: Client, server: FakeS3) -> None:
    """A directory is there if a later page says so, and it is not empty."""
    server.bucket = Hesitant()
    server.bucket.put("d/sub/file", b"x", {})
    server.bucket.put("d/sub/", b"", {})
    assert stat.S_ISDIR((await client.stat("/d/sub")).mode)
    assert await client.listdir("/d") == ["sub"]
    with pytest.raises(OSError, match="Errno") as raised:
        await client.rmdir("/d/sub")
    assert raised.value.errno == errno.ENOTEMPTY
    server.bucket.put("d/other", b"x", {})
    await client.unlink("/d/sub/file")
    await client.rmdir("/d/sub")
    assert set(server.bucket.objects) == {"d/other"}


async def test_a_name_of_both_is_one_directory_however_far_apart_they_are_listed(
    client: Client, server: FakeS3
) -> None:
    """An object comes long before the prefix of its name, where other names lie between."""
    server.bucket.put("d/name", b"x", {})
    for number in range(2500):
        server.bucket.put(f"d/name-{number:05}", b"x", {})
    server.bucket.put("d/name/below", b"x", {})
    for _ in range(2):
        assert (await client.listdir("/d")).count("name") == 1
        assert await client.listdir("/d/name") == ["below"]
