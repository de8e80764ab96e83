"""What a tree holds, counted: bytes and files, against limits; and a first count by walking through it.

A regular file counts by its size, rounded up to blocks of 4096 bytes, holes included: a guest may fill them
at any time. Everything else counts as a file of no bytes; the root does not count. A file of several names
counts once, and counts until its last name is gone, nobody has it open and the kernel has forgotten it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterable, Iterator
from typing import Any, Final

from vhostfs.filesystem import ROOT, Attr, Caller, DirEntry, Entry, Filesystem, implements, settled
from vhostfs.filesystem.refusals import refused

BLOCK: Final = 4096
_BREATH: Final = 64
"""How many names are counted before others on the event loop have a turn."""


def charge(size: int) -> int:
    """Return the bytes that a file of a size counts."""
    return -(-size // BLOCK) * BLOCK


def size_of(attr: Attr) -> int:
    """Return the size by which a file counts."""
    return attr.size if stat.S_ISREG(attr.mode) else 0


def node_of(entry: Entry) -> int:
    """Return the node of an entry."""
    return entry.attr.ino if entry.node is None else entry.node


class Account:
    """What is used, and what may be; None: without limit."""

    def __init__(self, most_bytes: int | None, most_files: int | None, error: int) -> None:
        """Begin with nothing used; `error` is what is raised beyond a limit."""
        self.most_bytes: Final = most_bytes
        self.most_files: Final = most_files
        self.bytes = 0
        self.files = 0
        self._error = error

    def take_bytes(self, size: int) -> None:
        """Use more bytes, or raise OSError; fewer are always possible."""
        if size > 0 and self.most_bytes is not None and self.bytes + size > self.most_bytes:
            raise refused(self._error)
        self.bytes += size

    def take_file(self) -> None:
        """Use one file more, or raise OSError."""
        if self.most_files is not None and self.files >= self.most_files:
            raise refused(self._error)
        self.files += 1


class Record:
    """A file that the kernel knows, or has open. `size` is what is counted: at least the file's own."""

    __slots__ = ("changes", "gone", "held", "opens", "pending", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = True
        """The kernel knows it."""
        self.opens = 0
        self.gone = False
        """It has no name any more."""
        self.pending: dict[object, int] = {}
        """Where writes that are under way may end."""
        self.changes = 0
        """Counts what may have changed its size."""

    def may_end(self, size: int) -> int:
        """Return the size that a file of this size may have when what is under way is done."""
        return max(size, *self.pending.values()) if self.pending else size

    @property
    def idle(self) -> bool:
        """Tell whether nobody needs it any more."""
        return not (self.held or self.opens or self.pending)


async def count(filesystem: Filesystem[Any], account: Account) -> None:
    """Count what a tree holds, through its file system; raise OSError where that cannot be told."""
    account.bytes = account.files = 0
    caller = Caller()
    linked: set[int] = set()
    waiting = [ROOT]
    try:
        while waiting:
            directory = waiting.pop()
            try:
                for done, name in enumerate(await _names(filesystem, caller, directory)):
                    if done % _BREATH == _BREATH - 1:
                        await asyncio.sleep(0)
                    try:
                        entry = await settled(filesystem.lookup(caller, directory, name))
                    except FileNotFoundError:
                        entry = None
                    if entry is None:
                        continue
                    node = node_of(entry)
                    if stat.S_ISDIR(entry.attr.mode):
                        account.files += 1
                        waiting.append(node)
                    elif node not in linked:
                        account.files += 1
                        account.bytes += charge(size_of(entry.attr))
                        if entry.attr.nlink > 1:
                            linked.add(node)  # kept, so that its other names lead to the same node
                        else:
                            filesystem.forget(node)
            finally:
                if directory != ROOT:
                    filesystem.forget(directory)
    finally:
        for node in (*waiting, *linked):
            if node != ROOT:
                filesystem.forget(node)


async def _names(filesystem: Filesystem[Any], caller: Caller, node: int) -> list[str]:
    """Return the names in a directory."""
    handle = None
    opens = implements(filesystem, "opendir")
    if opens:
        handle = (await settled(filesystem.opendir(caller, node, os.O_RDONLY | os.O_DIRECTORY))).handle
    try:
        answer: Any = filesystem.readdir(caller, node, handle, 0)
        entries = await settled(answer) if hasattr(answer, "__await__") else answer
        if isinstance(entries, AsyncIterable):
            return [entry.name async for entry in entries if not _is_dots(entry)]
        listed: Iterator[DirEntry] = iter(entries)
        return [entry.name for entry in listed if not _is_dots(entry)]
    finally:
        if opens and implements(filesystem, "releasedir"):
            await settled(filesystem.releasedir(caller, node, handle, os.O_RDONLY))


def _is_dots(entry: DirEntry) -> bool:
    return entry.name in {".", ".."}
