"""A directory of this machine, of whatever file system: a tmpfs as the yardstick, or a mount of /dev/fuse."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.conformance.place import OpenFile, Place
from tests.operations.host_calls import STATX_BTIME, copy_file_range, fallocate, lseek, renameat2, statx
from vhostfs.filesystem import Attr, StatFs

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH = 0x1000
_GETDENTS64 = 217
_LOCK_SECONDS = 30
_FLOCK = struct.Struct("hhqqi4x")
_LISTED_AT_ONCE = 512


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class HostFile(OpenFile):
    """A descriptor."""

    def __init__(self, place: HostPlace, descriptor: int) -> None:
        self._place = place
        self.descriptor = descriptor

    def stat(self) -> Attr:
        return Attr.from_stat(os.fstat(self.descriptor))

    def read(self, size: int, offset: int = 0) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def write(self, data: bytes, offset: int = 0) -> int:
        with self._place.acting():
            return os.pwrite(self.descriptor, data, offset)

    def truncate(self, size: int) -> None:
        with self._place.acting():
            os.ftruncate(self.descriptor, size)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        with self._place.acting():
            fallocate(self.descriptor, mode, offset, length)

    def seek(self, offset: int, whence: int) -> int:
        return lseek(self.descriptor, offset, whence)

    def copy_to(self, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        assert isinstance(target, HostFile)
        return copy_file_range((self.descriptor, offset), (target.descriptor, target_offset), length)

    def link(self, path: str) -> None:
        target = os.fsencode(self._place.path(path))
        _checked(_LIBC.linkat(self.descriptor, b"", -100, target, _AT_EMPTY_PATH))

    def sync(self, *, data_only: bool = False) -> None:
        (os.fdatasync if data_only else os.fsync)(self.descriptor)

    def lock(self, kind: int, start: int = 0, length: int = 0) -> None:
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))

    def wait_for_lock(self, kind: int, start: int = 0, length: int = 0) -> Callable[[], object]:
        lock = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        waiting: Future[bytes] = Future()

        def wait() -> None:
            waiting.set_result(fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLKW, lock))

        threading.Thread(target=wait, daemon=True).start()
        return partial(waiting.result, _LOCK_SECONDS)

    def lock_in_the_way(self, kind: int, start: int = 0, length: int = 0) -> tuple[int, int, int] | None:
        asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        found, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, asked))
        return None if found == fcntl.F_UNLCK else (found, start, length)

    def flock(self, operation: int) -> None:
        fcntl.flock(self.descriptor, operation)

    def close(self) -> None:
        os.close(self.descriptor)


class HostPlace(Place):
    """A directory, by its path; other users are the file system ids of the calling thread (setfsuid(2)).

    The path of the directory itself may be a link, such as those of /proc/self/fd, and is followed.
    """

    def __init__(
        self, directory: Path, differences: frozenset[str] = frozenset(), user: tuple[int, int] | None = None
    ) -> None:
        self._directory = directory
        self.differences = differences
        self._user = user

    def as_user(self, uid: int, gid: int) -> HostPlace:
        return HostPlace(self._directory, self.differences, (uid, gid))

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act as the user, without a umask."""
        mask = os.umask(0)
        if self._user is not None:
            _LIBC.setfsgid(self._user[1])
            _LIBC.setfsuid(self._user[0])
        try:
            yield
        finally:
            if self._user is not None:
                _LIBC.setfsuid(os.getuid())
                _LIBC.setfsgid(os.getgid())
            os.umask(mask)

    def path(self, path: str) -> Path:
        """Return the whole path."""
        return self._directory / path

    def stat(self, path: str = "") -> Attr:
        with self.acting():
            return Attr.from_stat(self.path(path).stat(follow_symlinks=not path))

    def born(self, path: str) -> int | None:
        with self.acting():
            about = statx(self.path(path))
        return about.btime.tv_sec * 10**9 + about.btime.tv_nsec if about.mask & STATX_BTIME else None

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        with self.acting():
            self.path(path).mkdir(mode)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        with self.acting():
            os.mknod(self.path(path), mode, rdev)

    def symlink(self, target: str, path: str) -> None:
        with self.acting():
            self.path(path).symlink_to(target)

    def readlink(self, path: str) -> str:
        with self.acting():
            return os.readlink(self.path(path))  # noqa: PTH115

    def link(self, path: str, new_path: str) -> None:
        with self.acting():
            os.link(self.path(path), self.path(new_path), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        with self.acting():
            self.path(path).unlink()

    def rmdir(self, path: str) -> None:
        with self.acting():
            self.path(path).rmdir()

    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        with self.acting():
            renameat2(self.path(path), self.path(new_path), flags)

    def chmod(self, path: str, mode: int) -> None:
        with self.acting():
            self.path(path).chmod(mode)

    def chown(self, path: str, uid: int = -1, gid: int = -1) -> None:
        with self.acting():
            os.chown(self.path(path), uid, gid, follow_symlinks=not path)

    def truncate(self, path: str, size: int) -> None:
        with self.acting():
            os.truncate(self.path(path), size)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        with self.acting():
            os.utime(self.path(path), ns=(atime_ns, mtime_ns), follow_symlinks=not path)

    def open(self, path: str, flags: int, mode: int = 0o644) -> OpenFile:
        with self.acting():
            return HostFile(self, os.open(self.path(path), flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode))

    def tmpfile(self, path: str, flags: int, mode: int = 0o600) -> OpenFile:
        with self.acting():
            return HostFile(self, os.open(self.path(path), flags | os.O_TMPFILE, mode))

    def listing(self, path: str = "") -> Iterator[tuple[str, int]]:
        with self.acting():
            descriptor = os.open(self.path(path), os.O_RDONLY | os.O_DIRECTORY)
        buffer = ctypes.create_string_buffer(_LISTED_AT_ONCE)
        try:
            while size := _checked(_LIBC.syscall(_GETDENTS64, descriptor, buffer, _LISTED_AT_ONCE)):
                at = 0
                while at < size:
                    ino, _, length = struct.unpack_from("<QQH", buffer, at)
                    yield os.fsdecode(buffer.raw[at + 19 : at + length].split(b"\0")[0]), ino
                    at += length
        finally:
            os.close(descriptor)

    def sync(self, path: str = "") -> None:
        descriptor = os.open(self.path(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
            _checked(_LIBC.syncfs(descriptor))
        finally:
            os.close(descriptor)

    def statfs(self) -> StatFs:
        said = os.statvfs(self._directory)
        return StatFs(
            blocks=said.f_blocks,
            bfree=said.f_bfree,
            bavail=said.f_bavail,
            files=said.f_files,
            ffree=said.f_ffree,
            bsize=said.f_bsize,
            frsize=said.f_frsize,
            namelen=said.f_namemax,
        )

    def getxattr(self, path: str, name: str) -> bytes:
        with self.acting():
            return os.getxattr(self.path(path), name, follow_symlinks=not path)

    def listxattr(self, path: str) -> Sequence[str]:
        with self.acting():
            return os.listxattr(self.path(path), follow_symlinks=not path)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        with self.acting():
            os.setxattr(self.path(path), name, value, flags, follow_symlinks=not path)

    def removexattr(self, path: str, name: str) -> None:
        with self.acting():
            os.removexattr(self.path(path), name, follow_symlinks=not path)
