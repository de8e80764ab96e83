"""Where data waits to be written to the bucket: files of the host, with names where there is a journal."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

SPARES: Final = 64
"""How many files are kept to be used again: after many deletions ext4 seeks long for the next new one."""

SPARE_SIZE_MAXIMUM: Final = 1 << 20
"""How large they may be."""


class Spool:
    """A directory that stays open, for files without names."""

    def __init__(self, directory: Path | None, *, descriptor: int | None = None) -> None:
        """Use a directory (None: the system's temporary one), or one that is open; raise OSError."""
        path = directory or Path(tempfile.gettempdir())
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.descriptor = descriptor
        self._spare: list[int] = []
        self._spare_names: list[str] = []

    def new(self) -> SpoolFile:
        """Return a new file."""
        return SpoolFile(self, None)

    def free(self) -> int:
        """Return how many bytes there is room for."""
        found = os.fstatvfs(self.descriptor)
        return found.f_bavail * found.f_frsize

    def size(self) -> int:
        """Return how many bytes the whole file system has."""
        found = os.fstatvfs(self.descriptor)
        return found.f_blocks * found.f_frsize

    def make(self, name: str | None) -> int:
        """Return a descriptor of an empty file, without a name or of one that is not there yet."""
        if name is None:
            if self._spare:
                descriptor = self._spare.pop()
                os.ftruncate(descriptor, 0)
                return descriptor
            return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self.descriptor)
        if name in self._spare_names:
            self._spare_names.remove(name)
        elif self._spare_names:
            spare = self._spare_names.pop()
            # Emptied under its new name alone: what is found by the old one after a crash has its bytes.
            with suppress(FileNotFoundError):
                os.rename(spare, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        return self.create(name, os.O_TRUNC)

    def create(self, name: str, flags: int = 0) -> int:
        """Return a descriptor of a file of a name; it is made where it is not there."""
        flags |= os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self.descriptor)

    def take_back(self, descriptor: int | None, name: str | None) -> None:
        """Keep a small file to be used again, and delete another; what the host refuses is left alone."""
        if name is None:
            assert descriptor is not None
            if len(self._spare) < SPARES and os.fstat(descriptor).st_size <= SPARE_SIZE_MAXIMUM:
                self._spare.append(descriptor)
            else:
                os.close(descriptor)
            return
        if descriptor is not None:
            os.close(descriptor)
        with suppress(OSError):
            about = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            if len(self._spare_names) < SPARES and about.st_size <= SPARE_SIZE_MAXIMUM:
                self._spare_names.append(name)
            else:
                os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """Give the directory up."""
        for descriptor in self._spare:
            os.close(descriptor)
        for name in self._spare_names:
            with suppress(OSError):
                os.unlink(name, dir_fd=self.descriptor)
        os.close(self.descriptor)


class SpoolFile:
    """A file of a spool. It is made when its descriptor is first asked for."""

    __slots__ = ("_descriptor", "_is_there", "_spool", "name")

    def __init__(self, spool: Spool, name: str | None, *, is_there: bool = False) -> None:
        """A file without a name, or of a name; it may be there already."""
        self._spool = spool
        self._descriptor: int | None = None
        self._is_there = is_there
        self.name = name

    @property
    def number(self) -> str | None:
        """Return the name without its ending."""
        return None if self.name is None else self.name.partition(".")[0]

    @property
    def descriptor(self) -> int:
        """Return a descriptor, which stays the file's; raise OSError."""
        if self._descriptor is None:
            if self._is_there and self.name is not None:
                self._descriptor = self._spool.create(self.name)
            else:
                self._descriptor = self._spool.make(self.name)
                self._is_there = True
        return self._descriptor

    def beside(self) -> SpoolFile:
        """Return a new file of the same spool, without a name."""
        return self._spool.new()

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes of a range, as far as the file has some."""
        return os.pread(self.descriptor, end - begin, begin)

    def truncate(self, size: int) -> None:
        """Cut the file off."""
        if self._is_there:
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
        """Give the file's bytes up; it can be written to again."""
        descriptor, self._descriptor = self._descriptor, None
        if self._is_there:
            self._spool.take_back(descriptor, self.name)
            self._is_there = False
