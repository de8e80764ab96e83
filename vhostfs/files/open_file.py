"""An open file of a file system: reads and writes at offsets, in requests of the size that it takes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Buffer
from typing import Any, Final

from vhostfs.files.buffers import LentReadBuffer, LentWriteBuffer
from vhostfs.files.places import Path, Place, Tree, fail
from vhostfs.filesystem import (
    Attr,
    Opened,
    OpenReplyFlags,
    SetAttr,
    WriteFlags,
    implements,
    settled,
)

OFFSET_LIMIT: Final = (1 << 63) - 1
"""The largest offset of a file."""

_CREATION_TRIES: Final = 8
"""How often a name may come and go between a look at it and its making."""

_NO_WRITE_FLAGS: Final = WriteFlags(0)


class OpenFile:
    """A regular file that was opened, until `close`. Its methods may run at once."""

    __slots__ = ("_direct", "_flags", "_opened", "_write_flags", "handle", "place")

    def __init__(self, place: Place, opened: Opened[Any] | None, flags: int) -> None:
        """Take over a place and what `open` or `create` gave out."""
        self.place: Final = place
        self.handle: Any = None if opened is None else opened.handle
        self._flags = flags
        self._opened = opened is not None
        self._direct = opened is not None and OpenReplyFlags.DIRECT_IO in opened.flags
        root = place.tree.caller.uid == 0
        self._write_flags = _NO_WRITE_FLAGS if root else WriteFlags.KILL_SUIDGID

    @classmethod
    async def at(cls, place: Place, flags: int) -> OpenFile:
        """Open what a path led to; takes over the place, in failure too. EISDIR, ELOOP, ENXIO."""
        try:
            mode = place.attr.mode
            if not stat.S_ISREG(mode):
                fail(
                    errno.EISDIR if stat.S_ISDIR(mode) else errno.ELOOP if stat.S_ISLNK(mode) else errno.ENXIO
                )
            filesystem, caller = place.tree.filesystem, place.tree.caller
            if implements(filesystem, "open"):
                return cls(place, await settled(filesystem.open(caller, place.node, flags)), flags)
            if flags & os.O_TRUNC:
                changes = SetAttr(size=0)
                place.attr = await settled(filesystem.setattr(caller, place.node, None, changes))
            return cls(place, None, flags)
        except BaseException:
            place.release()
            raise

    @classmethod
    async def open(
        cls,
        tree: Tree,
        path: Path,
        flags: int,
        permissions: int,
        *,
        follow: bool = True,
        start: Place | None = None,
    ) -> OpenFile:
        """Open a path as open(2) does with these flags, O_CREAT, O_EXCL and O_TRUNC among them."""
        excl = flags & os.O_CREAT and flags & os.O_EXCL
        kept = flags & ~(os.O_CREAT | os.O_EXCL)
        for _ in range(_CREATION_TRIES):
            parent, name, place = await tree.seek(path, follow=follow and not excl, start=start)
            with parent:
                if place is not None:
                    if excl:
                        place.release()
                        fail(errno.EEXIST, os.fspath(path))
                    return await cls.at(place, kept)
                if not flags & os.O_CREAT:
                    fail(errno.ENOENT, os.fspath(path))
                if os.fspath(path).endswith("/"):
                    fail(errno.EISDIR, os.fspath(path))
                try:
                    return await cls.make(parent, name, permissions, flags)
                except FileExistsError:
                    if excl:
                        raise
        return fail(errno.EEXIST, os.fspath(path))

    @classmethod
    async def make(cls, parent: Place, name: str, permissions: int, flags: int) -> OpenFile:
        """Make a regular file in a directory, and open it. EEXIST where the name is taken."""
        tree = parent.tree
        mode = stat.S_IFREG | (permissions & 0o7777)
        kept = flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        if implements(tree.filesystem, "create"):
            made = tree.filesystem.create(tree.caller, parent.node, name, mode, kept | os.O_EXCL)
            entry, opened = await settled(made)
            return cls(tree.enter(parent, entry), opened, kept)
        entry = await settled(tree.filesystem.mknod(tree.caller, parent.node, name, mode, 0))
        return await cls.at(tree.enter(parent, entry), kept)

    async def read_into(self, offset: int, memory: memoryview) -> int:
        """Fill writable bytes with what lies from an offset on; return how many: fewer at the end alone."""
        tree = self.place.tree
        limit = tree.filesystem.options.max_write
        done = 0
        while done < len(memory):
            wanted = min(limit, len(memory) - done)
            room = memory[done : done + wanted]
            buffer = LentReadBuffer(room)
            answer: Buffer | int
            try:
                answer = await settled(
                    tree.filesystem.read(tree.caller, self.place.node, self.handle, offset + done, buffer)
                )
            finally:
                buffer.end()
            if isinstance(answer, int):
                count = answer
            else:
                data = memoryview(answer).cast("B")
                count = data.nbytes
                if count <= wanted:
                    room[:count] = data
            if not 0 <= count <= wanted:
                raise OSError(errno.EIO, f"a read of {wanted} bytes was answered by {count}")
            done += count
            if count == 0 or (count < wanted and not self._direct):
                break
        return done

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from an offset on: fewer at the end alone."""
        memory = bytearray(size)
        count = await self.read_into(offset, memoryview(memory))
        return bytes(memory) if count == size else bytes(memoryview(memory)[:count])

    async def write(self, offset: int, data: Buffer) -> int:
        """Write all of the data at an offset; return how many bytes. EFBIG, and EIO where none is taken."""
        view = memoryview(data).cast("B")
        tree = self.place.tree
        limit = tree.filesystem.options.max_write
        if offset + len(view) > OFFSET_LIMIT:
            fail(errno.EFBIG)
        done = 0
        while done < len(view):
            buffer = LentWriteBuffer(view[done : done + limit])
            try:
                count = await settled(
                    tree.filesystem.write(
                        tree.caller, self.place.node, self.handle, offset + done, buffer, self._write_flags
                    )
                )
            finally:
                buffer.end()
            if not 0 < count <= buffer.size:
                raise OSError(errno.EIO, f"of a write of {buffer.size} bytes {count} were taken")
            done += count
        return done

    async def attr(self) -> Attr:
        """Return the attributes as they are now."""
        return await self.place.refresh(self.handle)

    async def truncate(self, size: int) -> None:
        """Cut off or lengthen."""
        tree = self.place.tree
        changes = SetAttr(size=size, kill_suid_sgid=tree.caller.uid != 0)
        setattr_ = tree.filesystem.setattr
        self.place.attr = await settled(setattr_(tree.caller, self.place.node, self.handle, changes))

    async def seek_data(self, offset: int, whence: int) -> int:
        """Find data or a hole as lseek(2): where the file system cannot tell, all of a file is data."""
        tree = self.place.tree
        if implements(tree.filesystem, "lseek"):
            found = tree.filesystem.lseek(tree.caller, self.place.node, self.handle, offset, whence)
            return await settled(found)
        size = (await self.attr()).size
        if not 0 <= offset < size:
            fail(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    async def fsync(self, *, datasync: bool = False) -> None:
        """Make durable what was written, where the file system has a notion of that."""
        tree = self.place.tree
        if implements(tree.filesystem, "fsync"):
            await settled(tree.filesystem.fsync(tree.caller, self.place.node, self.handle, datasync))

    async def close(self) -> None:
        """Give up the handle and the place; raises what `flush` raises, as close(2) does."""
        tree, place = self.place.tree, self.place
        filesystem, caller = tree.filesystem, tree.caller
        try:
            try:
                if implements(filesystem, "flush"):
                    await settled(filesystem.flush(caller, place.node, self.handle, id(self)))
            finally:
                if self._opened and implements(filesystem, "release"):
                    await settled(filesystem.release(caller, place.node, self.handle, self._flags))
        finally:
            place.release()
