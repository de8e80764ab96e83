"""Copies of objects under other keys, of any size, made by the store itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vhostfs.backends.s3.store import (
    COPY_MAXIMUM,
    ConditionError,
    MissingError,
    ObjectInfo,
    ObjectStore,
    Part,
    StoreError,
    UnsupportedError,
    Written,
)
from vhostfs.backends.s3.writing.committing import NONCE
from vhostfs.backends.s3.writing.uploading import OpenUpload, Send, Uploads

PART_SIZE: Final = 1 << 30


class Copier:
    """Copies and deletes objects on conditions. For one event loop."""

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        """A copier for a store."""
        self._store, self._uploads = store, uploads

    async def copy(self, source: str, etag: str, size: int, key: str, replaced: str | None) -> Written:
        """Copy one version of an object over another one, or (None) to where there is none.

        Raise ConditionError where either is another one by now. Where an answer was lost, what is there tells
        whether it was copied.
        """
        try:
            if size > COPY_MAXIMUM:
                return await self._copy_in_parts(source, etag, size, key, replaced)
            return await self._store.copy(
                source, key, source_match=etag, if_match=replaced, if_absent=replaced is None
            )
        except StoreError as error:
            if not error.doubtful:
                raise
            try:
                found, original = await self._store.head(key), await self._store.head(source)
            except StoreError:
                raise error from None
            if original.etag != etag or not is_copy(found, original):
                error.doubtful = not isinstance(error, ConditionError)
                raise
            return Written(found.etag, found.version)

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

        def piece(begin: int) -> Send:
            end = min(begin + PART_SIZE, size)
            return lambda upload, number: self._uploads.copy(upload, number, source, begin, end, match=etag)

        async def complete(upload: OpenUpload, parts: Sequence[Part]) -> Written:
            careful = self._store.capabilities.conditional_put
            written = await self._uploads.complete(
                upload,
                parts,
                if_match=replaced if careful else None,
                if_absent=careful and replaced is None,
            )
            self._uploads.ended(upload)
            return written

        headers = (await self._store.head(source)).headers
        return await self._uploads.in_parts(key, headers, map(piece, range(0, size, PART_SIZE)), complete)


def is_copy(found: ObjectInfo, original: ObjectInfo) -> bool:
    """Tell whether an object is a copy of another: what this program writes has a nonce, which copies keep.

    ETags of copies may be others where objects are encrypted, or were written in parts.
    """
    if (found.size, found.headers.metadata) != (original.size, original.headers.metadata):
        return False
    return found.etag == original.etag or NONCE in found.headers.metadata
