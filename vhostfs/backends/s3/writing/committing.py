"""Bringing changes into the bucket: one PUT, an upload in parts, or a copy onto itself for attributes.

A new object is written on the condition that there is none, another on the condition that it is the one
that was known: of two writers, one is told. Where an answer was lost, a nonce in the metadata tells whose
object is there.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.journal.intents import Intent
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.naming.metadata import DIRECTORY_TYPE, PosixMetadata, decoded, encoded
from vhostfs.backends.s3.naming.namespace import Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.reading import Target
from vhostfs.backends.s3.store import (
    COPY_MAXIMUM,
    PART_MINIMUM,
    PARTS_MAXIMUM,
    ConditionError,
    ConflictError,
    Headers,
    MissingError,
    ObjectInfo,
    ObjectStore,
    Part,
    StoreError,
    Written,
)
from vhostfs.backends.s3.writing.streaming import STREAM_MINIMUM, Stream
from vhostfs.backends.s3.writing.uploading import PART_SIZE, OpenUpload, Report, Send, Uploads

SINGLE_MAXIMUM: Final = 8 << 20
"""The largest file that is written by one request."""

UPLOADS_MAXIMUM: Final = 3
"""How often a file is sent when another writer gets in the way of its upload."""

NONCE: Final = "vhostfs-op"
"""The metadata that tells which write an object comes from."""

NO_STATE: Final = -1
"""Less than any state of an intent."""


class Conflict(StrEnum):
    """What becomes of a write when somebody else has written meanwhile."""

    ERROR = "error"
    """The one who writes is told (ESTALE), and the data is kept in the state directory."""
    CONFLICT_COPY = "conflict-copy"
    """The data of the one who comes late becomes a file beside."""
    LAST_WRITER_WINS = "last-writer-wins"


@dataclass(frozen=True, slots=True)
class _Planned:
    """A part that is to be: bytes of the file, or a copy of the same bytes of the object below."""

    begin: int
    end: int
    copied: bool


class Committer:
    """Commits files. For one event loop; one commit of a file at a time, which who calls sees to."""

    def __init__(
        self, store: ObjectStore, namespace: Namespace, conflict: Conflict, journal: Journal | None = None
    ) -> None:
        """A committer for a namespace; with a journal, for what that says, too."""
        self._store, self._namespace, self._conflict = store, namespace, conflict
        self._journal = journal
        self.uploads = Uploads(store, journal)

    async def commit(self, node: Node) -> None:
        """Bring all changes of a file or directory to the bucket; raise StoreError, and keep the changes."""
        intent = node.intent
        if intent is not None and intent.recovered:
            await self.look_for(node, intent)
        contents = node.contents
        if contents is not None and contents.changed:
            for left in range(UPLOADS_MAXIMUM - 1, -1, -1):
                try:
                    await self._commit_data(node, contents)
                    break
                except ConflictError:
                    if not left:
                        raise
                except ConditionError:
                    # What a daemon has sent that was killed may arrive after the next has looked for it.
                    if not left or not await self._is_late(node):
                        raise
        if node.pending and not node.gone and not (contents is not None and contents.changed):
            if node.etag is None:
                try:
                    await self.make(node, node.intent.body if node.intent is not None else b"")
                except ConditionError:
                    if not await self._is_late(node):
                        raise
            if node.pending and node.etag is not None:
                await self._commit_attributes(node, node.etag)

    def stream(self, node: Node) -> None:
        """Send what is behind a writer, if a file has become large enough for that. Does not wait."""
        contents = node.contents
        if contents is None:
            return
        if contents.stream is not None:
            contents.stream.feed()
            return
        wanted = contents.base_size == 0 and contents.written.covers(0, STREAM_MINIMUM)
        if not wanted or node.gone or not self._store.capabilities.multipart:
            return
        nonce = self._nonce(node)
        headers, key = _headers(node.posix, nonce), self._namespace.key(node)
        contents.stream = Stream(
            self.uploads, contents, key, lambda: self.uploads.begin(key, headers), node.posix, nonce
        )

    def _nonce(self, node: Node) -> str:
        """Return what tells that an object comes from this write, and from which state of an intent."""
        if self._journal is None:
            return secrets.token_hex(8)
        # What is sent while a file is written is begun before anything is promised of it.
        contents = node.contents
        if (
            contents is not None
            and contents.file.number is not None
            and (contents.changed or contents.sending)
        ):
            return self._journal.nonce(contents.file.number)
        return self._journal.nonce(secrets.token_hex(8) if node.intent is None else node.intent.number)

    async def _look_at(self, key: str, number: str) -> tuple[ObjectInfo | None, int]:
        """Return the object of a key, and which state of an intent it has: NO_STATE for another's."""
        assert self._journal is not None
        try:
            found = await self._store.head(key)
        except MissingError:
            return None, NO_STATE
        known = self._journal.knows(found.headers.metadata.get(NONCE, ""), number)
        return found, NO_STATE if known is None else known

    async def is_done(self, intent: Intent) -> bool:
        """Tell whether the bucket has an intent, as it is or a later state of it; raise StoreError."""
        _, known = await self._look_at(intent.key, intent.number)
        return known > intent.sequence

    async def _is_late(self, node: Node) -> bool:
        """Tell whether the object that is in the way is a state of the same file, and go on from there."""
        contents = node.contents
        number = None if contents is None else contents.file.number
        if node.intent is not None:
            number = node.intent.number
        if number is None or self._journal is None:
            return False
        found, known = await self._look_at(self._namespace.key(node), number)
        if found is None or known == NO_STATE:
            return False
        node.etag = found.etag
        if contents is not None:
            contents.etag = found.etag
            contents.base_size = min(contents.base_size, found.size)
            contents.forget_reader()
        return True

    async def look_for(self, node: Node, intent: Intent) -> None:
        """See whether an intent that was found in the journal was carried out before the daemon ended.

        Nothing is to be committed of the file, if so. Its lock is held. Raise StoreError.
        """
        found, known = await self._look_at(self._namespace.key(node), intent.number)
        intent.recovered = False
        there = None if found is None else found.etag
        is_deleted = intent.deleting and there != intent.etag
        if is_deleted or known > intent.sequence:
            node.pending, node.posix, node.expires = False, None, 0.0
            if node.contents is not None:
                node.contents.changed = False
                node.contents.close()
                node.contents = None
            if found is None:
                self._namespace.nodes.detach(node)
            else:
                node.etag, node.size, node.modified = found.etag, found.size, found.modified
        elif known != NO_STATE:
            node.etag = there
            if node.contents is not None:
                node.contents.etag = there

    async def make(self, node: Node, body: bytes) -> None:
        """Write a new object: of a directory, a link, or a file that is there at once. Raise StoreError."""
        posix, node.pending = node.posix, False
        nonce = self._nonce(node)
        headers = _headers(posix, nonce, DIRECTORY_TYPE if node.is_directory else None)
        key = self._namespace.key(node)
        try:
            written = await self._settle(key, nonce, self._put(key, [memoryview(body)], headers, None))
        except BaseException:
            node.pending = True
            raise
        node.etag, node.size = written.etag, len(body)
        self._namespace.wrote(node)

    async def _commit_data(self, node: Node, contents: Contents) -> None:
        size = contents.size
        contents.sending, contents.written = contents.written, type(contents.written)()
        contents.changed = False
        stream, contents.stream = contents.stream, None
        posix, node.pending = node.posix, False
        key = self._namespace.key(node)
        sent = posix
        try:
            if stream is not None and (size <= SINGLE_MAXIMUM or stream.has_failed or stream.key != key):
                stream.give_up()
                stream = None
            nonce = self._nonce(node) if stream is None else stream.nonce
            if stream is not None:
                sent = stream.posix
                written = await self._finish(key, stream, nonce, size, contents.etag)
            else:
                written = await self._write(key, contents, _headers(posix, nonce), nonce, size)
        except BaseException:
            contents.failed()
            node.pending = node.pending or posix is not None
            raise
        contents.committed(written.etag, size)
        node.etag, node.size = written.etag, size
        if sent is posix:
            node.times_set = False
        elif sent is not None and posix is not None:
            self._take_times(node, sent, posix)
        self._namespace.wrote(node)

    def _take_times(self, node: Node, sent: PosixMetadata, posix: PosixMetadata) -> None:
        """Have the metadata of a file that was sent while it was written be what was sent first.

        Its times are those of its first part, unless somebody has set others: then they cost a request.
        """
        as_sent = replace(posix, mtime=sent.mtime, ctime=sent.ctime)
        if node.posix is posix and as_sent == sent and not node.times_set:
            node.posix = sent
        else:
            node.pending = True

    async def _commit_attributes(self, node: Node, etag: str) -> None:
        posix, node.pending = node.posix, False
        nonce = self._nonce(node)
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
        node.times_set = False
        if node.contents is not None:
            node.contents.etag = written.etag
            node.contents.forget_reader()
        self._namespace.wrote(node)

    async def write_over(self, intent: Intent, contents: Contents, report: Report) -> None:
        """Write what is kept of an intent over what is there now, whole as it is; raise StoreError.

        Who reports is told of each part of a large file.
        """
        assert self._journal is not None
        try:
            contents.etag = (await self._store.head(intent.key)).etag
        except MissingError:
            contents.etag = None
        posix = None if intent.headers is None else decoded(intent.headers)
        nonce = self._journal.nonce(intent.number)
        await self._write(intent.key, contents, _headers(posix, nonce), nonce, contents.size, report)

    async def _write(
        self,
        key: str,
        contents: Contents,
        headers: Headers,
        nonce: str,
        size: int,
        report: Report | None = None,
    ) -> Written:
        """Write a file from its start, by as many requests as it takes."""
        if size <= SINGLE_MAXIMUM:
            async with self.uploads.memory.of(size) as memory:
                await contents.read_range(0, size, Target([memory]), 0)
                return await self._settle(key, nonce, self._put(key, [memory], headers, contents.etag))
        if self._store.capabilities.multipart:
            return await self._upload(key, contents, headers, nonce, size, report)
        return await self._put_whole(key, contents, headers, nonce, size)

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

    async def _finish(self, key: str, stream: Stream, nonce: str, size: int, etag: str | None) -> Written:
        """Complete what was sent while the file was written."""
        try:
            upload, parts = await stream.finish(size)
            return await self._complete(key, upload, parts, nonce, etag)
        except BaseException:
            stream.give_up()
            raise

    async def _put_whole(
        self, key: str, contents: Contents, headers: Headers, nonce: str, size: int
    ) -> Written:
        """Write a large file by one request, from a mapped file: for a store that knows no parts."""
        file = contents.file.beside()
        try:
            os.ftruncate(file.descriptor, size)
            memory = memoryview(mmap.mmap(file.descriptor, size))  # unmapped when nobody sends of it any more
            await contents.read_range(0, size, Target([memory]), 0)
            return await self._settle(key, nonce, self._put(key, [memory], headers, contents.etag))
        finally:
            file.discard()

    async def _upload(
        self,
        key: str,
        contents: Contents,
        headers: Headers,
        nonce: str,
        size: int,
        report: Report | None,
    ) -> Written:
        """Write a large file in parts; ranges that did not change are copied by the store itself."""
        can = self._store.capabilities
        # Where the source's version is not heeded, the completion's condition must tell that it has changed.
        sure = can.conditional_copy_part or self._is_careful
        can_copy = contents.etag is not None and can.copy_part and sure
        plan = list(_plan(contents, size, can_copy=can_copy))
        return await self._in_parts(key, headers, nonce, plan, contents.etag, contents, report)

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
        report: Report | None = None,
    ) -> Written:
        def send(planned: _Planned) -> Send:
            begin, end = planned.begin, planned.end
            if planned.copied:
                assert etag is not None
                return lambda upload, number: self.uploads.copy(upload, number, key, begin, end, match=etag)
            assert contents is not None
            return lambda upload, number: self.uploads.part(upload, number, contents, begin, end)

        def complete(upload: OpenUpload, parts: Sequence[Part]) -> Awaitable[Written]:
            return self._complete(key, upload, parts, nonce, etag)

        return await self.uploads.in_parts(key, headers, map(send, plan), complete, report)

    async def _complete(
        self, key: str, upload: OpenUpload, parts: Sequence[Part], nonce: str, etag: str | None
    ) -> Written:
        careful = self._is_careful
        complete = self.uploads.complete(
            upload, parts, if_match=etag if careful else None, if_absent=careful and etag is None
        )
        written = await self._settle(key, nonce, complete)
        self.uploads.ended(upload)
        return written


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
