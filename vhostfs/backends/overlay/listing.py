"""Directory listings of an overlay: each name once, of the topmost layer that has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from vhostfs.backends.overlay.layers import Real
from vhostfs.backends.overlay.tree import WORK_NAME, Node, Tree
from vhostfs.filesystem import DirEntry, FileType

_MAY_BE_WHITEOUT: Final = frozenset({FileType.CHARACTER_DEVICE, FileType.UNKNOWN, FileType.WHITEOUT})
_LAST_COOKIE: Final = (1 << 63) - 1


class OpenDirectory:
    """An open directory, and what of its merged listing has to be known to go on with it.

    Of all layers but the lowest one the names are kept, as they were when it was last listed from the
    beginning; the lowest one's entries, which may be the many, pass by. A cookie counts what is kept, '.' and
    '..' first, or else is the lowest layer's own cookie behind that count; so cookies are as good as the
    lowest layer's, whatever is copied up or removed meanwhile.
    """

    __slots__ = ("_handle", "_kept", "_lowest", "_names", "_tree", "node")

    def __init__(self, tree: Tree, node: Node) -> None:
        """Open `node`, which is held for as long."""
        self.node: Final = node
        self._tree = tree
        self._kept: list[DirEntry] = []
        self._names: set[str] = set()
        self._lowest: Real | None = None
        self._handle: Any = None

    async def entries(self, offset: int) -> AsyncIterator[DirEntry]:
        """Yield the entries behind a cookie; behind 0 those that are there now."""
        if offset == 0 or self._lowest is None:
            await self.close()
            await self._begin()
        lowest, kept, names = self._lowest, self._kept, self._names
        assert lowest is not None
        for position in range(offset, len(kept)):
            yield kept[position]
        count = len(kept)
        behind = max(offset - count, 0)
        async with aclosing(lowest.layer.list_open(lowest.node, self._handle, behind)) as entries:
            async for entry in entries:
                if entry.name in names:
                    continue
                assert entry.offset is not None
                # Some file systems end at the last cookie that there is.
                shown = await self._shown(lowest, entry, min(entry.offset + count, _LAST_COOKIE))
                if shown is not None:
                    yield shown

    async def close(self) -> None:
        """Forget the listing, and close the layer's directory."""
        lowest, self._lowest = self._lowest, None
        self._kept, self._names = [], set()
        if lowest is not None:
            handle, self._handle = self._handle, None
            await lowest.layer.close_directory(lowest.node, handle)

    async def _begin(self) -> None:
        node = self.node
        above = node.parent if node.parent is not None else node
        kept = [
            DirEntry(".", node.ino, FileType.DIRECTORY, 1),
            DirEntry("..", above.ino, FileType.DIRECTORY, 2),
        ]
        names: set[str] = set()
        if self._tree.is_reserved(node, WORK_NAME):
            names.add(WORK_NAME)
        *uppers, lowest = node.reals
        for real in uppers:
            async with aclosing(self._shown_of(real, names)) as entries:
                async for entry in entries:
                    kept.append(DirEntry(entry.name, entry.ino, entry.type, len(kept) + 1))
        self._handle = await lowest.layer.open_directory(lowest.node)
        self._lowest, self._kept, self._names = lowest, kept, names

    async def _shown_of(self, real: Real, names: set[str]) -> AsyncGenerator[DirEntry]:
        """Yield what a layer adds to the names that are there, which then are too."""
        async with aclosing(real.layer.list(real.node)) as entries:
            async for entry in entries:
                if entry.name in names:
                    continue
                names.add(entry.name)
                shown = await self._shown(real, entry, 1)
                if shown is not None:
                    yield shown

    async def _shown(self, real: Real, entry: DirEntry, offset: int) -> DirEntry | None:
        """Return a layer's entry as the overlay's; None for a whiteout."""
        node, kind = self.node, entry.type
        child = node.children.get(entry.name)
        if child is not None and kind not in _MAY_BE_WHITEOUT:
            return DirEntry(entry.name, child.ino, kind, offset)
        if real.layer is self._tree.upper:
            if node.lowers or node.impure or kind in _MAY_BE_WHITEOUT:
                return await self._found(entry.name, offset)
        elif kind in _MAY_BE_WHITEOUT or (real.holds_files_as_whiteouts and kind == FileType.REGULAR):
            hit = await real.layer.lookup(real.node, entry.name)
            if hit is None:
                return None
            hidden = await self._tree.is_hidden(real, *hit)
            real.layer.drop(hit[0].node)
            if hidden:
                return None
            kind = FileType(hit[1].mode >> 12 & 15)
        return DirEntry(entry.name, real.layer.number(entry.ino), kind, offset)

    async def _found(self, name: str, offset: int) -> DirEntry | None:
        """Return the entry of a file whose number may be that of a lower layer."""
        hit = await self._tree.child(self.node, name)
        if hit is None:
            return None
        node, attr = hit
        try:
            return DirEntry(name, node.ino, FileType(attr.mode >> 12 & 15), offset)
        finally:
            self._tree.release(node)
