"""The bytes of a file: those of an object in the bucket, and over them what was written and is not there yet.

What is written goes to a file of the spool, at its own offset. The object below is read where nothing was
written, by its ETag; beyond its size, and where a truncation has cut it, there are zeros.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vhostfs.backends.ranges import Ranges
from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.reading import Reader, Target
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import ConditionError, MissingError
from vhostfs.filesystem import WriteBuffer
from vhostfs.filesystem.refusals import refused

if TYPE_CHECKING:
    from vhostfs.backends.s3.writing.streaming import Stream

SIZE_MAXIMUM: Final = 5 << 40
"""The most bytes of an object."""

COPY_PIECE: Final = 8 << 20


class Contents:
    """A file's bytes. For one event loop; whoever makes them closes them."""

    def __init__(self, cache: BlockCache, spool: Spool, key: str, etag: str | None, size: int) -> None:
        """The contents of an object, or (etag None) of a file that is not in the bucket yet."""
        self._cache = cache
        self.file = spool.new()
        self._reader: Reader | None = None
        self.key = key
        self.etag = etag
        self.base_size = size if etag is not None else 0
        """How much of the object below is still seen."""
        self.size = size if etag is not None else 0
        self.written = Ranges()
        """What is in the spool and not in the bucket."""
        self.sending = Ranges()
        """What is in the spool and on its way."""
        self.changed = etag is None
        """The bucket has something else."""
        self.users = 0
        self.journaled = Ranges()
        """What the journal has of what is in the spool."""
        self.unjournaled = Ranges()
        """What it has not, or not as it is now."""
        self.stream: Stream | None = None
        """What is sent of it while it is written."""

    async def read(self, offset: int, target: Target) -> int:
        """Read into a target, and return how many bytes there were; raise StoreError."""
        end = min(offset + target.size, self.size)
        if end <= offset:
            return 0
        await self.read_range(offset, end, target, 0)
        return end - offset

    async def read_range(self, begin: int, end: int, target: Target, at: int) -> None:
        """Read what lies between two offsets of the file, from `at` on in the target."""
        shift = at - begin
        for here, there, is_written in list(self.written.split(begin, end)):
            if is_written:
                self._read_spool(here, there, target, here + shift)
                continue
            for low, high, is_sending in list(self.sending.split(here, there)):
                if is_sending:
                    self._read_spool(low, high, target, low + shift)
                else:
                    await self._read_base(low, high, target, low + shift)

    def write(self, offset: int, data: WriteBuffer) -> int:
        """Take data; return how many bytes. Raise OSError EFBIG, ENOSPC."""
        size = min(data.size, SIZE_MAXIMUM - offset)
        if size <= 0:
            raise refused(errno.EFBIG)
        done = data.write_to_fd(self.file.descriptor, offset)
        self.note_written(offset, offset + done)
        return done

    def note_written(self, begin: int, end: int) -> None:
        """Take note of what is in the spool."""
        self.written.add(begin, end)
        self.unjournaled.add(begin, end)
        self.size = max(self.size, end)
        self.changed = True
        if self.stream is not None:
            self.stream.note_written(begin, end)

    def truncate(self, size: int) -> None:
        """Set the size; what lies beyond is gone, and zeros if the file grows again."""
        if size < self.size:
            for ranges in (self.written, self.sending, self.journaled, self.unjournaled):
                ranges.remove(size, self.size)
            self.base_size = min(self.base_size, size)
            self.file.truncate(size)
            if self.stream is not None:
                self.stream.note_truncated(size)
        if size != self.size:
            self.changed = True
        self.size = size

    def clear(self, begin: int, end: int) -> None:
        """Let a range hold zeros: a hole of the spool's file."""
        end = min(end, self.size)
        if begin >= end:
            return
        descriptor = self.file.descriptor
        for here, there in list(_data_of(descriptor, begin, end)):
            for at in range(here, there, COPY_PIECE):
                _write_all(descriptor, memoryview(bytes(min(COPY_PIECE, there - at))), at)
        self.note_written(begin, end)

    async def keep(self) -> None:
        """Fetch all of the object below: it is about to go. The file's lock is held.

        What is written meanwhile holds, and what is cut off stays so. Raise StoreError, OSError of the spool.
        """
        memory = bytearray(min(COPY_PIECE, self.base_size))
        at = 0
        while at < self.base_size:
            end = min(at + COPY_PIECE, self.base_size)
            if not self.written.covers(at, end):
                view = memoryview(memory)[: end - at]
                await self._read_base(at, end, Target([view]), 0)
                for here, there, is_written in list(self.written.split(at, min(end, self.base_size))):
                    if not is_written:
                        _write_all(self.file.descriptor, view[here - at : there - at], here)
                        self.written.add(here, there)
            at = end
        self.base_size = 0

    def committed(self, etag: str, size: int) -> None:
        """Take note that the bucket has what was on its way, as an object of a size."""
        self.sending = Ranges()
        self.etag, self.base_size = etag, min(size, self.size)
        self.forget_reader()
        journaled, self.journaled = self.journaled, Ranges()
        for begin, end in self.written.within(0, SIZE_MAXIMUM):
            for here, there in journaled.within(begin, end):
                self.journaled.add(here, there)
        if not self.written:
            self.unjournaled = Ranges()
            self.file.discard()

    def failed(self) -> None:
        """Take note that what was on its way did not arrive."""
        for begin, end in self.sending.within(0, SIZE_MAXIMUM):
            self.written.add(begin, end)
        self.sending = Ranges()
        self.changed = True

    def close(self) -> None:
        """Give everything up."""
        self.forget_reader()
        self.give_up_stream()
        self.file.discard()

    def give_up_stream(self) -> None:
        """Abort what was sent while the file was written."""
        if self.stream is not None:
            self.stream.give_up()
            self.stream = None

    @property
    def is_whole(self) -> bool:
        """Tell whether all bytes are in the spool: nothing of the object below is seen."""
        return self.spooled().covers(0, self.base_size)

    def spooled(self) -> Ranges:
        """Return what is in the spool and not in the bucket."""
        found = Ranges()
        for ranges in (self.written, self.sending):
            for begin, end in ranges.within(0, SIZE_MAXIMUM):
                found.add(begin, end)
        return found

    async def _read_base(self, begin: int, end: int, target: Target, at: int) -> None:
        """Read from the object below, and zeros beyond it; ConditionError also where it is gone."""
        there = max(begin, min(end, self.base_size))
        if there > begin:
            if self._reader is None:
                assert self.etag is not None
                self._reader = Reader(self._cache, self.key, self.etag, self.base_size)
            try:
                await self._reader.read(begin, target, at, at + there - begin)
            except MissingError as error:
                raise ConditionError(error.strerror or "", code=error.code, status=error.status) from None
        target.clear(at + there - begin, at + end - begin)

    def _read_spool(self, begin: int, end: int, target: Target, at: int) -> None:
        """Read from the spool, and zeros where its file ends."""
        stretch = target.stretch(at, at + end - begin)
        done = os.preadv(self.file.descriptor, stretch, begin)
        if done < end - begin:
            target.clear(at + done, at + end - begin)

    def forget_reader(self) -> None:
        """Give up what was fetched ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _data_of(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where a sparse file has data between two offsets."""
    at = begin
    while at < end:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
            there = os.lseek(descriptor, at, os.SEEK_HOLE)
        except OSError:
            return  # nothing behind
        if at < end:
            yield at, min(there, end)
        at = there
