"""The operations on open directories: opendir, readdir, fsyncdir, releasedir."""

from __future__ import annotations

import errno
from struct import Struct
from typing import Any, Final

from vhostfs.filesystem import Caller
from vhostfs.filesystem.refusals import refused
from vhostfs.filesystem.wrapper import settled
from vhostfs.fuse_abi.flags import FsyncFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.session.dispatch import Operation, Parts, finish_bytes, finish_empty, is_asynchronous
from vhostfs.session.listings import Lister, Listing, Page
from vhostfs.session.nodes import Held, bad_handle

_OPEN_IN: Final = Struct("<II")
_OPEN_OUT: Final = Struct("<QIi")
_READ_IN: Final = Struct("<QQI")
_READ_IN_SIZE: Final = 40
_RELEASE_IN: Final = Struct("<QIIQ")
_FSYNC_IN: Final = Struct("<QI4x")


def directory_operations(parts: Parts) -> dict[int, Operation]:
    """Return the operations of this file for a session, by opcode."""
    filesystem, handles = parts.filesystem, parts.handles
    reply, entry_out = parts.channel.reply, parts.replies.entry
    opens = "opendir" in parts.implemented
    lister = Lister(filesystem.readdir, parts.faults)

    def begin_opendir(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        handles.check_room()
        if not opens:
            return None, node
        return filesystem.opendir(caller, node, _OPEN_IN.unpack_from(batch, at)[0]), node

    def finish_opendir(token: int, result: Any, node: Any) -> None:
        # Without opendir the number stands for the listing alone.
        flags, handle = (int(result.flags), result.handle) if opens else (0, None)
        reply(token, _OPEN_OUT.pack(handles.add(node, handle, Listing()), flags & 0xFFFF_FFFF, 0))

    def begin_list(
        caller: Caller, node: int, batch: memoryview, at: int, room: int, plus: bool
    ) -> tuple[Any, Any]:
        fh, offset, size = _READ_IN.unpack_from(batch, at)
        held = handles.held.get(fh)
        if held is None or held.node != node or held.listing is None:
            raise bad_handle()
        if offset >> 63:
            raise refused(errno.EINVAL)
        page = Page(min(size, room), entry_out if plus else None)
        return lister.answer(held.listing, caller, node, held.handle, offset, page), None

    def begin_readdir(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, room: int, _data: int
    ) -> tuple[Any, Any]:
        return begin_list(caller, node, batch, at, room, False)

    def begin_readdirplus(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, room: int, _data: int
    ) -> tuple[Any, Any]:
        return begin_list(caller, node, batch, at, room, True)

    def begin_releasedir(
        _token: int, caller: Caller, _node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, flags, _, _ = _RELEASE_IN.unpack_from(batch, at)
        return release_directory(parts, handles.pop(fh, directory=True), caller, flags), None

    def begin_fsyncdir(
        _token: int, caller: Caller, node: int, batch: memoryview, at: int, _end: int, _room: int, _data: int
    ) -> tuple[Any, Any]:
        fh, flags = _FSYNC_IN.unpack_from(batch, at)
        datasync = bool(flags & FsyncFlags.FDATASYNC)
        return filesystem.fsyncdir(caller, node, handles.directory(fh, node), datasync), None

    empty, payload = finish_empty(parts), finish_bytes(parts)
    opens_later = opens and is_asynchronous(filesystem.opendir)
    # What readdir and releasedir lead to depends on the listing, and is looked at each time.
    return {
        Opcode.OPENDIR: Operation(_OPEN_IN.size, begin_opendir, finish_opendir, opens_later, "opendir"),
        Opcode.READDIR: Operation(_READ_IN_SIZE, begin_readdir, payload, False, "readdir"),
        Opcode.READDIRPLUS: Operation(_READ_IN_SIZE, begin_readdirplus, payload, False, "readdir"),
        Opcode.RELEASEDIR: Operation(_RELEASE_IN.size, begin_releasedir, empty, False, "releasedir"),
        Opcode.FSYNCDIR: Operation(
            _FSYNC_IN.size, begin_fsyncdir, empty, is_asynchronous(filesystem.fsyncdir), "fsyncdir"
        ),
    }


def release_directory(parts: Parts, held: Held, caller: Caller, flags: int) -> Any:
    """End a directory's listing and give its handle up; return what is to be awaited, if anything."""
    listing = held.listing
    assert listing is not None
    if listing.busy or hasattr(listing.source, "aclose"):
        return _release_later(parts, held, listing, caller, flags)
    try:
        listing.close()
    except Exception as error:
        parts.faults.report("readdir", error)
    return _released(parts, held, caller, flags)


async def _release_later(parts: Parts, held: Held, listing: Listing, caller: Caller, flags: int) -> None:
    async with listing.lock:
        try:
            await listing.aclose()
        except Exception as error:
            parts.faults.report("readdir", error)
    await settled(_released(parts, held, caller, flags))


def _released(parts: Parts, held: Held, caller: Caller, flags: int) -> Any:
    if "opendir" not in parts.implemented or "releasedir" not in parts.implemented:
        return None
    return parts.filesystem.releasedir(caller, held.node, held.handle, flags)
