"""What a layer tells the kernel: of its own nodes, and the kernel is to hear of the overlay's."""

from __future__ import annotations

from collections.abc import Buffer

from vhostfs.backends.overlay.layers import Layer
from vhostfs.backends.overlay.tree import Tree
from vhostfs.filesystem import Session


class LayerSession:
    """What a layer may ask of the session: told of its own nodes, it tells of the overlay's."""

    def __init__(self, session: Session, tree: Tree, layer: Layer) -> None:
        self._session = session
        self._tree = tree
        self._layer = layer

    @property
    def minor(self) -> int:
        """Return the minor version of FUSE 7 that the kernel speaks."""
        return self._session.minor

    def _number(self, node: int) -> int:
        return self._tree.by_real(self._layer, node).number

    def invalidate_node(self, node: int, offset: int = 0, length: int = -1) -> None:
        """Have the kernel forget what it knows of the node that shows this one."""
        self._session.invalidate_node(self._number(node), offset, length)

    def invalidate_entry(self, parent: int, name: str) -> None:
        """Have the kernel ask for a name again."""
        self._session.invalidate_entry(self._number(parent), name)

    def entry_deleted(self, parent: int, node: int, name: str) -> None:
        """Have the kernel ask for a name again: a layer below may have another one of that name."""
        self._session.invalidate_entry(self._number(parent), name)

    def store(self, node: int, offset: int, data: Buffer) -> None:
        """Put data into the kernel's cache of a file."""
        self._session.store(self._number(node), offset, data)
