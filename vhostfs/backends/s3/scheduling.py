"""When changes are committed, and that no file is committed twice at once."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from vhostfs.backends.s3.committing import Committer
from vhostfs.backends.s3.namespace import Namespace
from vhostfs.backends.s3.nodes import Node

logger = logging.getLogger(__name__)

SOON_SECONDS: Final = 0.2
"""How long attributes that change one by one are waited for."""


class Commits:
    """All commits of a file system. For one event loop."""

    def __init__(self, committer: Committer, names: Namespace) -> None:
        """Nothing is to be committed yet."""
        self._committer, self._names = committer, names
        self._locks: dict[int, asyncio.Lock] = {}
        self._soon: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def lock(self, node: Node) -> asyncio.Lock:
        """Return what keeps others from committing, deleting or renaming a file."""
        lock = self._locks.get(node.number)
        if lock is None:
            lock = self._locks[node.number] = asyncio.Lock()
        return lock

    async def now(self, node: Node) -> None:
        """Commit all changes of a file or directory; raise StoreError, and keep them."""
        if node.gone or not node.is_local:
            return
        lock = self.lock(node)
        async with lock:
            if not node.gone and node.is_local:
                await self._committer.commit(node)
        if not lock.locked():
            self._locks.pop(node.number, None)

    async def make(self, node: Node, body: bytes) -> None:
        """Write a new object at once; raise StoreError."""
        async with self.lock(node):
            await self._committer.make(node, body)
        self._locks.pop(node.number, None)

    def soon(self, node: Node) -> None:
        """Commit attributes when no more changes have come for a moment: they often come one by one."""
        timer = self._soon.pop(node.number, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._soon[node.number] = loop.call_later(SOON_SECONDS, self._begin, node)

    async def below(self, directory: Node) -> None:
        """Commit all changes of what is below a directory, deepest first."""
        for child in list(directory.children.values()):
            if child.is_directory:
                await self.below(child)
            await self.now(child)

    async def end(self) -> None:
        """Commit everything that is not; what cannot be is told in the log, and given up."""
        for timer in self._soon.values():
            timer.cancel()
        self._soon.clear()
        await asyncio.gather(*self._tasks)
        for node in self._names.nodes:
            await self._attempt(node)

    def _begin(self, node: Node) -> None:
        self._soon.pop(node.number, None)
        task = asyncio.ensure_future(self._attempt(node))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, node: Node) -> None:
        try:
            await self.now(node)
        except OSError as error:
            logger.warning("%s: changes are not in the bucket: %s", self._names.key(node), error.strerror)
