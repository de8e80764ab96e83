"""What everyday work costs in requests, which is what it costs in time and money."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import AsyncIterator

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient, MakeFilesystem
from vhostfs.backends.s3.naming.index import write_index
from vhostfs.backends.s3.naming.metadata import PosixMetadata, encoded
from vhostfs.backends.s3.naming.nodes import NodeTable
from vhostfs.backends.s3.options import Metadata
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

DATA = b"a file of an archive\n" * 50
MTIME = 1_234_567_890
FILES, DIRECTORIES, LINKS = 300, 10, 10


@pytest.fixture
async def client(make_filesystem: MakeFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has the bucket mounted."""
    async with mount(make_filesystem()) as client:
        yield client


async def _set(client: Client, node: int, mode: int | None) -> None:
    """Set owner, mode and times, each by a call of its own, as tar does."""
    await client.setattr(node, SetattrIn(valid=SetattrValid.UID | SetattrValid.GID, uid=1000, gid=1000))
    if mode is not None:
        await client.setattr(node, SetattrIn(valid=SetattrValid.MODE, mode=mode))
    times = SetattrValid.ATIME | SetattrValid.MTIME
    await client.setattr(node, SetattrIn(valid=times, atime=MTIME, mtime=MTIME))


async def _missing(client: Client, parent: int, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        await client.lookup(parent, name)


async def _unpack(client: Client) -> int:
    """Do what Linux asks for when tar unpacks an archive; return how many entries it had."""
    directories = []
    for number in range(DIRECTORIES):
        await _missing(client, client.root, f"d{number}")
        await client.mkdir(f"/d{number}")
        directories.append((await client.lookup(client.root, f"d{number}")).nodeid)
    for number in range(FILES):
        parent, name = directories[number % DIRECTORIES], f"file-{number}"
        await _missing(client, parent, name)
        entry, opened = await client.create_at(parent, name, 0o600, os.O_WRONLY | os.O_EXCL)
        await client.write(entry.nodeid, opened.fh, 0, DATA)
        await _set(client, entry.nodeid, 0o640 if number % 3 else 0o755)
        await client.flush(entry.nodeid, opened.fh)
        await client.release(entry.nodeid, opened.fh)
        client.forget(entry.nodeid, 1)
    for number in range(LINKS):
        await client.symlink(f"file-{number}", f"/d{number % DIRECTORIES}/link-{number}")
        link = (await client.lookup(directories[number % DIRECTORIES], f"link-{number}")).nodeid
        await _set(client, link, None)
    for node in directories:
        await _set(client, node, 0o750)
    await client.syncfs()
    return FILES + DIRECTORIES + LINKS


async def test_unpacking_an_archive_costs_hardly_more_than_a_request_for_each_entry(
    client: Client, server: FakeS3
) -> None:
    """With owners, modes and times; one for each file."""
    await client.stat("/")
    server.requests.clear()
    entries = await _unpack(client)
    assert server.requests.total() <= 1.1 * entries
    assert server.requests["PutObject"] == entries
    file, link, directory = [server.bucket.objects[key].headers for key in ("d7/file-7", "d1/link-1", "d3/")]
    assert file["x-amz-meta-mode"] == str(stat.S_IFREG | 0o640)
    assert directory["x-amz-meta-mode"] == str(stat.S_IFDIR | 0o750)
    for headers in (file, link, directory):
        assert headers["x-amz-meta-mtime"] == f"{MTIME}.000000000"
        assert headers["x-amz-meta-uid"] == "1000"


async def test_an_archive_that_was_unpacked_is_looked_at_for_nothing(client: Client, server: FakeS3) -> None:
    """The mount that has written it knows it."""
    await _unpack(client)
    server.requests.clear()
    for number in range(FILES):
        assert (await client.stat(f"/d{number % DIRECTORIES}/file-{number}")).uid == 1000
    assert not server.requests


async def test_ten_thousand_files_are_listed_with_all_attributes_in_twelve_requests(
    make_filesystem: MakeFilesystem, make_client: MakeClient, server: FakeS3
) -> None:
    """By an index; files that have changed since it was written cost one more each."""
    nodes = NodeTable()
    for number in range(10_000):
        node = nodes.add(nodes.root, f"{number:05}", stat.S_IFREG)
        node.posix = PosixMetadata(stat.S_IFREG | 0o640, number, 1000, number, number)
        metadata = {f"x-amz-meta-{key}": text for key, text in encoded(node.posix).metadata.items()}
        node.etag = server.bucket.put(node.name, b"x", metadata).etag
    await write_index(make_client(), "", nodes)

    async def listed() -> list[int]:
        server.requests.clear()
        async with mount(make_filesystem(metadata=Metadata.FULL)) as client:
            entries = await client.entries("/", plus=True)
            return [entry.entry.attr.uid for entry in entries if entry.entry is not None]

    expected = list(range(10_000))
    assert await listed() == expected
    assert server.requests.total() <= 12
    for number in (3, 5000):
        server.bucket.put(f"{number:05}", b"changed", {"x-amz-meta-uid": "7"})
        expected[number] = 7
    assert await listed() == expected
    assert server.requests.total() <= 12 + 2


async def test_an_index_keeps_no_directory_from_being_removed(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """Nor is it ever seen, whoever looks."""
    for number in range(10):
        server.bucket.put(f"d/{number}", b"x", {})
    for metadata in Metadata:
        async with mount(make_filesystem(metadata=Metadata.FULL)) as client:
            assert len(await client.entries("/d", plus=True)) == 10
        assert "d/.vhostfs-meta" in server.bucket.objects
        async with mount(make_filesystem(metadata=metadata)) as client:
            assert sorted(await client.listdir("/d")) == [str(number) for number in range(10)]
            with pytest.raises(PermissionError):
                await client.write_bytes("/d/.vhostfs-meta", b"")
            if metadata is Metadata.FULL:
                for number in range(10):
                    await client.unlink(f"/d/{number}")
                await client.rmdir("/d")
    assert not server.bucket.objects


async def test_an_index_that_would_fill_the_memory_is_left_aside(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """What a store sends is no more to be trusted than what a guest does."""
    server.bucket.put("file", b"x", {"x-amz-meta-uid": "7"})
    server.bucket.put(".vhostfs-meta", zlib.compress(b" " * (65 << 20)), {})
    async with mount(make_filesystem(metadata=Metadata.FULL)) as client:
        [entry] = [each for each in await client.entries("/", plus=True) if each.name == b"file"]
        assert entry.entry is not None
        assert entry.entry.attr.uid == 7


async def test_a_few_names_of_a_large_directory_do_not_cost_its_listing(
    client: Client, server: FakeS3
) -> None:
    """Which is made once so many were asked for that it costs no more."""
    for number in range(60_000):
        server.bucket.put(f"d/{number:05}", b"x", {})
    await client.stat("/d")
    for number in range(20):
        await client.stat(f"/d/{number * 3000:05}")
    assert server.requests["ListObjectsV2"] <= 20 + 20
    for number in range(1000):
        before = server.requests.total()
        assert not await client.exists(f"/d/{number * 59:05}x")
        if server.requests.total() == before:
            break
    else:
        pytest.fail("the directory is not listed after all")
    assert server.requests["ListObjectsV2"] <= 4 * (20 + number)
    for number in range(100):
        assert not await client.exists(f"/d/{number * 599:05}y")
    assert server.requests.total() == before
