"""The operations on names and attributes: lookup, creation, removal, links, setattr, extended attributes."""

from __future__ import annotations

import errno
import os
import time
from struct import Struct
from typing import Any, Final

from vhostfs.filesystem import Attr, Caller, Entry, RenameFlags, SetAttr
from vhostfs.filesystem.refusals import refused
from vhostfs.fuse_abi.flags import GetattrFlags, InitFlags, SetattrValid, SetxattrFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.session.dispatch import (
    AtOnce,
    Begin,
    Finish,
    Operation,
    Parts,
    checked_name,
    finish_attr,
    finish_empty,
    finish_entry,
    is_asynchronous,
    one_name,
    read_groups,
    string,
)
from vhostfs.session.replies import packed_attr, packed_statfs

_GETATTR_IN: Final = Struct("<IIQ")
_SETATTR_IN: Final = Struct("<I4xQQQqqqIIII4xII4x")
_STATX_IN: Final = Struct("<I4xQII")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_MKNOD_IN: Final = Struct("<III4x")
_MKDIR_IN: Final = Struct("<II")
_RENAME2_IN: Final = Struct("<QI4x")
_SIZE: Final = Struct("<II")
_SETXATTR_IN: Final = Struct("<IIII")

_HAS_HANDLE: Final = int(GetattrFlags.FH)
_SECOND: Final = 1_000_000_000
_PERMISSIONS: Final = 0o7777

_V_MODE, _V_UID, _V_GID, _V_SIZE = (
    int(bit) for bit in (SetattrValid.MODE, SetattrValid.UID, SetattrValid.GID, SetattrValid.SIZE)
)
_V_ATIME, _V_MTIME, _V_CTIME = (
    int(bit) for bit in (SetattrValid.ATIME, SetattrValid.MTIME, SetattrValid.CTIME)
)
_V_ATIME_NOW, _V_MTIME_NOW = int(SetattrValid.ATIME_NOW), int(SetattrValid.MTIME_NOW)
_V_FH, _V_KILL = int(SetattrValid.FH), int(SetattrValid.KILL_SUIDGID)


def namespace_operations(parts: Parts) -> dict[int, Operation]:
    """Return the operations of this file for a session, by opcode."""
    return {**_attributes(parts), **_creations(parts), **_names(parts), **_xattrs(parts)}


def _operation(
    parts: Parts, name: str, minimum: int, begin: Begin, finish: Finish, at_once: AtOnce | None = None
) -> Operation:
    later = is_asynchronous(getattr(parts.filesystem, name))
    return Operation(minimum, begin, finish, later, name, None if later else at_once)


