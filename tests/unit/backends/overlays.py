"""Layers for tests of overlays: memory file systems, filled and looked at as if by a program."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.backends.overlay import OverlayFilesystem
from vhostfs.filesystem import OPERATIONS, Entry, Filesystem, Opened, Wrapper, implements
from vhostfs.testing import Client, mount

type Content = Mapping[str, Content | bytes | str | None]
"""A directory: files by their bytes, symbolic links by their targets, None for a whiteout."""


def memory(size: int = 64 << 20) -> MemoryFilesystem:
    """Return an empty memory file system."""
    return MemoryFilesystem(size=size, inodes=100_000, mode=0o755)


async def layer(content: Content, *opaque: str) -> MemoryFilesystem:
    """Return a memory file system with a content; the directories of these paths are opaque."""
    filesystem = memory()
    async with mount(filesystem) as client:
        await fill(client, content)
        for path in opaque:
            await client.setxattr_node(await node_of(client, path), "trusted.overlay.opaque", b"y")
    return filesystem


async def fill(client: Client, content: Content, base: str = "") -> None:
    """Make the files of a content."""
    for name, what in content.items():
        path = f"{base}/{name}"
        if isinstance(what, bytes):
            await client.write_bytes(path, what)
        elif isinstance(what, str):
            await client.symlink(what, path)
        elif what is None:
            await client.mknod(path, stat.S_IFCHR, 0)
        else:
            await client.mkdir(path)
            await fill(client, what, path)


async def tree(client: Client, base: str = "") -> Content:
    """Return what a directory shows; devices and the like are None, as whiteouts are."""
    found: dict[str, Content | bytes | str | None] = {}
    for name in await client.listdir(base or "/"):
        path = f"{base}/{name}"
        attr = await client.stat(path)
        if stat.S_ISDIR(attr.mode):
            found[name] = await tree(client, path)
        elif stat.S_ISLNK(attr.mode):
            found[name] = await client.readlink(path)
        else:
            found[name] = await client.read_bytes(path) if stat.S_ISREG(attr.mode) else None
    return found


async def content_of(filesystem: Filesystem[Any]) -> Content:
    """Return what a layer holds, seen by itself."""
    async with mount(filesystem) as client:
        return await tree(client)


async def node_of(client: Client, path: str) -> int:
    """Look a path up; return its node, the lookups of all on the way being held."""
    node = client.root
    for name in filter(None, path.split("/")):
        node = (await client.lookup(node, name)).nodeid
    return node


@asynccontextmanager
async def overlaid(
    upper: Filesystem[Any] | None, *lowers: Filesystem[Any], userxattr: bool = False
) -> AsyncIterator[Client]:
    """Provide a kernel that has an overlay mounted, the topmost layer first."""
    async with mount(OverlayFilesystem(lowers, upper, userxattr=userxattr)) as client:
        yield client


class Watched(Wrapper[Any]):
    """Notes what is asked of a file system, and what was given out and not given back."""

    def __init__(self, inner: Filesystem[Any]) -> None:
        super().__init__(inner)
        self.asked: Counter[str] = Counter()
        self.held: set[int] = set()
        self.handles = 0
        for operation in OPERATIONS:
            if implements(inner, operation):
                setattr(self, operation, self._watched(operation, getattr(inner, operation)))

    def _watched(self, operation: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self.asked[operation] += 1
            self.handles -= operation in {"release", "releasedir"}
            answered = answer(*arguments)
            for each in answered if type(answered) is tuple else (answered,):
                if isinstance(each, Entry):
                    self.held.add(each.attr.ino)
                self.handles += isinstance(each, Opened)
            return answered

        return watched

    def forget(self, node: int) -> None:
        """Forget what was given out."""
        self.held.remove(node)
        self.inner.forget(node)


class Slow(Wrapper[Any]):
    """Gives others their turn in some operations."""

    def __init__(self, inner: Filesystem[Any], operations: Iterable[str] = OPERATIONS) -> None:
        super().__init__(inner)
        for operation in operations:
            if implements(inner, operation):
                setattr(self, operation, self._slowed(getattr(inner, operation)))

    @staticmethod
    def _slowed(answer: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def slowed(*arguments: Any) -> Any:
            await asyncio.sleep(0)
            return answer(*arguments)

        return slowed


class Failing(Wrapper[Any]):
    """Refuses what is asked of it from some moment on; `left` says how much before that."""

    def __init__(self, inner: Filesystem[Any], bad: int) -> None:
        super().__init__(inner)
        self.left: int | None = None
        self._bad = bad
        for operation in OPERATIONS:
            if implements(inner, operation):
                setattr(self, operation, self._failing(getattr(inner, operation)))

    def _failing(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if -self._bad <= self.left < 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return answer(*arguments)

        return failing
