"""One listing of a directory for all who want it: pages are fetched ahead of who looks, but not far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from vhostfs.backends.s3.naming.nodes import Node

AHEAD: Final = 4000
"""How many entries are listed that nobody has looked at yet."""


class Listing:
    """A directory's entries as they become known. For one event loop; it ends when nobody follows it."""

    def __init__(self, batches: AsyncGenerator[Sequence[Node]]) -> None:
        """Begin to list what comes in batches."""
        self._batches = batches
        self._found: list[Node] = []
        self._furthest = 0
        self._followers = 0
        self._abandoned = False
        self._more = asyncio.Event()
        self._wanted = asyncio.Event()
        self._task = asyncio.ensure_future(self._fetch())
        self._task.add_done_callback(self._ended)

    @property
    def has_ended(self) -> bool:
        """Tell whether all is known, or nothing more will be."""
        return self._abandoned or self._task.done()

    async def follow(self) -> AsyncGenerator[Node]:
        """Yield all entries, from the first one on; raise what listing has failed with."""
        self._followers += 1
        at = 0
        try:
            while True:
                while at < len(self._found):
                    yield self._found[at]
                    at += 1
                    if at > self._furthest:
                        self._furthest = at
                        self._wanted.set()
                if self._task.done():
                    self._task.result()
                    return
                self._more.clear()
                await self._more.wait()
        finally:
            self._followers -= 1
            if not self._followers:
                self._abandoned = True
                self._task.cancel()

    async def _fetch(self) -> None:
        async with aclosing(self._batches) as batches:
            async for batch in batches:
                self._found += batch
                self._more.set()
                while len(self._found) - self._furthest > AHEAD:
                    self._wanted.clear()
                    await self._wanted.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        self._more.set()
