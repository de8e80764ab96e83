"""A layer that bounds how many bytes and files a tree may hold. quota_account says how they are counted.

The tree is counted when a session begins, and from then on by what passes through the layer. What the host
changes meanwhile is not seen until the next session.
"""

from __future__ import annotations

import errno
import inspect
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from vhostfs.backends.contract import Layer
from vhostfs.backends.values import Size
from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    FallocateFlags,
    Filesystem,
    MaybeAwaitable,
    Opened,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
    Wrapper,
    WriteBuffer,
    WriteFlags,
    settled,
    then,
)
from vhostfs.filesystem.refusals import refused
from vhostfs.layers.listing import Entries, each_entry
from vhostfs.layers.quota_account import Account, Record, charge, count, node_of, size_of
from vhostfs.layers.selection import errno_of

_ITSELF: Final = Caller()
"""Who asks for what only the layer wants to know."""


class Quota[H](Wrapper[H]):
    """Refuses what would make a tree hold more than its limits; beyond them already, it may shrink.

    Room is taken before an operation begins, and given back where that came to nothing, so that any number of
    operations at once stay within the limits.
    """

    def __init__(self, inner: Filesystem[H], account: Account) -> None:
        """Keep an account for a file system, beginning with `init`."""
        super().__init__(inner)
        self.account: Final = account
        self._records: dict[int, Record] = {}
        self._appending: dict[int, tuple[H, int]] = {}
        """Handles by which data goes to the end, by identity, and how often each was given out."""

    async def init(self, session: Session) -> None:
        """Begin, and count what is there; no request comes before that is done."""
        await settled(self.inner.init(session))
        self._records.clear()
        self._appending.clear()
        await count(self.inner, self.account)

    # ---- Records ----

    def _enter(self, entry: Entry) -> Record:
        """Return the record of what the kernel is told of."""
        node = node_of(entry)
        record = self._records.get(node)
        if record is None:
            record = self._records[node] = Record(size_of(entry.attr))
        record.held = True
        return record

    def _record(self, node: int) -> Record:
        record = self._records.get(node)
        if record is None:
            raise refused(errno.ESTALE)
        return record

    def _resize(self, record: Record, size: int) -> None:
        """Count a file by another size, whatever the limits say."""
        self.account.bytes += charge(size) - charge(record.size)
        record.size = size

    def _grow(self, record: Record, end: int) -> None:
        """Take the room that a file needs to reach that far; OSError where there is not so much."""
        record.changes += 1
        if end > record.size:
            self.account.take_bytes(charge(end) - charge(record.size))
            record.size = end

    def _drop_idle(self, node: int, record: Record) -> None:
        if record.idle and self._records.get(node) is record:
            del self._records[node]
            if record.gone:
                self.account.bytes -= charge(record.size)
                self.account.files -= 1

    async def _measure(self, node: int, record: Record) -> None:
        """Count a file by what its size is now, and by what is under way."""
        for _ in range(3):
            changes = record.changes
            try:
                attr = await settled(self.inner.getattr(_ITSELF, node, None))
            except OSError:
                return
            if record.changes == changes:
                self._resize(record, record.may_end(size_of(attr)))
                return
        # It changes all the time, and what it counts is at least its size.

    def forget(self, node: int) -> None:
        """Give back what a file without a name used, if nobody has it open."""
        record = self._records.get(node)
        if record is not None:
            record.held = False
            self._drop_idle(node, record)
        self.inner.forget(node)

    # ---- Finding ----

    def _found(self, entry: Entry | None) -> Entry | None:
        if entry is not None:
            self._enter(entry)
        return entry

    def lookup(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[Entry | None]:
        """Find a name."""
        return then(self.inner.lookup(caller, parent, name), self._found)

    def readdir(self, caller: Caller, node: int, handle: H | None, offset: int) -> MaybeAwaitable[Entries]:
        """List names without attributes: the kernel looks up what it wants to know, and forgets it again."""
        return each_entry(self.inner.readdir(caller, node, handle, offset), _without_entry)

    async def _peek(self, parent: int, name: str) -> Entry | None:
        """Return what a name leads to, which `_let_go` is to be told of when that is over."""
        return await settled(self.inner.lookup(_ITSELF, parent, name))

    def _let_go(self, entry: Entry | None) -> None:
        """Have what was peeked at forgotten, unless the kernel knows it, too."""
        if entry is None:
            return
        record = self._records.get(node_of(entry))
        if record is None or not record.held:
            self.inner.forget(node_of(entry))

    # ---- Names that are made ----

    async def _made(self, answer: MaybeAwaitable[Entry]) -> Entry:
        entry = await settled(answer)
        self._enter(entry)
        return entry

    async def _making(self, make: Callable[[], MaybeAwaitable[Entry]]) -> Entry:
        self.account.take_file()
        try:
            return await self._made(make())
        except BaseException:
            self.account.files -= 1
            raise

    async def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file."""
        return await self._making(lambda: self.inner.mknod(caller, parent, name, mode, rdev))

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory."""
        return await self._making(lambda: self.inner.mkdir(caller, parent, name, mode))

    async def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link."""
        return await self._making(lambda: self.inner.symlink(caller, parent, name, target))

    async def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        """Give a file one more name, which costs nothing."""
        entry = await settled(self.inner.link(caller, node, parent, name))
        self._enter(entry).gone = False
        return entry

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[H]]:
        """Make a file and open it, or open the one that is there."""
        there = await self._peek(parent, name)
        if there is None:
            self.account.take_file()
        try:
            entry, opened = await settled(self.inner.create(caller, parent, name, mode, flags))
            # What was there counts by the size that it had.
            record = self._enter(there if there is not None and node_of(there) == node_of(entry) else entry)
        except BaseException:
            if there is None:
                self.account.files -= 1
            raise
        finally:
            self._let_go(there)
        record.opens += 1
        self._note_opened(opened, flags)
        if flags & os.O_TRUNC:
            record.changes += 1
            await self._measure(node_of(entry), record)
        return entry, opened

    async def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened[H]]:
        """Make a file without a name, which counts as long as somebody has it."""
        self.account.take_file()
        try:
            entry, opened = await settled(self.inner.tmpfile(caller, parent, mode, flags))
        except BaseException:
            self.account.files -= 1
            raise
        record = self._enter(entry)
        record.gone = True
        record.opens += 1
        self._note_opened(opened, flags)
        return entry, opened

    # ---- Names that are removed ----

    async def _removed(self, entry: Entry) -> None:
        """Give back what a file used that has lost a name, if that was the last one."""
        node = node_of(entry)
        record = self._records.get(node)
        gone = stat.S_ISDIR(entry.attr.mode)
        size = size_of(entry.attr)
        if not gone:
            try:
                attr = await settled(self.inner.getattr(_ITSELF, node, None))
                gone, size = attr.nlink == 0, size_of(attr)
            except OSError:
                gone = True
        if not gone:
            return
        record = self._records.get(node)
        if record is None:
            self.account.bytes -= charge(size)
            self.account.files -= 1
        else:
            record.gone = True
            self._drop_idle(node, record)

    async def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a name."""
        await self._removing(parent, name, lambda: self.inner.unlink(caller, parent, name))

    async def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a directory."""
        await self._removing(parent, name, lambda: self.inner.rmdir(caller, parent, name))

    async def _removing(self, parent: int, name: str, remove: Callable[[], MaybeAwaitable[None]]) -> None:
        there = await self._peek(parent, name)
        try:
            await settled(remove())
            if there is not None:
                await self._removed(there)
        finally:
            self._let_go(there)

    async def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename; what is replaced is removed, and a whiteout is a file more."""
        keeps = flags & (RenameFlags.NOREPLACE | RenameFlags.EXCHANGE)
        same = (parent, name) == (new_parent, new_name)
        there = None if keeps or same else await self._peek(new_parent, new_name)
        whiteout = RenameFlags.WHITEOUT in flags
        try:
            if whiteout:
                self.account.take_file()
            try:
                await settled(self.inner.rename(caller, parent, name, new_parent, new_name, flags))
            except BaseException:
                self.account.files -= whiteout
                raise
            if there is not None:
                await self._removed(there)
        finally:
            self._let_go(there)

    # ---- Files ----

    def _note_opened(self, opened: Opened[H], flags: int) -> None:
        handle = opened.handle
        if handle is not None and (flags & os.O_APPEND or id(handle) in self._appending):
            _, given = self._appending.get(id(handle), (handle, 0))
            self._appending[id(handle)] = handle, given + 1

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Open a file."""
        if flags & os.O_TRUNC:
            return self._open_empty(caller, node, flags)
        record = self._record(node)

        def opened(answer: Opened[H]) -> Opened[H]:
            record.opens += 1
            self._note_opened(answer, flags)
            return answer

        return then(self.inner.open(caller, node, flags), opened)

    async def _open_empty(self, caller: Caller, node: int, flags: int) -> Opened[H]:
        record = self._record(node)
        opened = await settled(self.inner.open(caller, node, flags))
        record.opens += 1
        self._note_opened(opened, flags)
        record.changes += 1
        await self._measure(node, record)
        return opened

    def release(self, caller: Caller, node: int, handle: H, flags: int) -> MaybeAwaitable[None]:
        """Give a handle up, and perhaps what a file without a name used."""
        _, given = self._appending.pop(id(handle), (handle, 0))
        if given > 1:
            self._appending[id(handle)] = handle, given - 1

        def released(_answer: None) -> None:
            record = self._records.get(node)
            if record is not None and record.opens:
                record.opens -= 1
                self._drop_idle(node, record)

        return then(self.inner.release(caller, node, handle, flags), released)

    def write(
        self, caller: Caller, node: int, handle: H | None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> MaybeAwaitable[int]:
        """Write, where there is room for it."""
        record = self._record(node)
        appends = id(handle) in self._appending and WriteFlags.CACHE not in flags
        end = (record.size if appends else offset) + data.size
        before = record.size
        self._grow(record, end)
        try:
            answer = self.inner.write(caller, node, handle, offset, data, flags)
        except OSError as error:
            if record.size == before:
                raise
            return self._failed(node, record, error)
        if inspect.isawaitable(answer):
            begun = answer
            return self._pending(node, record, end, lambda: begun)
        if appends or (answer < data.size and record.size > before):
            return self._measured(node, record, answer)
        return answer

    async def _failed(self, node: int, record: Record, error: OSError) -> int:
        await self._measure(node, record)
        raise error

    async def _measured(self, node: int, record: Record, answer: int) -> int:
        await self._measure(node, record)
        return answer

    async def _pending[Result](
        self, node: int, record: Record, end: int, work: Callable[[], MaybeAwaitable[Result]]
    ) -> Result:
        """Do what may make a file reach that far, and count by what it did."""
        token = object()
        record.pending[token] = end
        try:
            return await settled(work())
        finally:
            del record.pending[token]
            record.changes += 1
            try:
                await self._measure(node, record)
            finally:
                self._drop_idle(node, record)

    def setattr(self, caller: Caller, node: int, handle: H | None, changes: SetAttr) -> MaybeAwaitable[Attr]:
        """Change attributes; a file may become longer where there is room for it."""
        if changes.size is None:
            return self.inner.setattr(caller, node, handle, changes)
        record = self._record(node)
        self._grow(record, changes.size)
        return self._pending(
            node, record, changes.size, lambda: self.inner.setattr(caller, node, handle, changes)
        )

    async def fallocate(
        self, caller: Caller, node: int, handle: H | None, mode: int, offset: int, length: int
    ) -> None:
        """Reserve room; EOPNOTSUPP for room beyond the end of a file that keeps its size."""
        record = self._record(node)
        end = offset + length
        if mode & (FallocateFlags.PUNCH_HOLE | FallocateFlags.COLLAPSE_RANGE):
            end = 0
        elif mode & FallocateFlags.INSERT_RANGE:
            end = record.size + length
        elif mode & FallocateFlags.KEEP_SIZE and end > record.size:
            raise refused(errno.EOPNOTSUPP)
        self._grow(record, end)
        await self._pending(
            node, record, end, lambda: self.inner.fallocate(caller, node, handle, mode, offset, length)
        )

    async def copy_file_range(
        self,
        caller: Caller,
        source: int,
        source_handle: H | None,
        source_offset: int,
        target: int,
        target_handle: H | None,
        target_offset: int,
        length: int,
    ) -> int:
        """Copy as much as the source has, where there is room for that."""
        record = self._record(target)
        most = max(0, self._record(source).size - source_offset)
        end = target_offset + min(length, most)
        self._grow(record, end)
        return await self._pending(
            target,
            record,
            end,
            lambda: self.inner.copy_file_range(
                caller,
                source,
                source_handle,
                source_offset,
                target,
                target_handle,
                target_offset,
                min(length, most),
            ),
        )

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> MaybeAwaitable[StatFs]:
        """Tell what is left within the limits."""
        return then(self.inner.statfs(caller, node), self._bounded)

    def _bounded(self, inner: StatFs) -> StatFs:
        account = self.account
        if account.most_bytes is not None:
            size = inner.frsize or 4096
            free = max(0, account.most_bytes - account.bytes) // size
            inner = replace(
                inner,
                blocks=min(inner.blocks, account.most_bytes // size)
                if inner.blocks
                else account.most_bytes // size,
                bfree=min(inner.bfree, free),
                bavail=min(inner.bavail, free),
            )
        if account.most_files is not None:
            inner = replace(
                inner,
                files=min(inner.files, account.most_files) if inner.files else account.most_files,
                ffree=min(inner.ffree, max(0, account.most_files - account.files)),
            )
        return inner


def _without_entry(entry: DirEntry) -> DirEntry:
    return entry if entry.entry is None else replace(entry, entry=None)


@dataclass(frozen=True, slots=True)
class QuotaSettings(Layer):
    """How much a tree may hold."""

    bytes: Size | None = None
    files: Annotated[int, Field(ge=0)] | None = None
    error: Literal["EDQUOT", "ENOSPC"] = "EDQUOT"
    """What is answered beyond a limit."""

    def __post_init__(self) -> None:
        """Refuse a quota that is none."""
        if self.bytes is None and self.files is None:
            raise ValueError("a quota needs bytes, files, or both")

    def wrap(self, inner: Filesystem[Any]) -> Quota[Any]:
        """Return the layer."""
        return Quota(inner, Account(self.bytes, self.files, errno_of(self.error)))
