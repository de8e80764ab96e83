"""Small files that are read one after another: those that come next are fetched before anybody asks.

Who reads a few files of a directory in the order of its listing will most likely read the next ones, too. A
request for a whole small object tells its metadata along with its bytes, so that whoever opens the file then
waits for nothing. Only what a listing has told, and may still be believed, is fetched, at its ETag.
"""

from __future__ import annotations

import asyncio
import stat
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.naming.namespace import Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.store import ObjectInfo

SMALL: Final = 256 << 10
"""The largest file that counts."""

READS_BEFORE: Final = 3
"""How many files are read in order before others are fetched."""

AHEAD: Final = 32
AHEAD_MAXIMUM: Final = 128
"""How many files are fetched before they are asked for: at first, and when as many were read in order."""

NEAR: Final = 32
"""How far from the last one a file may be: threads that share the work overtake each other."""

DIRECTORIES: Final = 64
"""In how many directories order is looked for at a time."""

MEMORY_PART: Final = 8
"""What is fetched at once takes no more than such a part of the memory."""


@dataclass(slots=True)
class _Order:
    """What was read of a directory."""

    listed_until: float
    names: Sequence[str]
    last: int
    """The name that was read last, as its place in the order."""
    reads: int = 1
    ahead: int = 0
    """Up to where files were fetched."""

    @property
    def window(self) -> int:
        """Return how many files are to be fetched ahead: many may read at once."""
        return min(max(AHEAD, self.reads), AHEAD_MAXIMUM)


class Siblings:
    """Fetches the neighbours of what is read. For one event loop."""

    def __init__(self, names: Namespace, cache: BlockCache) -> None:
        """Nothing was read yet."""
        self._names, self._cache = names, cache
        self._orders: OrderedDict[int, _Order] = OrderedDict()
        self._under_way: set[asyncio.Task[None]] = set()
        self._bytes = 0

    def note(self, node: Node) -> None:
        """Take note that a file begins to be read from its start."""
        directory = node.parent
        if directory is None or node.gone or node.size > SMALL or directory.listed_until <= time.monotonic():
            return
        order = self._order(directory)
        place = bisect_left(order.names, node.name)
        if place < len(order.names) and order.names[place] == node.name:
            if abs(place - order.last) > NEAR:
                order.reads, order.ahead, order.last = 0, 0, place
            order.reads += 1
            order.last = max(order.last, place)
            if order.reads >= READS_BEFORE and order.ahead - order.last < order.window // 2:
                self._fetch_ahead(directory, order)

    def end(self) -> None:
        """Wait for nothing any more."""
        for task in self._under_way:
            task.cancel()
        self._orders.clear()

    def _order(self, directory: Node) -> _Order:
        order = self._orders.pop(directory.number, None)
        if order is None or order.listed_until != directory.listed_until:
            names = sorted(child.name for child in directory.children.values() if child.type == stat.S_IFREG)
            order = _Order(directory.listed_until, names, last=-NEAR - 1)
        self._orders[directory.number] = order
        while len(self._orders) > DIRECTORIES:
            self._orders.popitem(last=False)
        return order

    def _fetch_ahead(self, directory: Node, order: _Order) -> None:
        begin = max(order.ahead, order.last + 1)
        end = min(order.last + 1 + order.window, len(order.names))
        for name in order.names[begin:end]:
            child = directory.children.get(name)
            if child is not None and self._is_wanted(child):
                if (self._bytes + child.size) * MEMORY_PART > self._cache.memory.size:
                    return
                self._bytes += child.size
                task = asyncio.ensure_future(self._fetch(child))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            order.ahead = order.ahead + 1 if order.ahead >= begin else begin + 1

    def _is_wanted(self, node: Node) -> bool:
        return (
            node.etag is not None
            and node.type == stat.S_IFREG
            and 0 < node.size <= SMALL
            and not (node.is_local or node.opens or node.gone)
            and node.expires > time.monotonic()
        )

    async def _fetch(self, node: Node) -> None:
        size = node.size
        try:
            await self._names.learn(node, lambda: self._get(node))
        except OSError:
            pass  # who opens it is told
        finally:
            self._bytes -= size

    async def _get(self, node: Node) -> ObjectInfo | None:
        """Fetch a file, if nothing is there of it; return what the store told of it."""
        assert node.etag is not None
        version = self._cache.version(self._names.key(node), node.etag, node.size)
        try:
            if version.blocks:
                return None
            fetch = self._cache.fetch(version, 0, node.size)
            self._cache.counters.prefetched += fetch is not None
            return None if fetch is None else await fetch.wait()
        finally:
            version.close()
