"""Every operation reaches its method as asked, and its answer the kernel, whatever kind of method it is."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.session.everything import CONTENT, DIRECTORY, FILE, Everything, later, promised
from vhostfs.filesystem import (
    Attr,
    Caller,
    Entry,
    Filesystem,
    Lock,
    LockType,
    Opened,
    Options,
    RenameFlags,
    SetAttr,
    WriteFlags,
)
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, file_attr, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

KINDS: list[Any] = [Everything, later(Everything), promised(Everything)]


class Mounted:
    """A client, and the file system behind it, with /file and /directory looked up."""

    def __init__(self, filesystem: Everything, client: Client) -> None:
        self.filesystem = filesystem
        self.client = client

    def last(self) -> tuple[Any, ...]:
        """Return the last call."""
        return self.filesystem.last()


@asynccontextmanager
async def mounted(kind: Any) -> AsyncIterator[Mounted]:
    """Mount a file system of this kind."""
    filesystem = kind()
    async with mount(filesystem) as client:
        await client.lookup(1, "file")
        await client.lookup(1, "directory")
        yield Mounted(filesystem, client)
        assert client.session.faults == 0


@pytest.fixture(params=KINDS, ids=["def", "async def", "def with awaitables"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return each kind of file system in turn."""
    return request.param


async def test_a_lookup_answers_node_generation_validity_and_attributes(kind: Any) -> None:
    async with mounted(kind) as m:
        entry = await m.client.lookup(1, "file")
        assert m.last() == ("lookup", 1, "file")
        assert (entry.nodeid, entry.generation) == (FILE, 7)
        assert (entry.entry_valid, entry.entry_valid_nsec) == (2, 500_000_000)
        assert (entry.attr_valid, entry.attr_valid_nsec) == (0, 250_000_000)
        assert file_attr(entry.attr) == m.filesystem.attr(FILE)
        with pytest.raises(FileNotFoundError):
            await m.client.lookup(1, "missing")


async def test_who_asks_is_told(kind: Any) -> None:
    async with mounted(kind) as m:
        m.client.caller = Caller(1000, 2000, 42, groups=(7,), umask=0o22)
        await m.client.mkdir_at(1, "new", umask=0o77)
        caller = m.filesystem.calls[-1][1]
        assert (caller.uid, caller.gid, caller.pid, tuple(caller.groups)) == (1000, 2000, 42, (7,))
        assert caller.umask == 0, "the kernel has applied it"
        assert not caller.interrupted()


async def test_attributes_are_asked_for_and_changed(kind: Any) -> None:
    async with mounted(kind) as m:
        opened = await m.client.open_node(FILE)
        out = await m.client.getattr(FILE)
        assert m.last() == ("getattr", FILE, None)
        assert (out.attr_valid, out.attr_valid_nsec) == (1, 0)
        assert file_attr(out.attr) == m.filesystem.attr(FILE)
        await m.client.getattr(FILE, opened.fh)
        assert m.last() == ("getattr", FILE, "handle of 2")

        valid = SetattrValid.MODE | SetattrValid.UID | SetattrValid.SIZE | SetattrValid.MTIME
        valid |= SetattrValid.CTIME | SetattrValid.KILL_SUIDGID
        changes = SetattrIn(
            valid, mode=stat.S_IFREG | 0o4711, uid=5, gid=6, size=9, mtime=2, mtimensec=3, ctime=4, atime=8
        )
        await m.client.setattr(FILE, changes)
        assert m.last()[3] == SetAttr(0o4711, 5, None, 9, None, 2_000_000_003, 4_000_000_000, True)
        await m.client.setattr(FILE, SetattrIn(SetattrValid.FH | SetattrValid.GID, fh=opened.fh, gid=6))
        assert m.last()[2:] == ("handle of 2", SetAttr(gid=6))
        now = SetattrValid.ATIME | SetattrValid.ATIME_NOW
        await m.client.setattr(FILE, SetattrIn(now))
        assert m.last()[3].atime_ns > 0
        assert m.last()[3].mtime_ns is None
        with pytest.raises(OSError, match=r"Errno 22"):
            await m.client.setattr(FILE, SetattrIn(SetattrValid.MTIME, mtimensec=1_000_000_000))


