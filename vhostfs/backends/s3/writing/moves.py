"""Operations that take names away, and directories that move meanwhile: one waits for the other.

A directory moves by copies of what was listed below it. What is deleted there before its copy is forgotten
would come back under the new name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vhostfs.backends.s3.naming.nodes import Node


@dataclass(frozen=True, slots=True, eq=False)
class _Taking:
    """An operation under way."""

    places: Sequence[Node]
    """The directories whose names it takes away, or makes other files' names."""
    moved: Node | None

    def moves(self, other: _Taking) -> bool:
        """Tell whether what the other is about moves with it."""
        if self.moved is None:
            return False
        about = other.places if other.moved is None else (*other.places, other.moved)
        return any(each.is_below(self.moved) for each in about)


class Moves:
    """All operations of a file system that take names away. For one event loop."""

    def __init__(self) -> None:
        """None is under way."""
        self._under_way: list[_Taking] = []
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def taking(self, *places: Node, moved: Node | None = None) -> AsyncIterator[None]:
        """Take names of directories away while the block runs, or move a directory.

        Nothing that is about names below a directory runs while that moves. Who waits holds nothing, so that
        what it knew of these names may have changed.
        """
        mine = _Taking(places, moved)
        while any(each.moves(mine) or mine.moves(each) for each in self._under_way):
            self._ended.clear()
            await self._ended.wait()
        self._under_way.append(mine)
        try:
            yield
        finally:
            self._under_way.remove(mine)
            self._ended.set()
