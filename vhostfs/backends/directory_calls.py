"""System calls that Python's os lacks, by libc: each raises OSError with the host's errno.

They are called through cffi, which lets other threads of Python run meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import cffi

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct statx_timestamp { int64_t tv_sec; uint32_t tv_nsec; int32_t reserved; };
    struct statx {
        uint32_t mask, blksize;
        uint64_t attributes;
        uint32_t nlink, uid, gid;
        uint16_t mode, spare0;
        uint64_t ino, size, blocks, attributes_mask;
        struct statx_timestamp atime, btime, ctime, mtime;
        uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
        uint64_t spare2[14];
    };
    struct timespec { long tv_sec; long tv_nsec; };
    struct file_handle { unsigned handle_bytes; int handle_type; unsigned char f_handle[128]; };
    struct statfs { long f_type; char rest[248]; };
    int statx(int, const char *, int, unsigned, struct statx *);
    int renameat2(int, const char *, int, const char *, unsigned);
    int utimensat(int, const char *, const struct timespec[2], int);
    int fallocate(int, int, int64_t, int64_t);
    int syncfs(int);
    int fstatfs(int, struct statfs *);
    ssize_t getdents64(int, void *, size_t);
    int name_to_handle_at(int, const char *, struct file_handle *, int *, int);
    int open_by_handle_at(int, struct file_handle *, int);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_NOFOLLOW: Final = 0x100
STATX_BTIME: Final = 0x800
STATX_BASIC_STATS_AND_BTIME: Final = 0xFFF
UTIME_OMIT: Final = (1 << 30) - 2
_HANDLE_BYTES: Final = 128
_SECOND: Final = 1_000_000_000


def _checked(result: int) -> int:
    if result < 0:
        number = _ffi.errno
        raise OSError(number, os.strerror(number))
    return result


@dataclass(frozen=True, slots=True)
class Birth:
    """What statx(2) says beyond stat(2). `btime_ns` is None where the file system keeps none."""

    btime_ns: int | None
    attributes: int
    attributes_mask: int


def birth(descriptor: int) -> Birth:
    """Ask for the time of birth of what a descriptor of any kind leads to."""
    found: Any = _ffi.new("struct statx *")
    _checked(_libc.statx(descriptor, b"", AT_EMPTY_PATH, STATX_BASIC_STATS_AND_BTIME, found))
    known = found.mask & STATX_BTIME
    return Birth(
        found.btime.tv_sec * _SECOND + found.btime.tv_nsec if known else None,
        found.attributes,
        found.attributes_mask,
    )


def rename(directory: int, name: str, new_directory: int, new_name: str, flags: int) -> None:
    """Rename relative to directories, with the flags of renameat2(2)."""
    old, new = os.fsencode(name), os.fsencode(new_name)
    _checked(_libc.renameat2(directory, old, new_directory, new, flags & 0xFFFFFFFF))


def set_times(directory: int, name: str, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set times, None leaving one as it is; `name` is followed, also where it is a magic link of /proc."""
    times = _ffi.new("struct timespec[2]")
    for time, wanted in zip(times, (atime_ns, mtime_ns), strict=True):
        if wanted is None:
            time.tv_nsec = UTIME_OMIT
        else:
            time.tv_sec, time.tv_nsec = divmod(wanted, _SECOND)
    _checked(_libc.utimensat(directory, os.fsencode(name), times, 0))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Reserve, punch or zero a range (fallocate(2))."""
    _checked(_libc.fallocate(descriptor, mode & 0x7FFFFFFF, offset, length))


def syncfs(descriptor: int) -> None:
    """Make the file system of a descriptor, which is none of O_PATH, durable."""
    _checked(_libc.syncfs(descriptor))


def file_system_type(descriptor: int) -> int:
    """Return what statfs(2) calls f_type."""
    found: Any = _ffi.new("struct statfs *")
    _checked(_libc.fstatfs(descriptor, found))
    return int(found.f_type) & 0xFFFFFFFF


class Entries:
    """Room for what one getdents64(2) returns."""

    SIZE: Final = 32 * 1024

    def __init__(self) -> None:
        self._room = _ffi.new("char[]", self.SIZE)

    def read(self, descriptor: int) -> bytes:
        """Return the next records of linux_dirent64, as many as there is room for; none at the end."""
        size = _checked(_libc.getdents64(descriptor, self._room, self.SIZE))
        return bytes(_ffi.buffer(self._room, size))


def name_handle(descriptor: int) -> tuple[int, bytes] | None:
    """Return the type and bytes of a file handle, by which a file is found again; None: it has none."""
    handle: Any = _ffi.new("struct file_handle *", {"handle_bytes": _HANDLE_BYTES})
    mount = _ffi.new("int *")
    if _libc.name_to_handle_at(descriptor, b"", handle, mount, AT_EMPTY_PATH) < 0:
        return None
    return handle.handle_type, bytes(_ffi.buffer(handle.f_handle, handle.handle_bytes))


def open_handle(mount: int, handle: tuple[int, bytes], flags: int) -> int:
    """Open by file handle on the file system of a descriptor (CAP_DAC_READ_SEARCH); ESTALE: it is gone."""
    kind, data = handle
    named = _ffi.new(
        "struct file_handle *", {"handle_bytes": len(data), "handle_type": kind, "f_handle": data}
    )
    return _checked(_libc.open_by_handle_at(mount, named, flags))
