"""Where data waits to be written to the bucket: files of the host, with names where there is a journal."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


class Spool:
    """A directory that stays open, for files without names."""

    def __init__(self, directory: Path | None, *, descriptor: int | None = None) -> None:
        """Use a directory (None: the system's temporary one), or one that is open; raise OSError."""
        path = directory or Path(tempfile.gettempdir())
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.descriptor = descriptor

    def new(self) -> SpoolFile:
        """Return a new file."""
        return SpoolFile(self, None)

    def free(self) -> int:
        """Return how many bytes there is room for."""
        found = os.fstatvfs(self.descriptor)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        """Give the directory up."""
        os.close(self.descriptor)


class SpoolFile:
    """A file of a spool. It is made when its descriptor is first asked for."""

    __slots__ = ("_descriptor", "_spool", "name")

    def __init__(self, spool: Spool, name: str | None) -> None:
        """A file without a name, or of a name, which may be there already."""
        self._spool = spool
        self._descriptor: int | None = None
        self.name = name

    @property
    def descriptor(self) -> int:
        """Return a descriptor, which stays the file's; raise OSError."""
        if self._descriptor is None:
            if self.name is None:
                flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
                self._descriptor = os.open(".", flags, 0o600, dir_fd=self._spool.descriptor)
            else:
                flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self.name, flags, 0o600, dir_fd=self._spool.descriptor)
        return self._descriptor

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes of a range, as far as the file has some."""
        return os.pread(self.descriptor, end - begin, begin)

    def truncate(self, size: int) -> None:
        """Cut the file off."""
        if self._descriptor is not None or self.name is not None:
            os.ftruncate(self.descriptor, size)

    def rest(self) -> None:
        """Give the descriptor up for now, where the file can be found by its name."""
        if self.name is not None:
            self.leave()

    def leave(self) -> None:
        """Give the descriptor up; a file with a name stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Delete the file."""
        self.leave()
        if self.name is not None:
            with suppress(OSError):  # it was never made, or is deleted when the mount begins again
                os.unlink(self.name, dir_fd=self._spool.descriptor)
