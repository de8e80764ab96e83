"""The bit masks of FUSE 7.45, one class a field that carries them."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class InitFlags(IntFlag):
    """What kernel and server can do: init_in and init_out, flags in bits 0-31, flags2 in bits 32-63.

    flags2 counts on either side only where INIT_EXT is set. negotiation.py says which of these are taken.
    """

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    INIT_RESERVED = 1 << 31
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42

    @classmethod
    def joined(cls, flags: int, flags2: int) -> InitFlags:
        """Return the mask that the two 32-bit fields of init_in or init_out hold together."""
        low = cls(flags & 0xFFFFFFFF)
        return low | cls(flags2 << 32) if cls.INIT_EXT in low else low

    @property
    def split(self) -> tuple[int, int]:
        """Return the fields (flags, flags2) that carry this mask."""
        return int(self) & 0xFFFFFFFF, int(self) >> 32


class OpenReplyFlags(IntFlag):
    """How the kernel shall treat an open file (open_out.open_flags, FOPEN_*)."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


class OpenRequestFlags(IntFlag):
    """What to do while opening (open_in.open_flags and create_in.open_flags, FUSE_OPEN_*)."""

    KILL_SUIDGID = 1 << 0


class SetattrValid(IntFlag):
    """Which fields of setattr_in count (setattr_in.valid, FATTR_*)."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class AttrFlags(IntFlag):
    """What is special about a file (attr.flags, FUSE_ATTR_*)."""

    SUBMOUNT = 1 << 0
    DAX = 1 << 1


class GetattrFlags(IntFlag):
    """Whether fh counts (getattr_in.getattr_flags and statx_in.getattr_flags, FUSE_GETATTR_*)."""

    FH = 1 << 0


class ReadFlags(IntFlag):
    """How to read (read_in.read_flags, FUSE_READ_*)."""

    LOCKOWNER = 1 << 1


class WriteFlags(IntFlag):
    """How to write (write_in.write_flags, FUSE_WRITE_*). With CACHE, fh, uid and gid are a guess."""

    CACHE = 1 << 0
    LOCKOWNER = 1 << 1
    KILL_SUIDGID = 1 << 2


class ReleaseFlags(IntFlag):
    """What else a release does (release_in.release_flags, FUSE_RELEASE_*)."""

    FLUSH = 1 << 0
    FLOCK_UNLOCK = 1 << 1


class FsyncFlags(IntFlag):
    """How much to write out (fsync_in.fsync_flags, FUSE_FSYNC_*)."""

    FDATASYNC = 1 << 0


class LockFlags(IntFlag):
    """Which kind of lock (lk_in.lk_flags, FUSE_LK_*): a flock lock, or without the bit a POSIX one."""

    FLOCK = 1 << 0


class IoctlFlags(IntFlag):
    """How an ioctl is meant (ioctl_in.flags and ioctl_out.flags, FUSE_IOCTL_*)."""

    COMPAT = 1 << 0
    UNRESTRICTED = 1 << 1
    RETRY = 1 << 2
    THIRTY_TWO_BIT = 1 << 3
    DIR = 1 << 4
    COMPAT_X32 = 1 << 5


class PollFlags(IntFlag):
    """Whether to wake the poller later (poll_in.flags, FUSE_POLL_*)."""

    SCHEDULE_NOTIFY = 1 << 0


class SetxattrFlags(IntFlag):
    """What else setting an attribute does (setxattr_in.setxattr_flags, FUSE_SETXATTR_*)."""

    ACL_KILL_SGID = 1 << 0


class RenameFlags(IntFlag):
    """How to rename (rename2_in.flags; the flags of renameat2(2), <linux/fs.h>)."""

    NOREPLACE = 1 << 0
    EXCHANGE = 1 << 1
    WHITEOUT = 1 << 2


class FallocateFlags(IntFlag):
    """What to do to a range of a file (fallocate_in.mode; the modes of fallocate(2), <linux/falloc.h>)."""

    KEEP_SIZE = 1 << 0
    PUNCH_HOLE = 1 << 1
    COLLAPSE_RANGE = 1 << 3
    ZERO_RANGE = 1 << 4
    INSERT_RANGE = 1 << 5
    UNSHARE_RANGE = 1 << 6


class SetupMappingFlags(IntFlag):
    """What a DAX mapping is for (setupmapping_in.flags, FUSE_SETUPMAPPING_FLAG_*)."""

    WRITE = 1 << 0
    READ = 1 << 1


class InvalEntryFlags(IntFlag):
    """How to invalidate a name (notify_inval_entry_out.flags)."""

    EXPIRE_ONLY = 1 << 0


class CuseInitFlags(IntFlag):
    """What a character device asks for (cuse_init_in.flags and cuse_init_out.flags)."""

    UNRESTRICTED_IOCTL = 1 << 0


class ExtensionType(IntEnum):
    """The kind of an extension behind a request's arguments (enum fuse_ext_type).

    Values up to MAX_NR_SECCTX are no types: there the second word is the count in a security context header.
    """

    MAX_NR_SECCTX = 31
    GROUPS = 32


UNIQUE_RESEND: Final = 1 << 63
"""The bit in in_header.unique of a request that the kernel sends again (FUSE_UNIQUE_RESEND)."""

INVALID_UIDGID: Final = 0xFFFFFFFF
"""in_header.uid and gid where an idmapped mount has no id for the caller (FUSE_INVALID_UIDGID)."""

IOCTL_MAX_IOV: Final = 256
"""The most iovecs of an ioctl, in and out together (FUSE_IOCTL_MAX_IOV)."""
