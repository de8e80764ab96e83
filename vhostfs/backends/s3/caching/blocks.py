"""Versions of objects, as far as their bytes are in memory or on their way there.

A version is a key with its ETag and size: what is cached of one is never taken for another, and each request
names the ETag, so that no piece ever holds bytes of two. Pieces begin at multiples of BLOCK. Whoever needs a
block that is on its way waits for it, whoever asked for it first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from vhostfs.backends.s3.caching.counters import CacheCounters
from vhostfs.backends.s3.caching.disk import DiskCache, DiskStatus, Shelf
from vhostfs.backends.s3.caching.disk_files import BLOCK, Label
from vhostfs.backends.s3.caching.memory import SLAB, Memory, Slab
from vhostfs.backends.s3.store import ConditionError, ObjectInfo, ObjectStore, RangeError

DRAIN_MOST: Final = 256 << 10
"""A request for up to so much is left to end: a connection costs more than what could be saved."""


class Piece:
    """A stretch of an object in memory, or the place where it is being received."""

    __slots__ = ("begin", "fetch", "slab", "version", "view")

    def __init__(self, version: Version, begin: int, slab: Slab, view: memoryview) -> None:
        """A piece that nothing is known of yet."""
        self.version, self.begin, self.slab, self.view = version, begin, slab, view
        self.fetch: Fetch | None = None

    @property
    def owner(self) -> object:
        """Return whose it is: a mount's, as all that it knows."""
        return self.version.known

    @property
    def end(self) -> int:
        """Return where it ends in the object."""
        return self.begin + len(self.view)

    def evicted(self) -> int:
        """Let nobody find it any more."""
        blocks = self.version.blocks
        found = 0
        for block in range(self.begin // BLOCK, -(-self.end // BLOCK)):
            if blocks.get(block) is self:
                del blocks[block]
                found = len(self.view)
        self.version.trim()
        return found


class Version:
    """One version of one object."""

    __slots__ = ("blocks", "etag", "key", "known", "label", "name", "size", "users")

    def __init__(
        self, versions: dict[tuple[str, str, int], Version], store: str, key: str, etag: str, size: int
    ) -> None:
        """A version, in a store of a name, of which nothing is in memory."""
        self.known = versions
        self.label = Label(store, key, etag, size)
        self.name = self.label.name
        """What it is called on disk, if it can be there."""
        self.key, self.etag, self.size = key, etag, size
        self.blocks: dict[int, Piece] = {}
        self.users = 0

    def close(self) -> None:
        """Take note that one has no more need of it."""
        self.users -= 1
        self.trim()

    def trim(self) -> None:
        """Forget what nobody uses and nothing is known of."""
        if not self.users and not self.blocks:
            self.known.pop((self.key, self.etag, self.size), None)

    def missing_to(self, begin: int, end: int) -> int:
        """Return up to where no block is known from one on that is not."""
        block, last = begin // BLOCK, -(-end // BLOCK)
        while block < last and block not in self.blocks:
            block += 1
        return min(block * BLOCK, end)


class Fetch:
    """A request under way, and the pieces that it fills."""

    __slots__ = ("begin", "begun", "end", "from_disk", "pieces", "task", "waiters")

    def __init__(self, begin: int, end: int, pieces: list[Piece], *, from_disk: bool) -> None:
        """A fetch of a range; `task` is set at once by who begins it."""
        self.begin, self.end, self.pieces, self.from_disk = begin, end, pieces, from_disk
        self.begun = asyncio.get_running_loop().time()
        self.waiters = 0
        self.task: asyncio.Task[ObjectInfo | None]

    async def wait(self) -> ObjectInfo | None:
        """Wait for it, and return what the store told of the object, if it was asked; raise StoreError.

        Who stops to wait stops nobody else.
        """
        self.waiters += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.waiters -= 1

    def abandon(self) -> None:
        """End it, if nobody waits and it is worth that."""
        if not self.waiters and self.end - self.begin > DRAIN_MOST and not self.task.done():
            for piece in self.pieces:
                piece.evicted()  # nobody shall begin to wait for it
            self.task.cancel()


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How full the memory is."""

    size: int
    used: int
    evicted: int
    """Bytes that had to go from memory to make room, of all mounts."""
    versions: int
    disk: DiskStatus | None


class BlockCache:
    """What a mount has in memory of its bucket. For one event loop."""

    def __init__(self, store: ObjectStore, memory: Memory, shelf: Shelf | None = None) -> None:
        """A cache of what a store has, in memory and on a disk."""
        self._store, self.memory = store, memory
        self.disk = None if shelf is None else shelf.disk
        self._name = "" if shelf is None else shelf.store
        self._versions: dict[tuple[str, str, int], Version] = {}
        self._under_way: set[asyncio.Task[ObjectInfo | None]] = set()
        self.counters = CacheCounters()

    def version(self, key: str, etag: str, size: int) -> Version:
        """Return a version, which is not forgotten before it was closed."""
        version = self._versions.get((key, etag, size))
        if version is None:
            version = self._versions[key, etag, size] = Version(self._versions, self._name, key, etag, size)
        version.users += 1
        return version

    def status(self) -> CacheStatus:
        """Return how full it is."""
        disk = None if self.disk is None else self.disk.status()
        return CacheStatus(self.memory.size, self.memory.used, self.memory.evicted, len(self._versions), disk)

    def clear(self) -> None:
        """Forget all that nobody is reading just now, and what is on disk."""
        self.memory.clear(self._versions)
        if self.disk is not None:
            self.disk.clear()

    def begin(self) -> None:
        """Look at what is on disk, in the background."""
        if self.disk is not None:
            self.disk.begin()

    def close(self) -> None:
        """Give up the disk, for good."""
        if self.disk is not None:
            self.disk.close()

    async def end(self) -> None:
        """Give up what is under way, and forget all that nobody is reading just now."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await asyncio.sleep(0)  # gather does not wait for what is called when a task has ended already
        if self.disk is not None:
            await self.disk.drain()
        self.memory.clear(self._versions)

    def fetch(self, version: Version, begin: int, end: int) -> Fetch | None:
        """Begin to fetch a range of blocks that are not known; None where there is no memory for any.

        It begins at a block, and ends at one or with the object. There may be memory for its beginning alone,
        or its beginning alone may be on disk, or not be there.
        """
        from_disk = False
        if self.disk is not None and version.name is not None:
            from_disk, block = self.disk.run(version.name, begin // BLOCK, -(-end // BLOCK))
            end = min(end, block * BLOCK)
        pieces: list[Piece] = []
        at = begin
        while at < end:
            taken = self.memory.take(min(SLAB, end - at))
            if taken is None:
                break
            slab, view = taken
            piece = Piece(version, at, slab, view)
            slab.tenants.append(piece)
            pieces.append(piece)
            at = piece.end
        if not pieces:
            return None
        fetch = Fetch(begin, at, pieces, from_disk=from_disk)
        for piece in pieces:
            piece.fetch = fetch
            for block in range(piece.begin // BLOCK, -(-piece.end // BLOCK)):
                version.blocks[block] = piece
        version.users += 1
        fetch.task = asyncio.ensure_future(self._fill(version, fetch))
        self._under_way.add(fetch.task)
        fetch.task.add_done_callback(lambda task: self._ended(version, fetch, task))
        return fetch

    async def fetch_into(self, version: Version, offset: int, target: list[memoryview]) -> None:
        """Fetch a range into memory of somebody's, and keep nothing of it; raise StoreError."""
        count, info = await self._store.get(version.key, offset, target, if_match=version.etag)
        self.counters.fetched += count
        _check(version, sum(map(len, target)), count, info)

    async def _fill(self, version: Version, fetch: Fetch) -> ObjectInfo | None:
        views = [piece.view for piece in fetch.pieces]
        disk, name = self.disk, version.name
        if (
            fetch.from_disk
            and disk is not None
            and name is not None
            and await disk.read(name, fetch.begin // BLOCK, views, self.counters)
        ):
            return None
        fetch.from_disk = False
        count, info = await self._store.get(version.key, fetch.begin, views, if_match=version.etag)
        self.counters.fetched += count
        _check(version, fetch.end - fetch.begin, count, info)
        return info

    def _ended(self, version: Version, fetch: Fetch, task: asyncio.Task[ObjectInfo | None]) -> None:
        """Let the pieces be used, or forget them; nothing is stored in them any more."""
        self._under_way.discard(task)
        failed = task.cancelled() or task.exception() is not None
        for piece in fetch.pieces:
            piece.fetch = None
            piece.slab.pins -= 1
            if failed:
                piece.evicted()
                self.memory.pass_by(piece.slab)
            elif self.disk is not None and not fetch.from_disk:
                self._keep(version, piece, self.disk)
        version.close()

    def _keep(self, version: Version, piece: Piece, disk: DiskCache) -> None:
        """Have a piece written to disk, if it is still in memory when the disk has time for it."""
        slab = piece.slab

        def hold() -> bool:
            if version.blocks.get(piece.begin // BLOCK) is not piece:
                return False
            slab.pins += 1
            return True

        def release() -> None:
            slab.pins -= 1

        disk.keep(version.label, piece.begin, piece.view, hold, release, self.counters)


def _check(version: Version, wanted: int, count: int, info: ObjectInfo) -> None:
    """Refuse what is not the whole range of the version that was asked for."""
    if info.etag != version.etag:
        raise ConditionError(f"{version.key} is another object by now")
    if count != wanted:
        raise RangeError(f"{version.key} is shorter than it was")
