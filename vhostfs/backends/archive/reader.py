"""A file of the host as the standard library's readers of archives want it, with a bound on each read."""

from __future__ import annotations

import io
import os


class BoundedReader(io.RawIOBase):
    """Reads a descriptor by position. What is read between two calls of `allow` is bounded.

    Headers of a hostile archive say how long they are; nothing but headers is read through this.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Read a descriptor, which stays its owner's, up to a size."""
        super().__init__()
        self._descriptor = descriptor
        self._size = size
        self._position = 0
        self._allowed = 0

    def allow(self, size: int) -> None:
        """Let that many bytes be read from now on."""
        self._allowed = size

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; OSError where it is negative."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if not 0 <= base + offset < 1 << 63:
            raise OSError("a position that no file has")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to that many bytes; OSError where these are more than were allowed."""
        left = max(0, self._size - self._position)
        if size is None or size < 0 or size > left:
            # Nobody who reads a header wants to read backwards.
            if size is not None and size < -1:
                raise OSError("a negative size")
            size = left
        if size > self._allowed:
            raise OSError("headers are larger than any that an archive needs")
        self._allowed -= size
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data
