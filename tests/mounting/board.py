"""File systems that tests talk to: what they are asked is noted, what they answer is the test's to say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    Opened,
    Options,
    ReadBuffer,
    Session,
)
from vhostfs.fuse_abi.flags import OpenReplyFlags

FOR_EVER = 86400.0


class Board(Filesystem[None]):
    """Files in one directory, of which the kernel may keep for ever what it was told."""

    options = Options(entry_seconds=FOR_EVER, attr_seconds=FOR_EVER, negative_seconds=FOR_EVER)

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.nodes = {name: number for number, name in enumerate(files, 2)}
        self.asked: list[str] = []
        self.forgotten: list[int] = []
        self.session: Session

    def init(self, session: Session) -> None:
        self.session = session

    def forget(self, node: int) -> None:
        self.forgotten.append(node)

    def _attr(self, node: int) -> Attr:
        if node == ROOT:
            return Attr.directory(ROOT)
        return Attr.file(node, len(self.content(node)))

    def content(self, node: int) -> bytes:
        return next(self.files[name] for name, number in self.nodes.items() if number == node)

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        self.asked.append(f"lookup {name}")
        return Entry(self._attr(self.nodes[name])) if name in self.files else None

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        self.asked.append(f"getattr {node}")
        return self._attr(node)

    def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> Iterator[DirEntry]:
        for name in self.files:
            yield DirEntry(name, self.nodes[name])

    def open(self, caller: Caller, node: int, flags: int) -> Opened[None]:
        return Opened(None, OpenReplyFlags.KEEP_CACHE)

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        self.asked.append(f"read {node}")
        return self.content(node)[offset : offset + buffer.size]


class Sleeper(Filesystem[None]):
    """`awake` is read at once; `asleep`, when `wake` is called; `hidden` is looked for in vain, till then.

    So are directories made.
    """

    def __init__(self) -> None:
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.session: Session
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Let the sleeping requests be answered."""
        self._awake.set()

    def init(self, session: Session) -> None:
        self.session = session

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        return Attr.directory(ROOT) if node == ROOT else Attr.file(node, 6 if node == 3 else 5)

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        if name == "hidden":
            await self._sleep()
        node = {"awake": 2, "asleep": 3}.get(name)
        return None if node is None else Entry(self.getattr(caller, node, None))

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        await self._sleep()
        raise PermissionError

    async def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        if node == 2:
            return b"awake"[offset:]
        await self._sleep()
        return b"asleep"[offset:]

    def open(self, caller: Caller, node: int, flags: int) -> Opened[None]:
        # Else it is the kernel's reading ahead that waits, which no signal ends.
        return Opened(None, OpenReplyFlags.DIRECT_IO)

    async def _sleep(self) -> None:
        self.began.set()
        try:
            await self._awake.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
