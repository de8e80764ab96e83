"""What a session wants of the kernel: which operations reach Python, and which INIT flags are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vhostfs.filesystem import Options
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.negotiation import Rule, taken_flags
from vhostfs.fuse_abi.opcodes import Opcode

_OPENING: Final = (Opcode.OPEN, Opcode.RELEASE)
_LISTING: Final = (Opcode.OPENDIR, Opcode.RELEASEDIR)
_LOCKING: Final = (Opcode.SETLK, Opcode.SETLKW)

OPCODES: Final[dict[str, tuple[Opcode, ...]]] = {
    "lookup": (Opcode.LOOKUP,),
    "getattr": (Opcode.GETATTR,),
    "setattr": (Opcode.SETATTR,),
    "statx": (Opcode.STATX,),
    "access": (Opcode.ACCESS,),
    "readlink": (Opcode.READLINK,),
    "mknod": (Opcode.MKNOD,),
    "mkdir": (Opcode.MKDIR,),
    "symlink": (Opcode.SYMLINK,),
    "link": (Opcode.LINK,),
    "unlink": (Opcode.UNLINK,),
    "rmdir": (Opcode.RMDIR,),
    "rename": (Opcode.RENAME, Opcode.RENAME2),
    "open": _OPENING,
    "create": (Opcode.CREATE, *_OPENING),
    "tmpfile": (Opcode.TMPFILE, *_OPENING),
    "read": (Opcode.READ,),
    "write": (Opcode.WRITE,),
    "flush": (Opcode.FLUSH,),
    "release": (),
    "fsync": (Opcode.FSYNC,),
    "fallocate": (Opcode.FALLOCATE,),
    "lseek": (Opcode.LSEEK,),
    "copy_file_range": (Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64),
    "ioctl": (Opcode.IOCTL,),
    "poll": (Opcode.POLL,),
    "bmap": (Opcode.BMAP,),
    "opendir": _LISTING,
    "readdir": (Opcode.READDIR, Opcode.READDIRPLUS, *_LISTING),
    "releasedir": (),
    "fsyncdir": (Opcode.FSYNCDIR,),
    "statfs": (Opcode.STATFS,),
    "syncfs": (Opcode.SYNCFS,),
    "getxattr": (Opcode.GETXATTR,),
    "listxattr": (Opcode.LISTXATTR,),
    "setxattr": (Opcode.SETXATTR,),
    "removexattr": (Opcode.REMOVEXATTR,),
    "getlk": (Opcode.GETLK,),
    "setlk": _LOCKING,
    "flock": _LOCKING,
}
"""The requests that each method of a file system answers.

