"""File systems in Python for guests: what a daemon of the tests serves by the name of this module."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

from vhostfs.filesystem import ROOT, Attr, Caller, DirEntry, Entry, Filesystem, Options, ReadBuffer

COUNT = 100_000
FIRST = 1000
MOST = 2


class Crowd(Filesystem[None]):
    """A directory of 100,000 files, listed nowhere, and `most`: how many entries lived at once."""

    options = Options(attr_seconds=60, entry_seconds=60)

    def __init__(self) -> None:
        self.most = 0

    @staticmethod
    def entry(number: int) -> Entry:
        """Make the entry of a file."""
        return Entry(Attr.file(FIRST + number, size=number))

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a file by its number."""
        if name == "most":
            return Entry(self.getattr(caller, MOST, None), attr_seconds=0)
        digits = name.removeprefix("file")
        return self.entry(int(digits)) if digits.isdecimal() and int(digits) < COUNT else None

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        """Return attributes; the size says which file it is."""
        if node == ROOT:
            return Attr.directory(ROOT)
        return Attr.file(MOST, 8) if node == MOST else self.entry(node - FIRST).attr

    async def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> AsyncIterator[DirEntry]:
        """Make entries as they are wanted, and look around now and then for those that live."""
        for number in range(offset, COUNT):
            if number % 20 == 0:
                await asyncio.sleep(0)
            if number % 10_000 == 9_999:
                self.most = max(self.most, sum(type(each) is DirEntry for each in gc.get_objects()))
            yield DirEntry.of(f"file{number:05}", self.entry(number), number + 1)

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        """Tell how many there were, in eight digits."""
        return f"{self.most:7}\n".encode()[offset : offset + buffer.size] if node == MOST else b""
