"""Files that are being written: in memory, and uploaded whole, as object stores have it."""

from __future__ import annotations

import asyncio
import errno
from typing import Final

from vhostfs.filesystem import WriteBuffer
from vhostfs.filesystem.refusals import refused


class Budget:
    """How many bytes all drafts may take."""

    __slots__ = ("left",)

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, size: int) -> None:
        """Take room for so many bytes; ENOSPC where there is none."""
        if size > self.left:
            raise refused(errno.ENOSPC)
        self.left -= size

    def give(self, size: int) -> None:
        """Give room back."""
        self.left += size


class Draft:
    """The content of a file that is open for writing."""

    __slots__ = ("_budget", "data", "dirty", "lock", "mtime_ns", "users")

    def __init__(self, budget: Budget, data: bytes, mtime_ns: int) -> None:
        """Begin with what the file holds. ENOSPC."""
        budget.take(len(data))
        self._budget: Final = budget
        self.data = bytearray(data)
        self.mtime_ns = mtime_ns
        self.dirty = False
        self.lock: Final = asyncio.Lock()
        """Held while it is uploaded."""
        self.users = 0

    def write(self, offset: int, data: WriteBuffer) -> int:
        """Store a write. ENOSPC."""
        end = offset + data.size
        if end > len(self.data):
            self.resize(end)
        data.read_into(memoryview(self.data)[offset:end])
        return data.size

    def resize(self, size: int) -> None:
        """Cut off, or lengthen by zeroes. ENOSPC."""
        more = size - len(self.data)
        if more > 0:
            self._budget.take(more)
            self.data.extend(bytes(more))
        else:
            del self.data[size:]
            self._budget.give(-more)

    def close(self) -> None:
        """Give the room back."""
        self._budget.give(len(self.data))
        self.data = bytearray()
