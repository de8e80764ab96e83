"""What changes of attributes make of a file's metadata."""

from __future__ import annotations

import stat
import time
from dataclasses import replace

from vhostfs.backends.s3.metadata import PosixMetadata
from vhostfs.backends.s3.nodes import Node
from vhostfs.filesystem import Attr, Caller, SetAttr


def made(caller: Caller, mode: int, rdev: int = 0) -> PosixMetadata:
    """Return the metadata of what a caller makes."""
    now = time.time_ns()
    return PosixMetadata(mode, caller.uid, caller.gid, now, now, rdev=rdev or None)


def written(posix: PosixMetadata | None, *, kill_suid_sgid: bool) -> PosixMetadata:
    """Return metadata after a write."""
    posix = posix or PosixMetadata()
    now = time.time_ns()
    mode = posix.mode
    if mode is not None and kill_suid_sgid:
        mode = without_suid(mode)
    return replace(posix, mtime=now, ctime=now, mode=mode)


def changed(node: Node, changes: SetAttr, now: Attr) -> PosixMetadata:
    """Return a node's metadata with changes; a change of anything is one of ctime."""
    posix = node.posix or PosixMetadata()
    mode = now.mode if changes.mode is None else node.type | changes.mode
    if changes.kill_suid_sgid:
        mode = without_suid(mode)
    moment = time.time_ns()
    mtime = changes.mtime_ns
    if mtime is None and changes.size is not None:
        mtime = moment
    return replace(
        posix,
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
