"""Extended attributes: they stand in the object's metadata, and change as it does."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vhostfs.backends.s3.naming.metadata import PosixMetadata, encoded
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.operations import Operations
from vhostfs.filesystem import Caller
from vhostfs.filesystem.refusals import refused

NAME_MAXIMUM: Final = 255
VALUE_MAXIMUM: Final = 64 << 10
_NAMESPACES: Final = ("user.", "trusted.", "security.")


class ExtendedAttributes(Operations):
    """The operations on extended attributes."""

    async def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return an attribute's value."""
        values = await self._xattrs(node)
        if name not in values:
            _check(self._node(node), name, errno.ENODATA)
            raise refused(errno.ENODATA)
        return values[name]

    async def listxattr(self, caller: Caller, node: int) -> list[str]:
        """Return the names."""
        return list(await self._xattrs(node))

    async def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """Set an attribute."""
        if flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
            raise refused(errno.EINVAL)
        if len(value) > VALUE_MAXIMUM:
            raise refused(errno.E2BIG)
        values = dict(await self._xattrs(node))
        _check(self._node(node), name, errno.EPERM)
        if flags & os.XATTR_CREATE and name in values:
            raise refused(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in values:
            raise refused(errno.ENODATA)
        await self._change_xattrs(node, {**values, name: value})

    async def removexattr(self, caller: Caller, node: int, name: str) -> None:
        """Remove an attribute."""
        values = dict(await self._xattrs(node))
        _check(self._node(node), name, errno.EPERM)
        if name not in values:
            raise refused(errno.ENODATA)
        del values[name]
        await self._change_xattrs(node, values)

    async def _xattrs(self, node: int) -> Mapping[str, bytes]:
        found = self._node(node)
        if not found.gone:
            await self._names.refresh(found)
        return found.posix.xattrs if found.posix is not None else {}

    async def _change_xattrs(self, node: int, values: Mapping[str, bytes]) -> None:
        self._writable()
        found = self._changeable(node)
        posix = replace(found.posix or PosixMetadata(), xattrs=values, ctime=time.time_ns())
        encoded(posix)
        found.posix, found.pending = posix, True
        if found.opens and not found.is_directory:
            self._commits.note_changed(found)
        elif not found.gone:
            await self._commits.soon(found)


def _check(node: Node, name: str, missing: int) -> None:
    """Refuse a name that no attribute can have (ERANGE, EOPNOTSUPP, EINVAL), as Linux does.

    Attributes of users have files and directories alone; elsewhere the answer is the errno `missing`.
    """
    number = 0
    if len(os.fsencode(name)) > NAME_MAXIMUM:
        number = errno.ERANGE
    elif name.startswith("user.") and node.type not in {stat.S_IFREG, stat.S_IFDIR}:
        number = missing
    elif not name.startswith(_NAMESPACES):
        number = errno.EOPNOTSUPP
    elif name in _NAMESPACES:
        number = errno.EINVAL
    if number:
        raise refused(number)