async def test_statx_tells_the_time_of_birth(kind: Any) -> None:
    async with mounted(kind) as m:
        out = (await m.client.statx(FILE, mask=0xFFF)).stat
        assert m.last() == ("statx", FILE, None, 0xFFF)
        assert (out.btime.tv_sec, out.btime.tv_nsec, out.mask) == (4, 4, 0xFFF)
        assert (out.mtime.tv_sec, out.mtime.tv_nsec) == (-1, 999_999_999)
        assert (out.attributes, out.attributes_mask) == (0x10, 0x30)
        assert (out.ino, out.size, out.blocks, out.mode, out.nlink) == (2, len(CONTENT), 99, 0o100640, 3)


async def test_names_are_made_and_removed(kind: Any) -> None:
    async with mounted(kind) as m:
        client = m.client
        assert (await client.mknod_at(DIRECTORY, "fifo", stat.S_IFIFO | 0o600, 3)).nodeid == 100
        assert m.last() == ("mknod", DIRECTORY, "fifo", stat.S_IFIFO | 0o600, 3)
        assert (await client.mkdir_at(1, b"\xff", 0o1777)).nodeid == 101
        assert m.last() == ("mkdir", 1, "\udcff", 0o1777)
        assert (await client.symlink_at(1, "link", "a/b")).nodeid == 102
        assert m.last() == ("symlink", 1, "link", "a/b")
        assert await client.readlink_node(102) == "to/\udcff"
        assert (await client.link_at(FILE, DIRECTORY, "other")).nodeid == FILE
        assert m.last() == ("link", FILE, DIRECTORY, "other")
        await client.unlink_at(1, "file")
        assert m.last() == ("unlink", 1, "file")
        await client.rmdir_at(1, "directory")
        assert m.last() == ("rmdir", 1, "directory")
        await client.rename_at(1, "a", DIRECTORY, "b", RenameFlags.EXCHANGE)
        assert m.last() == ("rename", 1, "a", DIRECTORY, "b", RenameFlags.EXCHANGE)
        assert m.client.lookups == {FILE: 2, DIRECTORY: 1, 100: 1, 101: 1, 102: 1}


async def test_files_are_opened_used_and_released_by_the_file_systems_own_handle(kind: Any) -> None:
    async with mounted(kind) as m:
        client = m.client
        opened = await client.open_node(FILE, os.O_RDWR | os.O_TRUNC | os.O_CREAT | os.O_EXCL)
        assert m.last() == ("open", FILE, os.O_RDWR | os.O_TRUNC)
        assert opened.fh != 0
        assert opened.open_flags == 2
        assert await client.read(FILE, opened.fh, 10, 100) == CONTENT[10:110]
        assert m.last() == ("read", FILE, "handle of 2", 10, 100)
        assert await client.write(FILE, opened.fh, 7, b"data", WriteFlags.CACHE) == 4
        assert m.last() == ("write", FILE, "handle of 2", 7, b"data", WriteFlags.CACHE)
        await client.flush(FILE, opened.fh, 12345)
        assert m.last() == ("flush", FILE, "handle of 2", 12345)
        await client.fsync(FILE, opened.fh, datasync=True)
        assert m.last() == ("fsync", FILE, "handle of 2", True)
        await client.fallocate(FILE, opened.fh, 1, 2, 3)
        assert m.last() == ("fallocate", FILE, "handle of 2", 3, 1, 2)
        assert await client.lseek(FILE, opened.fh, 5, os.SEEK_DATA) == 4096
        assert m.last() == ("lseek", FILE, "handle of 2", 5, os.SEEK_DATA)
        assert await client.copy_file_range(FILE, opened.fh, 1, FILE, opened.fh, 100, 50) == 25
        assert m.last() == ("copy_file_range", FILE, "handle of 2", 1, FILE, "handle of 2", 100, 50)
        assert await client.ioctl(FILE, opened.fh, 0x1234, 5, b"in", 8) == (-3, b"out")
        assert m.last() == ("ioctl", FILE, "handle of 2", 0x1234, 5, b"in", 8)
        assert await client.poll(FILE, opened.fh, 5) == 1
        assert await client.bmap(FILE, 7, 4096) == 1007
        await client.release(FILE, opened.fh, os.O_RDWR)
        assert m.last() == ("release", FILE, "handle of 2", os.O_RDWR)
        with pytest.raises(OSError, match=r"Errno 9"):
            await client.read(FILE, opened.fh, 0, 1)


