"""Renaming, which a bucket cannot: copies under the new keys, and deletions of the old ones.

A file that is not in the bucket yet only changes its name. One that is, is copied on the condition that it
is the one that was known, and deleted on the same; a directory's objects are copied side by side, and
deleted in batches when all copies are there: whoever is interrupted has both, and loses nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from typing import Final

from vhostfs.backends.s3.namespace import KEY_MAXIMUM, Namespace
from vhostfs.backends.s3.nodes import Node
from vhostfs.backends.s3.store import COPY_MAXIMUM, PAGE_MAXIMUM, Listed, MissingError, ObjectStore

COPIES_AT_ONCE: Final = 64


class Renamer:
    """Renames files and directories of a namespace. For one event loop."""

    def __init__(self, store: ObjectStore, namespace: Namespace, limit: int) -> None:
        """A renamer that moves directories of up to so many objects."""
        self._store, self._names, self._limit = store, namespace, limit

    async def move_file(self, node: Node, directory: Node, name: str, replaced: Node | None) -> None:
        """Give a file another name, in place of one that has it; raise StoreError."""
        names = self._names
        if node.etag is None:
            # Not in the bucket yet: it will be written under its new key, over what is there.
            contents = node.contents
            if contents is not None:
                contents.give_up_stream()
            names.nodes.move(node, directory, name)
            if contents is not None:
                contents.key = names.key(node)
                contents.etag = node.etag = replaced.etag if replaced is not None else None
                contents.base_size = 0
            return
        if node.size > COPY_MAXIMUM:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        old, new = names.key(node), names.child_key(directory, name)
        if self._store.capabilities.rename and replaced is None:
            await self._store.rename(old, new, source_match=node.etag)
        else:
            written = await self._store.copy(old, new, source_match=node.etag)
            match = node.etag if self._store.capabilities.conditional_delete else None
            with suppress(MissingError):
                await self._store.delete(old, if_match=match)
            node.etag = written.etag
        names.nodes.move(node, directory, name)
        if node.contents is not None:
            node.contents.key, node.contents.etag = names.key(node), node.etag
            node.contents.forget_reader()
        names.believe(node)

    async def move_directory(self, node: Node, directory: Node, name: str) -> None:
        """Move all objects of a directory; EXDEV where there are too many, and who moves copies then."""
        names = self._names
        old = names.key(node)
        new = f"{names.child_key(directory, name)}/"
        objects = await self._all_below(old)
        longest = max((len(item.key.encode()) for item in objects), default=0)
        if longest + len(new.encode()) - len(old.encode()) > KEY_MAXIMUM:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if any(item.size > COPY_MAXIMUM for item in objects):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        at_once = asyncio.Semaphore(COPIES_AT_ONCE)

        async def copy(item: Listed) -> None:
            async with at_once:
                await self._store.copy(item.key, new + item.key.removeprefix(old), source_match=item.etag)

        try:
            async with asyncio.TaskGroup() as group:
                for item in objects:
                    group.create_task(copy(item))
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        for at in range(0, len(objects), PAGE_MAXIMUM):
            failed = await self._store.delete_many([item.key for item in objects[at : at + PAGE_MAXIMUM]])
            for reason in failed.values():
                raise reason
        names.nodes.move(node, directory, name)
        _forget_versions(node)

    async def _all_below(self, key: str) -> list[Listed]:
        found: list[Listed] = []
        page: str | None = None
        while True:
            got = await self._store.list(key, page=page)
            found += got.objects
            if len(found) > self._limit:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            page = got.next
            if page is None:
                return found


def _forget_versions(directory: Node) -> None:
    """Let everything below a directory be asked for again: copies may have other ETags."""
    waiting = [directory]
    while waiting:
        node = waiting.pop()
        node.listed_until = node.expires = 0.0
        waiting += node.children.values()
