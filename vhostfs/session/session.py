"""A session's life: records in, operations begun, tasks cancelled and waited for, and the way to its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import traceback
from collections.abc import Awaitable, Buffer, Callable
from enum import Enum, auto
from functools import partial
from struct import Struct
from sys import getrefcount
from typing import Any, Final

from vhostfs.filesystem import Caller, Filesystem, implemented
from vhostfs.filesystem.lookups import Lookups
from vhostfs.filesystem.wrapper import settled
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.notifications import (
    NotifyDeleteOut,
    NotifyInvalEntryOut,
    NotifyInvalInodeOut,
    NotifyStoreOut,
)
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION, NotifyCode, Opcode
from vhostfs.session.buffers import Loan
from vhostfs.session.channel import RECORD, Channel, RecordKind
from vhostfs.session.directories import directory_operations, release_directory
from vhostfs.session.dispatch import Finish, Operation, Parts
from vhostfs.session.faults import Faults, errno_of, is_cancellation
from vhostfs.session.files import file_operations
from vhostfs.session.namespace import namespace_operations
from vhostfs.session.nodes import Handles, Nodes
from vhostfs.session.offer import wanted_flags, wanted_opcodes
from vhostfs.session.replies import make_replies

_HEAD: Final = Struct(RECORD.format + "IIQQIIIHH")
"""A record with the in_header of its request: one call for both."""
_HEADER_SIZE: Final = 40
_RECORD_SIZE: Final = RECORD.size
_HEAD_SIZE: Final = _HEAD.size
_UNIQUE: Final = Struct("<Q")
_BATCH_FORGET_IN: Final = Struct("<I4x")
_FORGET_ONE: Final = Struct("<QQ")

_WITHOUT_NODE: Final = frozenset({int(Opcode.RELEASE), int(Opcode.RELEASEDIR)})
"""What is answered though the guest has forgotten the node: else nobody could free the handle."""

_PATIENCE_SECONDS: Final = 10.0
"""After how long a task that ignores its cancellation is told of in the log, and cancelled again."""

_KNOWN_TYPES: Final = 256

_OURS: Final = 3
"""References to a Caller that nobody else has, as getrefcount counts them: two names, and its argument."""

_DEFAULT_LOGGER: Final = logging.getLogger("vhostfs.session")


class State(Enum):
    """Where a session is in its life."""

    IDLE = auto()
    """No kernel has mounted it, or `init` has failed: requests are answered EIO."""
    STARTING = auto()
    """`init` runs; requests wait."""
    SERVING = auto()
    ENDING = auto()
    """Tasks are cancelled, handles released, nodes forgotten, `destroy` runs."""


class RequestCaller(Caller):
    """A Caller that knows whether its request was cancelled."""

    __slots__ = ("_cancelled", "_token")

    def __init__(self, uid: int, gid: int, pid: int, token: int, cancelled: set[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.groups = ()
        self.umask = 0
        self._token = token
        self._cancelled = cancelled

    def interrupted(self) -> bool:
        """Tell whether nobody waits for the answer any more."""
        return self._token in self._cancelled


class Running:
    """An operation that goes on after its batch."""

    __slots__ = ("error", "task", "timer", "unique")

    def __init__(self, task: asyncio.Task[None], unique: int) -> None:
        self.task = task
        self.unique = unique
        self.timer: asyncio.TimerHandle | None = None
        self.error = errno.EINTR
        """What is answered if it ends by being cancelled."""


class Session:
    """Serves one mount's requests by a file system's methods (vhostfs.filesystem.Session is what those see).

    All methods are for one event loop, the one that `receive` is called on. One session after another: what
    belongs to one kernel's mount begins with a BEGIN record, and ends with END.
    """

    def __init__(
        self,
        filesystem: Filesystem[Any],
        channel: Channel,
        *,
        mount: int = 0,
        logger: logging.Logger | None = None,
        name: str = "",
    ) -> None:
        """Serve as the given mount: its root is nodeid 1 there, `mount << 48 | 1` on the wire."""
        self._filesystem = filesystem
        self._channel = channel
        self._mount = mount
        self._faults = Faults(_DEFAULT_LOGGER if logger is None else logger, name)
        self._implemented = implemented(filesystem)
        self.options: Final = filesystem.options
        self.opcodes: Final = wanted_opcodes(self._implemented)
        """The requests that are to be brought; all others are ENOSYS."""
        self.init_flags: Final = wanted_flags(self.options, self._implemented)
        """What to take of the flags that the kernel offers."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = State.IDLE
        self._minor = KERNEL_MINOR_VERSION
        self._next: tuple[InitFlags, int] | None = None
        self._overtaken = False
        self._life: asyncio.Task[None] | None = None
        self._parts: Parts | None = None
        self._table: dict[int, Operation] = {}
        self._nodes = Nodes(mount)
        self._lookups = Lookups.of(filesystem)
        self._waiting: dict[int, bytes] = {}
        self._farewells: list[int] = []
        self._running: dict[int, Running] = {}
        self._uniques: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._flushing = False
        self._caller = RequestCaller(0, 0, 0, 0, self._cancelled)
        """The last one of a `def`, which serves again where nobody else has it."""
        self._plain: set[type] = {type(None), int, bytes, bytearray}

    # ---- What tests and metrics look at ----

    @property
    def state(self) -> State:
        """Return where the session is in its life."""
        return self._state

    @property
    def faults(self) -> int:
        """Return how many operations failed by an exception that is no OSError, or answered nonsense."""
        return self._faults.count

    @property
    def running(self) -> int:
        """Return how many operations are under way."""
        return len(self._running)

    # ---- Requests ----

    def receive(self, batch: memoryview, size: int | None = None) -> None:
        """Take a batch of records: answer what can be answered at once, begin a task for the rest.

        The records are the first `size` bytes, or all of them.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._flushing = True
        reply_error, cancelled, plain = self._channel.reply_error, self._cancelled, self._plain
        unpack, fail, spawn = _HEAD.unpack_from, self._fail, self._spawn
        table, known = self._table, self._nodes.known
        position, end = 0, len(batch) if size is None else size
        own = self._caller
        while end - position >= _HEAD_SIZE:
            token, kind, length, room, data, _, opcode, unique, nodeid, uid, gid, pid, _, _ = unpack(
                batch, position
            )
            at = position + _HEAD_SIZE
            stop = position + _RECORD_SIZE + length
            operation = table.get(opcode)
            if kind or not token or operation is None or length < _HEADER_SIZE or stop > end:
                position = self._receive_rarity(batch, position, end)
                table, known = self._table, self._nodes.known
                continue
            position = (stop + 7) & -8
            minimum, begin, finish, asynchronous, name, at_once = operation
            node = known.get(nodeid)
            if node is None:
                if opcode not in _WITHOUT_NODE:
                    reply_error(token, errno.ESTALE)
                    continue
                node = 0
            if stop - at < minimum:
                reply_error(token, errno.EIO)
                continue
            if at_once is not None:
                own.uid, own.gid, own.pid, own._token = uid, gid, pid, token
                try:
                    outcome = at_once(token, own, node, batch, at, stop, room, data)
                except BaseException as error:
                    fail(token, error, name, None)
                    outcome = None
                if outcome is not None:
                    self._go_on(token, unique, outcome, finish, name)
                    outcome = None
                if getrefcount(own) != _OURS:
                    # Somebody has kept it, or is still at work with it.
                    own = self._caller = RequestCaller(0, 0, 0, 0, cancelled)
                continue
            context = None
            try:
                result, context = begin(
                    token,
                    RequestCaller(uid, gid, pid, token, cancelled),
                    node,
                    batch,
                    at,
                    stop,
                    room,
                    data,
                )
                if asynchronous or (type(result) not in plain and self._is_awaitable(result)):
                    spawn(token, unique, result, finish, context, name)
                else:
                    finish(token, result, context)
            except BaseException as error:
                fail(token, error, name, context)
            result = context = None
        while position < end:
            position = self._receive_rarity(batch, position, end)
        self._channel.flush()
        self._flushing = False

    def _go_on(self, token: int, unique: int, outcome: tuple[Any, Any], finish: Finish, name: str) -> None:
        """Finish what was begun at once and has answered as few do."""
        result, context = outcome
        try:
            if type(result) not in self._plain and self._is_awaitable(result):
                self._spawn(token, unique, result, finish, context, name)
            else:
                finish(token, result, context)
        except BaseException as error:
            self._fail(token, error, name, context)

    def _is_awaitable(self, result: object) -> bool:
        kind = type(result)
        if hasattr(kind, "__await__"):
            return True
        if len(self._plain) < _KNOWN_TYPES:
            self._plain.add(kind)
        return False

    def _receive_rarity(self, batch: memoryview, position: int, end: int) -> int:
        """Take any record but a request for an operation that is served; return where the next one begins."""
        if end - position < _RECORD_SIZE:
            return end
        token, kind, size, room, _ = RECORD.unpack_from(batch, position)
        stop: int = position + _RECORD_SIZE + size
        following = (stop + 7) & -8
        if kind == RecordKind.BEGIN:
            self._on_begin(InitFlags(token), room)
        elif kind == RecordKind.END:
            self._on_end(token)
        elif kind == RecordKind.CANCEL:
            self._cancel(token)
        elif stop > end or size < _HEADER_SIZE:
            self._refuse(token, errno.EIO)
        else:
            self._receive_other(token, batch, position, stop)
        return following

    def _receive_other(self, token: int, batch: memoryview, position: int, stop: int) -> None:
        _, _, _, _, _, _, opcode, _, nodeid, *_ = _HEAD.unpack_from(batch, position)
        at = position + _HEAD_SIZE
        if opcode == Opcode.FORGET:
            if stop - at >= _UNIQUE.size:
                self._forget(nodeid, _UNIQUE.unpack_from(batch, at)[0])
        elif opcode == Opcode.BATCH_FORGET:
            self._batch_forget(batch, at, stop)
        elif opcode == Opcode.INTERRUPT:
            if stop - at >= _UNIQUE.size:
                self._interrupt(_UNIQUE.unpack_from(batch, at)[0])
        elif token == 0:
            # Nobody waits for an answer, so nothing is done either.
            return
        elif self._state is State.SERVING:
            self._refuse(token, errno.ENOSYS)
        elif self._state is State.IDLE or (self._overtaken and self._next is None):
            self._refuse(token, errno.EIO)
        else:
            self._waiting[token] = bytes(batch[position:stop]) + bytes(-(stop - position) % 8)

    def _refuse(self, token: int, error: int) -> None:
        if token:
            self._channel.reply_error(token, error)

    def _forget(self, nodeid: int, count: int) -> None:
        node = self._nodes.leave(nodeid, count)
        if node is not None:
            self._tell_forgotten(node)

    def _tell_forgotten(self, node: int) -> None:
        if node in self._lookups:
            # A program of this process holds it, and will say so when it does not any more.
            return
        try:
            self._filesystem.forget(node)
        except Exception as error:
            self._faults.report("forget", error)

    def _batch_forget(self, batch: memoryview, at: int, stop: int) -> None:
        if stop - at < _BATCH_FORGET_IN.size:
            return
        (count,) = _BATCH_FORGET_IN.unpack_from(batch, at)
        at += _BATCH_FORGET_IN.size
        whole = min(count, (stop - at) // _FORGET_ONE.size)
        with batch[at : at + whole * _FORGET_ONE.size] as nodes:
            for nodeid, lookups in _FORGET_ONE.iter_unpack(nodes):
                self._forget(nodeid, lookups)

    # ---- Tasks ----

    def _spawn(
        self, token: int, unique: int, result: Awaitable[Any], finish: Finish, context: Any, name: str
    ) -> None:
        task = asyncio.Task(
            self._run(token, result, finish, context, name), loop=self._loop, eager_start=True
        )
        if task.done():
            return
        self._running[token] = running = Running(task, unique)
        self._uniques[unique] = token
        seconds = self.options.timeout_seconds
        if seconds is not None and name != "setlkw" and self._loop is not None:
            running.timer = self._loop.call_later(seconds, self._cancel, token, errno.ETIMEDOUT)

    async def _run(self, token: int, result: Awaitable[Any], finish: Finish, context: Any, name: str) -> None:
        try:
            finish(token, await result, context)
        except BaseException as error:
            self._fail(token, error, name, context)
        running = self._running.pop(token, None)
        if running is not None:
            if running.timer is not None:
                running.timer.cancel()
            if self._uniques.get(running.unique) == token:
                del self._uniques[running.unique]
            self._cancelled.discard(token)
            if not self._flushing:
                self._flush_soon()

    def _fail(self, token: int, error: BaseException, name: str, context: Any) -> None:
        """Answer with what an exception stands for; raise again what ends the process or the task."""
        if isinstance(error, OSError):
            number = errno_of(error)
        elif is_cancellation(error):
            running = self._running.get(token)
            number = errno.EINTR if running is None else running.error
        else:
            self._faults.report(name, error)
            number = errno.EIO
        answer = partial(self._channel.reply_error, token, number)
        if not isinstance(context, Loan) or not self._withdraw(context, error, name, answer):
            answer()
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise error

    def _withdraw(self, loan: Loan, error: BaseException, name: str, answer: Callable[[], None]) -> bool:
        """End a loan whose operation failed; True where the answer will be given when nobody is inside."""
        loan.end()
        if not loan.entangled:
            return False
        # The frames that an exception keeps hold views, too.
        seen: BaseException | None = error
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__context__
        if loan.kept():
            self._faults.blame(name, "kept memory of the guest beyond its end")
        return loan.when_idle(partial(self._later, answer))

    def _interrupt(self, unique: int) -> None:
        token = self._uniques.get(unique)
        if token is None:
            token = next((waiting for waiting, record in self._waiting.items() if _has(record, unique)), 0)
        self._cancel(token)

    def _cancel(self, token: int, error: int = errno.EINTR) -> None:
        if self._waiting.pop(token, None) is not None:
            self._refuse(token, error)
            if not self._flushing:
                self._flush_soon()
        running = self._running.get(token)
        if running is not None:
            running.error = error
            self._cancelled.add(token)
            running.task.cancel()

    def _later(self, act: Callable[[], None]) -> None:
        """Call something on the loop soon, from any thread."""

        def run() -> None:
            act()
            self._channel.flush()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(run)

    def _flush_soon(self) -> None:
        assert self._loop is not None
        self._flushing = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._channel.flush()

    # ---- Life ----

    def _on_begin(self, flags: InitFlags, minor: int) -> None:
        self._next = flags, minor
        self._turn()

    def _on_end(self, farewell: int = 0) -> None:
        if farewell:
            self._farewells.append(farewell)
        self._next = None
        self._turn()

    def _turn(self) -> None:
        """Go on to what is wanted now; a transition under way is finished first."""
        self._table = {}
        self._overtaken = True
        for token in self._waiting:
            self._refuse(token, errno.EIO)
        self._waiting.clear()
        if self._life is None:
            task = asyncio.Task(self._live(), loop=self._loop, eager_start=True)
            if not task.done():
                self._life = task

    async def _live(self) -> None:
        while self._overtaken:
            if self._parts is not None:
                self._state = State.ENDING
                await self._finish(self._parts)
                self._parts = None
            self._say_farewell()
            self._overtaken = False
            if self._next is None:
                self._state = State.IDLE
                continue
            (flags, self._minor), self._next = self._next, None
            self._state = State.STARTING
            self._nodes = Nodes(self._mount)
            self._lookups.session_holds = self._nodes.holds
            if not await self._prepare():
                self._state = State.IDLE
                continue
            self._parts = parts = self._make_parts(flags)
            if not self._overtaken:
                self._table = self._make_table(parts)
                self._state = State.SERVING
        self._life = None
        waiting = b"".join(self._waiting.values())
        self._waiting.clear()
        if waiting:
            self.receive(memoryview(waiting))

    def _say_farewell(self) -> None:
        """Answer the DESTROYs that waited for the end."""
        if self._farewells:
            for token in self._farewells:
                self._channel.reply(token, b"")
            self._farewells.clear()
            if not self._flushing:
                self._flush_soon()

    async def _prepare(self) -> bool:
        try:
            await settled(self._filesystem.init(self))
        except Exception as error:
            self._faults.report("init", error)
            return False
        return True

    def _make_parts(self, flags: InitFlags) -> Parts:
        has = self._implemented.__contains__
        return Parts(
            filesystem=self._filesystem,
            implemented=self._implemented,
            options=self.options,
            flags=flags,
            channel=self._channel,
            nodes=self._nodes,
            handles=Handles(files=has("open"), directories=has("opendir")),
            replies=make_replies(self.options, self._nodes),
            faults=self._faults,
            fail=self._fail,
            later=self._later,
        )

    def _make_table(self, parts: Parts) -> dict[int, Operation]:
        every = {**namespace_operations(parts), **file_operations(parts), **directory_operations(parts)}
        return {int(opcode): every[opcode] for opcode in every if opcode in self.opcodes}

    async def _finish(self, parts: Parts) -> None:
        """End what a kernel began: its operations, its handles, its lookups; then the file system."""
        while tasks := [running.task for running in self._running.values()]:
            for token in list(self._running):
                self._cancel(token)
            _, unfinished = await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)
            if unfinished:
                self._faults.warn(f"{len(unfinished)} operations ignore that they were cancelled")
        held = parts.handles.held
        while held:
            fh = next(iter(held))
            await self._release(parts, fh)
        for node in self._nodes.drain():
            self._tell_forgotten(node)
        try:
            await settled(self._filesystem.destroy())
        except Exception as error:
            self._faults.report("destroy", error)
        self._faults.sum_up()

    async def _release(self, parts: Parts, fh: int) -> None:
        held = parts.handles.held.pop(fh)
        name = "release" if held.listing is None else "releasedir"
        try:
            async with asyncio.timeout(self.options.timeout_seconds):
                if held.listing is not None:
                    await settled(release_directory(parts, held, Caller(), 0))
                elif "release" in self._implemented:
                    await settled(self._filesystem.release(Caller(), held.node, held.handle, 0))
        except OSError:
            # As when the kernel asks: nobody sees it.
            return
        except Exception as error:
            self._faults.report(name, error)

    async def close(self) -> None:
        """End the session as END does, and wait until `destroy` has returned."""
        self._loop = asyncio.get_running_loop()
        self._on_end()
        while self._life is not None:
            await asyncio.wait([self._life])

    # ---- vhostfs.filesystem.Session ----

    @property
    def minor(self) -> int:
        """Return the minor version of FUSE 7 that the kernel speaks."""
        return self._minor

    def invalidate_node(self, node: int, offset: int = 0, length: int = -1) -> None:
        """Have the kernel forget attributes and cached data (NOTIFY_INVAL_INODE)."""
        body = NotifyInvalInodeOut(self._nodes.nodeid(node), offset, length)
        self._channel.notify(NotifyCode.INVAL_INODE, [body.pack()])

    def invalidate_entry(self, parent: int, name: str) -> None:
        """Have the kernel ask for a name again (NOTIFY_INVAL_ENTRY)."""
        raw = os.fsencode(name)
        body = NotifyInvalEntryOut(self._nodes.nodeid(parent), len(raw))
        self._channel.notify(NotifyCode.INVAL_ENTRY, [body.pack(), raw + b"\0"])

    def entry_deleted(self, parent: int, node: int, name: str) -> None:
        """Tell that a name is gone (NOTIFY_DELETE)."""
        raw = os.fsencode(name)
        body = NotifyDeleteOut(self._nodes.nodeid(parent), self._nodes.nodeid(node), len(raw))
        self._channel.notify(NotifyCode.DELETE, [body.pack(), raw + b"\0"])

    def store(self, node: int, offset: int, data: Buffer) -> None:
        """Put data into the kernel's cache of a file (NOTIFY_STORE)."""
        view = memoryview(data)
        body = NotifyStoreOut(self._nodes.nodeid(node), offset, view.nbytes)
        self._channel.notify(NotifyCode.STORE, [body.pack(), view])


def _has(record: bytes, unique: int) -> bool:
    """Tell whether a record holds the request of that number."""
    return bool(_HEAD.unpack_from(record, 0)[7] == unique)
