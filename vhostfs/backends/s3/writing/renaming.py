"""Renaming, which a bucket cannot: copies under the new keys, and deletions of the old ones.

A file that is not in the bucket yet only changes its name. One that is, is copied on the condition that it
is the one that was known, over what was known under the new name, and deleted on the same: what somebody
else has written under either name meanwhile is not lost. A directory's objects are copied side by side, and
deleted when all copies are there. What is written below it meanwhile is copied as well, and what is on its
way to the bucket is waited for.

The journal has a rename before its first copy, each copy, and that there are all of them, together with the
new names of what it promises, before the first deletion: `resuming` says what becomes of one that was
interrupted.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.renames import Copied, Rename
from vhostfs.backends.s3.naming.index import NAME as INDEX
from vhostfs.backends.s3.naming.namespace import KEY_MAXIMUM, Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.store import (
    PAGE_MAXIMUM,
    ConditionError,
    Listed,
    MissingError,
    ObjectStore,
    StoreError,
)
from vhostfs.backends.s3.writing.copying import Copier
from vhostfs.backends.s3.writing.resuming import Lock, Resumer, pages
from vhostfs.backends.s3.writing.uploading import Uploads, all_of
from vhostfs.filesystem.refusals import refused

COPIES_AT_ONCE: Final = 64


class Renamer:
    """Renames files and directories of a namespace. For one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        names: Namespace,
        uploads: Uploads,
        lock: Lock,
        limit: int,
        journal: Journal | None,
    ) -> None:
        """A renamer that moves directories of up to so many objects."""
        self._store, self._names, self._limit = store, names, limit
        self._copier, self._lock, self._journal = Copier(store, uploads), lock, journal
        self.left = Resumer(store, names, self._copier, lock, journal)
        """What did not come to its end."""

    async def move_file(self, node: Node, directory: Node, name: str, replaced: Node | None) -> Rename | None:
        """Give a file another name, in place of one that has it; raise StoreError. Their locks are held.

        Return what `delete_old` is to be called with once all else has been done for the new name.
        """
        names = self._names
        over = replaced.etag if replaced is not None else None
        if node.etag is None:
            # Not in the bucket yet: it will be written under its new key, over what is there.
            contents = node.contents
            if contents is not None:
                contents.give_up_stream()
            names.nodes.move(node, directory, name)
            if contents is not None:
                contents.key = names.key(node)
                contents.etag = node.etag = over
                contents.base_size = 0
            return None
        old, new = names.key(node), names.child_key(directory, name)
        rename = None
        if self._store.capabilities.rename and replaced is None:
            await self._store.rename(old, new, source_match=node.etag)
            etag = node.etag
        else:
            rename = await self._begun(old, new, replaced)
            try:
                written = await self._copier.copy(old, node.etag, node.size, new, over)
                etag = written.etag
                self._note_copy(rename, old, Copied(node.etag, etag))
                self._note_all(rename, [node])
            except BaseException as error:
                if isinstance(error, StoreError) and not error.doubtful:
                    self.left.ended(rename)
                else:
                    self.left.later(rename)
                if isinstance(error, ConditionError | MissingError):
                    directory.listed_until = 0.0
                    for other in (node, replaced):
                        if other is not None:
                            names.doubt(other)
                    raise refused(errno.ESTALE) from error
                raise
        names.nodes.move(node, directory, name)
        _take_version(node, names.key(node), etag)
        names.wrote(node)
        return rename

    async def move_directory(self, node: Node, directory: Node, name: str, replaced: Node | None) -> Rename:
        """Move all objects of a directory; return what `delete_old` is to be called with then.

        EXDEV where there are too many, and who moves copies then; StoreError, and the directory is where it
        was.
        """
        names = self._names
        old = names.key(node)
        new = f"{names.child_key(directory, name)}/"
        writes = names.writes
        found = await self._all_below(old)
        longest = max((len(item.key.encode()) for item in found), default=0)
        if longest + len(new.encode()) - len(old.encode()) > KEY_MAXIMUM:
            raise refused(errno.ENAMETOOLONG)
        rename = await self._begun(old, new, replaced)
        at_once = asyncio.Semaphore(COPIES_AT_ONCE)

        async def copy(key: str, etag: str, size: int, modified: int) -> None:
            async with at_once:
                target, before = rename.key(key), rename.copies.get(key)
                over = None if before is None else before.made
                if target in {new, new + INDEX}:
                    # An empty directory is there, or none: it is no matter which.
                    written = await self._store.copy(key, target, source_match=etag)
                else:
                    written = await self._copier.copy(key, etag, size, target, over)
                self._note_copy(rename, key, Copied(etag, written.etag, modified))

        try:
            held = await self._copy_all(node, found, writes, rename, copy)
        except BaseException:
            await asyncio.shield(self._give_up(rename))
            raise
        async with held:
            names.nodes.move(node, directory, name)
            for child in _below(node):
                key = names.key(child)
                done = rename.copies.get(old + key.removeprefix(new))
                if done is None or done.etag != child.etag:
                    child.expires = 0.0  # it is not what was known
                if done is not None:
                    _take_version(child, key, done.made)
                elif child.contents is not None:
                    child.contents.key = key
        return rename

    async def delete_old(self, rename: Rename) -> None:
        """Delete what has another name now, but what somebody else has written since; raise OSError."""
        try:
            moved = self._names.known(rename.new)
            if self._journal is not None and (rename.is_directory or (moved and moved.intent)):
                await self._journal.durable()
            await self._delete_all(rename)
        except BaseException:
            self._names.doubt_below(rename.old)
            self.left.later(rename)
            raise
        self.left.ended(rename)

    async def _begun(self, old: str, new: str, replaced: Node | None) -> Rename:
        rename = Rename(secrets.token_hex(8), old, new, replaces=replaced is not None)
        if self._journal is not None:
            await self._journal.rename_begins(rename)
        return rename

    def _note_copy(self, rename: Rename, key: str, copied: Copied) -> None:
        rename.copies[key] = copied
        if self._journal is not None:
            self._journal.rename_copied(rename, key)

    def _note_all(self, rename: Rename, nodes: Iterable[Node]) -> None:
        """Note that all is copied, and that these have other names and versions; raise OSError."""
        if self._journal is None:
            rename.happened = True
            return
        etags: dict[str, str | None] = {}
        for node in nodes:
            if node.intent is not None:
                copied = rename.copies.get(self._names.key(node))
                is_copied = copied is not None and copied.etag == node.intent.etag
                etags[node.intent.number] = copied.made if copied and is_copied else node.intent.etag
        self._journal.rename_happened(rename, etags)

    async def _copy_all(
        self,
        directory: Node,
        found: Sequence[Listed],
        writes: int,
        rename: Rename,
        copy: Callable[[str, str, int, int], Coroutine[Any, Any, None]],
    ) -> AsyncExitStack:
        """Copy until all that is known is copied, and note that; return what keeps more from coming."""

        async def copy_listed(item: Listed) -> None:
            try:
                await copy(item.key, item.etag, item.size, item.modified)
            except ConditionError:
                node = self._names.known(item.key)
                if node is None or not (node.written > writes or node.is_local or node.opens):
                    raise
                # Written here since it was listed: it comes with what is late.

        await all_of(map(copy_listed, found))
        while True:
            busy = sorted(_busy(directory), key=lambda node: node.number)
            async with AsyncExitStack() as stack:
                for node in busy:
                    await stack.enter_async_context(self._lock(node))
                numbers = {node.number for node in busy}
                late = list(self._late(directory, rename, numbers, writes))
                await all_of(copy(*each) for each in late)
                none_late = not any(self._late(directory, rename, numbers, writes))
                if none_late and {node.number for node in _busy(directory)} <= numbers:
                    self._note_all(rename, _below(directory))
                    return stack.pop_all()

    def _late(
        self, directory: Node, rename: Rename, busy: Container[int], writes: int
    ) -> Iterator[tuple[str, str, int, int]]:
        """Yield what has no copy yet of what may have been written since so many writes."""
        for node in _below(directory):
            if node.etag is None or not (node.number in busy or node.written > writes):
                continue
            key = self._names.key(node)
            if key not in rename.copies or rename.copies[key].etag != node.etag:
                yield key, node.etag, 0 if node.is_directory else node.size, 0

    async def _give_up(self, rename: Rename) -> None:
        """Delete the copies that were made: the directory stays where it was."""
        try:
            await self.left.resume(rename)
        except OSError:
            self.left.later(rename)

    async def _delete_all(self, rename: Rename) -> None:
        """Delete what was copied, but what somebody else has written since."""
        if self._store.capabilities.conditional_delete or not rename.is_directory:
            at_once = asyncio.Semaphore(COPIES_AT_ONCE)

            async def delete(key: str, etag: str) -> None:
                async with at_once:
                    if not await self._copier.delete(key, etag):
                        self._names.doubt_below(key)

            await all_of(delete(key, done.etag) for key, done in rename.copies.items())
            return
        keys = list(rename.copies)
        for at in range(0, len(keys), PAGE_MAXIMUM):
            failed = await self._store.delete_many(keys[at : at + PAGE_MAXIMUM])
            for reason in failed.values():
                raise reason

    async def _all_below(self, key: str) -> list[Listed]:
        found: list[Listed] = []
        async for page in pages(self._store, key):
            found += page
            if len(found) > self._limit:
                raise refused(errno.EXDEV)
        return found


def _below(directory: Node) -> Iterator[Node]:
    """Yield a directory and all that is known below it."""
    waiting = [directory]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children.values()


def _busy(directory: Node) -> Iterator[Node]:
    """Yield what is known below a directory that may be written."""
    return (node for node in _below(directory) if not node.is_directory and (node.opens or node.is_local))


def _take_version(node: Node, key: str, etag: str) -> None:
    """Take note of the object that a file is from now on: the bytes are the same."""
    contents, node_etag = node.contents, node.etag
    node.etag = etag
    if contents is not None:
        contents.key = key
        if contents.etag == node_etag:
            contents.etag = etag
        contents.forget_reader()
