"""Extended attributes of a memory file system's nodes: namespaces, limits, flags."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from vhostfs.backends.memory.nodes import Node
from vhostfs.backends.memory.space import Space
from vhostfs.filesystem.refusals import refused

_CAPABILITY: Final = "security.capability"
_NAMESPACES: Final = ("user.", "trusted.", "security.")
_NAME_LIMIT: Final = 255
_VALUE_LIMIT: Final = 64 << 10
_LIST_LIMIT: Final = 64 << 10
_OVERHEAD: Final = 40
"""Bytes charged for an attribute beside its name and value (tmpfs: simple_xattr_space)."""


def _check(node: Node, name: str, missing: int) -> None:
    """Refuse a name of no namespace (EOPNOTSUPP, EINVAL), and user.* where there is none (`missing`)."""
    if len(os.fsencode(name)) > _NAME_LIMIT:
        raise refused(errno.ERANGE)
    if name.startswith("user.") and not (stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode)):
        raise refused(missing)
    if not name.startswith(_NAMESPACES):
        raise refused(errno.EOPNOTSUPP)
    if name in _NAMESPACES:
        raise refused(errno.EINVAL)


def _charge(name: str, value: bytes) -> int:
    return _OVERHEAD + len(os.fsencode(name)) + len(value)


def get(node: Node, name: str) -> bytes:
    """Return a value; ENODATA where there is none."""
    value = None if node.xattrs is None else node.xattrs.get(name)
    if value is None:
        _check(node, name, errno.ENODATA)
        raise refused(errno.ENODATA)
    return value


def names(node: Node) -> Iterable[str]:
    """Return the names."""
    return tuple(node.xattrs or ())


def put(space: Space, node: Node, name: str, value: bytes, flags: int) -> None:
    """Set a value. EEXIST, ENODATA by flags; E2BIG for a value, ENOSPC for all names, too long."""
    if flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
        raise refused(errno.EINVAL)
    if len(value) > _VALUE_LIMIT:
        raise refused(errno.E2BIG)
    _check(node, name, errno.EPERM)
    held = node.xattrs or {}
    old = held.get(name)
    if old is None and flags & os.XATTR_REPLACE:
        raise refused(errno.ENODATA)
    if old is not None and flags & os.XATTR_CREATE:
        raise refused(errno.EEXIST)
    if old is None:
        listed = sum(len(os.fsencode(each)) + 1 for each in (*held, name))
        if listed > _LIST_LIMIT:
            raise refused(errno.ENOSPC)
    space.take_bookkeeping(_charge(name, value) - (0 if old is None else _charge(name, old)))
    if node.xattrs is None:
        node.xattrs = held
    held[name] = value
    node.changed()


def remove(space: Space, node: Node, name: str) -> None:
    """Remove an attribute; ENODATA where there is none such."""
    _check(node, name, errno.EPERM)
    value = None if node.xattrs is None else node.xattrs.pop(name, None)
    if value is None:
        raise refused(errno.ENODATA)
    space.give_bookkeeping(_charge(name, value))
    node.changed()


def drop_capabilities(space: Space, node: Node) -> None:
    """Drop the file's capabilities, which are good for the contents and the owner they were given to."""
    value = None if node.xattrs is None else node.xattrs.pop(_CAPABILITY, None)
    if value is not None:
        space.give_bookkeeping(_charge(_CAPABILITY, value))
        node.entry = None


def clear(space: Space, node: Node) -> None:
    """Give back what all attributes were charged."""
    for name, value in (node.xattrs or {}).items():
        space.give_bookkeeping(_charge(name, value))
    node.xattrs = None
