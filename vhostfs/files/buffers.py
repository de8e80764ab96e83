"""The buffers that `read` and `write` of a file system are handed where there is no guest: our own memory."""

from __future__ import annotations

import os
from collections.abc import Buffer, Sequence


class _Lent:
    """Memory that is lent to one operation."""

    __slots__ = ("_view", "size")

    def __init__(self, memory: memoryview) -> None:
        """Lend memory that is a view of bytes."""
        self._view: memoryview | None = memory
        self.size = memory.nbytes
        """How many bytes the operation is about."""

    def _held(self) -> memoryview:
        if self._view is None:
            raise ValueError("the operation that this buffer belonged to has ended")
        return self._view

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory, in one piece; ValueError once the operation has ended."""
        return (self._held(),)

    def end(self) -> None:
        """Let every later use raise ValueError."""
        self._view = None


class LentReadBuffer(_Lent):
    """vhostfs.filesystem.ReadBuffer over memory of this process."""

    __slots__ = ("_filled",)

    def __init__(self, memory: memoryview) -> None:
        """Have writable memory filled."""
        super().__init__(memory)
        self._filled = 0

    def write(self, data: Buffer, /) -> int:
        """Append data; return how much there was room for."""
        target = self._held()
        source = memoryview(data).cast("B")
        count = min(source.nbytes, self.size - self._filled)
        target[self._filled : self._filled + count] = source[:count]
        self._filled += count
        return count

    def read_from_fd(self, descriptor: int, offset: int, size: int | None = None, /) -> int:
        """Append what preadv(2) reads from a file; return how much."""
        room = self.size - self._filled
        wanted = room if size is None else max(0, min(size, room))
        if not wanted:
            return 0
        count = os.preadv(descriptor, [self._held()[self._filled : self._filled + wanted]], offset)
        self._filled += count
        return count


class LentWriteBuffer(_Lent):
    """vhostfs.filesystem.WriteBuffer over memory of this process."""

    __slots__ = ()

    def __init__(self, memory: memoryview) -> None:
        """Have data taken, which stays as it is meanwhile."""
        super().__init__(memory.toreadonly())

    def __bytes__(self) -> bytes:
        """Return a copy of all."""
        return bytes(self._held())

    def read_into(self, target: Buffer, offset: int = 0, /) -> int:
        """Copy what lies from an offset on into writable memory; return how many bytes."""
        if offset < 0:
            raise ValueError("an offset into the data of a write cannot be negative")
        source = self._held()[offset:]
        room = memoryview(target).cast("B")
        count = min(source.nbytes, room.nbytes)
        room[:count] = source[:count]
        return count

    def write_to_fd(self, descriptor: int, offset: int, /) -> int:
        """Write all to a file with pwritev(2); return how many bytes."""
        return os.pwritev(descriptor, [self._held()], offset)
