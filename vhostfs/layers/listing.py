"""Listings of other listings' entries, which end when they do."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from vhostfs.filesystem import DirEntry, MaybeAwaitable, then

type Entries = Iterable[DirEntry] | AsyncIterable[DirEntry]
"""What readdir answers."""


def each_entry(
    answer: MaybeAwaitable[Entries], change: Callable[[DirEntry], DirEntry | None]
) -> MaybeAwaitable[Entries]:
    """Return a listing of what `change` makes of the entries that readdir answered; None leaves one out."""
    answered: Any = answer
    return then(answered, lambda entries: _changed(entries, change))


def _changed(entries: Entries, change: Callable[[DirEntry], DirEntry | None]) -> Entries:
    if isinstance(entries, AsyncIterable):
        return _each_later(entries, change)
    return _each(entries, change)


def _each(entries: Iterable[DirEntry], change: Callable[[DirEntry], DirEntry | None]) -> Iterator[DirEntry]:
    try:
        for entry in entries:
            changed = change(entry)
            if changed is not None:
                yield changed
    finally:
        close = getattr(entries, "close", None)
        if close is not None:
            close()


async def _each_later(
    entries: AsyncIterable[DirEntry], change: Callable[[DirEntry], DirEntry | None]
) -> AsyncIterator[DirEntry]:
    try:
        async for entry in entries:
            changed = change(entry)
            if changed is not None:
                yield changed
    finally:
        close = getattr(entries, "aclose", None)
        if close is not None:
            await close()
