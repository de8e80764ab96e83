"""Renames that did not come to their end: of a daemon that was killed, or while the store was away.

As long as not all is copied, nothing has the new name but copies: they are taken back. The old name has all
that was ever acknowledged, so that who writes there need not wait, and what the journal promises below it
holds as it is. Once all is copied, and the journal has that, what has the old name is deleted: the new one
has all, and nobody can tell any more what was written there since. A single file that takes the place of
another is gone on with as soon as it is copied, since what it has replaced is gone. `rename` has not returned
in any of these cases, so that either is what it may have done.

Nothing is deleted but where it is proven to be the same in both places. A copy is ours if it has the ETag
that the store has told for it; of one whose answer nobody has noted, size, metadata and ETag are compared
with those of its original: our own writes have a nonce there, which other writes do not have. It is taken
back only while its original is there. An original is deleted only as the version that was copied, which its
ETag and the listing's time tell. What was written here since stays, and what is open is waited for: it may be
written. What others have written under either name therefore stays; and so do, at worst, two copies of one
object.

A copy that the store makes after it was looked for stays, too.

What the journal promises is sent after this, unless somebody waits for it: an original that was written over
does not tell any more what is its copy.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.renames import Rename
from vhostfs.backends.s3.naming.namespace import Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.store import Listed, MissingError, ObjectInfo, ObjectStore
from vhostfs.backends.s3.writing.copying import Copier, is_copy
from vhostfs.backends.s3.writing.scheduling import RETRY_SECONDS, RETRY_SECONDS_MAXIMUM
from vhostfs.backends.s3.writing.uploading import all_of
from vhostfs.filesystem.refusals import refused

logger = logging.getLogger(__name__)

AT_ONCE: Final = 64

type Lock = Callable[[Node], AbstractAsyncContextManager[None]]
"""What keeps others from committing a file."""


class Resumer:
    """All renames of a file system that are not ended. For one event loop."""

    def __init__(
        self, store: ObjectStore, names: Namespace, copier: Copier, lock: Lock, journal: Journal | None
    ) -> None:
        """A resumer that goes on, once it begins, with what a journal has; without one, with nothing."""
        self._store, self._names, self._copier = store, names, copier
        self._lock, self._journal = lock, journal
        self._left = {} if journal is None else dict(journal.renames)
        self._runner: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()

    # ---- Life ----

    def begin(self) -> None:
        """Go on with what is left. Does not wait."""
        self._run_after(0.0)

    def later(self, rename: Rename) -> None:
        """Go on with a rename when the store answers again; without a journal it stays as it is."""
        if self._journal is not None:
            self._left[rename.number] = rename
            self._run_after(RETRY_SECONDS)

    async def tried(self) -> None:
        """Return when all that is left was tried."""
        if self._runner is not None and not self._runner.done():
            await self._tried.wait()

    async def end(self) -> None:
        """Stop; the journal keeps what is left."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
            self._runner = None

    def _run_after(self, seconds: float) -> None:
        if self._left and (self._runner is None or self._runner.done()):
            self._tried.clear()
            self._runner = asyncio.ensure_future(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        wait = RETRY_SECONDS
        told: set[str] = set()
        try:
            await asyncio.sleep(seconds)
            while self._left:
                for number, rename in list(self._left.items()):
                    try:
                        await self.resume(rename)
                    except OSError as error:
                        if number not in told:
                            told.add(number)
                            logger.warning("%s: renaming it is not ended: %s", rename.old, error.strerror)
                    else:
                        del self._left[number]
                self._tried.set()
                if self._left:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, RETRY_SECONDS_MAXIMUM)
        finally:
            self._tried.set()

    # ---- One rename ----

    async def resume(self, rename: Rename) -> None:
        """Take a rename back, or delete what is left under its old name.

        Raise StoreError, and OSError EBUSY where something that is open is left.
        """
        if not rename.is_directory:
            is_ended = await self._resume_file(rename)
        elif rename.happened:
            is_ended = await self._delete_originals(rename)
        else:
            is_ended = await self._take_back(rename)
        self._names.doubt_below(rename.old)
        self._names.doubt_below(rename.new)
        if not is_ended:
            raise refused(errno.EBUSY)
        self.ended(rename)

    def ended(self, rename: Rename) -> None:
        """Note that nothing is left to be done."""
        if self._journal is not None:
            self._journal.rename_ended(rename)

    async def _take_back(self, rename: Rename) -> bool:
        """Delete the copies of a directory's objects whose originals are there; False where one is open."""
        originals = {each.key: each async for page in pages(self._store, rename.old) for each in page}
        at_once = asyncio.Semaphore(AT_ONCE)
        is_ended = True

        async def take_back(original: Listed, copy: Listed) -> bool:
            async with at_once:
                copied = rename.copies.get(original.key)
                noted = copied is not None and copied.made == copy.etag
                if noted or (original.size == copy.size and await self._is_copy(copy.key, original.key)):
                    return await self._delete(copy.key, copy.etag)
                return True

        async for page in pages(self._store, rename.new):
            done = await all_of(
                take_back(originals[old], each)
                for each in page
                for old in [rename.old + each.key.removeprefix(rename.new)]
                # Of two empty directories, the one that was there has been replaced by the other.
                if old in originals and not (rename.replaces and each.key == rename.new)
            )
            is_ended = is_ended and all(done)
        return is_ended

    async def _is_copy(self, key: str, original: str) -> bool:
        found, source = await asyncio.gather(self._head(key), self._head(original))
        return found is not None and source is not None and is_copy(found, source)

    async def _delete_originals(self, rename: Rename) -> bool:
        """Delete a directory's objects that are the versions that were copied; False where one is open."""
        at_once = asyncio.Semaphore(AT_ONCE)
        is_ended = True

        async def delete(original: Listed) -> bool:
            async with at_once:
                copied = rename.copies.get(original.key)
                is_same = copied is not None and copied.etag == original.etag
                if copied is not None and is_same and copied.modified in {0, original.modified}:
                    return await self._delete(original.key, original.etag)
                return True

        async for page in pages(self._store, rename.old):
            is_ended = all(await all_of(map(delete, page))) and is_ended
        return is_ended

    async def _resume_file(self, rename: Rename) -> bool:
        original, found = await asyncio.gather(self._head(rename.old), self._head(rename.new))
        if original is None or found is None or original.modified > found.modified:
            return True
        copied = rename.copies.get(rename.old)
        noted = copied is not None and copied.etag == original.etag
        if noted and copied is not None and not rename.happened:
            noted = copied.made == found.etag
        if not noted and not is_copy(found, original):
            return True
        if rename.happened or rename.replaces:
            return await self._delete(rename.old, original.etag)
        return await self._delete(rename.new, found.etag)

    async def _delete(self, key: str, etag: str) -> bool:
        """Delete a version of an object that nobody has written here; False where somebody has it open."""
        node = self._names.known(key)
        if node is None:
            await self._delete_version(key, etag)
            return True
        async with self._lock(node):
            if node.has_local or node.written:
                return True
            if node.opens:
                return False
            await self._delete_version(key, etag)
            if node.is_directory:
                node.etag = node.posix = None
            return True

    async def _delete_version(self, key: str, etag: str) -> None:
        if not self._store.capabilities.conditional_delete:
            found = await self._head(key)
            if found is None or found.etag != etag:
                return
        await self._copier.delete(key, etag)

    async def _head(self, key: str) -> ObjectInfo | None:
        try:
            return await self._store.head(key)
        except MissingError:
            return None


async def pages(store: ObjectStore, prefix: str) -> AsyncIterator[Sequence[Listed]]:
    """Yield all objects with a prefix, a page at a time; raise StoreError."""
    page: str | None = None
    while True:
        found = await store.list(prefix, page=page)
        yield found.objects
        page = found.next
        if page is None:
            return