async def test_files_are_made_and_opened_in_one_request(kind: Any) -> None:
    async with mounted(kind) as m:
        entry, opened = await m.client.create_at(1, "new", 0o600, os.O_RDWR | os.O_EXCL)
        assert m.last() == ("create", 1, "new", 0o600, os.O_RDWR | os.O_EXCL | os.O_CREAT)
        assert entry.nodeid == 103
        await m.client.read(103, opened.fh, 0, 1)
        assert m.last()[2] == "created"
        entry, opened = await m.client.tmpfile(DIRECTORY)
        assert m.last() == ("tmpfile", DIRECTORY, 0o600, os.O_RDWR)
        await m.client.read(entry.nodeid, opened.fh, 0, 1)
        assert m.last()[2] == "nameless"


async def test_directories_are_opened_listed_and_released(kind: Any) -> None:
    async with mounted(kind) as m:
        opened = await m.client.opendir(DIRECTORY)
        entries = await m.client.readdir(DIRECTORY, opened.fh)
        assert m.last() == ("readdir", DIRECTORY, "directory 3", 0)
        assert [(each.name, each.ino, each.off) for each in entries] == [
            (b".", 3, 1),
            (b"..", 1, 2),
            (b"file", FILE, 3),
            (b"unknown", 50, 4),
        ]
        assert await m.client.readdir(DIRECTORY, opened.fh, 4) == []
        await m.client.fsyncdir(DIRECTORY, opened.fh)
        assert m.last() == ("fsyncdir", DIRECTORY, "directory 3", False)
        await m.client.releasedir(DIRECTORY, opened.fh)
        assert m.last() == ("releasedir", DIRECTORY, "directory 3", 0)


async def test_the_whole_is_measured_and_made_durable(kind: Any) -> None:
    async with mounted(kind) as m:
        st = await m.client.statfs_node(1)
        assert (st.blocks, st.bfree, st.bavail, st.files, st.ffree) == (1, 2, 3, 4, 5)
        assert (st.bsize, st.frsize, st.namelen) == (6, 7, 8)
        await m.client.syncfs()
        assert m.last() == ("syncfs", 1)
        await m.client.access(FILE, os.R_OK)
        assert m.last() == ("access", FILE, os.R_OK)


async def test_extended_attributes_are_read_listed_set_and_removed(kind: Any) -> None:
    async with mounted(kind) as m:
        client = m.client
        assert await client.getxattr_node(FILE, "user.x") == b"value"
        assert await client.getxattr_node(FILE, "user.x", 0) == 5
        with pytest.raises(OSError, match=r"Errno 34"):
            await client.getxattr_node(FILE, "user.x", 4)
        with pytest.raises(OSError, match=r"Errno 61"):
            await client.getxattr_node(FILE, "user.missing")
        assert await client.listxattr_node(FILE) == ["user.one", "user.two"]
        assert await client.listxattr_node(FILE, 0) == 18
        await client.setxattr_node(FILE, "user.x", b"v\0", os.XATTR_CREATE, kill_sgid=True)
        assert m.last() == ("setxattr", FILE, "user.x", b"v\0", os.XATTR_CREATE, True)
        await client.removexattr_node(FILE, "user.x")
        assert m.last() == ("removexattr", FILE, "user.x")