With CREATE or TMPFILE goes OPEN, which the session answers without a handle where it is not overridden: a
kernel to which OPEN is ENOSYS releases no file at all. With READDIR goes OPENDIR, whose number stands for
the listing.
"""

ALWAYS: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


def wanted_opcodes(implemented: frozenset[str]) -> frozenset[int]:
    """Return the opcodes that are to reach a session whose file system implements these methods."""
    return ALWAYS.union(*(OPCODES[name] for name in implemented))


@dataclass(frozen=True, slots=True)
class Offer:
    """What the flags of a session depend on."""

    options: Options
    implemented: frozenset[str]


def always(_: Offer) -> bool:
    """Take the flag whenever the kernel offers it."""
    return True


def never(_: Offer) -> bool:
    """Leave the flag in any case."""
    return False


def with_method(name: str) -> Callable[[Offer], bool]:
    """Take the flag where the file system has a method."""
    return lambda offer: name in offer.implemented


def with_option(name: str) -> Callable[[Offer], bool]:
    """Take the flag where an option is set."""
    return lambda offer: bool(getattr(offer.options, name))


_TRANSPORT: Final = "It is the transport's to take, which knows whether there is a /dev/fuse."

RULES: Final = (
    Rule(InitFlags.ASYNC_READ, always, "Reads of one file are independent; the kernel need not queue them."),
    Rule(
        InitFlags.POSIX_LOCKS,
        with_method("setlk"),
        "Without it the kernel keeps POSIX locks to itself, and never asks setlk.",
    ),
    Rule(InitFlags.FILE_OPS, never, "No kernel ever gave it a meaning, and none offers it."),
    Rule(
        InitFlags.ATOMIC_O_TRUNC,
        with_method("open"),
        "An open truncates by itself: one request less. Without open nobody would.",
    ),
    Rule(
        InitFlags.EXPORT_SUPPORT,
        with_option("nfs_export"),
        "The kernel then looks up '.' and '..' of nodes that it knows by number alone.",
    ),
    Rule(InitFlags.BIG_WRITES, always, "A write may be as long as a request; old kernels need telling."),
    Rule(
        InitFlags.DONT_MASK,
        with_option("posix_acl"),
        "A default ACL replaces the umask, so whoever keeps the ACL must apply the umask.",
    ),
    Rule(InitFlags.SPLICE_WRITE, never, _TRANSPORT),
    Rule(InitFlags.SPLICE_MOVE, never, _TRANSPORT),
    Rule(InitFlags.SPLICE_READ, never, _TRANSPORT),
    Rule(
        InitFlags.FLOCK_LOCKS,
        with_method("flock"),
        "Without it the kernel keeps flock locks to itself, and never asks flock.",
    ),
    Rule(InitFlags.HAS_IOCTL_DIR, with_method("ioctl"), "Directories can be asked as files can."),
    Rule(
        InitFlags.AUTO_INVAL_DATA,
        always,
        "Files may change without the kernel: cached pages go when size or mtime prove to have changed.",
    ),
    Rule(InitFlags.DO_READDIRPLUS, with_method("readdir"), "One request, and no LOOKUP for every entry."),
    Rule(
        InitFlags.READDIRPLUS_AUTO,
        with_method("readdir"),
        "Listings that nobody follows up by stat stay cheap.",
    ),
    Rule(InitFlags.ASYNC_DIO, always, "Direct reads and writes of one file are independent."),
    Rule(
        InitFlags.WRITEBACK_CACHE,
        with_option("writeback"),
        "The kernel collects writes and owns size and times: fast, but the file system sees them late.",
    ),
    Rule(InitFlags.NO_OPEN_SUPPORT, never, "It only tells a server that ENOSYS is a good answer to OPEN."),
    Rule(InitFlags.PARALLEL_DIROPS, always, "Lookups and listings of one directory are independent."),
    Rule(
        InitFlags.HANDLE_KILLPRIV,
        never,
        "It drops setuid and setgid on every write, also root's; without it the kernel sends a SETATTR.",
    ),
    Rule(InitFlags.POSIX_ACL, with_option("posix_acl"), "The kernel checks the lists that are stored."),
    Rule(InitFlags.ABORT_ERROR, never, _TRANSPORT),
    Rule(InitFlags.MAX_PAGES, always, "Requests of more than 32 pages: fewer of them for the same data."),
    Rule(
        InitFlags.CACHE_SYMLINKS,
        with_option("cache_symlinks"),
        "Linux cuts a cached target at st_size, so who asks for it must tell the size right.",
    ),
    Rule(
        InitFlags.NO_OPENDIR_SUPPORT, never, "It only tells a server that ENOSYS is a good answer to OPENDIR."
    ),
    Rule(
        InitFlags.EXPLICIT_INVAL_DATA,
        never,
        "Over virtio-fs nobody could tell the kernel; AUTO_INVAL_DATA costs nothing where nothing changes.",
    ),
    Rule(InitFlags.MAP_ALIGNMENT, never, "It belongs to the DAX window, which is not served."),
    Rule(
        InitFlags.SUBMOUNTS,
        always,
        "A directory with AttrFlags.SUBMOUNT becomes a mount, with inode numbers of its own.",
    ),
    Rule(
        InitFlags.HANDLE_KILLPRIV_V2,
        never,
        "Without it the kernel sends a SETATTR; with it a file system that does not think of that leaves "
        "setuid bits on programs that somebody else wrote.",
    ),
    Rule(
        InitFlags.SETXATTR_EXT, with_method("setxattr"), "It brings the flag that drops setgid with an ACL."
    ),
    Rule(InitFlags.INIT_EXT, always, "Without it none of the flags from bit 32 on counts."),
    Rule(InitFlags.INIT_RESERVED, never, "It must not be used."),
    Rule(InitFlags.SECURITY_CTX, never, "Security labels of new files have no place in the methods."),
    Rule(InitFlags.HAS_INODE_DAX, never, "It belongs to the DAX window, which is not served."),
    Rule(
        InitFlags.CREATE_SUPP_GROUP,
        always,
        "In a setgid directory it matters whether the caller is in its group.",
    ),
    Rule(InitFlags.HAS_EXPIRE_ONLY, never, "Names are invalidated for good."),
    Rule(
        InitFlags.DIRECT_IO_ALLOW_MMAP,
        with_option("direct_io_mmap"),
        "Programs that map files shared work without cached data, at the price of coherence.",
    ),
    Rule(InitFlags.PASSTHROUGH, never, _TRANSPORT),
    Rule(InitFlags.NO_EXPORT_SUPPORT, never, "It forbids NFS to open what the kernel still knows."),
    Rule(InitFlags.HAS_RESEND, never, _TRANSPORT),
    Rule(
        InitFlags.ALLOW_IDMAP,
        never,
        "On a mount with mapped ids only creations say who the caller is, and every method may ask.",
    ),
    Rule(InitFlags.OVER_IO_URING, never, _TRANSPORT),
    Rule(
        InitFlags.REQUEST_TIMEOUT,
        never,
        "One slow request would cost the kernel its whole mount; Options.timeout_seconds costs that request.",
    ),
)
"""The rule of every INIT flag, in the order of the bits."""


def wanted_flags(options: Options, implemented: frozenset[str]) -> InitFlags:
    """Return all flags that a session takes, if the kernel offers them."""
    return taken_flags(RULES, Offer(options, implemented))