def _attributes(parts: Parts) -> dict[int, Operation]:
    filesystem, handles = parts.filesystem, parts.handles
    reply = parts.channel.reply
    getattr_method, setattr_method = filesystem.getattr, filesystem.setattr
    either = handles.either
    unpack_getattr, unpack_setattr = _GETATTR_IN.unpack_from, _SETATTR_IN.unpack_from

    def begin_getattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        flags, _, fh = unpack_getattr(batch, at)
        return getattr_method(caller, node, either(fh, node) if flags & _HAS_HANDLE else None), None

    attr_prefix = parts.replies.attr_prefix

    def getattr_at_once(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any] | None:
        flags, _, fh = unpack_getattr(batch, at)
        result = getattr_method(caller, node, either(fh, node) if flags & _HAS_HANDLE else None)
        if type(result) is not Attr:
            return result, None
        reply(token, attr_prefix + (result.wire or packed_attr(result)))
        return None

    def begin_setattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        values = unpack_setattr(batch, at)
        valid, fh = values[0], values[1]
        changes = _changes(values)
        return setattr_method(caller, node, either(fh, node) if valid & _V_FH else None, changes), None

    def begin_statx(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        flags, fh, _, mask = _STATX_IN.unpack_from(batch, at)
        return filesystem.statx(caller, node, either(fh, node) if flags & _HAS_HANDLE else None, mask), None

    def begin_access(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return filesystem.access(caller, node, _U32.unpack_from(batch, at)[0]), None

    def begin_readlink(
        _token: int, caller: Caller, node: int, _batch: memoryview, _at: int, _end: int, _room: int, _d: int
    ) -> tuple[Any, Any]:
        return filesystem.readlink(caller, node), None

    def begin_statfs(
        _token: int, caller: Caller, node: int, _batch: memoryview, _at: int, _end: int, _room: int, _d: int
    ) -> tuple[Any, Any]:
        return filesystem.statfs(caller, node), None

    def finish_statx(token: int, result: Any, _context: Any) -> None:
        reply(token, parts.replies.statx(result))

    def finish_readlink(token: int, result: Any, _context: Any) -> None:
        target = os.fsencode(result)
        if not target or b"\0" in target:
            raise ValueError(f"{result!r} is no target of a symbolic link")
        reply(token, target)

    def finish_statfs(token: int, result: Any, _context: Any) -> None:
        reply(token, packed_statfs(result))

    attr = finish_attr(parts)
    return {
        Opcode.GETATTR: _operation(parts, "getattr", _GETATTR_IN.size, begin_getattr, attr, getattr_at_once),
        Opcode.SETATTR: _operation(parts, "setattr", _SETATTR_IN.size, begin_setattr, attr),
        Opcode.STATX: _operation(parts, "statx", _STATX_IN.size, begin_statx, finish_statx),
        Opcode.ACCESS: _operation(parts, "access", 8, begin_access, finish_empty(parts)),
        Opcode.READLINK: _operation(parts, "readlink", 0, begin_readlink, finish_readlink),
        Opcode.STATFS: _operation(parts, "statfs", 0, begin_statfs, finish_statfs),
    }


def _changes(values: tuple[int, ...]) -> SetAttr:
    """Return what the fields of fuse_setattr_in ask for; EINVAL for times and sizes that cannot be."""
    valid, _, size, _, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid, gid = values
    if (valid & _V_SIZE and size >> 63) or max(atimensec, mtimensec, ctimensec) >= _SECOND:
        raise refused(errno.EINVAL)
    now = time.time_ns() if valid & (_V_ATIME_NOW | _V_MTIME_NOW) else 0
    return SetAttr(
        mode & _PERMISSIONS if valid & _V_MODE else None,
        uid if valid & _V_UID else None,
        gid if valid & _V_GID else None,
        size if valid & _V_SIZE else None,
        (now if valid & _V_ATIME_NOW else atime * _SECOND + atimensec) if valid & _V_ATIME else None,
        (now if valid & _V_MTIME_NOW else mtime * _SECOND + mtimensec) if valid & _V_MTIME else None,
        ctime * _SECOND + ctimensec if valid & _V_CTIME else None,
        bool(valid & _V_KILL),
    )


def _creations(parts: Parts) -> dict[int, Operation]:
    filesystem = parts.filesystem
    masks = InitFlags.DONT_MASK in parts.flags

    def begin_mknod(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        mode, rdev, umask = _MKNOD_IN.unpack_from(batch, at)
        end = read_groups(batch, at, end, caller)
        if masks:
            caller.umask = umask
        name = one_name(batch, at + _MKNOD_IN.size, end, errno.EEXIST)
        return filesystem.mknod(caller, node, name, mode, rdev), None

    def begin_mkdir(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        mode, umask = _MKDIR_IN.unpack_from(batch, at)
        end = read_groups(batch, at, end, caller)
        if masks:
            caller.umask = umask
        name = one_name(batch, at + _MKDIR_IN.size, end, errno.EEXIST)
        return filesystem.mkdir(caller, node, name, mode & _PERMISSIONS), None

    def begin_symlink(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        end = read_groups(batch, at, end, caller)
        raw, behind = string(batch, at, end)
        name = checked_name(raw, errno.EEXIST)
        target, _ = string(batch, behind, end)
        if not target:
            raise refused(errno.ENOENT)
        return filesystem.symlink(caller, node, name, target.decode("utf-8", "surrogateescape")), None

    def begin_link(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        source = parts.nodes.known.get(_U64.unpack_from(batch, at)[0])
        if source is None:
            raise refused(errno.ESTALE)
        return filesystem.link(caller, source, node, one_name(batch, at + 8, end, errno.EEXIST)), None

    entry = finish_entry(parts)
    return {
        Opcode.MKNOD: _operation(parts, "mknod", _MKNOD_IN.size, begin_mknod, entry),
        Opcode.MKDIR: _operation(parts, "mkdir", _MKDIR_IN.size, begin_mkdir, entry),
        Opcode.SYMLINK: _operation(parts, "symlink", 0, begin_symlink, entry),
        Opcode.LINK: _operation(parts, "link", 8, begin_link, entry),
    }


def _names(parts: Parts) -> dict[int, Operation]:
    filesystem = parts.filesystem
    reply, reply_error = parts.channel.reply, parts.channel.reply_error
    entry_out, negative = parts.replies.entry, parts.replies.negative
    lookup_method = filesystem.lookup
    # Only a guest that exports over NFS has reason to ask; where names are paths, '..' leads out of them.
    dots = 0 if parts.options.nfs_export else errno.ENOENT

    def begin_lookup(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return lookup_method(caller, node, one_name(batch, at, end, dots)), None

    def finish_lookup(token: int, result: Any, _context: Any) -> None:
        if result is not None:
            reply(token, entry_out(result))
        elif negative is not None:
            reply(token, negative)
        else:
            reply_error(token, errno.ENOENT)

    def lookup_at_once(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any] | None:
        result = lookup_method(caller, node, one_name(batch, at, end, dots))
        if type(result) is Entry:
            reply(token, entry_out(result))
        elif result is None and negative is not None:
            reply(token, negative)
        else:
            return result, None
        return None

    def begin_unlink(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return filesystem.unlink(caller, node, one_name(batch, at, end, errno.EISDIR)), None

    def begin_rmdir(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return filesystem.rmdir(caller, node, one_name(batch, at, end, errno.EINVAL)), None

    def renamed(
        caller: Caller, node: int, target: int, flags: int, batch: memoryview, at: int, end: int
    ) -> tuple[Any, Any]:
        raw, behind = string(batch, at, end)
        name = checked_name(raw, errno.EBUSY)
        new_name = one_name(batch, behind, end, errno.EBUSY)
        new_parent = parts.nodes.known.get(target)
        if new_parent is None:
            raise refused(errno.ESTALE)
        return filesystem.rename(caller, node, name, new_parent, new_name, RenameFlags(flags)), None

    def begin_rename(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return renamed(caller, node, _U64.unpack_from(batch, at)[0], 0, batch, at + 8, end)

    def begin_rename2(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        target, flags = _RENAME2_IN.unpack_from(batch, at)
        return renamed(caller, node, target, flags, batch, at + _RENAME2_IN.size, end)

    empty = finish_empty(parts)
    return {
        Opcode.LOOKUP: _operation(parts, "lookup", 0, begin_lookup, finish_lookup, lookup_at_once),
        Opcode.UNLINK: _operation(parts, "unlink", 0, begin_unlink, empty),
        Opcode.RMDIR: _operation(parts, "rmdir", 0, begin_rmdir, empty),
        Opcode.RENAME: _operation(parts, "rename", 8, begin_rename, empty),
        Opcode.RENAME2: _operation(parts, "rename", _RENAME2_IN.size, begin_rename2, empty),
    }


def _xattrs(parts: Parts) -> dict[int, Operation]:
    filesystem = parts.filesystem
    reply = parts.channel.reply
    # Without SETXATTR_EXT the arguments are those of minor version 32, whatever was agreed upon.
    extended = InitFlags.SETXATTR_EXT in parts.flags
    fixed = _SETXATTR_IN.size if extended else 8

    def attribute_name(batch: memoryview, begin: int, end: int) -> tuple[str, int]:
        name, behind = string(batch, begin, end)
        if not 0 < len(name) <= 255:
            raise refused(errno.ERANGE)
        return name.decode("utf-8", "surrogateescape"), behind

    def finish_value(token: int, result: Any, context: Any) -> None:
        value = bytes(result)
        if context == 0:
            reply(token, _SIZE.pack(len(value), 0))
        elif len(value) > context:
            raise refused(errno.ERANGE)
        else:
            reply(token, value)

    def finish_list(token: int, result: Any, context: Any) -> None:
        names = [os.fsencode(name) for name in result]
        if any(not name or b"\0" in name for name in names):
            raise ValueError("there is no extended attribute without a name, or with a NUL in it")
        finish_value(token, b"".join(name + b"\0" for name in names), context)

    def begin_getxattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        size, _ = _SIZE.unpack_from(batch, at)
        return filesystem.getxattr(caller, node, attribute_name(batch, at + 8, end)[0]), size

    def begin_listxattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return filesystem.listxattr(caller, node), _SIZE.unpack_from(batch, at)[0]

    def begin_setxattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        size, flags = _SIZE.unpack_from(batch, at)
        kill_sgid = False
        if extended:
            kill_sgid = bool(_SIZE.unpack_from(batch, at + 8)[0] & SetxattrFlags.ACL_KILL_SGID)
        name, behind = attribute_name(batch, at + fixed, end)
        if end - behind < size:
            raise refused(errno.EIO)
        value = bytes(batch[behind : behind + size])
        return filesystem.setxattr(caller, node, name, value, flags, kill_sgid), None

    def begin_removexattr(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return filesystem.removexattr(caller, node, attribute_name(batch, at, end)[0]), None

    empty = finish_empty(parts)
    return {
        Opcode.GETXATTR: _operation(parts, "getxattr", 8, begin_getxattr, finish_value),
        Opcode.LISTXATTR: _operation(parts, "listxattr", 8, begin_listxattr, finish_list),
        Opcode.SETXATTR: _operation(parts, "setxattr", fixed, begin_setxattr, empty),
        Opcode.REMOVEXATTR: _operation(parts, "removexattr", 0, begin_removexattr, empty),
    }