async def test_locks_are_asked_for_set_and_waited_for(kind: Any) -> None:
    async with mounted(kind) as m:
        client = m.client
        fh = (await client.open_node(FILE)).fh
        assert await client.getlk(FILE, fh, 9, Lock(LockType.READ)) == Lock(LockType.WRITE, 5, 6, 77)
        assert await client.getlk(FILE, fh, 9, Lock(LockType.READ, 1, 2, 3)) is None
        assert m.last() == ("getlk", FILE, "handle of 2", 9, Lock(LockType.READ, 1, 2, 3))
        await client.setlk(FILE, fh, 9, Lock(LockType.WRITE, 0, 10), wait=True)
        assert m.last() == ("setlk", FILE, "handle of 2", 9, Lock(LockType.WRITE, 0, 10), True)
        await client.flock(FILE, fh, 9, LockType.UNLOCK)
        assert m.last() == ("flock", FILE, "handle of 2", 9, LockType.UNLOCK, False)
        with pytest.raises(OSError, match=r"Errno 22"):
            await client.setlk(FILE, fh, 9, Lock(LockType.WRITE, 11, 10))


@pytest.mark.parametrize(
    ("name", "error"),
    [(b"", errno.ENOENT), (b"a/b", errno.EINVAL), (b"x" * 256, errno.ENAMETOOLONG)],
)
async def test_what_is_no_name_never_reaches_the_file_system(name: bytes, error: int) -> None:
    async with mounted(Everything) as m:
        before = len(m.filesystem.calls)
        for attempt in (
            m.client.lookup(1, name),
            m.client.mkdir_at(1, name),
            m.client.mknod_at(1, name, stat.S_IFREG),
            m.client.symlink_at(1, name, "target"),
            m.client.link_at(FILE, 1, name),
            m.client.create_at(1, name),
            m.client.unlink_at(1, name),
            m.client.rmdir_at(1, name),
            m.client.rename_at(1, name, 1, "new"),
            m.client.rename_at(1, "old", 1, name),
        ):
            with pytest.raises(OSError, match=rf"Errno {error}\b"):
                await attempt
        assert len(m.filesystem.calls) == before


@pytest.mark.parametrize("name", [".", ".."])
async def test_dots_are_refused_where_something_is_made_removed_or_renamed(name: str) -> None:
    async with mounted(Everything) as m:
        before = len(m.filesystem.calls)
        for attempt, error in (
            (m.client.mkdir_at(1, name), errno.EEXIST),
            (m.client.mknod_at(1, name, stat.S_IFREG), errno.EEXIST),
            (m.client.symlink_at(1, name, "target"), errno.EEXIST),
            (m.client.link_at(FILE, 1, name), errno.EEXIST),
            (m.client.create_at(1, name), errno.EEXIST),
            (m.client.unlink_at(1, name), errno.EISDIR),
            (m.client.rmdir_at(1, name), errno.EINVAL),
            (m.client.rename_at(1, name, 1, "new"), errno.EBUSY),
            (m.client.rename_at(1, "old", 1, name), errno.EBUSY),
        ):
            with pytest.raises(OSError, match=rf"Errno {error}\b"):
                await attempt
        assert len(m.filesystem.calls) == before


@pytest.mark.parametrize("name", [".", ".."])
async def test_dots_are_looked_up_only_where_a_guest_may_export_what_is_there(name: str) -> None:
    class Exported(Everything):
        options = Options(nfs_export=True)

    async with mounted(Everything) as m:
        with pytest.raises(FileNotFoundError):
            await m.client.lookup(1, name)
        assert name not in [call[-1] for call in m.filesystem.calls]
    async with mounted(Exported) as m:
        with contextlib.suppress(FileNotFoundError):
            await m.client.lookup(1, name)
        assert m.last() == ("lookup", 1, name)


async def test_nodes_and_handles_that_were_not_given_out_are_refused() -> None:
    async with mounted(Everything) as m:
        client = m.client
        file, directory = await client.open_node(FILE), await client.opendir(DIRECTORY)
        before = len(m.filesystem.calls)
        for stale in (client.getattr(77), client.rename_at(1, "a", 77, "b"), client.link_at(77, 1, "a")):
            with pytest.raises(OSError, match=r"Errno 116"):
                await stale
        for bad in (
            client.read(FILE, 99, 0, 1),
            client.read(FILE, 0, 0, 1),
            client.read(FILE, directory.fh, 0, 1),
            client.read(DIRECTORY, file.fh, 0, 1),
            client.readdir(DIRECTORY, file.fh),
            client.release(FILE, directory.fh),
            client.releasedir(DIRECTORY, file.fh),
        ):
            with pytest.raises(OSError, match=r"Errno 9\b"):
                await bad
        assert len(m.filesystem.calls) == before


