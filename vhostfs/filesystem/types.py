"""What a file system is asked with and answers with: attributes, entries, handles, listings, locks, callers.

All are immutable but Caller. Names, link targets and names of extended attributes are str: bytes that are no
UTF-8 arrive and leave as surrogates, as everywhere in Python (os.fsdecode). Times are int nanoseconds since
1970.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from vhostfs.fuse_abi.flags import AttrFlags, OpenReplyFlags

ROOT: Final = 1
"""The node of the root directory."""

_NO_ATTR_FLAGS: Final = AttrFlags(0)
_NO_OPEN_FLAGS: Final = OpenReplyFlags(0)


@dataclass(frozen=True, slots=True)
class Attr:
    """The attributes of a file, as stat(2) has them (fuse_attr).

    `ino` is what st_ino shows, 1 to 2**64 - 1; `mode` holds type and permissions; `size` counts bytes,
    `blocks` units of 512 of them (None: as many as the size takes).
    """

    ino: int
    mode: int
    size: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    rdev: int = 0
    blksize: int = 4096
    blocks: int | None = None
    flags: AttrFlags = _NO_ATTR_FLAGS
    wire: bytes | None = field(default=None, init=False, repr=False, compare=False)
    """The session's: the packed form, once it was made."""

    @classmethod
    def file(cls, ino: int, size: int = 0, mode: int = 0o644) -> Self:
        """Return those of a regular file, of root and without times."""
        return cls(ino, stat.S_IFREG | mode, size)

    @classmethod
    def directory(cls, ino: int, mode: int = 0o755, nlink: int = 2) -> Self:
        """Return those of a directory, of root and without times."""
        return cls(ino, stat.S_IFDIR | mode, nlink=nlink)

    @classmethod
    def symlink(cls, ino: int, target: str) -> Self:
        """Return those of a symbolic link, of root and without times."""
        return cls(ino, stat.S_IFLNK | 0o777, len(os.fsencode(target)))

    @classmethod
    def from_stat(cls, result: os.stat_result) -> Self:
        """Return what os.stat, os.lstat or os.fstat said."""
        return cls(
            ino=result.st_ino,
            mode=result.st_mode,
            size=result.st_size,
            nlink=result.st_nlink,
            uid=result.st_uid,
            gid=result.st_gid,
            atime_ns=result.st_atime_ns,
            mtime_ns=result.st_mtime_ns,
            ctime_ns=result.st_ctime_ns,
            rdev=result.st_rdev,
            blksize=result.st_blksize,
            blocks=result.st_blocks,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that was found or made: its node, and how long the kernel may trust that (fuse_entry_out).

    `node` (None: attr.ino) is the number by which the file system is asked from now on: any from 1 to
    2**63 - 1 of its own choice, the same whenever it is the same file. Each Entry that reaches the kernel
    counts one lookup of the node; the session counts, and calls `forget` when none is left. `generation`
    tells a new file from an older one with its node number. Seconds of None: those of the options.
    """

    attr: Attr
    node: int | None = None
    generation: int = 0
    entry_seconds: float | None = None
    attr_seconds: float | None = None
    wire: tuple[object, int, bytes] | None = field(default=None, init=False, repr=False, compare=False)
    """A session's: the packed form, once it was made."""


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What SETATTR changes; None leaves a value as it is. `mode` is permissions alone, without a type.

    `kill_suid_sgid`: set-user-id and set-group-id bits are to go as well (a write or truncation by somebody
    without CAP_FSETID).
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    kill_suid_sgid: bool = False


@dataclass(frozen=True, slots=True)
class Opened[H]:
    """What OPEN, OPENDIR, CREATE and TMPFILE answer: the file system's own object, given back at each use.

    `flags` tell the kernel how to treat the file (FOPEN_*): without any it drops what it has cached of the
    file's data, and caches anew.
    """

    handle: H
    flags: OpenReplyFlags = _NO_OPEN_FLAGS


class FileType(IntEnum):
    """The type of a directory's entry (DT_*)."""

    UNKNOWN = 0
    FIFO = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 4
    BLOCK_DEVICE = 6
    REGULAR = 8
    SYMLINK = 10
    SOCKET = 12
    WHITEOUT = 14


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One entry of a listing.

    `offset` is the cookie from which a listing goes on behind this entry, 1 to 2**63 - 1; None numbers the
    entries from the beginning, which is right for a listing that says the same whenever it is made. With an
    `entry` the kernel learns the attributes too (READDIRPLUS), else it asks when it needs them; '.' and '..'
    need none, and may be left out altogether.
    """

    name: str
    ino: int
    type: FileType = FileType.UNKNOWN
    offset: int | None = None
    entry: Entry | None = None
    wire: tuple[int, bytes] | None = field(default=None, init=False, repr=False, compare=False)
    """The session's: the packed record for one cookie, once it was made."""

    @classmethod
    def of(cls, name: str, entry: Entry, offset: int | None = None) -> Self:
        """Return the entry of a file whose attributes are known."""
        attr = entry.attr
        return cls(name, attr.ino, FileType(stat.S_IFMT(attr.mode) >> 12), offset, entry)


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statfs(2) says of a file system; blocks of `frsize` bytes (fuse_kstatfs)."""

    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    bsize: int = 4096
    frsize: int = 4096
    namelen: int = 255


@dataclass(frozen=True, slots=True)
class StatX:
    """What statx(2) says beyond Attr: time of birth, STATX_ATTR_* attributes, which of them are known."""

    attr: Attr
    btime_ns: int | None = None
    attributes: int = 0
    attributes_mask: int = 0


class LockType(IntEnum):
    """A lock's type, as fcntl(2) numbers it."""

    READ = 0
    WRITE = 1
    UNLOCK = 2


LOCK_END: Final = 2**63 - 1
"""The `end` of a lock that reaches to the end of the file, however long it grows."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A POSIX lock of bytes `start` to `end`, both included; `pid` is the holder's, for GETLK."""

    type: LockType
    start: int = 0
    end: int = LOCK_END
    pid: int = 0


@dataclass(frozen=True, slots=True)
class IoctlReply:
    """What an ioctl returns: its result, and the bytes that go back to the caller's memory."""

    result: int = 0
    data: bytes = b""


class Caller:
    """Who asks: the user, group and process in the guest, as the request's header has them.

    `groups` are the supplementary groups that the kernel sends, which is at most the one that matters for a
    creation in a set-group-id directory. `umask` is 0 unless the file system takes POSIX ACLs upon itself:
    the kernel has applied it. One Caller belongs to one request.
    """

    __slots__ = ("_interrupted", "gid", "groups", "pid", "uid", "umask")

    def __init__(
        self,
        uid: int = 0,
        gid: int = 0,
        pid: int = 0,
        groups: Sequence[int] = (),
        umask: int = 0,
        interrupted: Callable[[], bool] | None = None,
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.groups = groups
        self.umask = umask
        self._interrupted = interrupted

    def interrupted(self) -> bool:
        """Tell whether nobody waits for the answer any more.

        An `async def` operation is cancelled besides; one that is no coroutine may ask here now and then, as
        it gives the event loop no chance to cancel anything.
        """
        return self._interrupted is not None and self._interrupted()

    def __repr__(self) -> str:
        """Return the ids."""
        return f"Caller(uid={self.uid}, gid={self.gid}, pid={self.pid})"
