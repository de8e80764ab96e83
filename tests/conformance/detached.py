"""Mounts that nobody but this process sees, and that go with a descriptor: fsopen(2), fsmount(2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_SET_STRING, _CREATE = 1, 6


def _call(number: int, *arguments: int | bytes | None) -> int:
    result: int = _LIBC.syscall(number, *arguments)
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result


@contextmanager
def detached(kind: str, *options: tuple[str, str]) -> Iterator[Path]:
    """Provide the root of a new file system with these mount options; OSError where that is not allowed."""
    context = _call(_FSOPEN, kind.encode(), 0)
    try:
        for key, value in options:
            _call(_FSCONFIG, context, _SET_STRING, key.encode(), value.encode(), 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, 0, 0)
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)


@contextmanager
def detached_tmpfs(**options: str) -> Iterator[Path]:
    """Provide the root of a tmpfs with these mount options; OSError where that is not allowed."""
    with detached("tmpfs", *options.items()) as root:
        yield root
