"""Which operations a file system answers: what is not among them is answered ENOSYS without asking it."""

from __future__ import annotations

from typing import Any, Final

from vhostfs.filesystem.interface import Filesystem

OPERATIONS: Final = (
    *("lookup", "getattr", "setattr", "statx", "access", "readlink", "mknod", "mkdir", "symlink", "link"),
    *("unlink", "rmdir", "rename", "open", "create", "tmpfile", "read", "write", "flush", "release"),
    *("fsync", "fallocate", "lseek", "copy_file_range", "ioctl", "poll", "bmap", "opendir", "readdir"),
    *("releasedir", "fsyncdir", "statfs", "syncfs", "getxattr", "listxattr", "setxattr", "removexattr"),
    *("getlk", "setlk", "flock"),
)
"""The names of all methods of Filesystem that answer a request."""


def implements(filesystem: Filesystem[Any], operation: str) -> bool:
    """Tell whether a file system answers an operation: it overrides it, or wraps one that does."""
    method = getattr(filesystem, operation)
    return getattr(method, "__func__", method) is not getattr(Filesystem, operation)


def implemented(filesystem: Filesystem[Any]) -> frozenset[str]:
    """Return the names of the operations that a file system answers."""
    return frozenset(operation for operation in OPERATIONS if implements(filesystem, operation))
