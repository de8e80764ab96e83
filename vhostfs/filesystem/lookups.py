"""Who holds nodes of a file system: programs of this process beside the session, if there is one.

A file system is told to forget a node once, when nobody holds a lookup of it any more. The session counts
what its kernel holds; what is reached through vhostfs.files is counted here. Each asks the other before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vhostfs.filesystem.interface import Filesystem
from vhostfs.filesystem.types import ROOT


def _held_by_nobody(_node: int) -> bool:
    return False


class Lookups:
    """The lookups that programs of this process hold. On the file system's event loop alone."""

    __slots__ = ("_counts", "session_holds")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.session_holds: Callable[[int], bool] = _held_by_nobody
        """Whether the session's kernel holds a node."""

    @classmethod
    def of(cls, filesystem: Filesystem[Any]) -> Lookups:
        """Return those of a file system, the same at each call."""
        attributes = vars(filesystem)
        lookups = attributes.get("_lookups")
        if not isinstance(lookups, Lookups):
            attributes["_lookups"] = lookups = cls()
        return lookups

    def __contains__(self, node: object) -> bool:
        """Tell whether a program of this process holds a node."""
        return node in self._counts

    def enter(self, node: int) -> None:
        """Count one lookup of a node."""
        if node != ROOT:
            self._counts[node] = self._counts.get(node, 0) + 1

    def leave(self, node: int) -> bool:
        """Take back one; tell whether the file system is to forget the node now."""
        if node == ROOT:
            return False
        left = self._counts[node] - 1
        if left:
            self._counts[node] = left
            return False
        del self._counts[node]
        return not self.session_holds(node)
