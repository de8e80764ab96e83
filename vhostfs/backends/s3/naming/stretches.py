"""A directory's listing as several that run side by side, each of a stretch of its keys.

Where the names of a directory were known once, they tell where to cut it, so that each stretch is about a
page. What has changed since does not matter: a stretch is all keys behind its beginning, up to its end, and
goes on by pages where it has more than were known. A store whose keys come in another order than that of
their bytes, or that does not begin where it is told to, cannot be listed so: UnorderedError.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vhostfs.backends.s3.store import PAGE_MAXIMUM, BrokenAnswerError, Page

AT_ONCE: Final = 8
"""How many stretches are listed at a time."""

PAGES_AHEAD: Final = 2
"""How many pages of a stretch are fetched before its turn: it may have grown a little."""

IDLE_PAGES_MAXIMUM: Final = 100
"""How many pages of a listing on end may hold no new name."""

OWN: Final = 2
"""How many keys of a directory are no names in it: its own object, and its index."""


class UnorderedError(Exception):
    """Raised where a store does not list in the order of the keys' bytes, each page behind the one before."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The keys behind one, up to and with another; all keys, where there are neither."""

    begin: str = ""
    end: str = ""

    @property
    def is_all(self) -> bool:
        """Tell whether it is the whole directory."""
        return not self.begin and not self.end


def stretches(prefix: str, names: Collection[str]) -> list[Stretch]:
    """Return the stretches of a directory that had these names, each of no more than a page."""
    count = -(-(len(names) + OWN) // PAGE_MAXIMUM)
    if count < 2:
        return [Stretch()]
    ordered = sorted(names)  # by code points, which is the order of UTF-8
    cuts = [prefix + ordered[len(ordered) * number // count - 1] for number in range(1, count)]
    return [Stretch(begin, end) for begin, end in pairwise(["", *cuts, ""])]


class Pages:
    """The pages of a stretch, of which the next is to be asked for by `start_after` and `page`."""

    __slots__ = ("_last", "_stretch", "idle", "is_over", "is_store_over", "page")

    def __init__(self, stretch: Stretch) -> None:
        """Nothing was asked yet."""
        self._stretch = stretch
        self._last = stretch.begin
        self.page: str | None = None
        self.is_over = False
        """Nothing more is to be asked."""
        self.is_store_over = False
        """Nor has the store anything behind what it told."""
        self.idle = 0
        """How many pages on end had nothing new."""

    @property
    def start_after(self) -> str:
        """Return the key behind which the store shall begin, where no page says it."""
        return self._stretch.begin if self.page is None else ""

    def take(self, found: Page) -> Page:
        """Take note of an answer, and return what of it is of the stretch.

        UnorderedError; BrokenAnswerError where it goes on at the same page.
        """
        if found.next is not None and found.next == self.page:
            raise BrokenAnswerError("a listing goes on where it was")
        self.page = found.next
        self.is_over = self.is_store_over = found.next is None
        if self._stretch.is_all:
            return found
        keys = [item.key for item in found.objects]
        self._check_order(keys)
        self._check_order(found.prefixes)
        self._last = max([self._last, *keys[-1:], *found.prefixes[-1:]], key=_bytes)
        end = _bytes(self._stretch.end)
        # What the store ends with is all that there is behind the beginning, also of other stretches.
        if self.is_store_over or not end or _bytes(self._last) < end:
            return found
        self.is_over = True
        objects = [item for item in found.objects if _bytes(item.key) <= end]
        return Page(objects, [prefix for prefix in found.prefixes if _bytes(prefix) <= end], None)

    def _check_order(self, keys: Iterable[str]) -> None:
        if any(_bytes(one) >= _bytes(other) for one, other in pairwise([self._last, *keys])):
            raise UnorderedError


async def side_by_side[Item](
    parts: Sequence[Stretch], ask: Callable[[Pages], Awaitable[Sequence[Item]]]
) -> AsyncGenerator[Sequence[Item]]:
    """Yield what each page of each stretch has, in order, as `ask` returns it; UnorderedError.

    What is asked for ahead is given up when nobody waits for it any more.
    """
    ahead = deque(Pages(part) for part in parts)
    begun: deque[tuple[Pages, asyncio.Task[list[Sequence[Item]]]]] = deque()
    try:
        while ahead or begun:
            while ahead and len(begun) < AT_ONCE:
                pages = ahead.popleft()
                begun.append((pages, asyncio.ensure_future(_first_of(pages, ask))))
            pages, first = begun[0]
            for found in await first:
                yield found
            while not pages.is_over:
                yield await _next_of(pages, ask)
            if pages.is_store_over:
                ahead.clear()
            begun.popleft()
    finally:
        for _, first in begun:
            first.cancel()
        await asyncio.gather(*(first for _, first in begun), return_exceptions=True)


async def _first_of[Item](
    pages: Pages, ask: Callable[[Pages], Awaitable[Sequence[Item]]]
) -> list[Sequence[Item]]:
    found = [await _next_of(pages, ask)]
    while not pages.is_over and len(found) < PAGES_AHEAD:
        found.append(await _next_of(pages, ask))
    return found


async def _next_of[Item](pages: Pages, ask: Callable[[Pages], Awaitable[Sequence[Item]]]) -> Sequence[Item]:
    found = await ask(pages)
    pages.idle = 0 if found else pages.idle + 1
    if pages.idle >= IDLE_PAGES_MAXIMUM and not pages.is_over:
        raise BrokenAnswerError("a listing goes on, and leads nowhere")
    return found


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
