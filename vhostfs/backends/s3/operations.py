"""What the operations of the file system have in common: nodes by number, checks, entries."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.naming.attributes import made
from vhostfs.backends.s3.naming.index import NAME as INDEX
from vhostfs.backends.s3.naming.namespace import (
    FOLDER,
    KEY_MAXIMUM,
    Namespace,
    first_keys,
    is_name,
    is_reserved,
)
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.options import Handle, Metadata, S3Options
from vhostfs.backends.s3.siblings import Siblings
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import ConditionError, MissingError, ObjectStore
from vhostfs.backends.s3.writing.committing import Committer
from vhostfs.backends.s3.writing.journaling import Journaling
from vhostfs.backends.s3.writing.scheduling import Commits
from vhostfs.filesystem import Attr, Caller, Entry, Filesystem, Options
from vhostfs.filesystem.refusals import refused

UNSURE_SECONDS: Final = 1.0
"""How long the kernel may believe attributes that a listing told, of which HEAD might tell others."""


class Operations(Filesystem[Handle]):
    """A bucket of which the operations are elsewhere: what they all need."""

    def __init__(
        self, store: ObjectStore, options: S3Options, cache: BlockCache, spool: Spool, journal: Journal | None
    ) -> None:
        self._store, self._options = store, options
        self._cache, self._spool = cache, spool
        self.options = Options(
            entry_seconds=options.seconds, attr_seconds=options.seconds, negative_seconds=options.seconds
        )
        exact = options.metadata is Metadata.FULL
        self._names = Namespace(store, options.prefix, options.seconds, exact=exact)
        self._siblings = Siblings(self._names, self._cache)
        self._journaling = None if journal is None else Journaling(journal, self._names)
        self._committer = Committer(store, self._names, options.conflict, journal)
        self._commits = Commits(
            self._committer,
            self._names,
            spool,
            journaling=self._journaling,
            conflict=options.conflict,
            write=options.write,
            unwritten_size=options.unwritten_size,
            standing=store.standing,
        )

    def _node(self, number: int) -> Node:
        try:
            return self._names.nodes[number]
        except KeyError:
            raise refused(errno.ESTALE) from None

    def _changeable(self, number: int) -> Node:
        """Return a node that can have an object with metadata: all but the root of a whole bucket."""
        node = self._node(number)
        if node.taken:
            raise refused(errno.ESTALE)
        if not self._names.key(node):
            raise refused(errno.EPERM)
        return node

    def _directory(self, number: int) -> Node:
        node = self._node(number)
        if not node.is_directory:
            raise refused(errno.ENOTDIR)
        return node

    def _writable(self) -> None:
        if self._options.read_only:
            raise refused(errno.EROFS)

    def _check_name(self, directory: Node, name: str) -> None:
        """Refuse a name that no key can have."""
        if directory.gone:
            raise refused(errno.ENOENT)
        if not is_name(name):
            raise refused(errno.EILSEQ)
        if is_reserved(name) or name.endswith(FOLDER):
            raise refused(errno.EPERM)  # the next listing would not show it, or show a directory
        if len(self._names.child_key(directory, name).encode()) + 1 > KEY_MAXIMUM:
            raise refused(errno.ENAMETOOLONG)

    async def _existing(self, directory: Node, name: str) -> Node:
        node = await self._names.find(directory, name)
        if node is None:
            raise refused(errno.ENOENT)
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

    async def _make(
        self, caller: Caller, parent: int, name: str, mode: int, body: bytes, rdev: int = 0
    ) -> Node:
        """Make an object at once, and the node that it is."""
        self._writable()
        directory = self._directory(parent)
        self._check_name(directory, name)
        if await self._names.find(directory, name) is not None:
            raise refused(errno.EEXIST)
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        node = self._names.nodes.add(directory, name, kind)
        # Known before it is there: until then, who asks for the name finds this node.
        node.posix, node.pending = made(caller, directory, kind | mode, rdev), True
        node.size = len(body)
        try:
            await self._commits.make(node, body)
        except BaseException:
            node.pending = False
            self._names.nodes.detach(node)
            raise
        directory.touch()
        return node

    async def _has_children(self, directory: Node) -> bool:
        return (await self._what_is_in(directory))[0]

    async def _what_is_in(self, directory: Node) -> tuple[bool, bool]:
        """Tell whether there is anything in a directory, and whether an index is."""
        if any(child.is_local or child.opens for child in directory.children.values()):
            return True, False
        key = self._names.key(directory)
        keys = set(await first_keys(self._store, key, 3))
        return bool(keys - {key, key + INDEX}), key + INDEX in keys

    async def _keep_directory(self, directory: Node) -> None:
        """Let a directory that was only a prefix stay when the last key with it has gone."""
        if directory.parent is None or directory.etag is not None or directory.children or directory.gone:
            return
        if directory.is_local:
            return  # it is on its way
        # Its own object may be there, and nobody have asked for it yet.
        if not await first_keys(self._store, self._names.key(directory), 1):
            directory.pending = True
            self._commits.note_changed(directory)
            await self._commits.settle(directory)

    async def _delete(self, node: Node, match: str | None) -> None:
        try:
            await self._store.delete(self._names.key(node), if_match=match)
        except MissingError:
            pass  # gone is what it shall be
        except ConditionError:
            self._names.doubt(node)
            raise

    async def _contents(self, node: Node) -> Contents:
        """Return the contents of a file as it is now."""
        contents = node.contents
        if contents is None or (contents.etag != node.etag and not contents.changed):
            contents = node.contents = self._new_contents(node)
        return contents

    def _current(self, node: Node, handle: Handle | None) -> Contents:
        """Return what is written to, of a file that is open; ESTALE where it has become another one since."""
        contents = handle.contents if handle is not None else node.contents
        assert contents is not None
        if node.gone and not node.taken:
            return contents
        is_current = contents is node.contents and (contents.changed or contents.etag == node.etag)
        if node.taken or not is_current:
            raise refused(errno.ESTALE)
        return contents

    def _new_contents(self, node: Node) -> Contents:
        return Contents(self._cache, self._spool, self._names.key(node), node.etag, node.size)

    def _drop_contents(self, node: Node) -> None:
        """Give up the contents of a file that nobody has open, unless the bucket does not have them yet."""
        contents = node.contents
        if contents is None or contents.users or ((contents.changed or contents.sending) and not node.gone):
            if contents is not None and not contents.users:
                contents.file.rest()
            return
        contents.close()
        node.contents = None

    def _truncate(self, node: Node, contents: Contents, size: int) -> None:
        """Set a file's size; what the journal says of it is cut first."""
        if self._journaling is not None and contents is node.contents:
            self._journaling.cut(node, size)
        contents.truncate(size)
        self._commits.note_changed(node)
