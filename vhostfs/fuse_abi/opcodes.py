"""The operations that a FUSE kernel asks for, and the notifications a server may send (7.45)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

KERNEL_VERSION: Final = 7
"""The major version spoken (FUSE_KERNEL_VERSION)."""

KERNEL_MINOR_VERSION: Final = 45
"""The highest minor version spoken (FUSE_KERNEL_MINOR_VERSION)."""

ROOT_ID: Final = 1
"""The nodeid of the root directory (FUSE_ROOT_ID)."""


class Opcode(IntEnum):
    """What a request asks for (in_header.opcode, enum fuse_opcode)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53
    CUSE_INIT = 4096
    # CUSE_INIT and INIT as a kernel of the other byte order writes them.
    CUSE_INIT_BSWAP_RESERVED = 1 << 20
    INIT_BSWAP_RESERVED = 26 << 24


UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
"""The requests that get no reply, not even an error."""


class NotifyCode(IntEnum):
    """What a server tells the kernel unasked: out_header.error where unique is 0 (enum fuse_notify_code).

    Linux has no notification queue on virtio-fs: these reach /dev/fuse alone.
    """

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8
    PRUNE = 9