async def test_a_large_node_gets_a_nodeid_of_its_own_for_as_long_as_the_kernel_holds_it() -> None:
    class Large(Filesystem[Any]):
        def __init__(self) -> None:
            self.asked: list[int] = []
            self.forgotten: list[int] = []

        def lookup(self, caller: Caller, parent: int, name: str) -> Entry:
            return Entry(Attr.file(1), node=2**63 - int(name))

        def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            self.asked.append(node)
            return Attr.file(1)

        def forget(self, node: int) -> None:
            self.forgotten.append(node)

    filesystem = Large()
    async with mount(filesystem, mount=3) as client:
        assert client.root == 3 << 48 | 1
        one = (await client.lookup(client.root, "1")).nodeid
        two = (await client.lookup(client.root, "2")).nodeid
        assert one != two
        assert one >> 48 == two >> 48 == 3
        assert (await client.lookup(client.root, "1")).nodeid == one
        await client.getattr(one)
        await client.getattr(two)
        assert filesystem.asked == [2**63 - 1, 2**63 - 2]
        client.forget(one, 1)
        assert filesystem.forgotten == []
        client.forget(one, 1)
        assert filesystem.forgotten == [2**63 - 1]
        with pytest.raises(OSError, match=r"Errno 116"):
            await client.getattr(one)


async def test_no_guest_can_give_back_more_lookups_than_it_has() -> None:
    filesystem = Everything()
    async with mount(filesystem) as client:
        await client.lookup(1, "file")
        client.forget(FILE, 2**64 - 1)
        client.forget(FILE, 2**64 - 1)
        client.forget(1, 5)
        assert filesystem.forgotten == [FILE]
        await client.getattr(1)


async def test_without_open_there_is_no_handle_and_none_is_asked_for() -> None:
    class Plain(Filesystem[Any]):
        def lookup(self, caller: Caller, parent: int, name: str) -> Entry:
            return Entry(Attr.file(2, 5))

        def read(self, caller: Caller, node: int, handle: Any, offset: int, buffer: Any) -> bytes:
            assert handle is None
            return b"hello"[offset:]

    async with mount(Plain()) as client:
        assert await client.read_bytes("/x") == b"hello"
        assert client.lookups == {}


async def test_what_create_opened_is_released_though_open_is_missing() -> None:
    class Creating(Filesystem[str]):
        def __init__(self) -> None:
            self.released: list[str] = []

        def create(
            self, caller: Caller, parent: int, name: str, mode: int, flags: int
        ) -> tuple[Entry, Opened[str]]:
            return Entry(Attr.file(2)), Opened("created")

        def release(self, caller: Caller, node: int, handle: str, flags: int) -> None:
            self.released.append(handle)

    filesystem = Creating()
    async with mount(filesystem) as client:
        entry, opened = await client.create_at(1, "x")
        assert (await client.open_node(entry.nodeid)).fh == 0
        await client.release(entry.nodeid, opened.fh)
        assert filesystem.released == ["created"]


async def test_a_forgotten_nodes_handles_can_still_be_released() -> None:
    filesystem = Everything()
    async with mount(filesystem) as client:
        await client.lookup(1, "file")
        opened = await client.open_node(FILE)
        client.forget(FILE)
        await client.release(FILE, opened.fh)
        assert filesystem.last() == ("release", FILE, "handle of 2", 0)


async def test_with_posix_acls_the_callers_umask_counts() -> None:
    class Lists(Everything):
        options = Options(posix_acl=True)

    filesystem = Lists()
    async with mount(filesystem) as client:
        await client.mkdir_at(1, "new", 0o777, umask=0o27)
        assert filesystem.calls[-1][1].umask == 0o27
