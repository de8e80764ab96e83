"""Where a kind of file system, or a way to it, keeps a promise otherwise: the table of docs/filesystems.md.

A promise that is kept otherwise somewhere asks `place.differs(key)` and checks what is so there instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Difference:
    """What is otherwise, and why.

    `where` has kinds ("memory"), ways ("ring"; "requests" in this process), or both ("memory by ring").
    """

    where: tuple[str, ...]
    what: str
    why: str


DIFFERENCES: Final[dict[str, Difference]] = {
    "no-zero-range": Difference(
        ("tmpfs", "passthrough", "overlay of directories"),
        "`FALLOC_FL_ZERO_RANGE` is refused with EOPNOTSUPP",
        "tmpfs, which is shared here, has no such thing; ext4, XFS and btrfs do",
    ),
    "no-noatime": Difference(
        ("passthrough by ring", "overlay of directories"),
        "reading moves the time of access also with `O_NOATIME`",
        "the host would refuse that flag where a daemon without CAP_FOWNER opens another's file",
    ),
    "no-trusted-attributes": Difference(
        ("passthrough by ring",),
        "setting `trusted.*`, and `security.*` but `security.capability`, is refused with EPERM",
        "the host asks for CAP_SYS_ADMIN, which the daemon gives up",
    ),
    "set-group-id-cleared": Difference(
        ("passthrough", "overlay of directories"),
        "a user's change clears the set-group-id bit also of a file that its group may not execute",
        "the host keeps the bit for members of the file's group, and the daemon's thread is none",
    ),
    "root-clears-set-id": Difference(
        ("passthrough by /dev/fuse",),
        "what root writes to a program clears its set-user-id and set-group-id bits as well",
        "the kernel writes to the host's file by itself (FUSE_PASSTHROUGH), with the same power for all",
    ),
    "merged-directories-have-one-link": Difference(
        ("overlay", "overlay of directories"),
        "a directory that several layers have shows one link, and does not count its subdirectories",
        "that would mean to list it each time; overlayfs does the same, and programs know it",
    ),
    "no-whiteouts": Difference(
        ("overlay", "overlay of directories"),
        "`RENAME_WHITEOUT` is refused with EINVAL, and making the device 0:0 with EPERM",
        "this device is how a layer says that a name is gone; overlayfs refuses it as well",
    ),
    "no-lists": Difference(
        ("memory", "memory under layers", "overlay", "overlay of directories", "passthrough", "s3"),
        "POSIX access control lists are refused with EOPNOTSUPP",
        "passthrough serves them where `posix_acl` is set, which these tests leave out; the others have none",
    ),
    "no-locks": Difference(
        (
            *("memory by requests", "memory under layers", "overlay of directories"),
            *("memory by ring", "overlay by ring", "s3 by ring"),
        ),
        "requests for locks are answered ENOSYS",
        "locks are left to the kernel that mounts, which keeps them among its own programs",
    ),
    "no-second-names": Difference(
        ("s3",),
        "second names (`link`) are refused with EPERM",
        "an object has one key",
    ),
    "no-exchange": Difference(
        ("s3",),
        "`RENAME_EXCHANGE` and `RENAME_WHITEOUT` are refused with EINVAL",
        "a store copies and deletes, and does neither to two objects at once",
    ),
    "no-nameless-files": Difference(
        ("s3",),
        "`O_TMPFILE` is refused with EOPNOTSUPP",
        "an object has a key from the beginning; programs make a file and unlink it",
    ),
    "no-holes": Difference(
        ("s3",),
        "files have no holes, and no room beyond their end: `SEEK_DATA` finds data everywhere, and"
        " `st_blocks` counts every byte",
        "an object has all its bytes; zeros are sent and paid for like any others",
    ),
    "no-larger-than-objects": Difference(
        ("s3",),
        "files of more than 5 TiB are refused with EFBIG",
        "no object is larger",
    ),
    "no-limits": Difference(
        ("s3",),
        "`statfs` tells of 4 PiB and 2^40 files, all of them free, whatever the bucket holds",
        "a bucket has no limit, and nothing but its whole listing would tell what is in it",
    ),
    "names-are-text": Difference(
        ("s3",),
        "names that are not UTF-8 are refused with EILSEQ",
        "keys are text",
    ),
    "reserved-names": Difference(
        ("s3",),
        "making `.vhostfs-meta`, `.vhostfs-probe-`... or ...`_$folder$` is refused with EPERM",
        "these are objects of vhostfs's own, and other programs' way to mark a directory",
    ),
    "paths-are-keys": Difference(
        ("s3",),
        "what would have a path of more than 1,024 bytes, the mount's `prefix` counted in, is refused with"
        " ENAMETOOLONG",
        "no key is longer",
    ),
    "little-metadata": Difference(
        ("s3",),
        "extended attributes of more than some 1.3 KB in all are refused with ENOSPC",
        "they stand in the object's metadata, of which S3 takes 2 KiB",
    ),
    "directories-have-one-link": Difference(
        ("s3",),
        "a directory shows one link, and does not count its subdirectories",
        "that would mean to list it each time; programs know it of other file systems",
    ),
    "no-times-of-access": Difference(
        ("s3",),
        "reading does not move the time of access, which is what was last set",
        "each reading would write the object again",
    ),
    "renaming-is-no-change": Difference(
        ("s3",),
        "renaming a file does not move its time of change",
        "the store copies the object as it is",
    ),
    "no-times-of-birth": Difference(
        ("s3",),
        "`statx` tells no time of birth",
        "a store keeps no more than when the object was last written",
    ),
}
"""By the key that promises ask for."""


def differences(kind: str, way: str = "") -> frozenset[str]:
    """Return the keys of what is otherwise for a kind of file system that is reached in some way."""
    here = {kind, way, f"{kind} by {way or 'requests'}"}
    return frozenset(key for key, difference in DIFFERENCES.items() if here & set(difference.where))


def table() -> str:
    """Return the table of the documentation."""
    rows = [f"| {', '.join(each.where)} | {each.what} | {each.why} |" for each in DIFFERENCES.values()]
    return "\n".join(["| where | what is otherwise | why |", "|---|---|---|", *rows])
