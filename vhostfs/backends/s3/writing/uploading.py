"""Uploads in parts: begun, sent within bounds of memory, completed, and aborted when nothing comes of them.

Where there is a journal, an upload is noted before it is begun, and its name before it has parts: what a
daemon leaves when it is killed is aborted by the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.journal.journal import Journal, UploadNote
from vhostfs.backends.s3.reading import Target
from vhostfs.backends.s3.store import (
    ConflictError,
    Headers,
    MissingError,
    ObjectStore,
    Part,
    StoreError,
    Written,
)

logger = logging.getLogger(__name__)

PART_SIZE: Final = 8 << 20
PARTS_OF_A_SIZE: Final = 1000
"""How many parts follow each other before they double: the 10,000 that there may be suffice for any size."""

PARTS_AT_ONCE: Final = 8
"""How many parts of an upload are sent side by side."""

MEMORY: Final = 64 << 20
"""For all parts on their way; one that is larger goes alone."""

CLOCK_SECONDS: Final = 900.0
"""How much the store's clock and ours may differ."""

NO_UPLOAD: Final = "NoSuchUpload"


def part_size(number: int) -> int:
    """Return the size of a part of a file whose end is not known yet."""
    return PART_SIZE << ((number - 1) // PARTS_OF_A_SIZE)


class SendingMemory:
    """Memory for what is sent, given out in the order in which it was asked for. For one event loop."""

    def __init__(self, size: int) -> None:
        """Room for so many bytes."""
        self._free = self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._spare: list[bytearray] = []

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[memoryview]:
        """Have memory while the block runs; what it holds at first is anything."""
        counted = min(size, self._size)
        if self._waiting or self._free < counted:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((counted, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(counted)
                raise
        else:
            self._free -= counted
        try:
            memory = self._spare.pop() if size == PART_SIZE and self._spare else bytearray(size)
            try:
                yield memoryview(memory)
            finally:
                if size == PART_SIZE:
                    self._spare.append(memory)
        finally:
            self._give(counted)

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if wanted > self._free:
                return
            self._waiting.popleft()
            self._free -= wanted
            turn.set_result(None)
        if self._free == self._size:
            self._spare.clear()


@dataclass(slots=True)
class OpenUpload:
    """An upload under way."""

    key: str
    name: str
    note: UploadNote | None


type Send = Callable[[OpenUpload, int], Coroutine[Any, Any, Part]]
"""What sends one part of an upload, as that of a number."""

type Complete = Callable[[OpenUpload, Sequence[Part]], Awaitable[Written]]
"""What makes the parts of an upload an object."""

type Report = Callable[[int], None]
"""Is told how many bytes are on the other side so far."""


class Uploads:
    """All uploads of a file system. For one event loop."""

    def __init__(self, store: ObjectStore, journal: Journal | None) -> None:
        """None is under way."""
        self._store, self._journal = store, journal
        self.memory = SendingMemory(MEMORY)
        """For what is sent."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, key: str, headers: Headers) -> OpenUpload:
        """Begin an upload; raise StoreError, or OSError of the journal."""
        if self._journal is None:
            return OpenUpload(key, await self._store.upload_begin(key, headers), None)
        note = await self._journal.upload_begins(key)
        name = await self._store.upload_begin(key, headers)
        upload = OpenUpload(key, name, note)
        try:
            await self._journal.upload_begun(note, name)
        except BaseException:
            await asyncio.shield(self.abort(upload))
            raise
        return upload

    async def in_parts(
        self,
        key: str,
        headers: Headers,
        sends: Iterable[Send],
        complete: Complete,
        report: Report | None = None,
    ) -> Written:
        """Upload parts side by side, and return what their completion does; raise StoreError.

        Where anything fails, nothing is left of the upload.
        """
        upload = await self.begin(key, headers)
        at_once = asyncio.Semaphore(PARTS_AT_ONCE)
        done = 0

        async def sent(send: Send, number: int) -> Part:
            nonlocal done
            async with at_once:
                part = await send(upload, number)
            done += part.size
            if report is not None:
                report(done)
            return part

        try:
            parts = await all_of(sent(send, number) for number, send in enumerate(sends, 1))
            return await complete(upload, parts)
        except BaseException:
            await asyncio.shield(self.abort(upload))
            raise

    async def part(self, upload: OpenUpload, number: int, contents: Contents, begin: int, end: int) -> Part:
        """Send a range of a file as a part; raise StoreError."""
        async with self.memory.of(end - begin) as memory:
            await contents.read_range(begin, end, Target([memory]), 0)
            try:
                return await self._store.upload_part(upload.key, upload.name, number, [memory])
            except MissingError as error:
                raise _restart(error) from None

    async def copy(
        self, upload: OpenUpload, number: int, source: str, begin: int, end: int, *, match: str
    ) -> Part:
        """Let a range of an object be a part; raise StoreError."""
        try:
            return await self._store.upload_copy(
                upload.key, upload.name, number, source, begin, end - begin, source_match=match
            )
        except MissingError as error:
            raise _restart(error) from None

    async def complete(
        self, upload: OpenUpload, parts: Sequence[Part], *, if_match: str | None, if_absent: bool
    ) -> Written:
        """Make the parts an object; raise StoreError, ConflictError where all must be sent again."""
        try:
            return await self._store.upload_complete(
                upload.key, upload.name, parts, if_match=if_match, if_absent=if_absent
            )
        except MissingError as error:
            raise _restart(error) from None

    def ended(self, upload: OpenUpload) -> None:
        """Note that an upload has become an object."""
        if upload.note is not None and self._journal is not None:
            self._journal.upload_ended(upload.note)

    async def abort(self, upload: OpenUpload) -> None:
        """Give an upload up; where the store fails, when the mount begins again."""
        try:
            await self._store.upload_abort(upload.key, upload.name)
        except StoreError as error:
            logger.info("%s: an upload is not aborted yet: %s", upload.key, error.strerror)
        else:
            self.ended(upload)

    def abort_soon(self, upload: OpenUpload, parts: Sequence[asyncio.Task[Part]]) -> None:
        """Give an upload up when its parts have ended, without anybody waiting for it."""

        async def work() -> None:
            await asyncio.gather(*parts, return_exceptions=True)
            await self.abort(upload)

        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Return when all that was given up is aborted."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def abort_found(self) -> None:
        """Abort what an earlier daemon has left."""
        if self._journal is None:
            return
        for note in list(self._journal.uploads.values()):
            try:
                for name in await self._names_of(note):
                    await self._store.upload_abort(note.key, name)
            except StoreError as error:
                logger.warning("%s: an upload that was left is not aborted: %s", note.key, error.strerror)
            else:
                self._journal.upload_ended(note)

    async def _names_of(self, note: UploadNote) -> Sequence[str]:
        """Return the uploads that a note may mean.

        One whose name never came has no parts yet: those of its key and its time that have some are others'.
        """
        if note.upload is not None:
            return [note.upload]
        found = []
        for each in await self._store.uploads(note.key):
            if each.key != note.key or abs(each.begun / 1e9 - note.begun) > CLOCK_SECONDS:
                continue
            try:
                if not await self._store.upload_parts(each.key, each.upload):
                    found.append(each.upload)
            except MissingError:
                pass  # it has ended meanwhile
        return found


def _restart(error: MissingError) -> StoreError:
    """Return the error that an upload has gone, or something else that it needs."""
    if error.code == NO_UPLOAD:
        return ConflictError(
            error.strerror or "", code=error.code, status=error.status, doubtful=error.doubtful
        )
    return error


async def all_of[Result](calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return what calls return that are made side by side; raise the first error, when all have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as error:
        raise _first(error) from None
    return [task.result() for task in tasks]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error of a group of which the others are consequences."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
