"""Bringing changes into the bucket: one PUT, an upload in parts, or a copy onto itself for attributes.

A new object is written on the condition that there is none, another on the condition that it is the one
that was known: of two writers, one is told. Where an answer was lost, a nonce in the metadata tells whose
object is there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.metadata import DIRECTORY_TYPE, PosixMetadata, encoded
from vhostfs.backends.s3.namespace import Namespace
from vhostfs.backends.s3.nodes import Node
from vhostfs.backends.s3.reading import Target
from vhostfs.backends.s3.store import (
    COPY_MAXIMUM,
    PART_MINIMUM,
    PARTS_MAXIMUM,
    ConditionError,
    Headers,
    MissingError,
    ObjectStore,
    Part,
    StoreError,
    Written,
)

SINGLE_MAXIMUM: Final = 8 << 20
"""The largest file that is written by one request."""

PART_SIZE: Final = 8 << 20
PARTS_AT_ONCE: Final = 4
NONCE: Final = "vhostfs-op"
"""The metadata that tells which write an object comes from."""


class Conflict(StrEnum):
    """What becomes of a write when somebody else has written meanwhile."""

    ERROR = "error"
    """The one who writes is told (ESTALE), and the data is kept until the file is forgotten."""
    LAST_WRITER_WINS = "last-writer-wins"


@dataclass(frozen=True, slots=True)
class _Planned:
    """A part that is to be: bytes of the file, or a copy of the same bytes of the object below."""

    begin: int
    end: int
    copied: bool


class Committer:
    """Commits files. For one event loop; one commit of a file at a time, which who calls sees to."""

    def __init__(self, store: ObjectStore, namespace: Namespace, conflict: Conflict) -> None:
        """A committer for a namespace."""
        self._store, self._namespace, self._conflict = store, namespace, conflict
        self._parts = asyncio.Semaphore(PARTS_AT_ONCE)

    async def commit(self, node: Node) -> None:
        """Bring all changes of a file or directory to the bucket; raise StoreError, and keep the changes."""
        contents = node.contents
        if contents is not None and contents.changed:
            await self._commit_data(node, contents)
        elif node.pending:
            if node.etag is None:
                await self.make(node, b"")
            else:
                await self._commit_attributes(node, node.etag)

    async def make(self, node: Node, body: bytes) -> None:
        """Write a new object: of a directory, a link, or a file that is there at once. Raise StoreError."""
        posix, node.pending = node.posix, False
        nonce = secrets.token_hex(8)
        headers = _headers(posix, nonce, DIRECTORY_TYPE if node.is_directory else None)
        key = self._namespace.key(node)
        try:
            written = await self._settle(key, nonce, self._put(key, [memoryview(body)], headers, None))
        except BaseException:
            node.pending = True
            raise
        node.etag, node.size = written.etag, len(body)
        self._namespace.believe(node)

    async def _commit_data(self, node: Node, contents: Contents) -> None:
        size = contents.size
        contents.sending, contents.written = contents.written, type(contents.written)()
        contents.changed = False
        posix, node.pending = node.posix, False
        nonce = secrets.token_hex(8)
        headers = _headers(posix, nonce)
        key = self._namespace.key(node)
        try:
            if size <= SINGLE_MAXIMUM:
                memory = memoryview(bytearray(size))
                await contents.read_range(0, size, Target([memory]), 0)
                written = await self._settle(key, nonce, self._put(key, [memory], headers, contents.etag))
            else:
                written = await self._upload(key, contents, headers, nonce, size)
        except BaseException:
            contents.failed()
            node.pending = node.pending or posix is not None
            raise
        contents.committed(written.etag, size)
        node.etag, node.size = written.etag, size
        self._namespace.believe(node)

    async def _commit_attributes(self, node: Node, etag: str) -> None:
        posix, node.pending = node.posix, False
        nonce = secrets.token_hex(8)
        headers = _headers(posix, nonce, DIRECTORY_TYPE if node.is_directory else None)
        key = self._namespace.key(node)
        try:
            if node.size <= COPY_MAXIMUM:
                match = None if self._conflict is Conflict.LAST_WRITER_WINS else etag
                written = await self._settle(
                    key, nonce, self._store.copy(key, key, headers, source_match=match)
                )
            else:
                written = await self._copy_in_parts(key, etag, node.size, headers, nonce)
        except BaseException:
            node.pending = True
            raise
        node.etag = written.etag
        if node.contents is not None:
            node.contents.etag = written.etag
        self._namespace.believe(node)

    async def _put(self, key: str, body: Sequence[memoryview], headers: Headers, etag: str | None) -> Written:
        careful = self._is_careful
        match = etag if careful else None
        return await self._store.put(key, body, headers, if_match=match, if_absent=careful and etag is None)

    @property
    def _is_careful(self) -> bool:
        """Tell whether writes have conditions."""
        return self._conflict is not Conflict.LAST_WRITER_WINS and self._store.capabilities.conditional_put

    async def _settle(self, key: str, nonce: str, write: Awaitable[Written]) -> Written:
        """Return what a write returns; where nobody can tell what became of it, look."""
        try:
            return await write
        except StoreError as error:
            if error.doubtful:
                try:
                    found = await self._store.head(key)
                except StoreError:
                    raise error from None
                if found.headers.metadata.get(NONCE) == nonce:
                    return Written(found.etag, found.version)
            if isinstance(error, MissingError):
                raise ConditionError(error.strerror or "", code=error.code, status=error.status) from None
            raise

    async def _upload(self, key: str, contents: Contents, headers: Headers, nonce: str, size: int) -> Written:
        """Write a large file in parts; ranges that did not change are copied by the store itself."""
        can_copy = contents.etag is not None and self._store.capabilities.copy_part
        plan = list(_plan(contents, size, can_copy=can_copy))
        return await self._in_parts(key, headers, nonce, plan, contents.etag, contents)

    async def _copy_in_parts(self, key: str, etag: str, size: int, headers: Headers, nonce: str) -> Written:
        piece = max(PART_SIZE, -(-size // PARTS_MAXIMUM))
        plan = [_Planned(at, min(at + piece, size), True) for at in range(0, size, piece)]
        return await self._in_parts(key, headers, nonce, plan, etag, None)

    async def _in_parts(
        self,
        key: str,
        headers: Headers,
        nonce: str,
        plan: Sequence[_Planned],
        etag: str | None,
        contents: Contents | None,
    ) -> Written:
        upload = await self._store.upload_begin(key, headers)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._part(key, upload, number, planned, etag, contents))
                    for number, planned in enumerate(plan, 1)
                ]
            parts = [task.result() for task in tasks]
            careful = self._is_careful
            complete = self._store.upload_complete(
                key, upload, parts, if_match=etag if careful else None, if_absent=careful and etag is None
            )
            return await self._settle(key, nonce, complete)
        except BaseException as error:
            await asyncio.shield(self._abort(key, upload))
            if isinstance(error, BaseExceptionGroup):
                raise _first(error) from None
            raise

    async def _part(
        self,
        key: str,
        upload: str,
        number: int,
        planned: _Planned,
        etag: str | None,
        contents: Contents | None,
    ) -> Part:
        async with self._parts:
            size = planned.end - planned.begin
            if planned.copied:
                assert etag is not None
                return await self._store.upload_copy(
                    key, upload, number, key, planned.begin, size, source_match=etag
                )
            assert contents is not None
            memory = memoryview(bytearray(size))
            await contents.read_range(planned.begin, planned.end, Target([memory]), 0)
            return await self._store.upload_part(key, upload, number, [memory])

    async def _abort(self, key: str, upload: str) -> None:
        with suppress(StoreError):  # it is found and aborted when the mount begins again
            await self._store.upload_abort(key, upload)


def _plan(contents: Contents, size: int, *, can_copy: bool) -> Iterator[_Planned]:
    """Yield the parts of a file: what did not change as copies, where there is enough of it on end."""
    piece = max(PART_SIZE, -(-size // (PARTS_MAXIMUM // 2)))
    at = 0
    while at < size:
        clean = _clean_from(contents, at, min(size, contents.base_size)) if can_copy else at
        if clean - at >= PART_MINIMUM or (clean == size and clean > at):
            end = min(clean, at + max(piece, min(clean - at, COPY_MAXIMUM // 2)))
            if 0 < clean - end < PART_MINIMUM and clean != size:
                end = clean
            yield _Planned(at, end, True)
        else:
            end = min(at + piece, size)
            yield _Planned(at, end, False)
        at = end


def _clean_from(contents: Contents, begin: int, end: int) -> int:
    """Return up to where the file is, from an offset on, what the object below is."""
    first = next(contents.sending.within(begin, end), None)
    return max(begin, end) if first is None else first[0]


def _headers(posix: PosixMetadata | None, nonce: str, content_type: str | None = None) -> Headers:
    posix = posix or PosixMetadata()
    foreign = posix.foreign
    standard = (
        foreign.standard if content_type is None else {**foreign.standard, "content-type": content_type}
    )
    kept = {name: value for name, value in foreign.metadata.items() if name != NONCE}
    return encoded(replace(posix, foreign=Headers({**kept, NONCE: nonce}, standard)))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group of which the others are consequences."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
