"""File systems for tests of files: ones that count what is held, and ones that answer only some."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from vhostfs.files import FileHandle
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    Opened,
    OpenReplyFlags,
    ReadBuffer,
    Wrapper,
    settled,
)

ROOT_CALLER = Caller()


async def node_of(filesystem: Filesystem[Any], path: str) -> int:
    """Return the node of a path without links."""
    node = ROOT
    for name in path.split("/"):
        if name:
            entry = await settled(filesystem.lookup(ROOT_CALLER, node, name))
            assert entry is not None
            node = entry.attr.ino if entry.node is None else entry.node
    return node


async def attr_of(filesystem: Filesystem[Any], path: str) -> Attr:
    """Return the attributes of a path without links."""
    return await settled(filesystem.getattr(ROOT_CALLER, await node_of(filesystem, path), None))


async def make(filesystem: Filesystem[Any], path: str, content: bytes | None = None) -> int:
    """Make a file with this content, or a directory without one; return its node."""
    parent, _, name = path.rpartition("/")
    if content is None:
        await settled(filesystem.mkdir(ROOT_CALLER, await node_of(filesystem, parent), name, 0o755))
    else:
        async with await FileHandle.open(filesystem, path, "xb") as file:
            await file.write(content)
    return await node_of(filesystem, path)


async def symlink(filesystem: Filesystem[Any], path: str, target: str) -> None:
    """Make a symbolic link."""
    parent, _, name = path.rpartition("/")
    await settled(filesystem.symlink(ROOT_CALLER, await node_of(filesystem, parent), name, target))


async def content_of(filesystem: Filesystem[Any], path: str) -> bytes:
    """Return a file's content."""
    async with await FileHandle.open(filesystem, path, "rb") as file:
        return await file.read()


class Counting(Wrapper[Any]):
    """Counts lookups and handles: `held` and `opened` are empty when all were given back."""

    def __init__(self, inner: Filesystem[Any]) -> None:
        super().__init__(inner)
        self._given: Counter[int] = Counter()
        self.opened = 0

    @property
    def held(self) -> set[int]:
        """Return the nodes that were given out and not forgotten since."""
        return set(+self._given)

    def _give(self, entry: Entry) -> Entry:
        self._given[entry.attr.ino] += 1
        return entry

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        assert parent == ROOT or parent in self.held
        entry = await settled(self.inner.lookup(caller, parent, name))
        return None if entry is None else self._give(entry)

    def forget(self, node: int) -> None:
        assert self._given.pop(node), "a node is forgotten once"
        self.inner.forget(node)

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Any]]:
        entry, opened = await settled(self.inner.create(caller, parent, name, mode, flags))
        self.opened += 1
        return self._give(entry), opened

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        return self._give(await settled(self.inner.mkdir(caller, parent, name, mode)))

    async def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        return self._give(await settled(self.inner.mknod(caller, parent, name, mode, rdev)))

    async def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        return self._give(await settled(self.inner.symlink(caller, parent, name, target)))

    async def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        assert node in self.held
        return self._give(await settled(self.inner.link(caller, node, parent, name)))

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[Any]:
        assert node in self.held
        opened = await settled(self.inner.open(caller, node, flags))
        self.opened += 1
        return opened

    async def release(self, caller: Caller, node: int, handle: Any, flags: int) -> None:
        assert node in self.held
        self.opened -= 1
        await settled(self.inner.release(caller, node, handle, flags))


class Plain(Filesystem[None]):
    """Answers the least that can be read: no handles, and an async listing that tells no types."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names = {name: number for number, name in enumerate(files, 2)}
        self.contents = {self.names[name]: data for name, data in files.items()}

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        return Attr.directory(1) if node == 1 else Attr.file(node, len(self.contents[node]))

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        await asyncio.sleep(0)
        node = self.names.get(name)
        return None if node is None else Entry(self.getattr(caller, node, None))

    async def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> AsyncIterator[DirEntry]:
        async def entries() -> AsyncIterator[DirEntry]:
            yield DirEntry(".", 1)
            for name, number in self.names.items():
                await asyncio.sleep(0)
                yield DirEntry(name, number)

        return entries()

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        return self.contents[node][offset : offset + buffer.size]


class Direct(Plain):
    """Hands its data out in parts of 3 bytes, with DIRECT_IO, where fewer than wanted do not mean the end."""

    def open(self, caller: Caller, node: int, flags: int) -> Opened[None]:
        return Opened(None, OpenReplyFlags.DIRECT_IO)

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        return super().read(caller, node, handle, offset, buffer)[:3]
