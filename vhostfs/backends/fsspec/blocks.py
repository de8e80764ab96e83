"""A cache of blocks of files, of a size that suits who answers slowly and sends much at once."""

from __future__ import annotations

import asyncio
import errno
from collections import OrderedDict
from typing import Final

from vhostfs.backends.fsspec.remote import Remote
from vhostfs.filesystem.refusals import refused

type Key = tuple[str, tuple[str, ...], int, int]
"""A file's path, its version, its size, and the number of a block."""


class BlockCache:
    """Fetches blocks, each once for all who wait for it, and keeps those that were used last."""

    def __init__(self, remote: Remote, block_size: int, limit: int, timeout_seconds: float) -> None:
        """Keep up to `limit` bytes; one block at least. What takes longer than the time-out is given up."""
        self._remote: Final = remote
        self._block_size: Final = block_size
        self._limit: Final = max(limit, block_size)
        self._blocks: OrderedDict[Key, bytes] = OrderedDict()
        self._timeout_seconds: Final = timeout_seconds
        self._used = 0
        self._under_way: dict[Key, asyncio.Task[bytes]] = {}

    def cached(self, path: str, version: tuple[str, ...], size: int, offset: int, count: int) -> bytes | None:
        """Return a part of a file if it lies in one block that is here."""
        number = offset // self._block_size
        begin = offset - number * self._block_size
        if begin + count > self._block_size:
            return None
        key = (path, version, size, number)
        block = self._blocks.get(key)
        if block is None:
            return None
        self._blocks.move_to_end(key)
        return block[begin : begin + count]

    async def read(self, path: str, version: tuple[str, ...], size: int, offset: int, count: int) -> bytes:
        """Return a part of a file, which lies within its size. EIO where the file has it no more."""
        first, last = offset // self._block_size, (offset + count - 1) // self._block_size
        keys: list[Key] = [(path, version, size, number) for number in range(first, last + 1)]
        blocks = await asyncio.gather(*(self._block(key) for key in keys))
        data = b"".join(blocks) if len(blocks) > 1 else blocks[0]
        begin = offset - first * self._block_size
        return data[begin : begin + count]

    async def _block(self, key: Key) -> bytes:
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            return block
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._fetch(key))
            # Whoever waits gets its error; there may be nobody any more.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _fetch(self, key: Key) -> bytes:
        path, _, size, number = key
        begin = number * self._block_size
        end = min(begin + self._block_size, size)
        try:
            # Who waits may be gone by then: it must not keep those who come later from another try.
            async with asyncio.timeout(self._timeout_seconds):
                data = await self._remote.read(path, begin, end)
        finally:
            del self._under_way[key]
        if len(data) == size != end - begin:
            # A server that knows no ranges sends all of the file.
            data = data[begin:end]
        if len(data) != end - begin:
            raise refused(errno.EIO)
        self._blocks[key] = data
        self._used += len(data)
        while self._used > self._limit and len(self._blocks) > 1:
            self._used -= len(self._blocks.popitem(last=False)[1])
        return data

    async def close(self) -> None:
        """Forget all, and end what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._blocks.clear()
        self._used = 0
