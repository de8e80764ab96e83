"""The file system on a bucket: each operation in terms of names, contents and commits."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Final, NoReturn

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.caching.disk import Shelf
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.contents import SIZE_MAXIMUM
from vhostfs.backends.s3.extended_attributes import ExtendedAttributes
from vhostfs.backends.s3.files import FileOperations
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.local_store import LocalStore
from vhostfs.backends.s3.naming.attributes import changed
from vhostfs.backends.s3.naming.index import NAME as INDEX
from vhostfs.backends.s3.naming.metadata import encoded
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.operating.probing import Probe
from vhostfs.backends.s3.operating.reporting import Reporter
from vhostfs.backends.s3.options import Handle, Metadata, S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import REWRITE_MAXIMUM, ObjectStore
from vhostfs.backends.s3.writing.moves import Moves
from vhostfs.backends.s3.writing.renaming import Renamer
from vhostfs.filesystem import (
    Attr,
    Caller,
    Command,
    DirEntry,
    Entry,
    FileType,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
)
from vhostfs.filesystem.refusals import refused

LINK_MAXIMUM: Final = 4095
NODES_MAXIMUM: Final = 1_000_000
FREE_BLOCKS: Final = 1 << 40


class S3Filesystem(FileOperations, ExtendedAttributes):
    """A bucket, or the keys of one that begin with a prefix, as a file system.

    close(2) returns when what was written is in the bucket, and with the error if it is not. Attributes that
    change while a file is written go with its data; else they are a request of their own.
    """

    def __init__(
        self,
        store: ObjectStore,
        options: S3Options,
        memory: Memory,
        spool: Spool,
        local: LocalStore | None = None,
        journal: Journal | None = None,
        probe: Probe | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """A file system on a store; on one of its own, which ends with it.

        With a journal, what an earlier daemon has promised and not brought to the store is gone on with, and
        the spool is the journal's. With a shelf, what is read is kept on disk.
        """
        self._local, self._probe = local, probe
        super().__init__(store, options, BlockCache(store, memory, shelf), spool, journal)
        self._moves = Moves()
        self._renamer = Renamer(
            store,
            self._names,
            self._committer.uploads,
            self._commits.lock,
            options.directory_limit,
            journal,
        )

    # ---- Life ----

    def init(self, session: Session) -> None:
        """Begin, with what is left of earlier sessions and daemons."""
        self._cache.begin()
        self._renamer.left.begin()
        # What is written over an original does not tell any more that something else is its copy.
        self._commits.begin(self._new_contents, self._renamer.left.tried)
        if self._probe is not None:
            self._probe.begin()

    async def destroy(self) -> None:
        """Commit what nobody has closed, and end."""
        if self._probe is not None:
            await self._probe.end()
        await self._renamer.left.end()
        await self._commits.end()
        await self._names.end()
        for node in self._names.nodes:
            node.known = node is self._names.nodes.root
        for node in self._names.nodes:
            self._drop_contents(node)
            self._names.nodes.drop_unused(node)
        self._siblings.end()
        await self._cache.end()

    def close(self) -> None:
        """Give up the store and the spool: no session begins any more."""
        if self._probe is not None:
            self._probe.close()
        self._cache.close()
        self._store.close()
        if self._journaling is not None:
            self._journaling.journal.close()
        else:
            self._spool.close()
        if self._local is not None:
            self._local.stop()

    def commands(self) -> Mapping[str, Command]:
        """Return what `vhostfs s3` asks."""
        return Reporter(
            self._store,
            self._names,
            self._committer,
            self._commits,
            self._cache,
            journaling=self._journaling,
            probe=self._probe,
        ).commands()

    def forget(self, node: int) -> None:
        """Note that the kernel has forgotten a node."""
        try:
            found = self._names.nodes[node]
        except KeyError:
            return
        found.known = False
        self._names.nodes.drop_unused(found)
        if found.parent is not None:
            self._names.nodes.trim(found.parent, NODES_MAXIMUM)

    # ---- Names ----

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name."""
        node = await self._names.find(self._directory(parent), name)
        if node is not None:
            await self._commits.look(node)
        if node is None or node.gone:
            return None
        if self._options.metadata is Metadata.FULL:
            await self._names.refresh(node)
        return self._entry(node, unsure_seconds=0.0)

    async def getattr(self, caller: Caller, node: int, handle: Handle | None) -> Attr:
        """Return attributes."""
        found = self._node(node)
        if not found.gone:
            await self._know(found)
        return self._attr(found, handle)

    async def setattr(self, caller: Caller, node: int, handle: Handle | None, changes: SetAttr) -> Attr:
        """Change attributes; at once in the bucket, or with the data of a file that is being written."""
        self._writable()
        found = self._changeable(node)
        await self._names.refresh(found)
        if changes.size is not None:
            if found.type != stat.S_IFREG:
                raise refused(errno.EISDIR if found.is_directory else errno.EINVAL)
            if changes.size > SIZE_MAXIMUM:
                raise refused(errno.EFBIG)
            if handle is not None or (found.contents is not None and found.contents.users):
                # Who has it open has seen what it was, and may be the one who cuts it off.
                contents = self._current(found, handle)
            else:
                contents = await self._contents(found)
            self._truncate(found, contents, changes.size)
        elif (
            not found.opens and found.size > REWRITE_MAXIMUM and not self._store.capabilities.replace_metadata
        ):
            raise refused(errno.EOPNOTSUPP)
        posix = changed(found, changes, self._attr(found, handle))
        encoded(posix)  # refuses what there is no room for
        found.posix, found.pending = posix, True
        found.touched = None
        found.times_set = found.times_set or changes.mtime_ns is not None or changes.ctime_ns is not None
        if found.gone:
            pass
        elif found.opens and not found.is_directory:
            self._commits.note_changed(found)
        elif changes.size is not None:
            await self._commits.settle(found)
            self._drop_contents(found)
        else:
            await self._commits.soon(found)
        return self._attr(found, handle)

    async def readlink(self, caller: Caller, node: int) -> str:
        """Return a link's target: the object's body."""
        found = self._node(node)
        await self._names.refresh(found)
        if found.type != stat.S_IFLNK:
            raise refused(errno.EINVAL)
        if found.posix is not None and found.posix.link is not None:
            return found.posix.link
        if found.intent is not None and found.intent.body:
            return os.fsdecode(found.intent.body)
        memory = bytearray(min(found.size, LINK_MAXIMUM))
        if not memory:
            return ""
        count, _ = await self._store.get(self._names.key(found), 0, [memoryview(memory)])
        return os.fsdecode(bytes(memory[:count]))

    async def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file that is not opened yet."""
        node = await self._make(caller, parent, name, mode, b"", rdev)
        return self._entry(node)

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory: an object whose key ends with a slash."""
        node = await self._make(caller, parent, name, stat.S_IFDIR | mode, b"")
        self._names.believe_empty(node)
        return self._entry(node)

    async def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link: an object with the target as its body."""
        body = os.fsencode(target)
        if len(body) > LINK_MAXIMUM:
            raise refused(errno.ENAMETOOLONG)
        node = await self._make(caller, parent, name, stat.S_IFLNK | 0o777, body)
        return self._entry(node)

    async def link(self, caller: Caller, node: int, parent: int, name: str) -> NoReturn:
        """Refuse: an object has one key."""
        if self._node(node).gone:
            raise refused(errno.ENOENT)
        if await self._names.find(self._directory(parent), name) is not None:
            raise refused(errno.EEXIST)
        raise refused(errno.EPERM)

    async def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Delete an object; what is open of it is fetched before."""
        self._writable()
        directory = self._directory(parent)
        node = await self._existing(directory, name)
        if node.is_directory:
            raise refused(errno.EISDIR)
        async with self._moves.taking(directory), self._commits.lock(node):
            _has_name(node, directory, name)
            contents = node.contents
            if contents is not None and node.opens:
                await contents.keep()
            if node.etag is not None:
                match = node.etag if self._store.capabilities.conditional_delete else None
                with self._commits.deleting(node):
                    await self._delete(node, match)
            self._commits.deleted(node)
            self._names.nodes.detach(node)
            self._drop_contents(node)
        directory.touch()
        await self._keep_directory(directory)

    async def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Delete an empty directory's object."""
        self._writable()
        directory = self._directory(parent)
        node = await self._existing(directory, name)
        if not node.is_directory:
            raise refused(errno.ENOTDIR)
        async with self._moves.taking(directory, node):
            _has_name(node, directory, name)
            is_full, has_index = await self._what_is_in(node)
            if is_full:
                raise refused(errno.ENOTEMPTY)
            async with self._commits.lock(node):
                if node.etag is not None or node.intent is None:
                    with self._commits.deleting(node):
                        await self._store.delete(self._names.key(node))
                    if has_index:
                        await self._store.delete(self._names.key(node) + INDEX)
                self._commits.deleted(node)
                self._names.nodes.detach(node)
        directory.touch()
        await self._keep_directory(directory)

    async def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename: what is not in the bucket yet by name alone, all else by copies and deletions."""
        self._writable()
        if flags not in {0, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE}:
            raise refused(errno.EINVAL)
        source, target = self._directory(parent), self._directory(new_parent)
        node = await self._existing(source, name)
        if flags & RenameFlags.EXCHANGE:
            await self._existing(target, new_name)
            raise refused(errno.EINVAL)
        self._check_name(target, new_name)
        replaced = await self._names.find(target, new_name)
        if replaced is not None and flags & RenameFlags.NOREPLACE:
            raise refused(errno.EEXIST)
        if target.is_below(node):
            raise refused(errno.EINVAL)
        if replaced is node:
            return
        if replaced is not None:
            if source.is_below(replaced):
                raise refused(errno.ENOTEMPTY)
            if replaced.is_directory and not node.is_directory:
                raise refused(errno.EISDIR)
            if node.is_directory and not replaced.is_directory:
                raise refused(errno.ENOTDIR)
        places = (source, target) if replaced is None else (source, target, replaced)
        async with self._moves.taking(*places, moved=node if node.is_directory else None):
            _has_name(node, source, name)
            if replaced is not None:
                _has_name(replaced, target, new_name)
                if replaced.is_directory and await self._has_children(replaced):
                    raise refused(errno.ENOTEMPTY)
            if node.is_directory:
                await self._move_directory(node, target, new_name, replaced)
            else:
                await self._move_file(node, target, new_name, replaced)
        source.touch()
        target.touch()
        await self._keep_directory(source)

    async def _move_directory(self, node: Node, target: Node, new_name: str, replaced: Node | None) -> None:
        await self._commits.below(node)
        async with AsyncExitStack() as held:
            if replaced is not None:
                await held.enter_async_context(self._commits.lock(replaced))
                held.enter_context(self._commits.deleting(replaced))
            rename = await self._renamer.move_directory(node, target, new_name, replaced)
            if replaced is not None:
                self._commits.deleted(replaced)
            await self._renamer.delete_old(rename)

    async def _move_file(self, node: Node, target: Node, new_name: str, replaced: Node | None) -> None:
        if node.etag is not None or (node.contents is None and replaced is not None):
            await self._commits.now(node)
        async with AsyncExitStack() as held:
            both = [node] if replaced is None else sorted((node, replaced), key=lambda each: each.number)
            for each in both:
                await held.enter_async_context(self._commits.lock(each))
            if replaced is not None:
                if replaced.contents is not None and replaced.opens:
                    await replaced.contents.keep()
                held.enter_context(self._commits.deleting(replaced))
            left = await self._renamer.move_file(node, target, new_name, replaced)
            self._commits.moved(node, replaced)
            if replaced is not None:
                self._drop_contents(replaced)
            if left is not None:
                await self._renamer.delete_old(left)

    # ---- Directories ----

    async def readdir(
        self, caller: Caller, node: int, handle: Handle | None, offset: int
    ) -> AsyncIterator[DirEntry]:
        """Yield the entries: each page of the listing as it comes."""
        return self._entries(self._directory(node))

    async def _entries(self, directory: Node) -> AsyncIterator[DirEntry]:
        async with aclosing(self._names.entries(directory)) as children:
            first = await anext(children, None)  # an error is told before anything is listed
            yield DirEntry(".", directory.number, FileType.DIRECTORY)
            yield DirEntry("..", (directory.parent or directory).number, FileType.DIRECTORY)
            if first is not None:
                yield DirEntry.of(first.name, self._entry(first))
            async for child in children:
                yield DirEntry.of(child.name, self._entry(child))

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell that there is room."""
        return StatFs(
            blocks=FREE_BLOCKS,
            bfree=FREE_BLOCKS,
            bavail=FREE_BLOCKS,
            files=1 << 40,
            ffree=1 << 40,
            namelen=255,
        )

    async def syncfs(self, caller: Caller, node: int) -> None:
        """Commit everything."""
        (await self._commits.sync()).check()

    async def recovered(self) -> None:
        """Return when all that an earlier daemon has left was tried once."""
        await self._renamer.left.tried()
        await self._commits.recovered()


def _has_name(node: Node, directory: Node, name: str) -> None:
    """Refuse a node that has lost its name, or has another one, since it was found: Linux asks again."""
    if node.gone or node.parent is not directory or node.name != name:
        raise refused(errno.ESTALE)
