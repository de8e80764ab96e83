"""What fsspec can open appears as a file system, and can be written where that can be."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from vhostfs.backends.fsspec import FsspecFilesystem, FsspecSettings, open_url
from vhostfs.backends.fsspec.blocks import BlockCache
from vhostfs.backends.fsspec.names import Names, found_by
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import RenameFlags
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

DATA = os.urandom(300_000)


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """Return fsspec's file system in memory, which all of a process share, empty."""

    def clear() -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    clear()
    yield fsspec.filesystem("memory")
    clear()


@pytest.fixture(params=["memory", "file"])
def writable(request: pytest.FixtureRequest, store: MemoryFileSystem, tmp_path: Path) -> FsspecFilesystem:
    """Return an empty place that can be written."""
    store.mkdir("/place")
    url = "memory:///place" if request.param == "memory" else f"file://{tmp_path}"
    return open_url(url, writable=True, cache_seconds=0.0)


def raw(filesystem: FsspecFilesystem, path: str) -> Any:
    """Return what the place itself holds."""
    remote = filesystem._remote
    return remote._filesystem.cat_file(f"{remote.root}/{path}")


async def fails(number: int, awaited: Any) -> None:
    """Check that something fails with an errno."""
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        await awaited
    assert caught.value.errno == number


# ---- Reading ----


async def test_what_is_in_memory_is_read(store: MemoryFileSystem) -> None:
    store.pipe_file("/place/directory/file", DATA)
    store.pipe_file("/place/empty", b"")
    store.pipe_file("/elsewhere", b"")
    async with mount(open_url("memory:///place/", uid=5, gid=6, file_mode=0o640, block_size=65536)) as client:
        assert sorted(await client.listdir("/")) == ["directory", "empty"]
        assert await client.read_bytes("/directory/file") == DATA
        assert await client.read_bytes("/empty") == b""
        attr = await client.stat("/directory/file")
        assert (attr.mode, attr.size, attr.uid, attr.gid) == (stat.S_IFREG | 0o640, len(DATA), 5, 6)
        assert attr.mtime_ns > 1_700_000_000 * 10**9
        assert attr.ino == (await client.stat("/directory/file")).ino
        listed = {os.fsdecode(entry.name): entry.ino for entry in await client.entries("/directory")}
        assert listed == {"file": attr.ino}
        assert (await client.stat("/directory")).mode == stat.S_IFDIR | 0o755
        assert not await client.exists("/missing")
        await fails(errno.EROFS, client.write_bytes("/directory/file", b""))
        await fails(errno.EROFS, client.mkdir("/new"))


async def test_nothing_leads_out_of_the_place(writable: FsspecFilesystem) -> None:
    async with mount(writable) as client:
        await client.mkdir("/directory")
        directory = (await client.lookup(client.root, "directory")).nodeid
        for node in (client.root, directory):
            for name in (".", ".."):
                await fails(errno.ENOENT, client.lookup(node, name))


