"""Copies of files between file systems: buffers over the daemon's own memory, data with holes, attributes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Buffer, Sequence
from typing import Any, Final

from vhostfs.backends.overlay.layers import OVERLAY, Layer
from vhostfs.filesystem import Filesystem, WriteFlags, settled
from vhostfs.filesystem.refusals import refused

_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
_NO_FLAGS: Final = WriteFlags(0)
_MUST_COPY: Final = ("security.", "system.posix_acl_access", "system.posix_acl_default")
"""Attributes without which a copy would be less guarded than the file."""


class OwnReadBuffer:
    """vhostfs.filesystem.ReadBuffer over a piece of memory."""

    def __init__(self, memory: memoryview) -> None:
        """Read into `memory`, which is writable and holds bytes."""
        self.size: Final = len(memory)
        self._memory = memory
        self._filled = 0

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory."""
        return (self._memory,)

    def write(self, data: Buffer, /) -> int:
        """Append data; return how much there was room for."""
        view = memoryview(data).cast("B")[: self.size - self._filled]
        self._memory[self._filled : self._filled + len(view)] = view
        self._filled += len(view)
        return len(view)

    def read_from_fd(self, descriptor: int, offset: int, size: int | None = None, /) -> int:
        """Append what preadv(2) reads from a file; return how much."""
        room = self.size - self._filled
        wanted = room if size is None else max(0, min(size, room))
        done = os.preadv(descriptor, [self._memory[self._filled : self._filled + wanted]], offset)
        self._filled += done
        return done


class OwnWriteBuffer:
    """vhostfs.filesystem.WriteBuffer over a piece of memory."""

    def __init__(self, memory: memoryview) -> None:
        """Write what `memory` holds."""
        self.size: Final = len(memory)
        self._memory = memory

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory."""
        return (self._memory,)

    def __bytes__(self) -> bytes:
        """Return a copy of all."""
        return bytes(self._memory)

    def read_into(self, target: Buffer, offset: int = 0, /) -> int:
        """Copy what lies from an offset on into writable memory; return how many bytes."""
        view = memoryview(target).cast("B")
        piece = self._memory[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def write_to_fd(self, descriptor: int, offset: int, /) -> int:
        """Write all to a file with pwritev(2); return how many bytes."""
        return os.pwritev(descriptor, [self._memory], offset)


async def read_at(
    filesystem: Filesystem[Any], node: int, handle: Any, offset: int, memory: memoryview
) -> memoryview:
    """Read from an open file into memory; return the bytes that came, which may lie elsewhere."""
    answer = await settled(filesystem.read(OVERLAY, node, handle, offset, OwnReadBuffer(memory)))
    if isinstance(answer, int):
        return memory[:answer]
    data: Any = answer
    return memoryview(data).cast("B")[: len(memory)]


async def _write_all(
    filesystem: Filesystem[Any], node: int, handle: Any, offset: int, data: memoryview
) -> None:
    while len(data):
        buffer = OwnWriteBuffer(data)
        done = await settled(filesystem.write(OVERLAY, node, handle, offset, buffer, _NO_FLAGS))
        if done <= 0:
            raise refused(errno.EIO)
        data = data[done:]
        offset += done


async def _next_data(source: Layer, node: int, handle: Any, offset: int, size: int) -> tuple[int, int]:
    """Return where data begins and ends from an offset on; all of it where nobody can tell."""
    if "lseek" not in source.answers:
        return offset, size
    try:
        begin = await settled(source.filesystem.lseek(OVERLAY, node, handle, offset, os.SEEK_DATA))
        end = await settled(source.filesystem.lseek(OVERLAY, node, handle, begin, os.SEEK_HOLE))
    except OSError as error:
        return (size, size) if error.errno == errno.ENXIO else (offset, size)
    return (begin, end) if offset <= begin < end else (offset, size)


async def copy_data(
    source: Layer, node: int, target: Layer, target_node: int, target_handle: Any, size: int
) -> None:
    """Copy the first `size` bytes of a file into an open, empty one; holes and long zeros stay holes.

    Others run between two pieces. Does not set the size: a hole at the end is the caller's to add.
    """
    opened = None
    if "open" in source.answers:
        opened = await settled(source.filesystem.open(OVERLAY, node, os.O_RDONLY))
    handle = opened.handle if opened is not None else None
    memory = memoryview(bytearray(min(_CHUNK, max(size, 1))))
    try:
        offset = 0
        while offset < size:
            offset, end = await _next_data(source, node, handle, offset, size)
            end = min(end, size)
            while offset < end:
                data = await read_at(source.filesystem, node, handle, offset, memory[: end - offset])
                if not len(data):
                    return
                if data != _ZEROS[: len(data)]:
                    await _write_all(target.filesystem, target_node, target_handle, offset, data)
                offset += len(data)
                await asyncio.sleep(0)
    finally:
        if opened is not None:
            await source.close_file(node, handle, os.O_RDONLY)


async def copy_xattrs(source: Layer, node: int, target: Layer, target_node: int) -> None:
    """Copy extended attributes but overlayfs' own.

    What the target cannot keep is left out, unless it guards the file: then OSError EOPNOTSUPP.
    """
    for name in await source.xattr_names(node):
        if source.marks.is_own(name):
            continue
        value = await source.xattr(node, name)
        if value is None:
            continue
        try:
            await target.set_xattr(target_node, name, value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or name.startswith(_MUST_COPY):
                raise
