"""How answers are packed: attributes and entries as fuse_attr_out, fuse_entry_out and their like."""

from __future__ import annotations

from collections.abc import Callable
from os import major
from os import minor as minor_of
from struct import Struct
from typing import Final, NamedTuple

from vhostfs.filesystem import Attr, Entry, Options, StatFs, StatX
from vhostfs.session.nodes import Nodes

_ATTR: Final = Struct("<QQQQQQIIIIIIIIII")
_ATTR_VALID: Final = Struct("<QII")
_NODE: Final = Struct("<QQ")
_VALIDITY: Final = Struct("<QQII")
_KSTATFS: Final = Struct("<QQQQQIIII24x")
_STATX_OUT: Final = Struct("<QII16x IIQIIIHHQQQQ qIi qIi qIi qIi IIII112x")

_NANOSECONDS: Final = 1_000_000_000
_WORD: Final = 0xFFFF_FFFF_FFFF_FFFF
_LONGEST: Final = 1 << 40
"""Seconds of validity; what is longer, infinity too, is that long."""

_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_SET: Final = object.__setattr__


def packed_attr(attr: Attr) -> bytes:
    """Return fuse_attr, which the Attr remembers; struct.error where a value does not fit its field."""
    packed = attr.wire
    if packed is None:
        atime, atimensec = divmod(attr.atime_ns, _NANOSECONDS)
        mtime, mtimensec = divmod(attr.mtime_ns, _NANOSECONDS)
        ctime, ctimensec = divmod(attr.ctime_ns, _NANOSECONDS)
        size, blocks = attr.size, attr.blocks
        packed = _ATTR.pack(
            attr.ino,
            size,
            (size + 511) >> 9 if blocks is None else blocks,
            atime & _WORD,
            mtime & _WORD,
            ctime & _WORD,
            atimensec,
            mtimensec,
            ctimensec,
            attr.mode,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.rdev,
            attr.blksize,
            attr.flags,
        )
        _SET(attr, "wire", packed)
    return packed


def split_seconds(seconds: float) -> tuple[int, int]:
    """Return whole seconds and nanoseconds; negative ones are 0."""
    if seconds >= _LONGEST:
        return _LONGEST, 0
    return divmod(max(0, int(seconds * _NANOSECONDS)), _NANOSECONDS)


def packed_statfs(answer: StatFs) -> bytes:
    """Return fuse_statfs_out."""
    return _KSTATFS.pack(
        answer.blocks,
        answer.bfree,
        answer.bavail,
        answer.files,
        answer.ffree,
        answer.bsize,
        answer.namelen,
        answer.frsize,
        0,
    )


class Replies(NamedTuple):
    """The packers of one session."""

    attr: Callable[[Attr], bytes]
    """fuse_attr_out."""
    entry: Callable[[Entry], bytes]
    """fuse_entry_out; counts a lookup."""
    negative: bytes | None
    """fuse_entry_out for a name that is missing; None where the kernel shall not remember that."""
    statx: Callable[[StatX], bytes]
    """fuse_statx_out."""
    attr_prefix: bytes
    """What stands before fuse_attr in fuse_attr_out."""


def make_replies(options: Options, nodes: Nodes) -> Replies:
    """Return the packers for a session with these options, which count lookups in these nodes."""
    attr_seconds, attr_nanoseconds = split_seconds(options.attr_seconds)
    entry_seconds, entry_nanoseconds = split_seconds(options.entry_seconds)
    attr_prefix = _ATTR_VALID.pack(attr_seconds, attr_nanoseconds, 0)
    validity = _VALIDITY.pack(entry_seconds, attr_seconds, entry_nanoseconds, attr_nanoseconds)
    pack_node, pack_validity = _NODE.pack, _VALIDITY.pack
    enter, again, leave = nodes.enter, nodes.enter_again, nodes.leave
    key = object()
    """Marks what was packed here: others have other mounts and other options."""

    def attr_out(attr: Attr) -> bytes:
        return attr_prefix + (attr.wire or packed_attr(attr))

    def entry_out(entry: Entry) -> bytes:
        wire = entry.wire
        if wire is not None and wire[0] is key:
            again(wire[1])
            return wire[2]
        attr = entry.attr
        packed = attr.wire or packed_attr(attr)
        node = entry.node
        valid = validity
        if entry.entry_seconds is not None or entry.attr_seconds is not None:
            entry_s, entry_ns = (
                (entry_seconds, entry_nanoseconds)
                if entry.entry_seconds is None
                else split_seconds(entry.entry_seconds)
            )
            attr_s, attr_ns = (
                (attr_seconds, attr_nanoseconds)
                if entry.attr_seconds is None
                else split_seconds(entry.attr_seconds)
            )
            valid = pack_validity(entry_s, attr_s, entry_ns, attr_ns)
        nodeid = enter(attr.ino if node is None else node)
        try:
            out = pack_node(nodeid, entry.generation) + valid + packed
        except BaseException:
            leave(nodeid, 1)
            raise
        if nodes.is_lasting(nodeid):
            _SET(entry, "wire", (key, nodeid, out))
        return out

    def statx_out(answer: StatX) -> bytes:
        attr = answer.attr
        atime, atimensec = divmod(attr.atime_ns, _NANOSECONDS)
        mtime, mtimensec = divmod(attr.mtime_ns, _NANOSECONDS)
        ctime, ctimensec = divmod(attr.ctime_ns, _NANOSECONDS)
        btime, btimensec = divmod(answer.btime_ns or 0, _NANOSECONDS)
        return _STATX_OUT.pack(
            attr_seconds,
            attr_nanoseconds,
            0,
            _STATX_BASIC_STATS | (0 if answer.btime_ns is None else _STATX_BTIME),
            attr.blksize,
            answer.attributes,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.mode,
            0,
            attr.ino,
            attr.size,
            (attr.size + 511) >> 9 if attr.blocks is None else attr.blocks,
            answer.attributes_mask,
            *(atime, atimensec, 0),
            *(btime, btimensec, 0),
            *(ctime, ctimensec, 0),
            *(mtime, mtimensec, 0),
            *(major(attr.rdev), minor_of(attr.rdev), 0, 0),
        )

    negative_seconds, negative_nanoseconds = split_seconds(options.negative_seconds)
    negative = None
    if negative_seconds or negative_nanoseconds:
        negative = _NODE.pack(0, 0) + _VALIDITY.pack(negative_seconds, 0, negative_nanoseconds, 0) + bytes(88)
    return Replies(attr_out, entry_out, negative, statx_out, attr_prefix)
