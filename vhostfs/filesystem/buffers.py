"""Where data goes and comes from: buffers over guest memory, good until the operation has answered.

A file system is handed one by `read` and one by `write`. Using it after the operation's end raises
ValueError; a memoryview got from it is released then. Code that runs without a guest (tests,
FileHandle) makes them over its own memory.
"""

from __future__ import annotations

from collections.abc import Buffer, Sequence
from typing import Protocol


class ReadBuffer(Protocol):
    """Where the data of a READ goes: `size` bytes of guest memory, in pieces."""

    @property
    def size(self) -> int:
        """Return how many bytes are wanted: the most that may be answered."""

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory itself: writable views of bytes, in order, `size` bytes in all.

        Whatever is stored there the guest may see at once, and may change at any time.
        """

    def write(self, data: Buffer, /) -> int:
        """Append data behind what was written before; return how much there was room for."""

    def read_from_fd(self, descriptor: int, offset: int, size: int | None = None, /) -> int:
        """Append what preadv(2) reads from a file at an offset, without a copy between; return how much.

        Reads up to `size` bytes, or as much as there is room for; fewer at the end of the file. Waits for the
        disk and lets other threads of Python run. Raises OSError.
        """


class WriteBuffer(Protocol):
    """The data of a WRITE: `size` bytes of guest memory, in pieces. bytes(buffer) copies them all."""

    @property
    def size(self) -> int:
        """Return how many bytes are to be written."""

    @property
    def segments(self) -> Sequence[memoryview]:
        """Return the memory itself: read-only views of bytes, in order.

        The guest may change it at any time: check what you copied, never what you have yet to copy.
        """

    def __bytes__(self) -> bytes:
        """Return a copy of all."""

    def read_into(self, target: Buffer, offset: int = 0, /) -> int:
        """Copy what lies from an offset on into writable memory; return how many bytes."""

    def write_to_fd(self, descriptor: int, offset: int, /) -> int:
        """Write all to a file at an offset with pwritev(2), without a copy between; return how many bytes.

        Fewer than `size` where the file takes no more. Waits for the disk, while other threads of
        Python run. Raises OSError.
        """
