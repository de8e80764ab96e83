"""The operations on open files: open and release, data, locks, and what else a descriptor can be asked."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from struct import Struct
from sys import getrefcount
from typing import Any, Final

from vhostfs.filesystem import LOCK_END, Caller, Lock, LockType, OpenReplyFlags, WriteFlags
from vhostfs.filesystem.refusals import refused
from vhostfs.fuse_abi.flags import FsyncFlags, InitFlags, IoctlFlags, LockFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.session.buffers import GuestReadBuffer, GuestWriteBuffer, Loan
from vhostfs.session.dispatch import (
    AtOnce,
    Begin,
    Finish,
    Operation,
    Parts,
    checked_offset,
    finish_empty,
    finish_number,
    is_asynchronous,
    one_name,
    read_groups,
)

_OPEN_IN: Final = Struct("<II")
_CREATE_IN: Final = Struct("<IIII")
_OPEN_OUT: Final = Struct("<QIi")
_READ_IN: Final = Struct("<QQI")
_WRITE_IN: Final = Struct("<QQII")
_IO_IN_SIZE: Final = 40
_WRITE_OUT: Final = Struct("<II")
_FLUSH_IN: Final = Struct("<Q8xQ")
_RELEASE_IN: Final = Struct("<QIIQ")
_FSYNC_IN: Final = Struct("<QI4x")
_FALLOCATE_IN: Final = Struct("<QQQI4x")
_LSEEK_IN: Final = Struct("<QQI4x")
_COPY_IN: Final = Struct("<QQQQQQQ")
_IOCTL_IN: Final = Struct("<QIIQII")
_IOCTL_OUT: Final = Struct("<iIII")
_POLL_IN: Final = Struct("<QQII")
_BMAP_IN: Final = Struct("<QI4x")
_LK_IN: Final = Struct("<QQQQIII4x")
_FILE_LOCK: Final = Struct("<QQII")

_WRITE_FLAGS: Final = tuple(WriteFlags(bits) for bits in range(8))
_IOCTL_DIR: Final = int(IoctlFlags.DIR)
_CREATION_FLAGS: Final = 0o100 | 0o200
"""O_CREAT and O_EXCL, which an OPEN never means."""

_SMALL: Final = 8192

_OURS: Final = 3
"""References to a buffer that nobody else has, as getrefcount counts them: two names, and its argument."""


def file_operations(parts: Parts) -> dict[int, Operation]:
    """Return the operations of this file for a session, by opcode."""
    return {**_opening(parts), **_data(parts), **_ranges(parts), **_locks(parts), **_other(parts)}


def _operation(
    parts: Parts, name: str, minimum: int, begin: Begin, finish: Finish, at_once: AtOnce | None = None
) -> Operation:
    later = is_asynchronous(getattr(parts.filesystem, name))
    return Operation(minimum, begin, finish, later, name, None if later else at_once)


def _opening(parts: Parts) -> dict[int, Operation]:
    filesystem, handles = parts.filesystem, parts.handles
    reply, entry_out = parts.channel.reply, parts.replies.entry
    masks = InitFlags.DONT_MASK in parts.flags

    def begin_open(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        handles.check_room()
        flags, _ = _OPEN_IN.unpack_from(batch, at)
        return filesystem.open(caller, node, flags & ~_CREATION_FLAGS), node

    def finish_open(token: int, result: Any, node: Any) -> None:
        flags = int(result.flags)
        reply(token, _OPEN_OUT.pack(handles.add(node, result.handle), flags & 0xFFFF_FFFF, 0))

    # A kernel to which OPEN is ENOSYS releases nothing, not even what CREATE opened.
    without_handle = _OPEN_OUT.pack(0, OpenReplyFlags.KEEP_CACHE, 0)

    def begin_open_without_handle(
        _token: int, _c: Caller, _node: int, _batch: memoryview, _at: int, _end: int, _room: int, _d: int
    ) -> tuple[Any, Any]:
        return None, None

    def finish_open_without_handle(token: int, _result: Any, _context: Any) -> None:
        reply(token, without_handle)

    def created(
        method: Callable[..., Any], caller: Caller, node: int, batch: memoryview, at: int, *arguments: Any
    ) -> tuple[Any, Any]:
        handles.check_room()
        flags, mode, umask, _ = _CREATE_IN.unpack_from(batch, at)
        if masks:
            caller.umask = umask
        return method(caller, node, *arguments, mode & 0o7777, flags), None

    def begin_create(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        end = read_groups(batch, at, end, caller)
        name = one_name(batch, at + _CREATE_IN.size, end, errno.EEXIST)
        return created(filesystem.create, caller, node, batch, at, name)

    def begin_tmpfile(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        read_groups(batch, at, end, caller)
        return created(filesystem.tmpfile, caller, node, batch, at)

    def finish_create(token: int, result: Any, _context: Any) -> None:
        entry, opened = result
        flags = int(opened.flags) & 0xFFFF_FFFF
        packed = entry_out(entry)
        node = entry.attr.ino if entry.node is None else entry.node
        reply(token, packed + _OPEN_OUT.pack(handles.add(node, opened.handle), flags, 0))

    releases = "release" in parts.implemented

    def begin_release(
        _token: int, caller: Caller, _node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, flags, _, _ = _RELEASE_IN.unpack_from(batch, at)
        if fh == 0 and 0 not in handles.held:
            return None, None
        held = handles.pop(fh, directory=False)
        return filesystem.release(caller, held.node, held.handle, flags) if releases else None, None

    empty = finish_empty(parts)
    opens = _operation(parts, "open", _OPEN_IN.size, begin_open, finish_open)
    if "open" not in parts.implemented:
        opens = Operation(0, begin_open_without_handle, finish_open_without_handle, False, "open")
    create = _operation(parts, "create", _CREATE_IN.size, begin_create, finish_create)
    # Not every request leads to the method: what it leads to is looked at each time.
    release = Operation(_RELEASE_IN.size, begin_release, empty, False, "release")
    return {
        Opcode.OPEN: opens,
        Opcode.CREATE: create,
        Opcode.TMPFILE: _operation(parts, "tmpfile", _CREATE_IN.size, begin_tmpfile, finish_create),
        Opcode.RELEASE: release,
    }


def _data(parts: Parts) -> dict[int, Operation]:
    filesystem, channel, faults, fail = parts.filesystem, parts.channel, parts.faults, parts.fail
    reply, reply_stored, reply_error = channel.reply, channel.reply_stored, channel.reply_error
    file, find = parts.handles.file, parts.handles.held.get
    read_method, write_method = filesystem.read, filesystem.write
    unpack_read, unpack_write = _READ_IN.unpack_from, _WRITE_IN.unpack_from
    pack_written = _WRITE_OUT.pack

    def begin_read(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, offset, size = unpack_read(batch, at)
        handle = file(fh, node)
        if offset >> 63:
            raise refused(errno.EINVAL)
        buffer = GuestReadBuffer(channel, token, size if size <= room else room)
        return read_method(caller, node, handle, offset, buffer), buffer

    read_buffer = GuestReadBuffer(channel, 0, 0)
    """The last one, which serves again where nobody else has it."""

    def read_at_once(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, room: int, _data: int
    ) -> tuple[Any, Any] | None:
        nonlocal read_buffer
        fh, offset, size = unpack_read(batch, at)
        held = find(fh)
        handle = held[1] if held is not None and held[0] == node and held[2] is None else file(fh, node)
        if offset >> 63:
            raise refused(errno.EINVAL)
        size = size if size <= room else room
        buffer = read_buffer
        if getrefcount(buffer) == _OURS and buffer._views is None and not buffer._inside:
            buffer._token, buffer.size, buffer._filled = token, size, 0
        else:
            buffer = read_buffer = GuestReadBuffer(channel, token, size)
        try:
            result: Any = read_method(caller, node, handle, offset, buffer)
        except BaseException as error:
            fail(token, error, "read", buffer)
            return None
        if buffer._views is None and not buffer._inside:
            kind = type(result)
            if kind is memoryview and result.nbytes <= _SMALL and result.nbytes <= size:
                # A copy of its own is sooner handed on than a view.
                buffer._token = 0
                reply(token, result.tobytes())
                return None
            if kind is bytes and len(result) <= size:
                buffer._token = 0
                reply(token, result)
                return None
        return result, buffer

    def finish_read(token: int, result: Any, buffer: Any) -> None:
        if type(result) is bytes:
            if len(result) > buffer.size:
                raise too_much(len(result), buffer.size)
            if not buffer.entangled:
                buffer.end()
                reply(token, result)
                return
            answer = partial(reply, token, result)
        elif isinstance(result, int):
            if not 0 <= result <= buffer.size:
                raise too_much(result, buffer.size)
            if not buffer.entangled:
                buffer.end()
                reply_stored(token, result)
                return
            answer = partial(reply_stored, token, result)
        else:
            size = memoryview(result).nbytes
            if size > buffer.size:
                raise too_much(size, buffer.size)
            if not buffer.entangled:
                buffer.end()
                reply(token, result)
                return
            # It may lie in the guest's own memory, which is given back first.
            answer = partial(reply, token, bytes(result))
            if isinstance(result, memoryview):
                result.release()
        settle(token, buffer, "read", answer)

    def settle(token: int, buffer: Loan, name: str, answer: Callable[[], None]) -> None:
        """End a loan, and answer once nobody is inside."""
        buffer.end()
        if buffer.kept():
            faults.blame(name, "kept memory of the guest beyond its end")
            answer = partial(reply_error, token, errno.EIO)
        if not buffer.when_idle(partial(parts.later, answer)):
            answer()

    def begin_write(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, data: int
    ) -> tuple[Any, Any]:
        fh, offset, size, flags = unpack_write(batch, at)
        handle = file(fh, node)
        if size != data:
            raise refused(errno.EIO)
        if (offset + size) >> 63:
            raise refused(errno.EINVAL)
        buffer = GuestWriteBuffer(channel, token, size)
        return write_method(caller, node, handle, offset, buffer, _WRITE_FLAGS[flags & 7]), buffer

    write_buffer = GuestWriteBuffer(channel, 0, 0)

    def write_at_once(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, data: int
    ) -> tuple[Any, Any] | None:
        nonlocal write_buffer
        fh, offset, size, flags = unpack_write(batch, at)
        handle = file(fh, node)
        if size != data:
            raise refused(errno.EIO)
        if (offset + size) >> 63:
            raise refused(errno.EINVAL)
        buffer = write_buffer
        if getrefcount(buffer) == _OURS and buffer._views is None and not buffer._inside:
            buffer._token, buffer.size = token, size
        else:
            buffer = write_buffer = GuestWriteBuffer(channel, token, size)
        try:
            result = write_method(caller, node, handle, offset, buffer, _WRITE_FLAGS[flags & 7])
        except BaseException as error:
            fail(token, error, "write", buffer)
            return None
        if type(result) is int and 0 <= result <= size and buffer._views is None and not buffer._inside:
            buffer._token = 0
            reply(token, pack_written(result, 0))
            return None
        return result, buffer

    def finish_write(token: int, result: Any, buffer: Any) -> None:
        if not 0 <= result <= buffer.size:
            raise too_much(result, buffer.size)
        if buffer.entangled:
            settle(token, buffer, "write", partial(reply, token, pack_written(result, 0)))
        else:
            buffer.end()
            reply(token, pack_written(result, 0))

    return {
        Opcode.READ: _operation(parts, "read", _IO_IN_SIZE, begin_read, finish_read, read_at_once),
        Opcode.WRITE: _operation(parts, "write", _IO_IN_SIZE, begin_write, finish_write, write_at_once),
    }


def too_much(answered: int, possible: int) -> ValueError:
    """Return the fault of an operation that says it did more than it was asked for."""
    return ValueError(f"{answered} bytes were answered where {possible} were asked for")


def _ranges(parts: Parts) -> dict[int, Operation]:
    filesystem, known = parts.filesystem, parts.nodes.known
    file = parts.handles.file

    def begin_flush(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, owner = _FLUSH_IN.unpack_from(batch, at)
        return filesystem.flush(caller, node, file(fh, node), owner), None

    def begin_fsync(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, flags = _FSYNC_IN.unpack_from(batch, at)
        return filesystem.fsync(caller, node, file(fh, node), bool(flags & FsyncFlags.FDATASYNC)), None

    def begin_fallocate(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, offset, length, mode = _FALLOCATE_IN.unpack_from(batch, at)
        checked_offset(offset, length)
        return filesystem.fallocate(caller, node, file(fh, node), mode, offset, length), None

    def begin_lseek(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, offset, whence = _LSEEK_IN.unpack_from(batch, at)
        if offset >> 63:
            raise refused(errno.ENXIO)
        return filesystem.lseek(caller, node, file(fh, node), offset, whence), LOCK_END

    def begin_copy(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, offset, nodeid, target_fh, target_offset, length, flags = _COPY_IN.unpack_from(batch, at)
        target = known.get(nodeid)
        if target is None:
            raise refused(errno.ESTALE)
        if flags:
            raise refused(errno.EINVAL)
        checked_offset(offset, target_offset, length, offset + length, target_offset + length)
        source_handle, target_handle = file(fh, node), file(target_fh, target)
        return filesystem.copy_file_range(
            caller, node, source_handle, offset, target, target_handle, target_offset, length
        ), length

    def begin_short_copy(
        token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, room: int, data: int
    ) -> tuple[Any, Any]:
        result, length = begin_copy(token, caller, node, batch, at, end, room, data)
        return result, min(length, 0xFFFF_FFFF)

    empty = finish_empty(parts)
    name = "copy_file_range"
    return {
        Opcode.FLUSH: _operation(parts, "flush", _FLUSH_IN.size, begin_flush, empty),
        Opcode.FSYNC: _operation(parts, "fsync", _FSYNC_IN.size, begin_fsync, empty),
        Opcode.FALLOCATE: _operation(parts, "fallocate", _FALLOCATE_IN.size, begin_fallocate, empty),
        Opcode.LSEEK: _operation(parts, "lseek", _LSEEK_IN.size, begin_lseek, finish_number(parts, "<Q")),
        Opcode.COPY_FILE_RANGE: _operation(
            parts, name, _COPY_IN.size, begin_short_copy, finish_number(parts, "<I4x")
        ),
        Opcode.COPY_FILE_RANGE_64: _operation(
            parts, name, _COPY_IN.size, begin_copy, finish_number(parts, "<Q")
        ),
    }


def _locks(parts: Parts) -> dict[int, Operation]:
    filesystem, handles, reply = parts.filesystem, parts.handles, parts.channel.reply

    def lock_of(batch: memoryview, at: int) -> tuple[int, int, Lock, int]:
        fh, owner, start, end, kind, pid, flags = _LK_IN.unpack_from(batch, at)
        if kind > LockType.UNLOCK or start > end or end > LOCK_END:
            raise refused(errno.EINVAL)
        return fh, owner, Lock(LockType(kind), start, end, pid), flags

    def begin_getlk(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, owner, lock, _ = lock_of(batch, at)
        return filesystem.getlk(caller, node, handles.either(fh, node), owner, lock), lock

    def finish_getlk(token: int, result: Any, asked: Any) -> None:
        if result is None:
            reply(token, _FILE_LOCK.pack(asked.start, asked.end, LockType.UNLOCK, 0))
        else:
            reply(token, _FILE_LOCK.pack(result.start, result.end, result.type, result.pid))

    def begin_setlk(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return locked(caller, node, batch, at, False), None

    def begin_setlkw(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        return locked(caller, node, batch, at, True), None

    def locked(caller: Caller, node: int, batch: memoryview, at: int, wait: bool) -> Any:
        fh, owner, lock, flags = lock_of(batch, at)
        handle = handles.either(fh, node)
        if flags & LockFlags.FLOCK:
            return filesystem.flock(caller, node, handle, owner, lock.type, wait)
        return filesystem.setlk(caller, node, handle, owner, lock, wait)

    empty = finish_empty(parts)
    size = _LK_IN.size
    # One opcode, two methods, which need not be of one kind: what they return is looked at each time.
    return {
        Opcode.GETLK: _operation(parts, "getlk", size, begin_getlk, finish_getlk),
        Opcode.SETLK: Operation(size, begin_setlk, empty, False, "setlk"),
        Opcode.SETLKW: Operation(size, begin_setlkw, empty, False, "setlkw"),
    }


def _other(parts: Parts) -> dict[int, Operation]:
    filesystem, handles, reply = parts.filesystem, parts.handles, parts.channel.reply

    def begin_ioctl(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, end: int, room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, flags, command, argument, size, out_size = _IOCTL_IN.unpack_from(batch, at)
        begin = at + _IOCTL_IN.size
        if end - begin < size:
            raise refused(errno.EIO)
        handle = handles.directory(fh, node) if flags & _IOCTL_DIR else handles.file(fh, node)
        room = max(0, min(out_size, room - _IOCTL_OUT.size))
        data = bytes(batch[begin : begin + size])
        return filesystem.ioctl(caller, node, handle, command, argument, data, room), room

    def finish_ioctl(token: int, result: Any, room: Any) -> None:
        if len(result.data) > room:
            raise too_much(len(result.data), room)
        reply(token, _IOCTL_OUT.pack(result.result, 0, 0, 0) + result.data)

    def begin_poll(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, _, _, events = _POLL_IN.unpack_from(batch, at)
        return filesystem.poll(caller, node, handles.file(fh, node), events), None

    def begin_bmap(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        block, block_size = _BMAP_IN.unpack_from(batch, at)
        return filesystem.bmap(caller, node, block, block_size), None

    def begin_syncfs(
        _token: int, caller: Caller, node: int, _batch: memoryview, _at: int, _end: int, _room: int, _d: int
    ) -> tuple[Any, Any]:
        return filesystem.syncfs(caller, node), None

    return {
        Opcode.IOCTL: _operation(parts, "ioctl", _IOCTL_IN.size, begin_ioctl, finish_ioctl),
        Opcode.POLL: _operation(parts, "poll", _POLL_IN.size, begin_poll, finish_number(parts, "<I4x")),
        Opcode.BMAP: _operation(parts, "bmap", _BMAP_IN.size, begin_bmap, finish_number(parts, "<Q")),
        Opcode.SYNCFS: _operation(parts, "syncfs", 8, begin_syncfs, finish_empty(parts)),
    }
