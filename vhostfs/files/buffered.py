"""A file as a stream of bytes: a position, reads ahead, and small writes collected."""

from __future__ import annotations

import errno
import os
from collections.abc import Buffer
from typing import Final

from vhostfs.files.open_file import OFFSET_LIMIT, OpenFile
from vhostfs.files.places import fail

BUFFER_SIZE: Final = 128 << 10
"""How much is read ahead, and how much written is collected, unless told otherwise."""


class ByteStream:
    """Reads and writes an open file from a position on. One call at a time."""

    __slots__ = (
        "_ahead",
        "_ahead_at",
        "_append",
        "_collected",
        "_collected_at",
        "_file",
        "_size",
        "position",
    )

    def __init__(self, file: OpenFile, size: int, *, append: bool) -> None:
        """Begin at offset 0; with `append` every write goes to the end. A size of 0 buffers nothing."""
        self._file: Final = file
        self._size: Final = size
        self._append: Final = append
        self._ahead = b""
        self._ahead_at = 0
        self._collected = bytearray()
        self._collected_at = 0
        self.position = 0
        """The offset at which the next byte is read or written."""

    def _take(self, size: int) -> bytes:
        """Return what was read ahead at the position, and go on behind it."""
        begin = self.position - self._ahead_at
        if not 0 <= begin < len(self._ahead):
            return b""
        data = self._ahead[begin : begin + size]
        self.position += len(data)
        return data

    async def _read_ahead(self) -> bool:
        """Read at the position, which nothing ahead covers; tell whether there was anything."""
        self._ahead_at = self.position
        self._ahead = await self._file.read(self.position, self._size or 1)
        return bool(self._ahead)

    async def read(self, size: int) -> bytes:
        """Return that many bytes, or fewer at the end; all that is left where the size is negative."""
        await self.flush()
        if size < 0:
            return await self._read_all()
        data = self._take(size)
        left = size - len(data)
        if not left:
            return data
        if left < self._size:
            await self._read_ahead()
            return data + self._take(left)
        rest = await self._file.read(self.position, left)
        self.position += len(rest)
        return data + rest if data else rest

    async def _read_all(self) -> bytes:
        parts = [self._take(len(self._ahead))]
        size = max(self._size, (await self._file.attr()).size - self.position + 1)
        while True:
            # What a file says of its size may be wrong by far.
            part = await self._file.read(self.position, min(size, 16 << 20) or BUFFER_SIZE)
            if not part:
                return b"".join(parts)
            self.position += len(part)
            parts.append(part)

    async def read_some(self) -> bytes:
        """Return what was read ahead, or else what one request brings; nothing at the end."""
        await self.flush()
        data = self._take(len(self._ahead))
        if data:
            return data
        self._ahead_at = self.position
        self._ahead = await self._file.read(self.position, self._size or BUFFER_SIZE)
        return self._take(len(self._ahead))

    async def read_into(self, memory: memoryview) -> int:
        """Fill writable bytes; return how many, fewer at the end alone."""
        await self.flush()
        done = 0
        if len(memory) < self._size or self._ahead:
            data = await self.read(min(len(memory), self._size))
            done = len(data)
            memory[:done] = data
            if done < min(len(memory), self._size):
                return done
        if done < len(memory):
            count = await self._file.read_into(self.position, memory[done:])
            self.position += count
            done += count
        return done

    async def readline(self, limit: int) -> bytes:
        """Return what there is up to and with the next newline, or the end, or `limit` bytes (< 0: none)."""
        await self.flush()
        parts: list[bytes] = []
        while limit:
            begin = self.position - self._ahead_at
            if not 0 <= begin < len(self._ahead):
                if not await self._read_ahead():
                    break
                begin = 0
            end = self._ahead.find(b"\n", begin) + 1 or len(self._ahead)
            part = self._take(end - begin if limit < 0 else min(limit, end - begin))
            parts.append(part)
            limit -= len(part) if limit > 0 else 0
            if part.endswith(b"\n"):
                break
        return b"".join(parts)

    async def write(self, data: Buffer) -> int:
        """Write at the position, or collect it for then; return how many bytes: all."""
        view = memoryview(data).cast("B")
        if not view:
            return 0
        self._ahead = b""
        if self._append:
            end = (await self._file.attr()).size
            await self._file.write(end, view)
            self.position = end + len(view)
            return len(view)
        if self.position + len(view) > OFFSET_LIMIT:
            fail(errno.EFBIG)
        if self._collected and (
            self._collected_at + len(self._collected) != self.position
            or len(self._collected) + len(view) > self._size
        ):
            await self.flush()
        if len(view) >= self._size:
            await self._file.write(self.position, view)
        else:
            if not self._collected:
                self._collected_at = self.position
            self._collected += view
        self.position += len(view)
        return len(view)

    async def flush(self) -> None:
        """Write what was collected. In failure it is gone: the position tells where it would have ended."""
        if self._collected:
            data, self._collected = self._collected, bytearray()
            await self._file.write(self._collected_at, data)

    async def seek(self, offset: int, whence: int) -> int:
        """Move the position as lseek(2) does, and return it. EINVAL, ENXIO."""
        await self.flush()
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += (await self._file.attr()).size
        elif whence in {os.SEEK_DATA, os.SEEK_HOLE}:
            offset = await self._file.seek_data(offset, whence)
        elif whence != os.SEEK_SET:
            fail(errno.EINVAL)
        if not 0 <= offset <= OFFSET_LIMIT:
            fail(errno.EINVAL)
        self.position = offset
        return offset

    async def tell(self) -> int:
        """Return the position."""
        return self.position

    async def truncate(self, size: int | None) -> int:
        """Make the file this long, or as long as the position says; the position stays. Return the size."""
        await self.flush()
        if size is None:
            size = self.position
        if not 0 <= size <= OFFSET_LIMIT:
            fail(errno.EINVAL)
        self._ahead = b""
        await self._file.truncate(size)
        return size
