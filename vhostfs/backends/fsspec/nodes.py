"""Which paths the kernel knows, and what was last heard of any path."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from hashlib import blake2b
from time import monotonic
from typing import Final

from vhostfs.backends.fsspec.drafts import Draft
from vhostfs.backends.fsspec.names import Found
from vhostfs.filesystem import ROOT
from vhostfs.filesystem.refusals import refused

_REMEMBERED: Final = 65_536
"""Of how many paths it is remembered what they are."""


class Node:
    """A file or directory that the kernel knows. `place` is its path below the root, by names."""

    __slots__ = ("draft", "found", "inode", "known", "number", "place")

    def __init__(self, number: int, place: str, found: Found) -> None:
        self.number = number
        self.place = place
        self.found = found
        self.inode = number if number == ROOT else inode_of(place)
        self.draft: Draft | None = None
        self.known = True
        """Whether its name is still its own: it was neither removed nor replaced."""


def inode_of(place: str) -> int:
    """Return the inode number of a path, the same whenever it is asked for."""
    digest = blake2b(os.fsencode(place), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 | 1 << 62


def child_place(directory: str, name: str) -> str:
    """Return the place of a name in a directory."""
    return f"{directory}/{name}" if directory else name


class Nodes:
    """The nodes by number and by place."""

    def __init__(self, root: Found) -> None:
        """Begin with the root."""
        self._numbers: dict[int, Node] = {ROOT: Node(ROOT, "", root)}
        self._places: dict[str, Node] = {}
        self._next = ROOT + 1

    def __getitem__(self, number: int) -> Node:
        """Return a node. ESTALE."""
        try:
            return self._numbers[number]
        except KeyError:
            raise refused(errno.ESTALE) from None

    def at(self, place: str) -> Node | None:
        """Return the node of a place, if the kernel knows it."""
        return self._places.get(place)

    def enter(self, place: str, found: Found) -> Node:
        """Return the node of a place, with what was found there now."""
        node = self._places.get(place)
        if node is None or node.found.directory != found.directory:
            if node is not None:
                node.known = False
            node = self._places[place] = self._numbers[self._next] = Node(self._next, place, found)
            self._next += 1
        else:
            node.found = found
        return node

    def forget(self, number: int) -> None:
        """Forget a node."""
        node = self._numbers.pop(number, None)
        if node is not None and self._places.get(node.place) is node:
            del self._places[node.place]

    def remove(self, place: str) -> Node | None:
        """Take a place from its node, which the kernel may go on using."""
        node = self._places.pop(place, None)
        if node is not None:
            node.known = False
        return node

    def move(self, place: str, new_place: str, found: Found) -> None:
        """Let a node have another place."""
        self.remove(new_place)
        node = self._places.pop(place, None)
        if node is not None:
            node.place, node.found = new_place, found
            self._places[new_place] = node


class Memory:
    """What was last heard of a place, for some seconds: also that there is nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._found: OrderedDict[str, tuple[float, Found | None]] = OrderedDict()

    def get(self, place: str) -> tuple[bool, Found | None]:
        """Tell whether anything was heard, and what."""
        heard = self._found.get(place)
        if heard is None or heard[0] <= monotonic():
            return False, None
        return True, heard[1]

    def put(self, place: str, found: Found | None) -> None:
        """Remember."""
        self._found[place] = monotonic() + self._seconds, found
        self._found.move_to_end(place)
        if len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)

    def drop(self, place: str) -> None:
        """Forget what was heard of one place."""
        self._found.pop(place, None)
