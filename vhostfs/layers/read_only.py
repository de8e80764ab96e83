"""A layer under which nothing changes: EROFS."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from vhostfs.backends.contract import Layer
from vhostfs.filesystem import Caller, Filesystem, IoctlReply, MaybeAwaitable, Opened, Wrapper, implements
from vhostfs.filesystem.refusals import refused

CHANGING_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
"""The flags of open(2) with which a file is changed, or may be."""

CHANGING_OPERATIONS: Final = frozenset(
    {
        *("setattr", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "create", "tmpfile"),
        *("write", "fallocate", "copy_file_range", "setxattr", "removexattr"),
    }
)
"""The operations that change something whenever they succeed."""

_IOC_WRITE: Final = 1 << 30
"""The bit of an ioctl's number that says that the caller passes something in (asm-generic/ioctl.h)."""


def _refuse(*_: object) -> NoReturn:
    raise refused(errno.EROFS)


class ReadOnly[H](Wrapper[H]):
    """Passes on what only looks; answers EROFS to everything else.

    Reading may still change times of access on the host. An ioctl that passes something in counts as change.
    """

    def __init__(self, inner: Filesystem[H]) -> None:
        """Stand before a file system."""
        super().__init__(inner)
        for operation in CHANGING_OPERATIONS:
            if implements(inner, operation):
                setattr(self, operation, _refuse)

    def access(self, caller: Caller, node: int, mask: int) -> MaybeAwaitable[None]:
        """Deny writing to all."""
        return _refuse() if mask & os.W_OK else self.inner.access(caller, node, mask)

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Open for reading."""
        return _refuse() if flags & CHANGING_FLAGS else self.inner.open(caller, node, flags)

    def ioctl(
        self, caller: Caller, node: int, handle: H | None, command: int, argument: int, data: bytes, room: int
    ) -> MaybeAwaitable[IoctlReply]:
        """Ask, and tell nothing."""
        if command & _IOC_WRITE:
            return _refuse()
        return self.inner.ioctl(caller, node, handle, command, argument, data, room)


@dataclass(frozen=True, slots=True)
class ReadOnlySettings(Layer):
    """Nothing changes. Over `passthrough` the data plane sees to that."""

    def wrap(self, inner: Filesystem[Any]) -> ReadOnly[Any]:
        """Return the layer."""
        return ReadOnly(inner)
