"""The file system that is measured, on vhostfs: twice, with `def` and with `async def`.

As a program: in_memory.py DIRECTORY MOUNTPOINT CLASS mounts it on this host.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import vhostfs
from benchmarks.python.content import load
from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    Opened,
    OpenReplyFlags,
    Options,
    ReadBuffer,
    WriteBuffer,
    WriteFlags,
)


class Held(Filesystem[memoryview]):
    """What both have: everything is made before it is asked for."""

    options = Options(entry_seconds=3600, attr_seconds=3600, negative_seconds=0)

    def __init__(self, directory: str) -> None:
        """Take what is in a directory into memory."""
        nodes = load(Path(directory))
        self._attrs = {
            node.number: Attr.directory(node.number)
            if node.data is None
            else Attr.file(node.number, node.size)
            for node in nodes
        }
        self._entries = {
            node.number: {name: Entry(self._attrs[child.number]) for name, child in node.children.items()}
            for node in nodes
        }
        self._listings = {
            number: [DirEntry.of(name, entry) for name, entry in entries.items()]
            for number, entries in self._entries.items()
        }
        self._opened = {
            node.number: Opened(node.data, OpenReplyFlags.DIRECT_IO)
            for node in nodes
            if node.data is not None
        }


class Def(Held):
    """Every operation is `def`."""

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        return self._entries[parent].get(name)

    def getattr(self, caller: Caller, node: int, handle: memoryview | None) -> Attr:
        return self._attrs[node]

    def open(self, caller: Caller, node: int, flags: int) -> Opened[memoryview]:
        return self._opened[node]

    def read(
        self, caller: Caller, node: int, handle: memoryview | None, offset: int, buffer: ReadBuffer
    ) -> memoryview:
        assert handle is not None
        return handle[offset : offset + buffer.size]

    def write(
        self,
        caller: Caller,
        node: int,
        handle: memoryview | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        assert handle is not None
        return data.read_into(handle[offset : offset + data.size])

    def readdir(
        self, caller: Caller, node: int, handle: memoryview | None, offset: int
    ) -> Iterator[DirEntry]:
        return iter(self._listings[node])


class AsyncDef(Held):
    """Every operation is `async def`, and waits for nothing."""

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        return self._entries[parent].get(name)

    async def getattr(self, caller: Caller, node: int, handle: memoryview | None) -> Attr:
        return self._attrs[node]

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[memoryview]:
        return self._opened[node]

    async def read(
        self, caller: Caller, node: int, handle: memoryview | None, offset: int, buffer: ReadBuffer
    ) -> memoryview:
        assert handle is not None
        return handle[offset : offset + buffer.size]

    async def write(
        self,
        caller: Caller,
        node: int,
        handle: memoryview | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        assert handle is not None
        return data.read_into(handle[offset : offset + data.size])

    async def readdir(
        self, caller: Caller, node: int, handle: memoryview | None, offset: int
    ) -> AsyncIterator[DirEntry]:
        for entry in self._listings[node]:
            yield entry


if __name__ == "__main__":
    vhostfs.mount({"Def": Def, "AsyncDef": AsyncDef}[sys.argv[3]](sys.argv[1]), sys.argv[2])
