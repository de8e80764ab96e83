"""A tree holds no more than its quota, and the account of it is right whatever happens to files."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.filesystem import Caller, Filesystem, RenameFlags, WriteBuffer, WriteFlags
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.layers.quota import Quota, QuotaSettings
from vhostfs.layers.quota_account import Account, count
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

BLOCK = 4096


class Share:
    """A file system under a quota, and a kernel that has it mounted."""

    def __init__(self, inner: Filesystem[Any], **limits: Any) -> None:
        self.inner = inner
        self.layer: Quota[Any] = QuotaSettings(**limits).wrap(inner)

    def mounted(self) -> AbstractAsyncContextManager[Client]:
        return mount(self.layer)

    @property
    def used(self) -> tuple[int, int]:
        """Return blocks and files."""
        account = self.layer.account
        assert account.bytes % BLOCK == 0
        return account.bytes // BLOCK, account.files


def memory() -> MemoryFilesystem:
    return MemoryFilesystem(size=64 << 20, inodes=10_000, mode=0o755, uid=0, gid=0)


@pytest.fixture
def share() -> Share:
    return Share(memory(), bytes=10 * BLOCK, files=5)


async def opened(client: Client, name: str, flags: int = os.O_RDWR) -> tuple[int, int]:
    node = (await client.lookup(client.root, name)).nodeid
    return node, (await client.open_node(node, flags)).fh


async def test_what_is_there_counts_when_a_session_begins(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/file").write_bytes(bytes(5000))
    os.link(tmp_path / "d/file", tmp_path / "again")
    (tmp_path / "d/e/link").symlink_to("nowhere")
    inner = DirectoryFilesystem(tmp_path)
    share = Share(inner, files=100)
    async with share.mounted() as client:
        assert share.used == (2, 4)
        await client.mkdir("/more")
    async with share.mounted():
        assert share.used == (2, 5)
    inner.close()


async def test_bytes_are_refused_beyond_the_limit_and_come_back(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(10 * BLOCK))
        assert share.used == (10, 1)
        await client.write_bytes("/other", b"")
        with refused(errno.EDQUOT):
            await client.write_bytes("/other", b"x")
        await client.truncate("/file", 9 * BLOCK - 5)
        await client.write_bytes("/other", b"x")
        await client.unlink("/file")
        assert share.used == (1, 1)


async def test_what_exists_can_be_written_again_at_the_limit(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(10 * BLOCK))
        node, fh = await opened(client, "file")
        assert await client.write(node, fh, 3 * BLOCK, b"x" * BLOCK) == BLOCK
        await client.release(node, fh)


async def test_files_of_every_kind_are_refused_beyond_the_limit(share: Share) -> None:
    async with share.mounted() as client:
        await client.mkdir("/d")
        await client.symlink("d", "/s")
        await client.mknod("/p", stat.S_IFIFO | 0o600)
        await client.write_bytes("/f", b"")
        await client.mknod("/g", stat.S_IFREG | 0o600)
        await client.link("/f", "/d/again")
        for make in (
            client.mkdir("/x"),
            client.symlink("d", "/x"),
            client.mknod("/x", stat.S_IFREG | 0o600),
            client.write_bytes("/x", b""),
            client.tmpfile(client.root),
        ):
            with refused(errno.EDQUOT):
                await make
        await client.write_bytes("/f", b"the one that is there")
        assert share.used == (1, 5)


async def test_a_refused_operation_costs_nothing(share: Share) -> None:
    async with share.mounted() as client:
        await client.mkdir("/d")
        before = share.used
        for again in (client.mkdir("/d"), client.symlink("x", "/d"), client.mknod("/d", 0o100644)):
            with refused(errno.EEXIST):
                await again
        for length in (client.truncate("/d", BLOCK), client.write_bytes("/d", b"x")):
            with refused(errno.EISDIR):
                await length
        assert share.used == before


async def test_a_file_of_several_names_counts_once_until_the_last_is_gone(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/a", bytes(BLOCK))
        await client.link("/a", "/b")
        await client.unlink("/a")
        assert share.used == (1, 1)
        await client.unlink("/b")
        assert share.used == (0, 0)


async def test_a_removed_file_counts_as_long_as_it_is_open(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(BLOCK))
        node, fh = await opened(client, "file")
        await client.unlink("/file")
        assert await client.write(node, fh, BLOCK, bytes(BLOCK)) == BLOCK
        assert share.used == (2, 1)
        client.forget(node)
        assert share.used == (2, 1)
        await client.release(node, fh)
        assert share.used == (0, 0)


async def test_a_file_without_a_name_counts_and_may_get_one(share: Share) -> None:
    async with share.mounted() as client:
        entry, opening = await client.tmpfile(client.root)
        await client.write(entry.nodeid, opening.fh, 0, bytes(BLOCK))
        assert share.used == (1, 1)
        await client.link_at(entry.nodeid, client.root, "named")
        await client.release(entry.nodeid, opening.fh)
        client.forget(entry.nodeid, 2)
        assert share.used == (1, 1)
        entry, opening = await client.tmpfile(client.root)
        await client.release(entry.nodeid, opening.fh)
        client.forget(entry.nodeid)
        assert share.used == (1, 1)


async def test_what_a_rename_replaces_is_given_back(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/a", bytes(BLOCK))
        await client.write_bytes("/b", bytes(2 * BLOCK))
        await client.rename("/a", "/b")
        assert share.used == (1, 1)
        await client.mkdir("/d")
        await client.mkdir("/e")
        await client.rename("/d", "/e")
        assert share.used == (1, 2)
        await client.rename("/e", "/e")
        await client.rename("/b", "/e", RenameFlags.EXCHANGE)
        assert share.used == (1, 2)


async def test_a_length_that_nothing_fills_counts_as_if_it_were_filled(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", b"")
        with refused(errno.EDQUOT):
            await client.truncate("/file", 1 << 40)
        await client.truncate("/file", 4 * BLOCK + 1)
        assert share.used == (5, 1)


async def test_reserved_room_counts(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", b"")
        node, fh = await opened(client, "file")
        await client.fallocate(node, fh, 0, 3 * BLOCK)
        assert share.used == (3, 1)
        with refused(errno.EDQUOT):
            await client.fallocate(node, fh, 0, 11 * BLOCK)
        with refused(errno.EOPNOTSUPP):
            await client.fallocate(node, fh, 0, 4 * BLOCK, 1)
        await client.fallocate(node, fh, 0, 3 * BLOCK, 1)
        await client.fallocate(node, fh, 0, BLOCK, 3)
        assert share.used == (3, 1)
        await client.release(node, fh)


async def test_copies_count_by_what_there_is_to_copy(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/a", bytes(4 * BLOCK))
        await client.write_bytes("/b", b"")
        node, fh = await opened(client, "a")
        target, target_fh = await opened(client, "b")
        assert await client.copy_file_range(node, fh, 0, target, target_fh, 0, 1 << 40) == 4 * BLOCK
        assert share.used == (8, 2)
        with refused(errno.EDQUOT):
            await client.copy_file_range(node, fh, 0, target, target_fh, 4 * BLOCK, 4 * BLOCK)
        assert share.used == (8, 2)
        for each in ((node, fh), (target, target_fh)):
            await client.release(*each)


async def test_an_appending_handle_gets_around_nothing(tmp_path: Path) -> None:
    inner = DirectoryFilesystem(tmp_path)
    share = Share(inner, bytes=4 * BLOCK)
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(2 * BLOCK))
        node, fh = await opened(client, "file", os.O_WRONLY | os.O_APPEND)
        for _ in range(2):
            await client.write(node, fh, 0, bytes(BLOCK))
        assert share.used == (4, 1)
        with refused(errno.EDQUOT):
            await client.write(node, fh, 0, b"x")
        await client.release(node, fh)
    inner.close()


async def test_truncating_while_opening_gives_back(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(4 * BLOCK))
        node, fh = await opened(client, "file", os.O_WRONLY | os.O_TRUNC)
        assert share.used == (0, 1)
        await client.release(node, fh)


async def test_what_is_left_is_what_statfs_tells(share: Share) -> None:
    async with share.mounted() as client:
        await client.write_bytes("/file", bytes(3 * BLOCK))
        told = await client.statfs("/")
        assert (told.blocks * told.frsize, told.bfree * told.frsize) == (10 * BLOCK, 7 * BLOCK)
        assert (told.files, told.ffree) == (5, 4)


class Slow(MemoryFilesystem):
    """Writes when it is told to, and as much as it is told to."""

    def __init__(self) -> None:
        super().__init__(size=1 << 22, inodes=100, mode=0o755, uid=0, gid=0)
        self.go = asyncio.Event()
        self.waiting = 0
        self.error: int | None = None

    async def write(  # type: ignore[override]
        self, caller: Caller, node: int, handle: Any, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> int:
        self.waiting += 1
        await self.go.wait()
        if self.error is not None:
            raise OSError(self.error, "as told")
        return super().write(caller, node, handle, offset, data, flags)


async def test_writes_at_once_stay_within_the_limit_together() -> None:
    inner = Slow()
    share = Share(inner, bytes=10 * BLOCK)
    async with share.mounted() as client:
        nodes = []
        for name in ("a", "b", "c"):
            entry, opening = await client.create_at(client.root, name)
            nodes.append((entry.nodeid, opening.fh))
        tasks = [asyncio.ensure_future(client.write(*each, 0, bytes(4 * BLOCK))) for each in nodes]
        with refused(errno.EDQUOT):
            await tasks[2]
        inner.go.set()
        assert [await task for task in tasks[:2]] == [4 * BLOCK] * 2
        assert share.used == (8, 3)
        for each in nodes:
            await client.release(*each)


async def test_a_write_that_fails_gives_its_room_back() -> None:
    inner = Slow()
    inner.go.set()
    inner.error = errno.EIO
    share = Share(inner, bytes=10 * BLOCK)
    async with share.mounted() as client:
        entry, opening = await client.create_at(client.root, "file")
        with refused(errno.EIO):
            await client.write(entry.nodeid, opening.fh, 0, bytes(4 * BLOCK))
        assert share.used == (0, 1)
        await client.release(entry.nodeid, opening.fh)


async def test_truncating_a_file_that_is_being_written_counts_what_comes() -> None:
    inner = Slow()
    share = Share(inner, bytes=10 * BLOCK)
    async with share.mounted() as client:
        entry, opening = await client.create_at(client.root, "file")
        task = asyncio.ensure_future(client.write(entry.nodeid, opening.fh, 0, bytes(4 * BLOCK)))
        await asyncio.sleep(0)
        await client.setattr(entry.nodeid, SetattrIn(SetattrValid.SIZE, size=0))
        assert share.used == (4, 1)
        inner.go.set()
        await task
        assert share.used == (4, 1)
        await client.release(entry.nodeid, opening.fh)


async def any_work(client: Client, chance: random.Random) -> None:
    """Do something to one or two of a few names, whatever comes of it."""
    first, second = (f"/{chance.choice(['', 'd/', 'e/'])}{chance.choice('abc')}" for _ in range(2))
    size, flags = chance.randrange(5 * BLOCK), chance.choice([0, 0, 0, 1, 2])
    works: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.write_bytes(first, bytes(size)),
        lambda: client.truncate(first, size),
        lambda: client.unlink(first),
        lambda: client.rmdir(first),
        lambda: client.mkdir(first),
        lambda: client.link(first, second),
        lambda: client.rename(first, second, flags),
        lambda: client.symlink("x", first),
        lambda: client.entries("/", plus=True),
    ]
    with suppress(OSError):
        await chance.choice(works)()
    # What failed half-way has left lookups behind.
    for node, lookups in list(client.lookups.items()):
        client.forget(node, lookups)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["memory", "directory"])
async def test_the_account_is_what_a_new_count_would_find(kind: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    inner: Any = memory() if kind == "memory" else DirectoryFilesystem(tmp_path)
    share = Share(inner, bytes=20 * BLOCK, files=9)
    async with share.mounted() as client:
        await client.mkdir("/d")
        await client.mkdir("/e")
        for _ in range(100):
            await any_work(client, chance)
            blocks, files = share.used
            assert blocks <= 20
            assert files <= 9
            again = Account(None, None, 0)
            await count(inner, again)
            assert (again.bytes // BLOCK, again.files) == share.used
    if kind == "directory":
        inner.close()


def test_a_quota_bounds_something() -> None:
    with pytest.raises(ValueError, match="needs bytes, files, or both"):
        QuotaSettings()
