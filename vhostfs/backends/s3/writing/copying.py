"""Copies of objects under other keys, of any size, made by the store itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from vhostfs.backends.s3.store import (
    COPY_MAXIMUM,
    ConditionError,
    MissingError,
    ObjectStore,
    Part,
    UnsupportedError,
    Written,
)
from vhostfs.backends.s3.writing.uploading import OpenUpload, Uploads

PART_SIZE: Final = 1 << 30
PARTS_AT_ONCE: Final = 8


class Copier:
    """Copies and deletes objects on conditions. For one event loop."""

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        """A copier for a store."""
        self._store, self._uploads = store, uploads

    async def copy(self, source: str, etag: str, size: int, key: str, replaced: str | None) -> Written:
        """Copy one version of an object over another one, or (None) to where there is none.

        Raise ConditionError where either is another one by now.
        """
        if size > COPY_MAXIMUM:
            return await self._copy_in_parts(source, etag, size, key, replaced)
        return await self._store.copy(
            source, key, source_match=etag, if_match=replaced, if_absent=replaced is None
        )

    async def delete(self, key: str, etag: str) -> bool:
        """Delete one version of an object; tell whether it is gone: another version stays."""
        match = etag if self._store.capabilities.conditional_delete else None
        try:
            await self._store.delete(key, if_match=match)
        except MissingError:
            return True
        except ConditionError:
            return False
        return True

    async def _copy_in_parts(
        self, source: str, etag: str, size: int, key: str, replaced: str | None
    ) -> Written:
        if not self._store.capabilities.copy_part:
            raise UnsupportedError(f"{source} is too large for one copy")
        upload = await self._uploads.begin(key, (await self._store.head(source)).headers)
        at_once = asyncio.Semaphore(PARTS_AT_ONCE)

        async def copy(number: int, begin: int) -> Part:
            async with at_once:
                end = min(begin + PART_SIZE, size)
                return await self._uploads.copy(upload, number, source, begin, end, match=etag)

        try:
            parts = await all_of(copy(number, at) for number, at in enumerate(range(0, size, PART_SIZE), 1))
            return await self._complete(upload, parts, replaced)
        except BaseException:
            await asyncio.shield(self._uploads.abort(upload))
            raise

    async def _complete(self, upload: OpenUpload, parts: Sequence[Part], replaced: str | None) -> Written:
        careful = self._store.capabilities.conditional_put
        written = await self._uploads.complete(
            upload,
            parts,
            if_match=replaced if careful else None,
            if_absent=careful and replaced is None,
        )
        self._uploads.ended(upload)
        return written


async def all_of[Result](calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return what calls return that are made side by side; raise the first error, when all have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as error:
        raise error.exceptions[0] from None
    return [task.result() for task in tasks]
