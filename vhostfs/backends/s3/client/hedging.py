"""A second request beside one that takes unusually long to begin: the one that is answered first counts.

Both would put the body into the same memory. So the answer whose head comes first claims the place, and the
other request is ended before anything of its body is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final

from vhostfs.backends.s3.client.connection import Connection, Place, Response, collect

REMEMBERED: Final = 256
"""How many latencies are looked at."""

REQUIRED: Final = 64
"""How many must be known before a request can be called slow."""

RECKONED_EVERY: Final = 32

LEAST_SECONDS: Final = 0.01
"""Nothing is called slow before this."""

ALLOWANCE: Final = 0.05
"""The most second requests, as a part of all: a store that is slow as a whole is not asked twice."""


class SupersededError(Exception):
    """Raised in a request whose answer came second."""


class Latencies:
    """How long answers took to begin, and what counts as unusually long: more than 99 of 100 took."""

    __slots__ = ("_known", "_noted", "_patience", "_spent")

    def __init__(self) -> None:
        """Know nothing."""
        self._known: deque[float] = deque(maxlen=REMEMBERED)
        self._noted = 0
        self._spent = 0
        self._patience: float | None = None

    def note(self, seconds: float) -> None:
        """Take note of an answer."""
        self._known.append(seconds)
        self._noted += 1
        if self._noted >= REQUIRED and self._noted % RECKONED_EVERY == 0:
            ordered = sorted(self._known)
            self._patience = max(LEAST_SECONDS, ordered[len(ordered) * 99 // 100])

    def patience(self) -> float | None:
        """Return after how many seconds a request is slow; None while that is unknown."""
        return self._patience

    def spend(self) -> bool:
        """Tell whether there may be a second request, and take note of it."""
        allowed = self._spent < self._noted * ALLOWANCE
        self._spent += allowed
        return allowed


class Hedge:
    """A request and the one beside it. For one event loop; `end` when either has answered."""

    __slots__ = ("_claimed", "_connection", "_factory", "_latencies", "_task", "_timer", "place")

    def __init__(self, place: Place, latencies: Latencies) -> None:
        """A hedge for a request whose body goes to a place."""
        self.place = place
        self._latencies = latencies
        self._claimed: str | None = None
        self._connection: Connection | None = None
        self._factory: Callable[[], Coroutine[None, None, Response]] | None = None
        self._task: asyncio.Task[Response] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, patience: float, second: Callable[[], Coroutine[None, None, Response]]) -> None:
        """Make the second request after so many seconds."""
        self._factory = second
        self._timer = asyncio.get_running_loop().call_later(patience, self._start)

    def runs_on(self, connection: Connection) -> None:
        """Take note of the first request's connection."""
        self._connection = connection

    def first(self, status: int, headers: Mapping[str, str]) -> Sequence[memoryview] | None:
        """Be the Place of the first request."""
        return self._claim("first", status, headers)

    def second(self, status: int, headers: Mapping[str, str]) -> Sequence[memoryview] | None:
        """Be the Place of the second request, which ends the first when it comes before it."""
        segments = self._claim("second", status, headers)
        if self._connection is not None:
            self._connection.fail(SupersededError())
        return segments

    async def result(self) -> Response:
        """Return the second request's answer."""
        assert self._task is not None
        return await self._task

    def end(self) -> None:
        """Stop: no second request begins, and one that runs is given up."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()
        # What led to the memory that is read into must not outlive the read, not even in a cycle.
        self._connection, self._claimed = None, "nobody any more"
        self._factory, self.place = None, collect

    def _start(self) -> None:
        assert self._factory is not None
        if self._claimed is None and self._latencies.spend():
            self._task = asyncio.create_task(self._factory())
            self._task.add_done_callback(_look_at)

    def _claim(self, who: str, status: int, headers: Mapping[str, str]) -> Sequence[memoryview] | None:
        if self._claimed not in {None, who}:
            raise SupersededError
        if status < 300:
            self._claimed = who  # a refusal claims nothing: the other may still succeed
        return self.place(status, headers)


def _look_at(task: asyncio.Task[Response]) -> None:
    """Let nobody complain that the error of a second request was never looked at."""
    if not task.cancelled():
        with contextlib.suppress(Exception):
            task.exception()
