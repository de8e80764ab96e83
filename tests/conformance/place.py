"""A directory as the promises see it: the calls of a program, whatever makes them and whoever answers.

Paths are relative to the directory, '' being itself; links at their end are not followed. Whatever a call is
refused with is an OSError with its errno.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from vhostfs.filesystem import Attr, StatFs

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4


class OpenFile(ABC):
    """An open file."""

    @abstractmethod
    def stat(self) -> Attr:
        """fstat(2)."""

    @abstractmethod
    def read(self, size: int, offset: int = 0) -> bytes:
        """pread(2)."""

    @abstractmethod
    def write(self, data: bytes, offset: int = 0) -> int:
        """pwrite(2)."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """ftruncate(2)."""

    @abstractmethod
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """fallocate(2)."""

    @abstractmethod
    def seek(self, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE."""

    @abstractmethod
    def copy_to(self, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        """copy_file_range(2)."""

    @abstractmethod
    def link(self, path: str) -> None:
        """linkat(2) of the open file."""

    @abstractmethod
    def sync(self, *, data_only: bool = False) -> None:
        """fsync(2), fdatasync(2)."""

    @abstractmethod
    def lock(self, kind: int, start: int = 0, length: int = 0) -> None:
        """fcntl(2) with F_OFD_SETLK, of a kind such as F_WRLCK: each open file is an owner."""

    @abstractmethod
    def wait_for_lock(self, kind: int, start: int = 0, length: int = 0) -> Callable[[], object]:
        """Begin fcntl(2) with F_OFD_SETLKW; return what waits for its end."""

    @abstractmethod
    def lock_in_the_way(self, kind: int, start: int = 0, length: int = 0) -> tuple[int, int, int] | None:
        """fcntl(2) with F_OFD_GETLK: the kind, start and length of a lock in the way of such a one."""

    @abstractmethod
    def flock(self, operation: int) -> None:
        """flock(2), with LOCK_NB or without."""

    @abstractmethod
    def close(self) -> None:
        """close(2)."""

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place(ABC):
    """A directory, and what a program can do in it. Begins empty, of mode 0o755 and root's."""

    differences: frozenset[str] = frozenset()
    """What is otherwise here: keys of tests.conformance.differences."""

    def differs(self, key: str) -> bool:
        """Tell whether something is otherwise here."""
        return key in self.differences

    @abstractmethod
    def as_user(self, uid: int, gid: int) -> Place:
        """Return the same directory, where another user makes the calls."""

    @abstractmethod
    def stat(self, path: str = "") -> Attr:
        """lstat(2)."""

    @abstractmethod
    def born(self, path: str) -> int | None:
        """statx(2): the time of birth in nanoseconds; None where it is not told."""

    @abstractmethod
    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """mkdir(2)."""

    @abstractmethod
    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        """mknod(2)."""

    @abstractmethod
    def symlink(self, target: str, path: str) -> None:
        """symlink(2)."""

    @abstractmethod
    def readlink(self, path: str) -> str:
        """readlink(2)."""

    @abstractmethod
    def link(self, path: str, new_path: str) -> None:
        """link(2)."""

    @abstractmethod
    def unlink(self, path: str) -> None:
        """unlink(2)."""

    @abstractmethod
    def rmdir(self, path: str) -> None:
        """rmdir(2)."""

    @abstractmethod
    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        """renameat2(2)."""

    @abstractmethod
    def chmod(self, path: str, mode: int) -> None:
        """chmod(2)."""

    @abstractmethod
    def chown(self, path: str, uid: int = -1, gid: int = -1) -> None:
        """lchown(2)."""

    @abstractmethod
    def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""

    @abstractmethod
    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2)."""

    @abstractmethod
    def open(self, path: str, flags: int, mode: int = 0o644) -> OpenFile:
        """open(2), with O_CREAT or without."""

    @abstractmethod
    def tmpfile(self, path: str, flags: int, mode: int = 0o600) -> OpenFile:
        """open(2) of a directory with O_TMPFILE."""

    @abstractmethod
    def listing(self, path: str = "") -> Iterator[tuple[str, int]]:
        """opendir(3), and readdir(3) in small steps: names with inode numbers, '.' and '..' among them.

        Names that come and go between the steps may or may not be seen.
        """

    @abstractmethod
    def sync(self, path: str = "") -> None:
        """fsync(2) of a directory, and syncfs(2)."""

    @abstractmethod
    def statfs(self) -> StatFs:
        """statfs(2)."""

    @abstractmethod
    def getxattr(self, path: str, name: str) -> bytes:
        """lgetxattr(2)."""

    @abstractmethod
    def listxattr(self, path: str) -> Sequence[str]:
        """llistxattr(2)."""

    @abstractmethod
    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        """lsetxattr(2)."""

    @abstractmethod
    def removexattr(self, path: str, name: str) -> None:
        """lremovexattr(2)."""

    # ---- What promises often do ----

    def names(self, path: str = "") -> list[str]:
        """Return what a directory holds, without '.' and '..'."""
        return [name for name, _ in self.listing(path) if name not in {".", ".."}]

    def write(self, path: str, data: bytes = b"", mode: int = 0o644) -> None:
        """Make a file with a content, or give it a new one."""
        with self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            done = 0
            while done < len(data):
                done += file.write(data[done : done + (1 << 20)], done)

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        with self.open(path, os.O_RDONLY) as file:
            content = b""
            while part := file.read(1 << 20, len(content)):
                content += part
            return content

    def clear(self) -> None:
        """Make the directory as it is at first: empty, of mode 0o755, root's."""
        self.chmod("", 0o755)
        self.chown("", 0, 0)
        for name in self.listxattr(""):
            self.removexattr("", name)
        left = self.names()
        while left:
            path = left[-1]
            if not stat.S_ISDIR(self.stat(path).mode):
                self.unlink(path)
            elif inside := self.names(path):
                left += [f"{path}/{name}" for name in inside]
                continue
            else:
                self.rmdir(path)
            left.pop()
