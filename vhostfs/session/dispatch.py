"""From an opcode to a method and from what it returned to a reply: how every operation begins and finishes.

Each operation is two closures, made once per session with all they need at hand. `begin` unpacks a request's
arguments from the batch and calls the file system; `finish` packs what came of it and replies. Between the
two may lie a task's life, so `begin` copies all that it passes on.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from vhostfs.filesystem import Caller, Filesystem, Options
from vhostfs.filesystem.refusals import refused
from vhostfs.fuse_abi.extensions import Extensions
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.session.channel import Channel
from vhostfs.session.faults import Faults
from vhostfs.session.nodes import Handles, Nodes
from vhostfs.session.replies import Replies

type Begin = Callable[[int, Caller, int, memoryview, int, int, int, int], tuple[Any, Any]]
"""(token, caller, node, batch, where the arguments begin and end, room, data) -> (result, context).

The result is what the file system's method returned, or something to be awaited for it.
"""

type Finish = Callable[[int, Any, Any], None]
"""(token, result, context): reply. Raises what the file system did wrong, and has not replied then."""


type AtOnce = Callable[[int, Caller, int, memoryview, int, int, int, int], tuple[Any, Any] | None]
"""As Begin, and finishes where the method has answered as most do: None then."""


class Operation(NamedTuple):
    """How one opcode is answered."""

    minimum: int
    """Bytes of its fixed arguments."""
    begin: Begin
    finish: Finish
    asynchronous: bool
    """The method is `async def`: its result is a coroutine."""
    name: str
    at_once: AtOnce | None = None
    """Instead of begin, where the method is `def`, for the requests that come most: one call for both."""


class Parts(NamedTuple):
    """What the operations of one session share."""

    filesystem: Filesystem[Any]
    implemented: frozenset[str]
    options: Options
    flags: InitFlags
    channel: Channel
    nodes: Nodes
    handles: Handles
    replies: Replies
    faults: Faults
    fail: Callable[[int, BaseException, str, Any], None]
    """Answer a token with an exception's errno: (token, exception, operation, context)."""
    later: Callable[[Callable[[], None]], None]
    """Call something on the event loop soon, from any thread, and flush then."""


NAME_MAX: Final = 255

_DOT: Final = ord(".")

_EXTENSION_LENGTH: Final = Struct("<H")
_BEFORE_ARGUMENTS: Final = 4
"""How far before the arguments in_header.total_extlen stands."""


def is_asynchronous(method: Callable[..., Any]) -> bool:
    """Tell whether calling a method always makes a coroutine."""
    return inspect.iscoroutinefunction(method)


def string(batch: memoryview, begin: int, end: int) -> tuple[bytes, int]:
    """Return the string that begins there, and where the next one begins; EIO where it has no end."""
    text, nul, _ = bytes(batch[begin:end]).partition(b"\0")
    if not nul:
        raise refused(errno.EIO)
    return text, begin + len(text) + 1


def checked_name(name: bytes, dots: int) -> str:
    """Return a name that may be looked up; '.' and '..' raise the errno `dots`, unless it is 0."""
    if not name:
        raise refused(errno.ENOENT)
    if len(name) > NAME_MAX:
        raise refused(errno.ENAMETOOLONG)
    if b"/" in name:
        raise refused(errno.EINVAL)
    if dots and name in {b".", b".."}:
        raise refused(dots)
    return name.decode("utf-8", "surrogateescape")


def one_name(batch: memoryview, begin: int, end: int, dots: int) -> str:
    """Return the name that begins there."""
    text = bytes(batch[begin:end])
    length = text.find(0)
    name = text[:length]
    if 0 < length <= NAME_MAX and b"/" not in name and not (dots and name[0] == _DOT):
        return name.decode("utf-8", "surrogateescape")
    if length < 0:
        raise refused(errno.EIO)
    return checked_name(name, dots)


def read_groups(batch: memoryview, at: int, end: int, caller: Caller) -> int:
    """Give the caller the groups that a creation's extensions hold; return where the arguments end."""
    units: int = _EXTENSION_LENGTH.unpack_from(batch, at - _BEFORE_ARGUMENTS)[0]
    if units == 0:
        return end
    begin = end - 8 * units
    if begin < at:
        raise refused(errno.EIO)
    try:
        caller.groups = Extensions.unpack(bytes(batch[begin:end]), security=False).groups
    except ValueError:
        raise refused(errno.EIO) from None
    return begin


def checked_offset(*offsets: int) -> None:
    """Raise EINVAL unless all are offsets that a file can have."""
    for offset in offsets:
        if offset >> 63:
            raise refused(errno.EINVAL)


def finish_empty(parts: Parts) -> Finish:
    """Reply with nothing, whatever was returned."""
    reply = parts.channel.reply

    def finish(token: int, _result: Any, _context: Any) -> None:
        reply(token, b"")

    return finish


def finish_bytes(parts: Parts) -> Finish:
    """Reply with the bytes that begin itself made."""
    reply = parts.channel.reply

    def finish(token: int, result: Any, _context: Any) -> None:
        reply(token, result)

    return finish


def finish_number(parts: Parts, layout: str) -> Finish:
    """Reply with one number; `context` is the largest that there may be, or None."""
    reply, pack = parts.channel.reply, Struct(layout).pack

    def finish(token: int, result: Any, context: Any) -> None:
        if context is not None and not 0 <= result <= context:
            raise ValueError(f"{result} was answered where 0 to {context} are possible")
        reply(token, pack(result))

    return finish


def finish_attr(parts: Parts) -> Finish:
    """Reply with fuse_attr_out."""
    reply, attr_out = parts.channel.reply, parts.replies.attr

    def finish(token: int, result: Any, _context: Any) -> None:
        reply(token, attr_out(result))

    return finish


def finish_entry(parts: Parts) -> Finish:
    """Reply with fuse_entry_out."""
    reply, entry_out = parts.channel.reply, parts.replies.entry

    def finish(token: int, result: Any, _context: Any) -> None:
        reply(token, entry_out(result))

    return finish
