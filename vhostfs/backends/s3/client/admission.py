"""How many requests may be under way at once: half as many when the store is overloaded, then more again."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

SHRINK: Final = 0.5


class Admission:
    """Lets requests begin, in the order in which they come. For one event loop.

    An answer that says that the store is overloaded halves how many may be under way, but only once for all
    that began before; as many answers as may be under way without one let one more begin.
    """

    def __init__(self, most: int) -> None:
        """Let so many begin at first, and never more."""
        self._most, self._allowed = most, float(most)
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.epoch = 0
        """How often it has been halved: what a request remembers that begins."""

    @property
    def allowed(self) -> int:
        """Return how many may be under way."""
        return int(self._allowed)

    async def enter(self) -> None:
        """Return when one more may begin."""
        if self._busy < self.allowed and not self._waiting:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Take note that one has ended."""
        self._busy -= 1
        self._admit()

    def throttled(self, epoch: int) -> None:
        """Take note that the store had too much to do for a request that began in an epoch."""
        if epoch == self.epoch:
            self.epoch += 1
            self._allowed = max(1.0, min(self._allowed, self._busy) * SHRINK)

    def answered(self) -> None:
        """Take note that the store has done what was asked."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._busy < self.allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
