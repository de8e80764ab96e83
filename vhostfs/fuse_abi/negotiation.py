"""Which of the kernel's INIT flags a native file system takes, and why: one rule a flag, all in one table.

The daemon computes wanted_flags() once for its settings; what a session then gets is offered & wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import and_, or_
from typing import Final

from vhostfs.fuse_abi.flags import InitFlags


class CacheMode(StrEnum):
    """How far the guest may trust what it remembers."""

    NEVER = "never"
    METADATA = "metadata"
    AUTO = "auto"
    ALWAYS = "always"


class ReaddirplusMode(StrEnum):
    """Whether the guest lists directories with attributes: always, when it seems to pay, or never."""

    ON = "on"
    AUTO = "auto"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class NegotiationSettings:
    """What the flags of a session depend on."""

    cache: CacheMode = CacheMode.AUTO
    writeback: bool = False
    allow_mmap: bool = False
    readdirplus: ReaddirplusMode = ReaddirplusMode.AUTO
    posix_acl: bool = False
    killpriv_v2: bool = False
    announce_submounts: bool = False
    posix_locks: bool = False
    flock: bool = False


@dataclass(frozen=True, slots=True)
class Rule[Settings]:
    """Says of one flag when it is taken, and in one sentence why."""

    flag: InitFlags
    taken: Callable[[Settings], bool]
    why: str


def always(_: NegotiationSettings) -> bool:
    """Take the flag whenever the kernel offers it."""
    return True


def never(_: NegotiationSettings) -> bool:
    """Leave the flag in any case."""
    return False


def with_writeback(settings: NegotiationSettings) -> bool:
    """Take the flag where writes are to be cached, and the guest caches data at all."""
    return settings.writeback and settings.cache in {CacheMode.AUTO, CacheMode.ALWAYS}


def with_readdirplus(settings: NegotiationSettings) -> bool:
    """Take the flag unless readdirplus is off."""
    return settings.readdirplus is not ReaddirplusMode.OFF


def with_adaptive_readdirplus(settings: NegotiationSettings) -> bool:
    """Take the flag where the guest shall find out itself when readdirplus pays."""
    return settings.readdirplus is ReaddirplusMode.AUTO


def with_posix_acl(settings: NegotiationSettings) -> bool:
    """Take the flag where the guest sees and obeys POSIX access control lists."""
    return settings.posix_acl


def with_killpriv_v2(settings: NegotiationSettings) -> bool:
    """Take the flag where privileges of written files are dropped here."""
    return settings.killpriv_v2


def with_announced_submounts(settings: NegotiationSettings) -> bool:
    """Take the flag where the guest sees the host's mounts as mounts."""
    return settings.announce_submounts


def with_posix_locks(settings: NegotiationSettings) -> bool:
    """Take the flag where the host holds POSIX locks."""
    return settings.posix_locks


def with_flock(settings: NegotiationSettings) -> bool:
    """Take the flag where the host holds flock locks."""
    return settings.flock


def with_mmap(settings: NegotiationSettings) -> bool:
    """Take the flag where files without cached data may be mapped shared."""
    return settings.allow_mmap


