"""Temporary files without a name, in one directory of the host, for what is decompressed."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import PurePath
from typing import Final

from vhostfs.backends.opening import open_path

_BLOCK: Final = 64 << 10
_ZEROES: Final = bytes(_BLOCK)


class Spool:
    """Makes the files by a descriptor of the directory, so that it may be hidden from the process later."""

    def __init__(self, directory: PurePath, limit: int) -> None:
        """Use a directory; `limit` is the most bytes that its users keep there. Raises OSError."""
        self.limit: Final = limit
        self._directory = open_path(directory, os.O_PATH | os.O_DIRECTORY)

    def make(self) -> int:
        """Return the descriptor of an empty file without a name. Raises OSError."""
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._directory)
        except OSError as error:
            # EISDIR: the file system has never heard of O_TMPFILE.
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR}:
                raise
        name = f".vhostfs-{secrets.token_hex(8)}"
        descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)
        os.unlink(name, dir_fd=self._directory)
        return descriptor

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._directory)


class SparseWriter:
    """Writes a file from its beginning to its end, zeroes as holes."""

    def __init__(self, descriptor: int) -> None:
        """Write to an empty file."""
        self._descriptor = descriptor
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append data. Raises OSError."""
        view = memoryview(data)
        begin = 0
        for at in range(0, len(view), _BLOCK):
            end = min(at + _BLOCK, len(view))
            if view[at:end] == _ZEROES[: end - at]:
                self._write(view[begin:at], self.size + begin)
                begin = end
        self._write(view[begin:], self.size + begin)
        self.size += len(view)

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done

    def finish(self) -> None:
        """Give the file its size, which may end with a hole."""
        os.ftruncate(self._descriptor, self.size)
