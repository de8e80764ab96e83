"""What POSIX knows of a file, as the user metadata of its object.

The keys that are written are those of s3fs: `mode` (the whole st_mode, decimal), `uid`, `gid`, `mtime`,
`ctime`, `atime` and `xattr`. Times are written as seconds, a point and nine digits: rclone reads that as
the fraction that it is, s3fs as the count of nanoseconds that it is. What other programs write is read too:
rclone's floats, the `file-*` keys of AWS, `goog-reserved-*`, s3sync's, GeeseFS' links. Metadata that says
nothing of this is kept as it is whenever an object is written again.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from vhostfs.backends.s3.store import Headers

METADATA_MAXIMUM: Final = 2048
"""The most bytes of all names and values of an object's user metadata (S3)."""

DIRECTORY_TYPE: Final = "application/x-directory"

_TIME: Final = re.compile(r"(-?\d{1,12})(?:\.(\d{1,18}))?(?:e[+-]?\d+)?(ns|ms|s)?$")
_NUMBER: Final = re.compile(r"\d{1,10}$")
_OCTAL: Final = re.compile(r"[0-7]{1,7}$")
_ID_MAXIMUM: Final = 2**32 - 2
_DEVICE_MAXIMUM: Final = 2**32 - 1
_TYPES: Final = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)

# Each attribute with the keys under which programs keep it, ours first.
_MODE_DECIMAL: Final = ("mode",)
_MODE_OCTAL: Final = ("file-permissions", "goog-reserved-posix-mode", "permissions")
_UID: Final = ("uid", "file-owner", "goog-reserved-posix-uid", "owner")
_GID: Final = ("gid", "file-group", "goog-reserved-posix-gid", "group")
_MTIME: Final = ("mtime", "file-mtime", "goog-reserved-file-mtime")
_CTIME: Final = ("ctime",)
_ATIME: Final = ("atime", "file-atime", "goog-reserved-file-atime")
_LINK: Final = "--symlink-target"
_XATTR: Final = "xattr"
_RDEV: Final = "rdev"
_OURS: Final = frozenset(("mode", "uid", "gid", "mtime", "ctime", "atime", _XATTR, _RDEV))


@dataclass(frozen=True, slots=True)
class PosixMetadata:
    """What an object's metadata says; None where it says nothing. Times are nanoseconds."""

    mode: int | None = None
    """Type and permissions; without a type where the program that wrote it knew only permissions."""
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    atime: int | None = None
    rdev: int | None = None
    link: str | None = None
    """A symbolic link's target, where it does not stand in the object's body."""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    foreign: Headers = field(default_factory=Headers)
    """What is none of this, and is kept."""


def decoded(headers: Headers) -> PosixMetadata:
    """Return what headers say; what makes no sense says nothing."""
    metadata = headers.metadata
    foreign = {name: value for name, value in metadata.items() if name not in _OURS}
    return PosixMetadata(
        mode=_mode(metadata),
        uid=_id(metadata, _UID),
        gid=_id(metadata, _GID),
        mtime=_time(metadata, _MTIME),
        ctime=_time(metadata, _CTIME),
        atime=_time(metadata, _ATIME),
        rdev=_device(metadata.get(_RDEV, "")),
        link=metadata.get(_LINK),
        xattrs=_xattrs(metadata.get(_XATTR)),
        foreign=Headers(foreign, headers.standard),
    )


def encoded(found: PosixMetadata) -> Headers:
    """Return the headers that say this; raise OSError ENOSPC where they would be more than S3 takes."""
    metadata = dict(found.foreign.metadata)
    for name, number in (("mode", found.mode), ("uid", found.uid), ("gid", found.gid), (_RDEV, found.rdev)):
        if number is not None:
            metadata[name] = str(number)
    for name, time in (("mtime", found.mtime), ("ctime", found.ctime), ("atime", found.atime)):
        if time is not None:
            metadata[name] = f"{time // 1_000_000_000}.{time % 1_000_000_000:09d}"
    if found.xattrs:
        values = {
            os.fsencode(name).decode("latin-1"): base64.b64encode(value).decode()
            for name, value in found.xattrs.items()
        }
        metadata[_XATTR] = quote(json.dumps(values, separators=(",", ":")), safe="")
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_MAXIMUM:
        raise OSError(errno.ENOSPC, "an object takes 2 KiB of metadata")
    return Headers(metadata, found.foreign.standard)


def _mode(metadata: Mapping[str, str]) -> int | None:
    for name in _MODE_DECIMAL:
        found = _number(metadata.get(name, ""))
        if found is not None and found < 1 << 16:
            return _sensible(found)
    for name in _MODE_OCTAL:
        text = metadata.get(name, "")
        if _OCTAL.match(text):
            return _sensible(int(text, 8))
    return None


def _sensible(mode: int) -> int | None:
    return mode if stat.S_IFMT(mode) in _TYPES or not stat.S_IFMT(mode) else None


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.match(text) else None


def _device(text: str) -> int | None:
    found = _number(text)
    return found if found is not None and found <= _DEVICE_MAXIMUM else None


def _id(metadata: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        found = _number(metadata.get(name, ""))
        if found is not None and found <= _ID_MAXIMUM:
            return found
    return None


def _time(metadata: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        match = _TIME.match(metadata.get(name, "").strip())
        if match is None:
            continue
        seconds, fraction, unit = match.groups()
        if unit == "ns" and fraction is None:
            return int(seconds)
        if unit == "ms" and fraction is None:
            return int(seconds) * 1_000_000
        return int(seconds) * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))
    return None


def _xattrs(text: str | None) -> dict[str, bytes]:
    """Return the extended attributes; those that are none are left out."""
    if not text:
        return {}
    try:
        values = json.loads(unquote(text))
        return {
            os.fsdecode(name.encode("latin-1", "replace")): base64.b64decode(value, validate=True)
            for name, value in values.items()
        }
    except (ValueError, AttributeError, TypeError, RecursionError, binascii.Error):
        return {}
