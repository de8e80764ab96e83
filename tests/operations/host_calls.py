"""System calls of the host that Python's os module lacks, as the yardstick for what a guest gets."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from vhostfs.fuse_abi.structures import Statx

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_LIBC.lseek.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)
_LIBC.lseek.restype = ctypes.c_int64
_LIBC.copy_file_range.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_size_t,
    ctypes.c_uint,
)
_LIBC.copy_file_range.restype = ctypes.c_ssize_t


def renameat2(old: Path, new: Path, flags: int) -> None:
    """Rename with flags: renameat2(2)."""
    _checked(_LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Reserve or free space: fallocate(2), without the C library's emulation."""
    _checked(_LIBC.fallocate(descriptor, mode, offset, length))


def lseek(descriptor: int, offset: int, whence: int) -> int:
    """Seek, also by values of whence that os.lseek does not know."""
    return _checked(_LIBC.lseek(descriptor, offset, whence))


def copy_file_range(source: tuple[int, int], target: tuple[int, int], size: int, flags: int = 0) -> int:
    """Copy between two descriptors, each (descriptor, offset): copy_file_range(2)."""
    offsets = ctypes.c_int64(source[1]), ctypes.c_int64(target[1])
    return _checked(
        _LIBC.copy_file_range(
            source[0], ctypes.byref(offsets[0]), target[0], ctypes.byref(offsets[1]), size, flags
        )
    )


def statx(path: Path, mask: int = STATX_BASIC_STATS | STATX_BTIME) -> Statx:
    """Read attributes with the time of birth: statx(2), whose result has the layout of fuse_statx."""
    buffer = ctypes.create_string_buffer(Statx.SIZE)
    _checked(_LIBC.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, mask, buffer))
    return Statx.unpack_from(buffer.raw)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
