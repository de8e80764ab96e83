"""The file system on a bucket: each operation in terms of names, contents and commits."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NoReturn

from vhostfs.backends.s3.attributes import changed, made, written
from vhostfs.backends.s3.committing import Committer, Conflict
from vhostfs.backends.s3.contents import Contents, Spool
from vhostfs.backends.s3.local_store import LocalStore
from vhostfs.backends.s3.metadata import PosixMetadata, encoded
from vhostfs.backends.s3.namespace import KEY_MAXIMUM, Namespace, is_name
from vhostfs.backends.s3.nodes import Defaults, Node
from vhostfs.backends.s3.reading import Budget, Target
from vhostfs.backends.s3.renaming import Renamer
from vhostfs.backends.s3.scheduling import Commits
from vhostfs.backends.s3.store import ArchivedError, ConditionError, MissingError, ObjectStore
from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    Opened,
    Options,
    ReadBuffer,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
    WriteBuffer,
    WriteFlags,
)

logger = logging.getLogger(__name__)

LINK_MAXIMUM: Final = 4095
NODES_MAXIMUM: Final = 1_000_000
FREE_BLOCKS: Final = 1 << 40
UNSURE_SECONDS: Final = 1.0
"""How long the kernel may believe attributes that a listing told, of which HEAD might tell others."""

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10


class Metadata(StrEnum):
    """How much is asked to know what POSIX wants to know of a file."""

    NONE = "none"
    """Nothing: size and time of the listing, the mount's defaults for the rest."""
    LAZY = "lazy"
    """Listings show the defaults; a file that is looked at is asked for."""
    FULL = "full"
    """Listings show what is true: by an index in each directory, and a request for each file it lacks."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """How the bucket is shown."""

    prefix: str = ""
    """What all keys begin with; empty, or with a slash at its end."""
    seconds: float = 60.0
    """How long what is known may be believed; 0 asks at every open and lookup."""
    metadata: Metadata = Metadata.LAZY
    conflict: Conflict = Conflict.ERROR
    defaults: Defaults = field(default_factory=Defaults)
    read_only: bool = False
    directory_limit: int = 10_000
    """The most objects that a directory may have to be renamed."""


class Handle:
    """An open file, and the contents that it had when it was opened."""

    __slots__ = ("answered", "contents", "node")

    def __init__(self, node: Node, contents: Contents) -> None:
        self.node = node
        self.contents = contents
        self.answered = False


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class S3Filesystem(Filesystem[Handle]):
    """A bucket, or the keys of one that begin with a prefix, as a file system.

    close(2) returns when what was written is in the bucket, and with the error if it is not. Attributes that
    change while a file is written go with its data; else they are a request of their own.
    """

    def __init__(
        self,
        store: ObjectStore,
        options: S3Options,
        budget: Budget,
        spool: Spool,
        local: LocalStore | None = None,
    ) -> None:
        """A file system on a store; on one of its own, which ends with it."""
        self._local = local
        self._store, self._options = store, options
        self._budget, self._spool = budget, spool
        self.options = Options(
            entry_seconds=options.seconds, attr_seconds=options.seconds, negative_seconds=options.seconds
        )
        exact = options.metadata is Metadata.FULL
        self._names = Namespace(store, options.prefix, options.seconds, exact=exact)
        self._commits = Commits(Committer(store, self._names, options.conflict), self._names)
        self._renamer = Renamer(store, self._names, options.directory_limit)

    # ---- Life ----

    def init(self, session: Session) -> None:
        """Begin."""

    async def destroy(self) -> None:
        """Commit what nobody has closed, and end."""
        await self._commits.end()
        for node in self._names.nodes:
            node.known = node is self._names.nodes.root
        for node in self._names.nodes:
            self._drop_contents(node)
            self._names.nodes.drop_unused(node)

    def close(self) -> None:
        """Give up the store and the spool: no session begins any more."""
        self._store.close()
        self._spool.close()
        if self._local is not None:
            self._local.stop()

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
        directory = self._directory(parent)
        if name == ".":
            return self._entry(directory)
        if name == "..":
            return self._entry(directory.parent or directory)
        node = await self._names.find(directory, name)
        if node is None:
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
            contents = handle.contents if handle is not None else await self._contents(found)
            contents.truncate(changes.size)
        posix = changed(found, changes, self._attr(found, handle))
        encoded(posix)  # refuses what there is no room for
        found.posix, found.pending = posix, True
        if not found.gone and (not found.opens or found.is_directory):
            if changes.size is None:
                self._commits.soon(found)
            else:
                await self._commits.now(found)
                self._drop_contents(found)
        return self._attr(found, handle)

    async def readlink(self, caller: Caller, node: int) -> str:
        """Return a link's target: the object's body."""
        found = self._node(node)
        await self._names.refresh(found)
        if found.type != stat.S_IFLNK:
            _fail(errno.EINVAL)
        if found.posix is not None and found.posix.link is not None:
            return found.posix.link
        memory = bytearray(min(found.size, LINK_MAXIMUM))
        if not memory:
            return ""
        count, _ = await self._store.get(self._names.key(found), 0, [memoryview(memory)])
        return os.fsdecode(bytes(memory[:count]))

    async def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file that is not opened yet."""
        posix = made(caller, mode, rdev)
        node = await self._make(parent, name, posix, b"")
        return self._entry(node)

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory: an object whose key ends with a slash."""
        posix = made(caller, stat.S_IFDIR | mode)
        node = await self._make(parent, name, posix, b"")
        node.listed_until = time.monotonic() + self._options.seconds
        return self._entry(node)

    async def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link: an object with the target as its body."""
        body = os.fsencode(target)
        if len(body) > LINK_MAXIMUM:
            _fail(errno.ENAMETOOLONG)
        node = await self._make(parent, name, made(caller, stat.S_IFLNK | 0o777), body)
        return self._entry(node)

    def link(self, caller: Caller, node: int, parent: int, name: str) -> NoReturn:
        """Refuse: an object has one key."""
        _fail(errno.EPERM)

    async def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Delete an object; what is open of it is fetched before."""
        self._writable()
        directory = self._directory(parent)
        node = await self._existing(directory, name)
        if node.is_directory:
            _fail(errno.EISDIR)
        async with self._commits.lock(node):
            contents = node.contents
            if contents is not None and node.opens and not contents.changed:
                await contents.keep()
            if node.etag is not None:
                match = node.etag if self._store.capabilities.conditional_delete else None
                await self._delete(node, match)
            if contents is not None:
                contents.changed = False
            node.pending = False
            self._names.nodes.detach(node)
        await self._keep_directory(directory)

    async def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Delete an empty directory's object."""
        self._writable()
        directory = self._directory(parent)
        node = await self._existing(directory, name)
        if not node.is_directory:
            _fail(errno.ENOTDIR)
        if await self._has_children(node):
            _fail(errno.ENOTEMPTY)
        await self._store.delete(self._names.key(node))
        self._names.nodes.detach(node)
        await self._keep_directory(directory)

    async def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename: what is not in the bucket yet by name alone, all else by copies and deletions."""
        self._writable()
        if flags & ~RenameFlags.NOREPLACE:
            _fail(errno.EINVAL)
        source, target = self._directory(parent), self._directory(new_parent)
        node = await self._existing(source, name)
        self._check_name(target, new_name)
        replaced = await self._names.find(target, new_name)
        if replaced is node:
            return
        if replaced is not None:
            if flags & RenameFlags.NOREPLACE:
                _fail(errno.EEXIST)
            if replaced.is_directory and not node.is_directory:
                _fail(errno.EISDIR)
            if node.is_directory and not replaced.is_directory:
                _fail(errno.ENOTDIR)
            if replaced.is_directory and await self._has_children(replaced):
                _fail(errno.ENOTEMPTY)
        if node.is_directory:
            if _is_below(target, node):
                _fail(errno.EINVAL)
            await self._commits.below(node)
            await self._renamer.move_directory(node, target, new_name)
        else:
            if replaced is not None and replaced.contents is not None and replaced.opens:
                await replaced.contents.keep()
            async with self._commits.lock(node):
                await self._renamer.move_file(node, target, new_name, replaced)
        await self._keep_directory(source)

    # ---- Files ----

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a file; whether its object has changed is asked where nothing may be believed."""
        found = self._node(node)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes or flags & os.O_TRUNC:
            self._writable()
        if not found.gone:
            await self._names.refresh(found)
        if found.type != stat.S_IFREG:
            _fail(errno.ELOOP if found.type == stat.S_IFLNK else errno.ENXIO)
        contents = await self._contents(found)
        if flags & os.O_TRUNC:
            contents.truncate(0)
        contents.users += 1
        found.opens += 1
        return Opened(Handle(found, contents))

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a file and open it: it is in the bucket when it was flushed."""
        self._writable()
        directory = self._directory(parent)
        self._check_name(directory, name)
        if await self._names.find(directory, name) is not None:
            _fail(errno.EEXIST)
        node = self._names.nodes.add(directory, name, stat.S_IFREG)
        node.posix, node.pending = made(caller, stat.S_IFREG | mode), True
        self._names.believe(node)
        contents = await self._contents(node)
        contents.users += 1
        node.opens += 1
        return self._entry(node), Opened(Handle(node, contents))

    async def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> int:
        """Read; of an object that was replaced meanwhile, what it was or nothing."""
        handle = _held(handle)
        target = Target(buffer.segments)
        try:
            count = await handle.contents.read(offset, target)
        except ConditionError:
            if handle.answered or handle.contents.changed or handle.node.gone:
                raise
            await self._reopen(handle)
            count = await handle.contents.read(offset, target)
        except ArchivedError:
            _fail(errno.EIO)
        handle.answered = True
        return count

    def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        """Take data into the spool."""
        handle = _held(handle)
        done = handle.contents.write(offset, data)
        kill = bool(flags & WriteFlags.KILL_SUIDGID)
        handle.node.posix = written(handle.node.posix, kill_suid_sgid=kill)
        handle.node.pending = True
        return done

    async def flush(self, caller: Caller, node: int, handle: Handle | None, lock_owner: int) -> None:
        """Commit: close(2) returns what became of it."""
        await self._settle(_held(handle))

    async def fsync(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Commit."""
        await self._settle(_held(handle))

    async def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close; what could not be committed is tried a last time."""
        found, contents = handle.node, handle.contents
        try:
            if not found.gone and found.is_local:
                await self._commits.now(found)
        except OSError as error:
            # flush has told it to the program that closed the file.
            logger.info("%s: what was written is given up: %s", self._names.key(found), error.strerror)
            contents.changed = found.pending = False
            found.posix, found.expires = None, 0.0
        finally:
            contents.users -= 1
            found.opens -= 1
            if not contents.users:
                if found.contents is contents:
                    self._drop_contents(found)
                else:
                    contents.close()
            self._names.nodes.drop_unused(found)

    async def fallocate(
        self, caller: Caller, node: int, handle: Handle | None, mode: int, offset: int, length: int
    ) -> None:
        """Grow a file, or let a range hold zeros. Nothing can be reserved in a bucket."""
        contents = _held(handle).contents
        if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE) or (mode & _PUNCH_HOLE and not mode & _KEEP_SIZE):
            _fail(errno.EOPNOTSUPP)
        if mode & (_PUNCH_HOLE | _ZERO_RANGE):
            contents.clear(offset, offset + length)
        if not mode & _KEEP_SIZE and offset + length > contents.size:
            contents.truncate(offset + length)

    # ---- Directories ----

    async def readdir(
        self, caller: Caller, node: int, handle: Handle | None, offset: int
    ) -> AsyncIterator[DirEntry]:
        """Yield the entries: each page of the listing as it comes."""
        return self._entries(self._directory(node))

    async def _entries(self, directory: Node) -> AsyncIterator[DirEntry]:
        async for child in self._names.entries(directory):
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
        for found in self._names.nodes:
            if not found.gone and found.is_local:
                await self._commits.now(found)

    # ---- Extended attributes ----

    async def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return an attribute's value."""
        values = await self._xattrs(node)
        if name not in values:
            _fail(errno.ENODATA)
        return values[name]

    async def listxattr(self, caller: Caller, node: int) -> list[str]:
        """Return the names."""
        return list(await self._xattrs(node))

    async def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """Set an attribute."""
        values = dict(await self._xattrs(node))
        if flags & os.XATTR_CREATE and name in values:
            _fail(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in values:
            _fail(errno.ENODATA)
        await self._change_xattrs(node, {**values, name: value})

    async def removexattr(self, caller: Caller, node: int, name: str) -> None:
        """Remove an attribute."""
        values = dict(await self._xattrs(node))
        if name not in values:
            _fail(errno.ENODATA)
        del values[name]
        await self._change_xattrs(node, values)

    # ---- What operations have in common ----

    def _node(self, number: int) -> Node:
        try:
            return self._names.nodes[number]
        except KeyError:
            _fail(errno.ESTALE)

    def _changeable(self, number: int) -> Node:
        """Return a node that can have an object with metadata: all but the root of a whole bucket."""
        node = self._node(number)
        if not self._names.key(node):
            _fail(errno.EPERM)
        return node

    def _directory(self, number: int) -> Node:
        node = self._node(number)
        if not node.is_directory:
            _fail(errno.ENOTDIR)
        return node

    def _writable(self) -> None:
        if self._options.read_only:
            _fail(errno.EROFS)

    def _check_name(self, directory: Node, name: str) -> None:
        """Refuse a name that no key can have."""
        if directory.gone:
            _fail(errno.ENOENT)
        if not is_name(name):
            _fail(errno.EILSEQ)
        if len(self._names.child_key(directory, name).encode()) + 1 > KEY_MAXIMUM:
            _fail(errno.ENAMETOOLONG)

    async def _existing(self, directory: Node, name: str) -> Node:
        node = await self._names.find(directory, name)
        if node is None:
            _fail(errno.ENOENT)
        return node

    async def _know(self, node: Node) -> None:
        """Have a node's metadata, where it is wanted at all."""
        if self._options.metadata is not Metadata.NONE or node.posix is not None:
            await self._names.refresh(node)

    def _attr(self, node: Node, handle: Handle | None = None) -> Attr:
        found = node.attr(self._options.defaults)
        if handle is not None and handle.contents is not node.contents:
            return replace(found, size=handle.contents.size)
        return found

    def _entry(self, node: Node, unsure_seconds: float = UNSURE_SECONDS) -> Entry:
        """Return an entry; attributes that only a listing has told hold for unsure_seconds."""
        node.known = True
        unsure = node.posix is None and self._options.metadata is Metadata.LAZY
        return Entry(
            self._attr(node),
            node.number,
            attr_seconds=min(unsure_seconds, self._options.seconds) if unsure else None,
        )

    async def _make(self, parent: int, name: str, posix: PosixMetadata, body: bytes) -> Node:
        """Make an object at once, and the node that it is."""
        self._writable()
        directory = self._directory(parent)
        self._check_name(directory, name)
        if await self._names.find(directory, name) is not None:
            _fail(errno.EEXIST)
        kind = stat.S_IFMT(posix.mode or 0) or stat.S_IFREG
        node = self._names.nodes.add(directory, name, kind)
        # Known before it is there: until then, who asks for the name finds this node.
        node.posix, node.pending = posix, True
        try:
            await self._commits.make(node, body)
        except BaseException:
            node.pending = False
            self._names.nodes.detach(node)
            raise
        return node

    async def _contents(self, node: Node) -> Contents:
        """Return the contents of a file as it is now."""
        contents = node.contents
        if contents is None or (contents.etag != node.etag and not contents.changed):
            key = self._names.key(node)
            node.contents = Contents(self._store, self._budget, self._spool, key, node.etag, node.size)
        assert node.contents is not None
        return node.contents

    def _drop_contents(self, node: Node) -> None:
        if node.contents is not None and not node.contents.users:
            if not node.contents.changed:
                node.size = node.contents.size
            node.contents.close()
            node.contents = None

    async def _reopen(self, handle: Handle) -> None:
        """Let a handle that has read nothing yet see the object that is there now."""
        node, old = handle.node, handle.contents
        node.posix = None
        await self._names.refresh(node)
        handle.contents = await self._contents(node)
        handle.contents.users += 1
        old.users -= 1
        if not old.users:
            old.close()

    async def _settle(self, handle: Handle) -> None:
        if not handle.node.gone and handle.node.is_local:
            await self._commits.now(handle.node)

    async def _has_children(self, directory: Node) -> bool:
        if any(child.is_local or child.opens for child in directory.children.values()):
            return True
        key = self._names.key(directory)
        page = await self._store.list(key, limit=2)
        return any(item.key != key for item in page.objects) or bool(page.prefixes)

    async def _keep_directory(self, directory: Node) -> None:
        """Let a directory that was only a prefix stay when the last key with it has gone."""
        if directory.parent is None or directory.etag is not None or directory.children or directory.gone:
            return
        if not await self._has_children(directory):
            directory.pending = True
            await self._commits.now(directory)

    async def _delete(self, node: Node, match: str | None) -> None:
        try:
            await self._store.delete(self._names.key(node), if_match=match)
        except MissingError:
            pass  # gone is what it shall be
        except ConditionError:
            node.posix = None
            raise

    async def _xattrs(self, node: int) -> Mapping[str, bytes]:
        found = self._node(node)
        if not found.gone:
            await self._names.refresh(found)
        return found.posix.xattrs if found.posix is not None else {}

    async def _change_xattrs(self, node: int, values: Mapping[str, bytes]) -> None:
        self._writable()
        found = self._changeable(node)
        posix = replace(found.posix or PosixMetadata(), xattrs=values, ctime=time.time_ns())
        encoded(posix)
        found.posix, found.pending = posix, True
        if not found.opens or found.is_directory:
            self._commits.soon(found)


def _held(handle: Handle | None) -> Handle:
    if handle is None:
        _fail(errno.EBADF)
    return handle


def _is_below(node: Node, directory: Node) -> bool:
    at: Node | None = node
    while at is not None:
        if at is directory:
            return True
        at = at.parent
    return False
