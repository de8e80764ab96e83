"""What an open member's data is made of: stretches of a file of the host, and holes."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vhostfs.filesystem import ReadBuffer
from vhostfs.filesystem.refusals import refused


class Stretch(NamedTuple):
    """Where a stretch of a member's data begins, how long it is, and where it is stored."""

    begin: int
    size: int
    stored: int


def damaged() -> OSError:
    """Return the error of data that is not there, or not what it was."""
    return refused(errno.EIO)


class Content:
    """The data of an open member, until nobody uses it any more.

    Between stretches, which are in order and do not overlap, there are holes.
    """

    __slots__ = ("_begins", "_done", "_stretches", "descriptor", "size", "users")

    def __init__(
        self,
        descriptor: int,
        size: int,
        stretches: tuple[Stretch, ...],
        done: Callable[[], None] | None = None,
    ) -> None:
        """Describe it; `done` is called when the last user has left."""
        self.descriptor = descriptor
        self.size = size
        self._stretches = stretches
        self._begins = [stretch.begin for stretch in stretches] if len(stretches) > 1 else None
        self._done = done
        self.users = 1

    def enter(self) -> None:
        """Count one more user."""
        self.users += 1

    def leave(self) -> None:
        """Take one back."""
        self.users -= 1
        if not self.users and self._done is not None:
            self._done()

    def whole(self, offset: int, size: int) -> int | None:
        """Return where a part of the data is stored, if it is in one stretch."""
        if self._begins is None and self._stretches:
            stretch = self._stretches[0]
            if stretch.begin <= offset and offset + size <= stretch.begin + stretch.size:
                return stretch.stored + offset - stretch.begin
        return None

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, int | None]]:
        """Yield sizes of parts, and where they are stored, None for holes."""
        begins = self._begins
        index = max(0, bisect_right(begins, begin) - 1) if begins is not None else 0
        while begin < end:
            stretch = self._stretches[index] if index < len(self._stretches) else None
            if stretch is None or begin < stretch.begin:
                until = end if stretch is None else min(end, stretch.begin)
                yield until - begin, None
                begin = until
            elif begin < stretch.begin + stretch.size:
                size = min(end, stretch.begin + stretch.size) - begin
                yield size, stretch.stored + begin - stretch.begin
                begin += size
            else:
                index += 1

    def read(self, offset: int, size: int, buffer: ReadBuffer) -> int:
        """Put a part of the data into a buffer, waiting for the disk. EIO where the archive lacks it."""
        done = 0
        for length, stored in self.pieces(offset, offset + size):
            if stored is None:
                done += buffer.write(bytes(length))
            else:
                count = buffer.read_from_fd(self.descriptor, stored, length)
                if count < length:
                    raise damaged()
                done += count
        return done

    def seek(self, offset: int, whence: int) -> int:
        """Find data or a hole, as lseek(2). ENXIO, EINVAL."""
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise refused(errno.EINVAL)
        if 0 <= offset < self.size:
            for size, stored in self.pieces(offset, self.size):
                if (stored is None) == (whence == os.SEEK_HOLE):
                    return offset
                offset += size
            if whence == os.SEEK_HOLE:
                return self.size
        raise refused(errno.ENXIO)
