"""How long a mount believes what it knows while others write to the bucket: not at all, a while, for ever."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.backends.s3.bucket_settings import SECONDS, Cache
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.naming import namespace
from vhostfs.backends.s3.options import Metadata
from vhostfs.backends.s3.store import Page
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


@dataclass(slots=True)
class Clock:
    """A clock that a test sets forward."""

    now: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which names expire."""
    clock = Clock()
    monkeypatch.setattr(namespace, "monotonic", clock)
    return clock


async def _seen(client: Client) -> tuple[list[str], int, bytes, bool]:
    """Return what is seen of the bucket."""
    content = await client.read_bytes("/file")
    return await client.listdir("/"), (await client.stat("/file")).size, content, await client.exists("/new")


@pytest.mark.parametrize("cache", [Cache.SECOND, Cache.MINUTE, Cache.FOREVER])
async def test_what_is_known_is_believed_for_so_long_and_then_asked_for(
    make_filesystem: MakeFilesystem, server: FakeS3, clock: Clock, cache: Cache
) -> None:
    """Names, those that are not there, sizes and contents."""
    server.bucket.put("file", b"old", {})
    async with mount(make_filesystem(seconds=SECONDS[cache])) as client:
        before = await _seen(client)
        assert before == (["file"], 3, b"old", False)
        server.bucket.put("file", b"changed", {})
        server.bucket.put("new", b"", {})
        server.requests.clear()
        clock.now += SECONDS[cache] * 0.9
        assert (await client.listdir("/"), (await client.stat("/file")).size) == (["file"], 3)
        assert not await client.exists("/new")
        assert not server.requests
        clock.now += SECONDS[cache] * 0.2
        assert await _seen(client) == (["file", "new"], 7, b"changed", True)
        entry = await client.lookup(client.root, "file")
        assert entry.entry_valid == SECONDS[cache]


async def test_where_nothing_is_believed_each_lookup_and_open_sees_what_is_there(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """And the kernel is told to believe nothing either."""
    server.bucket.put("file", b"old", {})
    async with mount(make_filesystem(seconds=0.0)) as client:
        for number in range(20):
            content = b"x" * number
            server.bucket.put("file", content, {})
            server.bucket.put(f"new-{number}", b"", {})
            server.requests.clear()
            assert (await client.stat("/file")).size == number
            assert await client.exists(f"/new-{number}")
            assert server.requests["ListObjectsV2"] <= 2, "a whole directory was listed for a name"
            assert await client.read_bytes("/file") == content
            assert len(await client.listdir("/")) == number + 2
        entry = await client.lookup(client.root, "file")
        assert (entry.entry_valid, entry.entry_valid_nsec) == (0, 0)
        assert (entry.attr_valid, entry.attr_valid_nsec) == (0, 0)
        server.bucket.delete("file")
        assert not await client.exists("/file")


async def test_what_one_mount_has_closed_the_next_to_open_it_sees(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """Also while it has the file open as it was before."""
    async with mount(make_filesystem(seconds=0.0)) as one, mount(make_filesystem(seconds=0.0)) as two:
        await one.write_bytes("/file", b"first")
        node = (await two.lookup(two.root, "file")).nodeid
        handle = (await two.open_node(node)).fh
        for content in (b"second one", b"3", b"the fourth"):
            await one.write_bytes("/file", content)
            assert (await two.stat("/file")).size == len(content)
            assert await two.read_bytes("/file") == content
            await two.write_bytes("/file", content * 2)
            assert await one.read_bytes("/file") == content * 2
        await two.release(node, handle)


async def test_without_metadata_a_file_that_was_listed_is_opened_without_a_request(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """To be read; one that is written keeps what others have stored with it."""
    server.bucket.put("file", b"content", {"x-amz-meta-theirs": "kept"})
    async with mount(make_filesystem(metadata=Metadata.NONE)) as client:
        await client.listdir("/")
        server.requests.clear()
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node)).fh
        assert not server.requests
        assert await client.read(node, handle, 0, 100) == b"content"
        await client.release(node, handle)
        assert "HeadObject" not in server.requests
        await client.write_bytes("/file", b"other")
    assert server.bucket.objects["file"].headers["x-amz-meta-theirs"] == "kept"


async def test_a_file_that_others_have_changed_has_its_new_size_when_the_old_one_is_closed(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """Though who has had it open has known the old one."""
    server.bucket.put("file", b"old", {})
    async with mount(make_filesystem()) as client:
        node = (await client.lookup(client.root, "file")).nodeid
        opened = await client.open_node(node, os.O_RDONLY)
        assert await client.read(node, opened.fh, 0, 100) == b"old"
        server.bucket.put("file", b"much longer", {})
        assert await client.listdir("/") == ["file"]
        assert (await client.stat("/file")).size == 11
        await client.release(node, opened.fh)
        assert (await client.stat("/file")).size == 11
        assert await client.read_bytes("/file") == b"much longer"


async def test_a_listing_from_before_a_write_does_not_undo_it(
    make_filesystem: MakeFilesystem, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may come after the write's own."""
    answered, written = asyncio.Event(), asyncio.Event()
    ask = S3Client.list

    async def list_early(store: S3Client, *arguments: Any, **options: Any) -> Page:
        page = await ask(store, *arguments, **options)
        answered.set()
        await written.wait()
        return page

    server.bucket.put("file", b"old", {})
    async with mount(make_filesystem()) as client:
        node = (await client.lookup(client.root, "file")).nodeid
        opened = await client.open_node(node, os.O_RDWR)
        monkeypatch.setattr(S3Client, "list", list_early)
        looking = asyncio.ensure_future(client.listdir("/"))
        await answered.wait()
        await client.write(node, opened.fh, 0, b"longer")
        await client.flush(node, opened.fh)
        monkeypatch.undo()
        written.set()
        await looking
        await client.write(node, opened.fh, 6, b" still")
        await client.release(node, opened.fh)
        assert await client.read_bytes("/file") == b"longer still"
