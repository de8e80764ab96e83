"""Files that are open: from open to release, and what is read and written between."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from vhostfs.backends.s3.contents import SIZE_MAXIMUM
from vhostfs.backends.s3.naming.attributes import made, written
from vhostfs.backends.s3.operations import Operations
from vhostfs.backends.s3.options import Handle, Metadata
from vhostfs.backends.s3.reading import Target
from vhostfs.backends.s3.store import ArchivedError, ConditionError, MissingError
from vhostfs.filesystem import (
    Caller,
    Entry,
    FallocateFlags,
    Opened,
    OpenReplyFlags,
    ReadBuffer,
    WriteBuffer,
    WriteFlags,
)
from vhostfs.filesystem.refusals import refused

_NOT_OPENED: Final = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}


class FileOperations(Operations):
    """The operations on open files."""

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a file; whether its object has changed is asked where nothing may be believed."""
        found = self._node(node)
        if found.taken:
            raise refused(errno.ESTALE)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes or flags & os.O_TRUNC:
            self._writable()
        if not found.gone:
            await self._commits.look(found)
            if self._options.metadata is Metadata.NONE and not (writes or flags & os.O_TRUNC):
                await self._names.revalidate(found)
            else:
                await self._names.refresh(found)  # what is written again keeps its metadata
        if found.type != stat.S_IFREG:
            raise refused(_NOT_OPENED.get(found.type, errno.ENXIO))
        contents = await self._contents(found)
        if flags & os.O_TRUNC:
            self._truncate(found, contents, 0)
            found.posix = written(found.posix, kill_suid_sgid=bool(caller.uid))
            found.pending = True
        handle = Handle(found, contents)
        flag = self._keep(handle)
        contents.users += 1
        found.opens += 1
        return Opened(handle, flag)

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a file and open it: it is in the bucket when it was flushed."""
        self._writable()
        directory = self._directory(parent)
        self._check_name(directory, name)
        if await self._names.find(directory, name) is not None:
            raise refused(errno.EEXIST)
        if self._commits.is_short(0):
            await self._commits.room()
        node = self._names.nodes.add(directory, name, stat.S_IFREG)
        node.posix, node.pending = made(caller, directory, stat.S_IFREG | mode), True
        self._names.believe(node)
        contents = await self._contents(node)
        contents.users += 1
        node.opens += 1
        directory.touch()
        self._commits.note_changed(node)
        return self._entry(node), Opened(Handle(node, contents))

    async def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> int:
        """Read; of an object that was replaced meanwhile, what it was or nothing."""
        handle = _held(handle)
        target = Target(buffer.segments)
        if offset == 0:
            self._siblings.note(handle.node)
        try:
            count = await self._read(handle, offset, target)
        except ConditionError:
            if handle.answered or handle.contents.changed or handle.node.gone:
                self._names.doubt(handle.node)
                raise
            await self._reopen(handle)
            count = await handle.contents.read(offset, target)
        except ArchivedError:
            raise refused(errno.EIO) from None
        handle.answered = True
        return count

    async def _read(self, handle: Handle, offset: int, target: Target) -> int:
        """Read; once more where it was a commit of ours that has replaced the object."""
        contents = handle.contents
        while True:
            etag = contents.etag
            try:
                return await contents.read(offset, target)
            except ConditionError:
                async with self._commits.lock(handle.node):
                    if contents.etag == etag:
                        raise

    async def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        """Take data into the spool; where there is no room, wait until commits have made some; ENOSPC."""
        handle = _held(handle)
        if self._commits.is_short(data.size):
            await self._commits.room()
        while True:
            try:
                done = self._current(handle.node, handle).write(offset, data)
                break
            except OSError as error:
                if error.errno != errno.ENOSPC or not await self._commits.made_room():
                    raise
        kill = bool(flags & WriteFlags.KILL_SUIDGID)
        handle.node.posix = written(handle.node.posix, kill_suid_sgid=kill)
        handle.node.pending = True
        self._commits.note_changed(handle.node)
        return done

    async def flush(self, caller: Caller, node: int, handle: Handle | None, lock_owner: int) -> None:
        """Commit, or promise: close(2) returns what became of it."""
        handle = _held(handle)
        if not handle.node.gone:
            await self._commits.settle(handle.node)

    async def fsync(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Commit."""
        handle = _held(handle)
        if not handle.node.gone:
            await self._commits.synchronize(handle.node)

    async def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close; what could not be committed is tried a last time."""
        found, contents = handle.node, handle.contents
        try:
            if not found.gone:
                await self._commits.close(found)
        except OSError as error:
            # flush has told it to the program that closed the file.
            if contents.users == 1 and found.contents is contents and contents.changed:
                await self._commits.give_up(found, contents, error)
        finally:
            contents.users -= 1
            found.opens -= 1
            if not contents.users:
                if found.contents is contents:
                    self._drop_contents(found)
                else:
                    contents.close()
            if found.gone:
                self._commits.forget(found)
            self._names.nodes.drop_unused(found)

    async def fsyncdir(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Commit the directory, and what is in it."""
        await self._commits.synchronize_names(self._directory(node))

    async def fallocate(
        self, caller: Caller, node: int, handle: Handle | None, mode: int, offset: int, length: int
    ) -> None:
        """Grow a file, or let a range hold zeros. Nothing can be reserved in a bucket."""
        handle = _held(handle)
        contents = self._current(handle.node, handle)
        if offset < 0 or length <= 0:
            raise refused(errno.EINVAL)
        if offset + length > SIZE_MAXIMUM:
            raise refused(errno.EFBIG)
        keeps = bool(mode & FallocateFlags.KEEP_SIZE)
        action = mode & ~int(FallocateFlags.KEEP_SIZE)
        punches = action == FallocateFlags.PUNCH_HOLE
        if action not in {0, FallocateFlags.ZERO_RANGE} and not (punches and keeps):
            raise refused(errno.EOPNOTSUPP)
        if action:
            contents.clear(offset, offset + length)
        if not keeps and offset + length > contents.size:
            self._truncate(handle.node, contents, offset + length)
        handle.node.posix = written(handle.node.posix, kill_suid_sgid=bool(caller.uid))
        handle.node.pending = True
        self._commits.note_changed(handle.node)

    def _keep(self, handle: Handle) -> OpenReplyFlags:
        """Tell whether the kernel's pages of a file that is opened are those of the object it has now.

        A handle whose kernel keeps pages has answered with them: it never sees another object.
        """
        node, contents = handle.node, handle.contents
        etag = None if contents.changed or contents.users != node.opens else contents.etag
        handle.answered = etag is not None and etag == node.cached
        node.cached = etag
        return OpenReplyFlags.KEEP_CACHE if handle.answered else OpenReplyFlags(0)

    async def _reopen(self, handle: Handle) -> None:
        """Let a handle that has read nothing yet see the object that is there now."""
        node, old = handle.node, handle.contents
        node.posix = node.cached = None
        try:
            await self._names.refresh(node)
        except MissingError:
            raise refused(errno.ESTALE) from None
        handle.contents = await self._contents(node)
        handle.contents.users += 1
        old.users -= 1
        if not old.users:
            old.close()


def _held(handle: Handle | None) -> Handle:
    if handle is None:
        raise refused(errno.EBADF)
    return handle
