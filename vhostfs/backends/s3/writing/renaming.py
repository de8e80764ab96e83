"""Renaming, which a bucket cannot: copies under the new keys, and deletions of the old ones.

A file that is not in the bucket yet only changes its name. One that is, is copied on the condition that it
is the one that was known, over what was known under the new name, and deleted on the same: what somebody
else has written under either name meanwhile is not lost. A directory's objects are copied side by side, and
deleted when all copies are there: whoever is interrupted has both. What is written below it meanwhile is
copied as well, and what is on its way to the bucket is waited for.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from vhostfs.backends.s3.naming.index import NAME as INDEX
from vhostfs.backends.s3.naming.namespace import KEY_MAXIMUM, Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.store import (
    PAGE_MAXIMUM,
    ConditionError,
    Listed,
    ObjectStore,
    StoreError,
    Written,
)
from vhostfs.backends.s3.writing.copying import Copier
from vhostfs.backends.s3.writing.uploading import Uploads, all_of
from vhostfs.filesystem.refusals import refused

COPIES_AT_ONCE: Final = 64

type Lock = Callable[[Node], AbstractAsyncContextManager[None]]
"""What keeps others from committing a file."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """An object that was copied: which version, and what became of it."""

    etag: str
    written: Written


class Renamer:
    """Renames files and directories of a namespace. For one event loop."""

    def __init__(
        self, store: ObjectStore, names: Namespace, uploads: Uploads, lock: Lock, limit: int
    ) -> None:
        """A renamer that moves directories of up to so many objects."""
        self._store, self._names, self._limit = store, names, limit
        self._copier, self._lock = Copier(store, uploads), lock

    async def move_file(self, node: Node, directory: Node, name: str, replaced: Node | None) -> None:
        """Give a file another name, in place of one that has it; raise StoreError. Their locks are held."""
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
            return
        old, new, parent = names.key(node), names.child_key(directory, name), node.parent
        if self._store.capabilities.rename and replaced is None:
            await self._store.rename(old, new, source_match=node.etag)
            written = Written(node.etag)
        else:
            try:
                written = await self._copier.copy(old, node.etag, node.size, new, over)
            except ConditionError:
                for other in (node, replaced):
                    if other is not None:
                        other.posix, other.expires = None, 0.0
                directory.listed_until = 0.0
                raise
            if not await self._copier.delete(old, node.etag) and parent is not None:
                parent.listed_until = 0.0  # somebody else has written it: that stays
        names.nodes.move(node, directory, name)
        _take_version(node, names.key(node), written.etag)
        names.wrote(node)

    async def move_directory(self, node: Node, directory: Node, name: str) -> Sequence[Node]:
        """Move all objects of a directory; return what is not in the bucket yet, under its new name.

        EXDEV where there are too many, and who moves copies then; StoreError, and the directory is where it
        was.
        """
        names = self._names
        old = names.key(node)
        new = f"{names.child_key(directory, name)}/"
        found = {item.key: (item.etag, item.size) for item in await self._all_below(old)}
        longest = max((len(key.encode()) for key in found), default=0)
        if longest + len(new.encode()) - len(old.encode()) > KEY_MAXIMUM:
            raise refused(errno.ENAMETOOLONG)
        copies: dict[str, _Copy] = {}
        at_once = asyncio.Semaphore(COPIES_AT_ONCE)

        async def copy(key: str, etag: str, size: int) -> None:
            async with at_once:
                target, before = new + key.removeprefix(old), copies.get(key)
                over = None if before is None else before.written.etag
                if target in {new, new + INDEX}:
                    # An empty directory is there, or none: it is no matter which.
                    written = await self._store.copy(key, target, source_match=etag)
                else:
                    written = await self._copier.copy(key, etag, size, target, over)
                copies[key] = _Copy(etag, written)

        try:
            held = await self._copy_all(node, found, copies, copy)
        except BaseException:
            await asyncio.shield(self._take_back(old, new, copies))
            raise
        async with held:
            names.nodes.move(node, directory, name)
            local = []
            for child in _below(node):
                key = names.key(child)
                done = copies.get(old + key.removeprefix(new))
                if done is None or done.etag != child.etag:
                    child.expires = 0.0  # it is not what was known
                if done is not None:
                    _take_version(child, key, done.written.etag)
                elif child.contents is not None:
                    child.contents.key = key
                if child.is_local:
                    local.append(child)
        await self._delete_all(copies)
        return local

    async def _copy_all(
        self,
        directory: Node,
        found: dict[str, tuple[str, int]],
        copies: dict[str, _Copy],
        copy: Callable[[str, str, int], Coroutine[Any, Any, None]],
    ) -> AsyncExitStack:
        """Copy until all that is known is copied; return what keeps more from coming."""
        await all_of(copy(key, etag, size) for key, (etag, size) in found.items())
        while True:
            busy = sorted(_busy(directory), key=lambda node: node.number)
            async with AsyncExitStack() as stack:
                for node in busy:
                    await stack.enter_async_context(self._lock(node))
                late = [
                    (key, node.etag, node.size)
                    for node in _below(directory)
                    if node.etag is not None and not node.is_directory
                    for key in [self._names.key(node)]
                    if node.number in {each.number for each in busy}
                    and (key not in copies or copies[key].etag != node.etag)
                ]
                await all_of(copy(*each) for each in late)
                if {node.number for node in _busy(directory)} <= {node.number for node in busy}:
                    return stack.pop_all()

    async def _take_back(self, old: str, new: str, copies: dict[str, _Copy]) -> None:
        """Delete the copies that were made: the directory stays where it was."""
        with suppress(StoreError):  # there are two of them then: nothing is lost
            await all_of(
                self._copier.delete(new + key.removeprefix(old), done.written.etag)
                for key, done in copies.items()
            )

    async def _delete_all(self, copies: dict[str, _Copy]) -> None:
        """Delete what was copied, but what somebody else has written since."""
        if self._store.capabilities.conditional_delete:
            at_once = asyncio.Semaphore(COPIES_AT_ONCE)

            async def delete(key: str, etag: str) -> None:
                async with at_once:
                    await self._copier.delete(key, etag)

            await all_of(delete(key, done.etag) for key, done in copies.items())
            return
        keys = list(copies)
        for at in range(0, len(keys), PAGE_MAXIMUM):
            failed = await self._store.delete_many(keys[at : at + PAGE_MAXIMUM])
            for reason in failed.values():
                raise reason

    async def _all_below(self, key: str) -> list[Listed]:
        found: list[Listed] = []
        page: str | None = None
        while True:
            got = await self._store.list(key, page=page)
            found += got.objects
            if len(found) > self._limit:
                raise refused(errno.EXDEV)
            page = got.next
            if page is None:
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
