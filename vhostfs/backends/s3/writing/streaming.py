"""Sending a large file while it is written: its parts go out as soon as they are behind who writes.

A part that is written again after it went out is sent again. Nothing of it can be seen before the upload is
completed, when the file is committed.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.naming.metadata import PosixMetadata
from vhostfs.backends.s3.store import PARTS_MAXIMUM, Part
from vhostfs.backends.s3.writing.uploading import PART_SIZE, OpenUpload, Uploads, part_size

STREAM_MINIMUM: Final = 2 * PART_SIZE
"""How much is written on end before it is sent."""


@dataclass(slots=True, eq=False)
class _Sent:
    """A part that is on its way, or there."""

    begin: int
    end: int
    task: asyncio.Task[Part]
    stale: bool = False
    """It was written again since."""


class Stream:
    """The upload of a file that is still written. For one event loop."""

    def __init__(
        self,
        uploads: Uploads,
        contents: Contents,
        key: str,
        begin: Callable[[], Awaitable[OpenUpload]],
        posix: PosixMetadata | None,
        nonce: str,
    ) -> None:
        """An upload of a file's contents to a key, which `begin` begins with metadata and a nonce."""
        self._uploads, self._contents = uploads, contents
        self.key, self.posix, self.nonce = key, posix, nonce
        self._upload = asyncio.ensure_future(_awaited(begin))
        self._sent: list[_Sent] = []
        self._begins: list[int] = []
        self.next_end = part_size(1)
        """How far must be written for another part to go out."""
        self.feed()

    @property
    def _frontier(self) -> int:
        return self._sent[-1].end if self._sent else 0

    @property
    def has_failed(self) -> bool:
        """Tell whether a part or the beginning was refused: the file must be sent from its start."""
        tasks = (self._upload, *(each.task for each in self._sent))
        return any(task.done() and (task.cancelled() or task.exception() is not None) for task in tasks)

    def feed(self) -> None:
        """Send the parts that are written."""
        begin = self._frontier
        while self._contents.written.covers(begin, self.next_end) and len(self._sent) < PARTS_MAXIMUM - 1:
            self._send(begin, self.next_end, len(self._sent) + 1)
            begin = self.next_end
            self.next_end += part_size(len(self._sent) + 1)

    def note_written(self, begin: int, end: int) -> None:
        """Take note of what is written again."""
        if begin >= self._frontier:
            return
        for index in range(max(0, bisect_right(self._begins, begin) - 1), len(self._sent)):
            if self._sent[index].begin >= end:
                break
            if self._sent[index].end > begin:
                self._sent[index].stale = True

    def note_truncated(self, size: int) -> None:
        """Take note that what lies beyond a size is gone."""
        if size < self._frontier:
            for each in self._sent:
                each.stale = each.stale or each.end > size

    async def finish(self, size: int) -> tuple[OpenUpload, Sequence[Part]]:
        """Send what is missing of a file of a size; return the upload and all its parts. Raise StoreError."""
        kept = [each for each in self._sent if each.begin < size]
        for each in self._sent[len(kept) :]:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in self._sent[len(kept) :]), return_exceptions=True)
        self._sent, self._begins = kept, self._begins[: len(kept)]
        for index, each in enumerate(kept):
            if each.stale or each.end > size:
                kept[index] = self._begun(each.begin, min(each.end, size), index + 1, each.task)
        while self._frontier < size:
            number = len(self._sent) + 1
            self._send(self._frontier, min(self._frontier + part_size(number), size), number)
        upload = await self._upload
        return upload, [await each.task for each in self._sent]

    def give_up(self) -> None:
        """Abort it; does not wait."""
        for each in self._sent:
            each.task.cancel()
        tasks = [each.task for each in self._sent]
        self._sent, self._begins = [], []
        if self._upload.done():
            _ended(self._uploads, self._upload, tasks)
        else:
            # Cancelled, it might be begun and nobody would know its name.
            self._upload.add_done_callback(lambda upload: _ended(self._uploads, upload, tasks))

    def _send(self, begin: int, end: int, number: int) -> None:
        self._sent.append(self._begun(begin, end, number, None))
        self._begins.append(begin)

    def _begun(self, begin: int, end: int, number: int, before: asyncio.Task[Part] | None) -> _Sent:
        task = asyncio.ensure_future(self._part(begin, end, number, before))
        task.add_done_callback(_look_at)
        return _Sent(begin, end, task)

    async def _part(self, begin: int, end: int, number: int, before: asyncio.Task[Part] | None) -> Part:
        if before is not None:
            await asyncio.wait([before])  # two of one number might arrive in either order
        upload = await asyncio.shield(self._upload)
        return await self._uploads.part(upload, number, self._contents, begin, end)


async def _awaited(begin: Callable[[], Awaitable[OpenUpload]]) -> OpenUpload:
    return await begin()


def _look_at(task: asyncio.Task[Part]) -> None:
    """Let nobody complain that the error of a part was never looked at: the file is sent anew then."""
    if not task.cancelled():
        task.exception()


def _ended(uploads: Uploads, upload: asyncio.Task[OpenUpload], parts: Sequence[asyncio.Task[Part]]) -> None:
    if not upload.cancelled() and upload.exception() is None:
        uploads.abort_soon(upload.result(), parts)
