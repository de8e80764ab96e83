"""A layer that lets so many requests and bytes a second through; what is beyond waits.

Over `passthrough` the data plane keeps the limit, and nothing of this runs. Elsewhere it is the same buckets
that are asked here, so that a group may have mounts of either kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from weakref import WeakValueDictionary

from pydantic import Field

from vhostfs.backends.contract import Layer
from vhostfs.backends.values import Size
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import OPERATIONS, Filesystem, MaybeAwaitable, Session, Wrapper, implements, settled
from vhostfs.virtqueue.rate_limit import LARGEST_RATE, RateLimit, Rates

_UNBOUNDED: Final = frozenset({"release", "releasedir"})
"""What gives something up never waits."""

_groups: Final[WeakValueDictionary[str, RateLimit]] = WeakValueDictionary()
"""The limits that mounts of this process share, by the names that the configuration gives them."""


class RateLimited[H](Wrapper[H]):
    """Has requests wait, in the order in which they came, until a limit lets them through."""

    def __init__(self, inner: Filesystem[H], limit: RateLimit) -> None:
        """Keep to a limit, which others may keep to as well."""
        super().__init__(inner)
        self._limit = limit
        self._turn = asyncio.Lock()
        for operation in OPERATIONS:
            if operation not in _UNBOUNDED and implements(inner, operation):
                method = getattr(inner, operation)
                size_of = _size_of_data if operation in {"read", "write"} else _no_size
                setattr(self, operation, self._limited(method, size_of))

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Begin, on whichever event loop this is."""
        self._turn = asyncio.Lock()
        return self.inner.init(session)

    def _limited(
        self, method: Callable[..., Any], size_of: Callable[[tuple[Any, ...]], int]
    ) -> Callable[..., Any]:
        take = self._limit.take

        def operation(*arguments: Any) -> Any:
            size = size_of(arguments)
            if self._turn.locked() or take(size):
                return self._later(method, arguments, size)
            return method(*arguments)

        return operation

    async def _later(self, method: Callable[..., Any], arguments: tuple[Any, ...], size: int) -> Any:
        async with self._turn:
            while seconds := self._limit.take(size):  # noqa: ASYNC110 - others take as well
                await asyncio.sleep(seconds)
        return await settled(method(*arguments))


def _no_size(_arguments: tuple[Any, ...]) -> int:
    return 0


def _size_of_data(arguments: tuple[Any, ...]) -> int:
    size: int = arguments[4].size
    return size


@dataclass(frozen=True, slots=True)
class RateLimitSettings(Layer):
    """So many requests and bytes a second."""

    requests: Annotated[int, Field(ge=1, le=LARGEST_RATE)] | None = None
    requests_burst: Annotated[int, Field(ge=1, le=LARGEST_RATE)] | None = None
    """How many may come at once after a pause; None: a second's worth."""
    bytes: Size | None = None
    bytes_burst: Size | None = None
    group: str | None = None
    """Mounts whose layers name the same group share one limit; they must agree on the numbers."""

    def __post_init__(self) -> None:
        """Refuse a limit that is none, and bursts without a rate."""
        if self.requests is None and self.bytes is None:
            raise ValueError("a limit needs requests, bytes, or both")
        for rate, burst in (("requests", self.requests_burst), ("bytes", self.bytes_burst)):
            if burst is not None and getattr(self, rate) is None:
                raise ValueError(f"{rate}_burst without {rate} bounds nothing")
        if self.bytes is not None and not 1 <= self.bytes <= LARGEST_RATE:
            raise ValueError(f"bytes should be 1 to {LARGEST_RATE}")

    @property
    def rates(self) -> Rates:
        """Return the numbers as the data plane takes them."""
        requests, size = self.requests or 0, self.bytes or 0
        return Rates(
            requests,
            requests if self.requests_burst is None else self.requests_burst,
            size,
            size if self.bytes_burst is None else min(self.bytes_burst, LARGEST_RATE),
        )

    def limit(self) -> RateLimit:
        """Return a limit of one's own, or the group's; ConfigurationError where that has other numbers."""
        if self.group is None:
            return RateLimit(self.rates)
        limit = _groups.get(self.group)
        if limit is None:
            limit = _groups[self.group] = RateLimit(self.rates)
        elif limit.rates != self.rates:
            raise ConfigurationError(f"the group {self.group} has another limit elsewhere")
        return limit

    def wrap(self, inner: Filesystem[Any]) -> RateLimited[Any]:
        """Return the layer."""
        return RateLimited(inner, self.limit())
