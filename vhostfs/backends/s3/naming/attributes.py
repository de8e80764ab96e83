"""What changes of attributes make of a file's metadata."""

from __future__ import annotations

import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vhostfs.backends.s3.naming.metadata import PosixMetadata
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.filesystem import Attr, Caller, SetAttr

_CAPABILITY: Final = "security.capability"


def made(caller: Caller, directory: Node, mode: int, rdev: int = 0) -> PosixMetadata:
    """Return the metadata of what a caller makes in a directory, which may pass on its group."""
    now = time.time_ns()
    gid = caller.gid
    above = directory.posix
    if above is not None and (above.mode or 0) & stat.S_ISGID:
        gid = gid if above.gid is None else above.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return PosixMetadata(mode, caller.uid, gid, now, now, rdev=rdev if device else None)


def written(posix: PosixMetadata | None, *, kill_suid_sgid: bool) -> PosixMetadata:
    """Return metadata after a write."""
    posix = posix or PosixMetadata()
    now = time.time_ns()
    mode = posix.mode
    if mode is not None and kill_suid_sgid:
        mode = without_suid(mode)
    return replace(posix, mtime=now, ctime=now, mode=mode, xattrs=_without_capability(posix.xattrs))


def changed(node: Node, changes: SetAttr, now: Attr) -> PosixMetadata:
    """Return a node's metadata with changes; a change of anything is one of ctime."""
    posix = node.posix or PosixMetadata()
    owned = changes.uid is not None or changes.gid is not None
    mode = now.mode if changes.mode is None else node.type | changes.mode
    if (changes.kill_suid_sgid or (owned and changes.mode is None)) and not node.is_directory:
        mode = without_suid(mode)
    moment = time.time_ns()
    mtime = changes.mtime_ns
    if mtime is None and changes.size is not None:
        mtime = moment
    return replace(
        posix,
        xattrs=_without_capability(posix.xattrs) if owned or changes.size is not None else posix.xattrs,
        mode=mode,
        uid=now.uid if changes.uid is None else changes.uid,
        gid=now.gid if changes.gid is None else changes.gid,
        mtime=now.mtime_ns if mtime is None else mtime,
        atime=posix.atime if changes.atime_ns is None else changes.atime_ns,
        ctime=moment if changes.ctime_ns is None else changes.ctime_ns,
    )


def without_suid(mode: int) -> int:
    """Return a mode as a write by somebody without power leaves it."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def _without_capability(xattrs: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return attributes without the file's capabilities, which hold for the contents that it had."""
    if _CAPABILITY not in xattrs:
        return xattrs
    return {name: value for name, value in xattrs.items() if name != _CAPABILITY}