RULES: Final = (
    Rule(InitFlags.ASYNC_READ, always, "Reads of one file are independent; the guest need not queue them."),
    Rule(
        InitFlags.POSIX_LOCKS,
        with_posix_locks,
        "Without it the guest keeps POSIX locks to itself; with it the host and other guests see them.",
    ),
    Rule(InitFlags.FILE_OPS, never, "No kernel ever gave it a meaning, and none offers it."),
    Rule(InitFlags.ATOMIC_O_TRUNC, always, "An open truncates by itself: one request less, and no gap."),
    Rule(
        InitFlags.EXPORT_SUPPORT, always, "LOOKUP of '.' and '..' is served, so guests may export over NFS."
    ),
    Rule(InitFlags.BIG_WRITES, always, "A write may be as long as a request; old kernels need telling."),
    Rule(
        InitFlags.DONT_MASK,
        with_posix_acl,
        "A default ACL replaces the umask, so whoever sees the ACL must apply the umask: the host.",
    ),
    Rule(InitFlags.SPLICE_WRITE, never, "It speaks of splice(2) on /dev/fuse; a ring has no such thing."),
    Rule(InitFlags.SPLICE_MOVE, never, "It speaks of splice(2) on /dev/fuse; a ring has no such thing."),
    Rule(InitFlags.SPLICE_READ, never, "It speaks of splice(2) on /dev/fuse; a ring has no such thing."),
    Rule(
        InitFlags.FLOCK_LOCKS,
        with_flock,
        "Without it the guest keeps flock locks to itself; with it the host and other guests see them.",
    ),
    Rule(InitFlags.HAS_IOCTL_DIR, always, "The attributes that chattr sets belong to directories too."),
    Rule(
        InitFlags.AUTO_INVAL_DATA,
        always,
        "The host changes files too: cached pages go when size or mtime prove to have changed.",
    ),
    Rule(InitFlags.DO_READDIRPLUS, with_readdirplus, "One request instead of a LOOKUP for every entry."),
    Rule(
        InitFlags.READDIRPLUS_AUTO,
        with_adaptive_readdirplus,
        "Listings that nobody follows up by stat stay cheap.",
    ),
    Rule(InitFlags.ASYNC_DIO, always, "Direct reads and writes of one file are independent."),
    Rule(
        InitFlags.WRITEBACK_CACHE,
        with_writeback,
        "The guest collects writes and owns size and times: fast, but the host sees them late.",
    ),
    Rule(
        InitFlags.NO_OPEN_SUPPORT, never, "Every OPEN yields a handle, which keeps a deleted file readable."
    ),
    Rule(InitFlags.PARALLEL_DIROPS, always, "Lookups and listings of one directory are independent."),
    Rule(
        InitFlags.HANDLE_KILLPRIV,
        never,
        "It drops setuid and setgid on every write, also root's; version 2 does as Linux does.",
    ),
    Rule(InitFlags.POSIX_ACL, with_posix_acl, "The guest then checks the lists that the host stores."),
    Rule(InitFlags.ABORT_ERROR, never, "It speaks of reading /dev/fuse after an abort."),
    Rule(InitFlags.MAX_PAGES, always, "Requests of more than 32 pages: fewer of them for the same data."),
    Rule(
        InitFlags.CACHE_SYMLINKS,
        never,
        "Linux cuts a cached target at st_size, which some host file systems report as 0.",
    ),
    Rule(
        InitFlags.NO_OPENDIR_SUPPORT, never, "Every OPENDIR yields a handle, which holds the listing's place."
    ),
    Rule(
        InitFlags.EXPLICIT_INVAL_DATA,
        never,
        "Nobody could tell the guest: Linux has no notification queue on virtio-fs.",
    ),
    Rule(InitFlags.MAP_ALIGNMENT, never, "It belongs to the DAX window, which is not served."),
    Rule(
        InitFlags.SUBMOUNTS,
        with_announced_submounts,
        "Mounts of the host become mounts in the guest, so that equal inode numbers do not collide.",
    ),
    Rule(
        InitFlags.HANDLE_KILLPRIV_V2,
        with_killpriv_v2,
        "The host drops setuid, setgid and capabilities, which saves the guest a GETXATTR on each write.",
    ),
    Rule(InitFlags.SETXATTR_EXT, always, "It brings the flag that drops setgid when an ACL is set."),
    Rule(InitFlags.INIT_EXT, always, "Without it none of the flags from bit 32 on counts."),
    Rule(InitFlags.INIT_RESERVED, never, "It must not be used."),
    Rule(InitFlags.SECURITY_CTX, never, "Security labels are the host's business."),
    Rule(InitFlags.HAS_INODE_DAX, never, "It belongs to the DAX window, which is not served."),
    Rule(
        InitFlags.CREATE_SUPP_GROUP,
        always,
        "In a setgid directory the host must know whether the caller is in its group.",
    ),
    Rule(InitFlags.HAS_EXPIRE_ONLY, never, "It speaks of notifications, which virtio-fs does not carry."),
    Rule(
        InitFlags.DIRECT_IO_ALLOW_MMAP,
        with_mmap,
        "Programs that map files shared work without cached data, at the price of coherence.",
    ),
    Rule(InitFlags.PASSTHROUGH, never, "It needs the server's descriptors in the guest kernel's own host."),
    Rule(InitFlags.NO_EXPORT_SUPPORT, never, "It is the opposite of EXPORT_SUPPORT."),
    Rule(InitFlags.HAS_RESEND, never, "It speaks of a restarted server on /dev/fuse."),
    Rule(
        InitFlags.ALLOW_IDMAP,
        always,
        "Guests may map ids of a mount; only creations ask who the caller is, and those still say it.",
    ),
    Rule(InitFlags.OVER_IO_URING, never, "It replaces /dev/fuse; virtio-fs has its rings."),
    Rule(
        InitFlags.REQUEST_TIMEOUT,
        never,
        "A slow disk or a long wait for a lock would cost the guest its whole mount.",
    ),
)
"""The rule of every INIT flag, in the order of the bits."""


def taken_flags[Settings](rules: Iterable[Rule[Settings]], settings: Settings) -> InitFlags:
    """Return all flags that these rules take with these settings."""
    return reduce(or_, (rule.flag for rule in rules if rule.taken(settings)), InitFlags(0))


def wanted_flags(settings: NegotiationSettings) -> InitFlags:
    """Return all flags that these settings take, if the kernel offers them."""
    return taken_flags(RULES, settings)


ENOUGH_FOR_A_TREE: Final[dict[InitFlags, str]] = {
    InitFlags.EXPORT_SUPPORT: "A mount that cannot look up '.' says so, and that handle is stale.",
    InitFlags.HAS_IOCTL_DIR: "A mount without ioctl answers ENOTTY, as it would not being asked.",
    InitFlags.DO_READDIRPLUS: "A mount that did without answers it too, only with less to gain.",
    InitFlags.READDIRPLUS_AUTO: "The guest finds out by directory whether it pays.",
    InitFlags.SETXATTR_EXT: "A mount without it is never asked to set an attribute.",
}
"""The flags that a tree of mounts takes where one of its mounts does, and why that does the others no harm.

SUBMOUNTS it takes in any case, as each mount has inode numbers of its own. All other flags change what every
mount is asked or trusted with, so all have to take them.
"""


def tree_flags(mounts: Sequence[InitFlags]) -> InitFlags:
    """Return the flags that a tree of mounts takes, from those that each of them takes by itself."""
    enough = reduce(or_, ENOUGH_FOR_A_TREE)
    everybody = reduce(and_, mounts) if mounts else InitFlags(0)
    anybody = reduce(or_, mounts, InitFlags(0))
    return everybody | (anybody & enough) | InitFlags.SUBMOUNTS


def flags_in_the_way(taken: InitFlags, mount: InitFlags) -> InitFlags:
    """Return the flags for which a mount cannot join a tree any more: the guest goes by them, it does not.

    ALLOW_IDMAP is none of them: on a mount with mapped ids such a mount only sees callers without a number.
    """
    return taken & ~(mount | reduce(or_, ENOUGH_FOR_A_TREE) | InitFlags.SUBMOUNTS | InitFlags.ALLOW_IDMAP)
