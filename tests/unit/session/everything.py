"""A file system that answers every operation, and writes down how it was asked."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import Iterator
from typing import Any

from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    IoctlReply,
    Lock,
    LockType,
    Opened,
    OpenReplyFlags,
    ReadBuffer,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
    StatX,
    WriteBuffer,
    WriteFlags,
)

FILE = 2
DIRECTORY = 3
CONTENT = bytes(range(256)) * 32


class Everything(Filesystem[str]):
    """Has /file (node 2) and /directory (node 3); `calls` holds (operation, caller's ids, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.session: Session | None = None
        self.handles: list[str] = []
        self.forgotten: list[int] = []

    def note(self, operation: str, caller: Caller, *arguments: Any) -> None:
        """Write down a call."""
        self.calls.append((operation, caller, *arguments))

    def last(self) -> tuple[Any, ...]:
        """Return the last call without the caller."""
        return (self.calls[-1][0], *self.calls[-1][2:])

    def opened(self, handle: str) -> Opened[str]:
        """Give out a handle."""
        self.handles.append(handle)
        return Opened(handle, OpenReplyFlags.KEEP_CACHE)

    def init(self, session: Session) -> None:
        self.session = session

    def destroy(self) -> None:
        assert not self.handles, "handles are released before the end"
        self.session = None

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        self.note("lookup", caller, parent, name)
        if name == "file":
            return Entry(self.attr(FILE), generation=7, entry_seconds=2.5, attr_seconds=0.25)
        return Entry(self.attr(DIRECTORY)) if name == "directory" else None

    def attr(self, node: int) -> Attr:
        """Return the attributes of a node."""
        if node == FILE:
            return Attr(
                ino=FILE,
                mode=stat.S_IFREG | 0o640,
                size=len(CONTENT),
                nlink=3,
                uid=10,
                gid=20,
                atime_ns=1_000_000_001,
                mtime_ns=-1,
                ctime_ns=3_000_000_003,
                rdev=5,
                blksize=512,
                blocks=99,
            )
        return Attr.directory(node)

    def forget(self, node: int) -> None:
        self.forgotten.append(node)

    def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
        self.note("getattr", caller, node, handle)
        return self.attr(node)

    def setattr(self, caller: Caller, node: int, handle: str | None, changes: SetAttr) -> Attr:
        self.note("setattr", caller, node, handle, changes)
        return self.attr(node)

    def statx(self, caller: Caller, node: int, handle: str | None, mask: int) -> StatX:
        self.note("statx", caller, node, handle, mask)
        return StatX(self.attr(node), btime_ns=4_000_000_004, attributes=0x10, attributes_mask=0x30)

    def access(self, caller: Caller, node: int, mask: int) -> None:
        self.note("access", caller, node, mask)

    def readlink(self, caller: Caller, node: int) -> str:
        self.note("readlink", caller, node)
        return "to/\udcff"

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        self.note("mknod", caller, parent, name, mode, rdev)
        return Entry(self.attr(100))

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        self.note("mkdir", caller, parent, name, mode)
        return Entry(self.attr(101))

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        self.note("symlink", caller, parent, name, target)
        return Entry(self.attr(102))

    def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        self.note("link", caller, node, parent, name)
        return Entry(self.attr(node))

    def unlink(self, caller: Caller, parent: int, name: str) -> None:
        self.note("unlink", caller, parent, name)

    def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        self.note("rmdir", caller, parent, name)

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        self.note("rename", caller, parent, name, new_parent, new_name, flags)

    def open(self, caller: Caller, node: int, flags: int) -> Opened[str]:
        self.note("open", caller, node, flags)
        return self.opened(f"handle of {node}")

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[str]]:
        self.note("create", caller, parent, name, mode, flags)
        return Entry(self.attr(103)), self.opened("created")

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened[str]]:
        self.note("tmpfile", caller, parent, mode, flags)
        return Entry(self.attr(104)), self.opened("nameless")

    def read(self, caller: Caller, node: int, handle: str | None, offset: int, buffer: ReadBuffer) -> Any:
        self.note("read", caller, node, handle, offset, buffer.size)
        return CONTENT[offset : offset + buffer.size]

    def write(
        self, caller: Caller, node: int, handle: str | None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> Any:
        self.note("write", caller, node, handle, offset, bytes(data), flags)
        return data.size

    def flush(self, caller: Caller, node: int, handle: str | None, lock_owner: int) -> None:
        self.note("flush", caller, node, handle, lock_owner)

    def release(self, caller: Caller, node: int, handle: str, flags: int) -> None:
        self.note("release", caller, node, handle, flags)
        self.handles.remove(handle)

    def fsync(self, caller: Caller, node: int, handle: str | None, datasync: bool) -> None:
        self.note("fsync", caller, node, handle, datasync)

    def fallocate(
        self, caller: Caller, node: int, handle: str | None, mode: int, offset: int, length: int
    ) -> None:
        self.note("fallocate", caller, node, handle, mode, offset, length)

    def lseek(self, caller: Caller, node: int, handle: str | None, offset: int, whence: int) -> int:
        self.note("lseek", caller, node, handle, offset, whence)
        return 4096

    def copy_file_range(
        self,
        caller: Caller,
        source: int,
        source_handle: str | None,
        source_offset: int,
        target: int,
        target_handle: str | None,
        target_offset: int,
        length: int,
    ) -> int:
        ends = source, source_handle, source_offset, target, target_handle, target_offset
        self.note("copy_file_range", caller, *ends, length)
        return length // 2

    def ioctl(
        self,
        caller: Caller,
        node: int,
        handle: str | None,
        command: int,
        argument: int,
        data: bytes,
        room: int,
    ) -> IoctlReply:
        self.note("ioctl", caller, node, handle, command, argument, data, room)
        return IoctlReply(-3, b"out")

    def poll(self, caller: Caller, node: int, handle: str | None, events: int) -> int:
        self.note("poll", caller, node, handle, events)
        return events & 1

    def bmap(self, caller: Caller, node: int, block: int, block_size: int) -> int:
        self.note("bmap", caller, node, block, block_size)
        return block + 1000

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened[str]:
        self.note("opendir", caller, node, flags)
        return self.opened(f"directory {node}")

    def readdir(self, caller: Caller, node: int, handle: str | None, offset: int) -> Iterator[DirEntry]:
        self.note("readdir", caller, node, handle, offset)
        yield DirEntry(".", node)
        yield DirEntry("..", 1)
        yield DirEntry.of("file", Entry(self.attr(FILE)))
        yield DirEntry("unknown", 50)

    def releasedir(self, caller: Caller, node: int, handle: str, flags: int) -> None:
        self.note("releasedir", caller, node, handle, flags)
        self.handles.remove(handle)

    def fsyncdir(self, caller: Caller, node: int, handle: str | None, datasync: bool) -> None:
        self.note("fsyncdir", caller, node, handle, datasync)

    def statfs(self, caller: Caller, node: int) -> StatFs:
        self.note("statfs", caller, node)
        return StatFs(1, 2, 3, 4, 5, 6, 7, 8)

    def syncfs(self, caller: Caller, node: int) -> None:
        self.note("syncfs", caller, node)

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        self.note("getxattr", caller, node, name)
        if name == "user.missing":
            raise OSError(errno.ENODATA, "no such attribute")
        return b"value"

    def listxattr(self, caller: Caller, node: int) -> list[str]:
        self.note("listxattr", caller, node)
        return ["user.one", "user.two"]

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        self.note("setxattr", caller, node, name, value, flags, kill_sgid)

    def removexattr(self, caller: Caller, node: int, name: str) -> None:
        self.note("removexattr", caller, node, name)

    def getlk(self, caller: Caller, node: int, handle: str | None, owner: int, lock: Lock) -> Lock | None:
        self.note("getlk", caller, node, handle, owner, lock)
        return Lock(LockType.WRITE, 5, 6, 77) if lock.start == 0 else None

    def setlk(
        self, caller: Caller, node: int, handle: str | None, owner: int, lock: Lock, wait: bool
    ) -> None:
        self.note("setlk", caller, node, handle, owner, lock, wait)

    def flock(
        self, caller: Caller, node: int, handle: str | None, owner: int, kind: LockType, wait: bool
    ) -> None:
        self.note("flock", caller, node, handle, owner, kind, wait)


NO_OPERATIONS = frozenset({"__init__", "note", "last", "opened", "attr", "forget", "readdir"})
"""Methods that are no operations, or none that may be `async def`."""


def later(filesystem: type[Everything]) -> type[Everything]:
    """Return the class with every operation as `async def`, each of which waits once."""

    def wrapped(method: Any) -> Any:
        async def operation(self: Everything, *arguments: Any) -> Any:
            await asyncio.sleep(0)
            return method(self, *arguments)

        return operation

    names = [
        name for name, method in vars(filesystem).items() if callable(method) and name not in NO_OPERATIONS
    ]
    return type("Later", (filesystem,), {name: wrapped(getattr(filesystem, name)) for name in names})


def promised(filesystem: type[Everything]) -> type[Everything]:
    """Return the class with every operation as `def` that returns something to be awaited."""
    asynchronous = later(filesystem)

    def wrapped(method: Any) -> Any:
        def operation(self: Everything, *arguments: Any) -> Any:
            return method(self, *arguments)

        return operation

    methods = {name: wrapped(method) for name, method in vars(asynchronous).items() if callable(method)}
    return type("Promised", (filesystem,), methods)
