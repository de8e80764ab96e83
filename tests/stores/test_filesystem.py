"""The file system on each store: what is done in one mount is what another finds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.stores.servers import Place
from tests.stores.test_objects import read
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import ObjectStore
from vhostfs.filesystem import Attr
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

MIB = 1 << 20
LARGE = os.urandom(MIB) * 11 + b"end"

type Mount = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture
def mounted(place: Place, tmp_path: Path) -> Mount:
    """Return what mounts the bucket: each time by a client of its own, which believes nothing for long."""

    def make() -> AbstractAsyncContextManager[Client]:
        options = S3Options(seconds=0.0)
        return mount(S3Filesystem(place.make(), options, Memory(64 * MIB), Spool(tmp_path)))

    return make


async def _stat(client: Client, path: str) -> Attr:
    """Look at a file; again, as Linux does, where what was listed turns out to be of another type."""
    try:
        return await client.stat(path)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
    return await client.stat(path)


async def _open(client: Client, path: str, flags: int) -> tuple[int, int]:
    node = (await client.lookup(client.root, path)).nodeid
    return node, (await client.open_node(node, flags)).fh


async def test_another_mount_finds_all_that_was_made(mounted: Mount) -> None:
    async with mounted() as client:
        await client.mkdir("/d", 0o750)
        await client.write_bytes("/d/file with ü", b"data", mode=0o640)
        await client.symlink("../target", "/d/link")
        await client.mkdir("/d/deep")
        await client.write_bytes("/d/deep/empty", b"")
        await client.mknod("/d/pipe", stat.S_IFIFO | 0o600)
    async with mounted() as client:
        assert await client.read_bytes("/d/file with ü") == b"data"
        assert (await client.stat("/d/file with ü")).mode == stat.S_IFREG | 0o640
        assert (await client.stat("/d")).mode == stat.S_IFDIR | 0o750
        assert await client.readlink("/d/link") == "../target"
        assert await client.read_bytes("/d/deep/empty") == b""
        assert stat.S_ISFIFO((await _stat(client, "/d/pipe")).mode)
        assert sorted(await client.listdir("/d")) == ["deep", "file with ü", "link", "pipe"]


async def test_attributes_that_change_later_are_kept(mounted: Mount) -> None:
    async with mounted() as client:
        await client.write_bytes("/file", b"data")
        await client.chmod("/file", 0o4711)
        await client.chown("/file", 1000, 1001)
        await client.utime("/file", 5_000_000_007, 1_234_567_890_000_000_001)
        await client.setxattr("/file", "user.nämé", b"\0value")
    async with mounted() as client:
        found = await client.stat("/file")
        assert (found.uid, found.gid) == (1000, 1001)
        assert stat.S_IMODE(found.mode) & 0o777 == 0o711
        assert found.mtime_ns == 1_234_567_890_000_000_001
        assert await client.getxattr("/file", "user.nämé") == b"\0value"
        assert await client.read_bytes("/file") == b"data"


async def test_attributes_of_a_large_file_are_kept_or_refused_at_once(
    mounted: Mount, store: ObjectStore
) -> None:
    async with mounted() as client:
        await client.write_bytes("/large", LARGE)
        if not store.capabilities.replace_metadata:
            with pytest.raises(OSError, match=rf"^\[Errno {errno.EOPNOTSUPP}\]"):
                await client.chmod("/large", 0o600)
        else:
            await client.chmod("/large", 0o600)
    async with mounted() as client:
        expected = 0o600 if store.capabilities.replace_metadata else 0o644
        assert stat.S_IMODE((await client.stat("/large")).mode) == expected
        await client.write_bytes("/large", b"small", mode=0o640)
        await client.chmod("/large", 0o400)
    async with mounted() as client:
        assert stat.S_IMODE((await client.stat("/large")).mode) == 0o400


async def test_files_and_directories_are_renamed_and_removed(mounted: Mount) -> None:
    async with mounted() as client:
        await client.mkdir("/d")
        for number in range(5):
            await client.write_bytes(f"/d/{number}", b"%d" % number)
        await client.rename("/d", "/moved")
        await client.rename("/moved/1", "/moved/2")
        await client.unlink("/moved/3")
    async with mounted() as client:
        assert await client.listdir("/") == ["moved"]
        assert await client.listdir("/moved") == ["0", "2", "4"]
        assert await client.read_bytes("/moved/2") == b"1"
        for name in ("0", "2", "4"):
            await client.unlink(f"/moved/{name}")
        await client.rmdir("/moved")
    async with mounted() as client:
        assert await client.listdir("/") == []


async def test_a_large_file_is_written_in_parts_appended_to_and_cut(
    mounted: Mount, store: ObjectStore
) -> None:
    async with mounted() as client:
        await client.write_bytes("/large", LARGE)
        node, handle = await _open(client, "large", os.O_RDWR)
        await client.write(node, handle, len(LARGE), b"appended")
        await client.flush(node, handle)
        await client.release(node, handle)
    assert await read(store, "large", 0, 12 * MIB) == LARGE + b"appended"
    async with mounted() as client:
        node, handle = await _open(client, "large", os.O_RDWR)
        await client.write(node, handle, 9 * MIB, b"changed")
        await client.truncate("/large", 10 * MIB)
        await client.flush(node, handle)
        await client.release(node, handle)
    expected = LARGE[: 9 * MIB] + b"changed" + LARGE[9 * MIB + 7 : 10 * MIB]
    async with mounted() as client:
        assert await client.read_bytes("/large") == expected
    assert not await store.uploads()


async def test_names_of_several_pages_are_listed_once(mounted: Mount, store: ObjectStore) -> None:
    for number in range(40):
        await store.put(f"d/{number:02}/x", [b""])
        await store.put(f"d/f{number:02}", [b"x"])
    async with mounted() as client:
        expected = sorted(
            [f"{number:02}" for number in range(40)] + [f"f{number:02}" for number in range(40)]
        )
        assert sorted(await client.listdir("/d")) == expected


async def test_of_two_mounts_that_write_a_file_one_is_told(mounted: Mount, store: ObjectStore) -> None:
    async with mounted() as one, mounted() as other:
        await one.write_bytes("/file", b"first")
        mine, theirs = await _open(one, "file", os.O_RDWR), await _open(other, "file", os.O_RDWR)
        await one.write(*mine, 0, b"one's")
        await other.write(*theirs, 0, b"other")
        await one.flush(*mine)
        with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
            await other.flush(*theirs)
        assert await read(store, "file", 0, 10) == b"one's"
        await one.release(*mine)
        await other.release(*theirs)


async def test_two_mounts_do_not_make_the_same_file(mounted: Mount, store: ObjectStore) -> None:
    async with mounted() as one, mounted() as other:
        mine = await one.create_at(one.root, "file", os.O_WRONLY, 0o600)
        theirs = await other.create_at(other.root, "file", os.O_WRONLY, 0o600)
        await one.write(mine[0].nodeid, mine[1].fh, 0, b"one's")
        await other.write(theirs[0].nodeid, theirs[1].fh, 0, b"other")
        await other.flush(theirs[0].nodeid, theirs[1].fh)
        with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
            await one.flush(mine[0].nodeid, mine[1].fh)
        assert await read(store, "file", 0, 10) == b"other"
        await one.release(mine[0].nodeid, mine[1].fh)
        await other.release(theirs[0].nodeid, theirs[1].fh)