async def test_an_archive_elsewhere_is_read_by_a_chain(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("directory/file", DATA)
        archive.writestr("top", b"top")
    async with mount(open_url(f"zip://::file://{tmp_path}/archive.zip", block_size=4096)) as client:
        assert sorted(await client.listdir("/")) == ["directory", "top"]
        assert await client.read_bytes("/directory/file") == DATA
        await fails(errno.EROFS, client.unlink("/top"))


async def test_what_changed_is_seen_when_it_is_opened_again(store: MemoryFileSystem) -> None:
    store.pipe_file("/place/file", b"first")
    async with mount(open_url("memory:///place", cache_seconds=0.0)) as client:
        assert await client.read_bytes("/file") == b"first"
        store.pipe_file("/place/file", b"other")
        assert await client.read_bytes("/file") == b"other"
        store.pipe_file("/place/file", b"longer than that")
        assert (await client.stat("/file")).size == 16
        store.rm_file("/place/file")
        assert not await client.exists("/file")


class Slow:
    """Counts what is fetched, and waits until it is told to answer."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fetched: list[tuple[int, int]] = []
        self.answer = asyncio.Event()
        self._fetched = asyncio.Event()

    async def asked(self, count: int) -> None:
        """Wait until it was asked so often."""
        while len(self.fetched) < count:
            self._fetched.clear()
            await self._fetched.wait()

    async def read(self, path: str, start: int, end: int) -> bytes:
        self.fetched.append((start, end))
        self._fetched.set()
        await self.answer.wait()
        return self.data[start:end]


async def test_a_block_is_fetched_once_for_all_who_wait_and_kept_within_bounds() -> None:
    slow = Slow(DATA)
    blocks = BlockCache(slow, 4096, 3 * 4096, 60.0)  # type: ignore[arg-type]
    place = ("file", (), len(DATA))
    first = asyncio.create_task(blocks.read(*place, 100, 50))
    second = asyncio.create_task(blocks.read(*place, 4000, 200))
    await slow.asked(2)
    first.cancel()
    slow.answer.set()
    assert await second == DATA[4000:4200]
    assert slow.fetched == [(0, 4096), (4096, 8192)]
    assert blocks.cached(*place, 100, 50) == DATA[100:150]
    assert blocks.cached(*place, 4000, 200) is None
    for offset in range(0, 65536, 4096):
        assert await blocks.read(*place, offset, 4096) == DATA[offset : offset + 4096]
    assert blocks._used == 3 * 4096
    end = len(DATA) - 10
    assert await blocks.read(*place, end, 10) == DATA[end:]
    slow.data = b"short"
    await fails(errno.EIO, blocks.read("file", ("new",), len(DATA), 0, 4096))
    slow.answer.clear()
    waiting = asyncio.create_task(blocks.read("other", (), 10, 0, 10))
    await slow.asked(len(slow.fetched) + 1)
    await blocks.close()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_a_fetch_that_hangs_is_given_up_and_tried_again() -> None:
    slow = Slow(DATA)
    blocks = BlockCache(slow, 4096, 4096, 0.01)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await blocks.read("file", (), len(DATA), 0, 10)
    slow.answer.set()
    assert await blocks.read("file", (), len(DATA), 0, 10) == DATA[:10]


# ---- Writing ----


async def test_files_are_made_written_and_removed(writable: FsspecFilesystem) -> None:
    async with mount(writable) as client:
        await client.mkdir("/directory")
        await fails(errno.EEXIST, client.mkdir("/directory"))
        await client.write_bytes("/directory/file", DATA)
        assert raw(writable, "directory/file") == DATA
        assert await client.read_bytes("/directory/file") == DATA
        await client.write_bytes("/directory/file", b"short")
        assert raw(writable, "directory/file") == b"short"
        await client.truncate("/directory/file", 8)
        assert raw(writable, "directory/file") == b"short\0\0\0"
        await client.truncate("/directory/file", 0)
        assert raw(writable, "directory/file") == b""
        await fails(errno.ENOTEMPTY, client.rmdir("/directory"))
        await fails(errno.EISDIR, client.unlink("/directory"))
        await fails(errno.ENOTDIR, client.rmdir("/directory/file"))
        await client.unlink("/directory/file")
        await fails(errno.ENOENT, client.unlink("/directory/file"))
        assert await client.listdir("/directory") == []
        await client.rmdir("/directory")
        assert await client.listdir("/") == []
        assert (await client.statfs()).bavail


async def test_a_file_that_is_being_written_is_what_was_written(writable: FsspecFilesystem) -> None:
    async with mount(writable) as client:
        await client.write_bytes("/file", b"0123456789")
        node = (await client.lookup(client.root, "file")).nodeid
        writer = (await client.open_node(node, os.O_RDWR)).fh
        reader = (await client.open_node(node)).fh
        await client.write(node, writer, 8, b"abcd")
        assert await client.read(node, writer, 0, 100) == b"01234567abcd"
        assert await client.read(node, reader, 6, 4) == b"67ab"
        assert (await client.stat("/file")).size == 12
        assert raw(writable, "file") == b"0123456789"
        await client.flush(node, writer)
        assert raw(writable, "file") == b"01234567abcd"
        await client.write(node, writer, 0, b"X")
        await client.release(node, writer)
        await client.write_bytes("/other", b"other")
        assert await client.read(node, reader, 0, 3) == b"X12"
        await client.release(node, reader)
        assert raw(writable, "file") == b"X1234567abcd"
        with pytest.raises(OSError, match="Bad file descriptor"):
            await client.write(node, (await client.open_node(node)).fh, 0, b"x")


async def test_files_are_renamed_and_directories_left_to_programs(writable: FsspecFilesystem) -> None:
    async with mount(writable) as client:
        await client.mkdir("/directory")
        await client.write_bytes("/a", b"a")
        await client.write_bytes("/b", b"b")
        node = (await client.lookup(client.root, "a")).nodeid
        fh = (await client.open_node(node, os.O_WRONLY)).fh
        await client.write(node, fh, 1, b"+")
        await fails(errno.EEXIST, client.rename("/a", "/b", RenameFlags.NOREPLACE))
        await fails(errno.EINVAL, client.rename("/a", "/b", RenameFlags.EXCHANGE))
        await fails(errno.EXDEV, client.rename("/directory", "/elsewhere"))
        await fails(errno.EISDIR, client.rename("/a", "/directory"))
        await fails(errno.ENOENT, client.rename("/missing", "/c"))
        await client.rename("/a", "/b")
        await client.rename("/b", "/b")
        assert raw(writable, "b") == b"a+"
        await client.write(node, fh, 2, b"+")
        await client.release(node, fh)
        assert raw(writable, "b") == b"a++"
        await client.rename("/b", "/directory/c")
        assert await client.read_bytes("/directory/c") == b"a++"
        assert await client.listdir("/") == ["directory"]


async def test_owners_and_permissions_are_not_kept_and_said_so(store: MemoryFileSystem) -> None:
    async with mount(open_url("memory:///", writable=True)) as client:
        await client.write_bytes("/file", b"")
        await fails(errno.EPERM, client.chmod("/file", 0o600))
        await fails(errno.EPERM, client.chown("/file", 5))
        await client.chmod("/file", 0o644)
        await client.chown("/file", 0, 0)
        await client.utime("/file", 1, 1)


async def test_what_is_written_is_bounded(store: MemoryFileSystem) -> None:
    async with mount(open_url("memory:///", writable=True, write_size=100_000)) as client:
        await fails(errno.ENOSPC, client.write_bytes("/big", DATA))
        store.pipe_file("/there", DATA)
        await fails(errno.ENOSPC, client.truncate("/there", 5))
        await client.write_bytes("/small", b"x" * 100_000)
        await client.write_bytes("/another", b"y" * 100_000)
        assert store.cat_file("/there") == DATA
        await fails(errno.ENOSPC, client.truncate("/small", 1 << 60))


async def test_an_upload_that_fails_is_told_when_the_file_is_closed(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Any, path: str, value: bytes, **_keywords: Any) -> None:
        if value:
            raise RuntimeError("the bucket is gone")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    async with mount(open_url("memory:///", writable=True)) as client:
        await fails(errno.EIO, client.write_bytes("/file", b"data"))
    assert "pipe_file of memory:/// failed: RuntimeError: the bucket is gone" in caplog.text
    assert "what was written to /file is lost" in caplog.text


async def test_directories_of_a_store_without_any_are_remembered(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "mkdir", lambda *_arguments, **_keywords: None)
    monkeypatch.setattr(MemoryFileSystem, "rmdir", lambda *_arguments, **_keywords: None)
    async with mount(open_url("memory:///", writable=True, cache_seconds=0.0)) as client:
        await client.mkdir("/a")
        await client.mkdir("/a/b")
        assert await client.listdir("/a") == ["b"]
        await client.write_bytes("/a/b/file", b"data")
        await client.unlink("/a/b/file")
        assert await client.listdir("/a/b") == []
        await client.rmdir("/a/b")
        assert await client.listdir("/a") == []
        await client.rmdir("/a")
        assert await client.listdir("/") == []


async def test_who_opens_at_once_shares_what_is_written(writable: FsspecFilesystem) -> None:
    async with mount(writable) as client:
        await client.write_bytes("/file", bytes(100))
        node = (await client.lookup(client.root, "file")).nodeid
        handles: list[int] = []

        async def open_and_write(number: int) -> None:
            fh = (await client.open_node(node, os.O_RDWR)).fh
            await client.write(node, fh, number, bytes([number]))
            handles.append(fh)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(open_and_write, number)
        for fh in handles:
            await client.release(node, fh)
        assert raw(writable, "file") == bytes(range(10)) + bytes(90)
        assert writable._budget.left == 256 << 20


# ---- Names ----


@pytest.mark.parametrize(
    ("directory", "path", "name"),
    [
        ("bucket/a", "bucket/a/file", "file"),
        ("bucket/a", "bucket/a/sub/", "sub"),
        ("bucket/a", "bucket/a", None),
        ("bucket/a", "bucket/abc", None),
        ("bucket/a", "bucket/a/b/c", None),
        ("bucket/a", "bucket/a/..", None),
        ("", "/top", "top"),
        ("/", "/top\0", None),
        ("", "n" * 256, None),
        ("", "\ud800", None),
    ],
)
def test_what_a_listing_says_is_a_name_or_left_out(directory: str, path: str, name: str | None) -> None:
    assert Names("/", quoted=False).split(directory, path) == name


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..", "a?b#c", "caf\u00e9 \udcff", "a+b&c"])
def test_names_of_http_mean_themselves(name: str) -> None:
    names = Names("", quoted=True)
    path = names.join("http://host/base", name)
    assert path.count("/") == 4
    assert not set(path[17:]) & set("?#&+ ")
    assert "%2e" not in path.replace("%252e", "")
    assert names.split("http://host/base", path) == name


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"LastModified": "2020-01-02T03:04:05Z"}, 1_577_934_245),
        ({"Last-Modified": "Thu, 02 Jan 2020 03:04:05 GMT"}, 1_577_934_245),
        ({"mtime": 1.5}, 1.5),
        ({"mtime": 10**300}, 0),
        ({"mtime": float("nan")}, 0),
        ({"updated": "nonsense"}, 0),
        ({"modified": object()}, 0),
        ({}, 0),
    ],
)
def test_times_are_understood_however_they_are_written(info: dict[str, Any], expected: float) -> None:
    found = found_by({"name": "file", "type": "file", "size": -1, **info})
    assert found.mtime_ns == expected * 1_000_000_000
    assert found.size is None


# ---- Settings ----


@pytest.mark.parametrize("url", ["no-such-protocol://place", "zip::no-such-protocol://place"])
def test_a_protocol_that_there_is_not_is_a_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be served: .*no-such-protocol"):
        open_url(url)


@pytest.mark.parametrize(
    "keys",
    [{"block_size": 1}, {"concurrency": 0}, {"cache_seconds": -1.0}, {"timeout_seconds": 0.0}, {"uid": -1}],
)
def test_settings_that_cannot_be_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of an fsspec mount|should be"):
        FsspecSettings("memory://", **keys)


def test_nothing_is_started_before_the_session_is() -> None:
    before = threading.active_count()
    open_url("zip://::https://localhost:1/archive.zip")
    assert threading.active_count() == before
    assert FsspecSettings.network
