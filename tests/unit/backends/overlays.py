"""Layers for tests of overlays: memory file systems, filled and looked at as if by a program."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Any

from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.filesystem import Filesystem
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
