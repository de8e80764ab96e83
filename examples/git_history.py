"""The history of a Git repository: a directory for each commit, with all files as they were.

    vhostfs serve examples.git_history:History --socket-path /tmp/history.sock --tag history

Shown here: asking a program from a thread, so that nobody else waits; a program that was started before the
sandbox was entered, and sees the host; nodes that are made when they are looked up, and forgotten.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from itertools import count
from typing import BinaryIO, NamedTuple, cast

from vhostfs.filesystem import ROOT, Attr, Caller, DirEntry, Entry, Filesystem, FileType, Options, ReadBuffer

type Tree = dict[str, tuple[int, str]]
DIRECTORY = stat.S_IFDIR | 0o555
MODES = {b"40000": DIRECTORY, b"160000": DIRECTORY, b"120000": stat.S_IFLNK | 0o777}
"""What Git's modes of directories, submodules and links mean; all others are files."""
TREES_KEPT = 1000


class Item(NamedTuple):
    """What a node is: a name in another one, the object there, and the time of its commit."""

    parent: int
    name: str
    mode: int
    oid: str
    time_ns: int


class History(Filesystem[None]):
    """The commits that lead to a revision."""

    options = Options(entry_seconds=86_400, attr_seconds=86_400, cache_symlinks=True)
    """Nothing of this ever changes."""

    def __init__(self, repository: str = ".", revision: str = "HEAD") -> None:
        """List the commits, and keep a Git running to be asked for objects."""
        git = ["git", "-C", repository]
        log = [*git, "log", "--format=%H %ct", revision, "--"]
        lines = subprocess.run(log, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        self._commits = {oid: int(seconds) * 10**9 for oid, seconds in map(str.split, lines)}
        pipe = subprocess.PIPE
        self._git = subprocess.Popen([*git, "cat-file", "--batch-command"], stdin=pipe, stdout=pipe)
        self._turn = asyncio.Lock()
        self._trees: dict[str, Tree] = {}
        self._last = ("", b"")
        self._items: dict[int, Item] = {}
        self._nodes: dict[Item, int] = {}
        self._next = count(ROOT + 1)

    def _ask(self, command: str, oid: str) -> tuple[int, bytes]:
        """Return the size of an object, and its content if the command is `contents`. Waits for Git."""
        to_git, from_git = cast(BinaryIO, self._git.stdin), cast(BinaryIO, self._git.stdout)
        to_git.write(f"{command} {oid}\n".encode())
        to_git.flush()
        words = from_git.readline().split()
        if len(words) < 3:
            return 0, b""  # It is missing: the commit of a submodule.
        size = int(words[2])
        return size, from_git.read(size + 1)[:size] if command == "contents" else b""

    async def _object(self, command: str, oid: str) -> tuple[int, bytes]:
        async def ask() -> tuple[int, bytes]:
            async with self._turn:
                return await asyncio.to_thread(self._ask, command, oid)

        # A guest that loses interest cancels us; shielded, no answer is left behind for the next to find.
        return await asyncio.shield(asyncio.create_task(ask()))

    async def _content(self, oid: str) -> bytes:
        """Return a file's content: the last one's is at hand, as reads come in pieces."""
        if self._last[0] != oid:
            self._last = oid, (await self._object("contents", oid))[1]
        return self._last[1]

    async def _tree(self, item: Item) -> Tree:
        """Return what is in a directory."""
        if item.mode != DIRECTORY:
            return {}
        if item.oid not in self._trees:
            _, content = await self._object("contents", item.oid)
            if item.parent == ROOT:  # A commit, whose first line names its tree.
                _, content = await self._object("contents", content.split(maxsplit=2)[1].decode())
            tree: Tree = {}
            while content:
                head, _, rest = content.partition(b"\0")
                mode, _, name = head.partition(b" ")
                length = len(item.oid) // 2
                bits = MODES.get(mode, stat.S_IFREG | (0o555 if mode == b"100755" else 0o444))
                tree[os.fsdecode(name)] = bits, rest[:length].hex()
                content = rest[length:]
            if len(self._trees) >= TREES_KEPT:
                self._trees.clear()
            self._trees[item.oid] = tree
        return self._trees[item.oid]

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a commit by its whole name, or what is in a directory of one."""
        above = self._items.get(parent)
        if above is None:
            found, time_ns = (DIRECTORY, name), self._commits.get(name)
        else:
            found, time_ns = (await self._tree(above)).get(name, (0, "")), above.time_ns
        if time_ns is None or not found[1]:
            return None
        item = Item(parent, name, *found, time_ns)
        attr = await self._attr(item)
        node = self._nodes.setdefault(item, next(self._next))
        self._items[node] = item
        return Entry(attr, node)

    def forget(self, node: int) -> None:
        """Forget what the kernel has forgotten."""
        del self._nodes[self._items.pop(node)]

    async def _attr(self, item: Item) -> Attr:
        size = 0 if item.mode == DIRECTORY else (await self._object("info", item.oid))[0]
        return Attr(_ino(item.oid), item.mode, size, mtime_ns=item.time_ns, ctime_ns=item.time_ns)

    async def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        """Return attributes; all times are the commit's."""
        return Attr.directory(ROOT, 0o555) if node == ROOT else await self._attr(self._items[node])

    async def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> AsyncIterator[DirEntry]:
        """List names; the kernel looks up those that somebody wants to know more of."""
        tree = {oid: (DIRECTORY, oid) for oid in self._commits} if node == ROOT else None
        for name, (mode, oid) in (tree or await self._tree(self._items[node])).items():
            yield DirEntry(name, _ino(oid), FileType(stat.S_IFMT(mode) >> 12))

    async def readlink(self, caller: Caller, node: int) -> str:
        """Return a link's target: Git keeps it as a file's content."""
        return os.fsdecode(await self._content(self._items[node].oid))

    async def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        """Return a piece. Nobody opens anything: a file is known by its node, and never changes."""
        return (await self._content(self._items[node].oid))[offset : offset + buffer.size]


def _ino(oid: str) -> int:
    """Return an inode number: the same content has the same one."""
    return int(oid[:15], 16) | 1 << 60
