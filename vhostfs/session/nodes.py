"""Which nodes and handles the kernel holds, and the numbers by which it knows them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from vhostfs.filesystem import ROOT
from vhostfs.filesystem.refusals import refused
from vhostfs.session.listings import Listing

MOUNT_SHIFT: Final = 48
"""A nodeid is `mount << 48 | index`."""

FAR: Final = 1 << 47
"""The bit of an index that the session chose, as the file system's own node is too large for one."""

NODE_LIMIT: Final = 1 << 63

HANDLE_LIMIT: Final = 1 << 18
"""The most handles of a session: each takes about half a KiB, and a guest may open without ever closing."""


class Nodes:
    """The nodes of one session, and how many lookups of each the kernel holds.

    A file system's node below 2**47 is its own index; a larger one gets an index with bit 47 set, for as long
    as the kernel holds it. The root is always known and never counted.
    """

    def __init__(self, mount: int) -> None:
        self._base = mount << MOUNT_SHIFT
        self.root: Final = self._base | ROOT
        self.known: Final[dict[int, int]] = {self.root: ROOT}
        """nodeid -> the file system's node."""
        self._lookups: dict[int, int] = {}
        self._far: dict[int, int] = {}
        self._next_far = FAR

    def enter(self, node: int) -> int:
        """Count one lookup of a node, and return its nodeid; ValueError where it is no number for a node."""
        if 0 < node < FAR:
            nodeid = self._base | node
            if node == ROOT:
                return nodeid
        else:
            nodeid = self._far_nodeid(node)
        self._lookups[nodeid] = self._lookups.get(nodeid, 0) + 1
        self.known[nodeid] = node
        return nodeid

    def is_lasting(self, nodeid: int) -> bool:
        """Tell whether `enter` answers the same whenever it is asked: the number is the node's own."""
        return not nodeid & FAR

    def enter_again(self, nodeid: int) -> None:
        """Count one lookup of a node by its nodeid, which is a lasting one."""
        held = self._lookups.get(nodeid)
        if held is not None:
            self._lookups[nodeid] = held + 1
        elif nodeid != self.root:
            self._lookups[nodeid] = 1
            self.known[nodeid] = nodeid & (FAR - 1)

    def _far_nodeid(self, node: int) -> int:
        if not 0 < node < NODE_LIMIT:
            raise ValueError(f"{node} is no number for a node")
        nodeid = self._far.get(node)
        if nodeid is None:
            nodeid = self._far[node] = self._base | self._next_far
            # Wraps after 2**47 of them; what is held is skipped.
            while True:
                self._next_far = FAR | ((self._next_far + 1) & (FAR - 1))
                if self._base | self._next_far not in self.known:
                    break
        return nodeid

    def leave(self, nodeid: int, count: int) -> int | None:
        """Take back lookups, at most as many as are held; return the node where none is left."""
        held = self._lookups.get(nodeid)
        if held is None:
            return None
        if held > count:
            self._lookups[nodeid] = held - count
            return None
        del self._lookups[nodeid]
        node = self.known.pop(nodeid)
        if node >= FAR:
            del self._far[node]
        return node

    def nodeid(self, node: int) -> int:
        """Return the nodeid of a node that the kernel holds; OSError ENOENT where it does not."""
        nodeid = self._base | node if 0 < node < FAR else self._far.get(node, -1)
        if nodeid not in self.known:
            raise refused(errno.ENOENT)
        return nodeid

    def holds(self, node: int) -> bool:
        """Tell whether the kernel holds a node."""
        nodeid = self._base | node if 0 < node < FAR else self._far.get(node, -1)
        return nodeid in self.known

    def drain(self) -> Iterator[int]:
        """Yield every node that is held but the root, and hold none."""
        while self._lookups:
            nodeid, count = next(iter(self._lookups.items()))
            node = self.leave(nodeid, count)
            if node is not None:
                yield node


class Held(NamedTuple):
    """What the kernel has open: the node, the file system's own object, and a directory's listing."""

    node: int
    handle: Any
    listing: Listing | None


class Handles:
    """The handles of one session by the number (fh) that the kernel knows; 0 stands for none."""

    def __init__(self, *, files: bool, directories: bool) -> None:
        """Say whether `open` and `opendir` give out handles: only where they do not, 0 is accepted."""
        self.held: Final[dict[int, Held]] = {}
        self._last = 0
        self._files = files
        self._directories = directories

    def check_room(self) -> None:
        """Raise OSError ENFILE where there is no room for one more."""
        if len(self.held) >= HANDLE_LIMIT:
            raise refused(errno.ENFILE)

    def add(self, node: int, handle: Any, listing: Listing | None = None) -> int:
        """Keep a handle, and return its number."""
        self._last += 1
        self.held[self._last] = Held(node, handle, listing)
        return self._last

    def file(self, fh: int, node: int) -> Any:
        """Return the handle of an open file; OSError EBADF where it is none, or another node's."""
        held = self.held.get(fh)
        if held is not None and held[0] == node and held[2] is None:
            return held[1]
        if fh == 0 and not self._files:
            return None
        raise bad_handle()

    def directory(self, fh: int, node: int) -> Any:
        """Return the handle of an open directory, or raise as `file` does."""
        held = self.held.get(fh)
        if held is not None and held[0] == node and held[2] is not None:
            return held[1]
        if fh == 0 and not self._directories:
            return None
        raise bad_handle()

    def either(self, fh: int, node: int) -> Any:
        """Return the handle of an open file or directory, or raise as `file` does."""
        held = self.held.get(fh)
        if held is not None and held[0] == node:
            return held[1]
        return self.file(fh, node)

    def pop(self, fh: int, *, directory: bool) -> Held:
        """Give up a handle; OSError EBADF where it is none."""
        held = self.held.get(fh)
        if held is None or (held.listing is not None) != directory:
            raise bad_handle()
        return self.held.pop(fh)


def bad_handle() -> OSError:
    """Return the error of a handle that was not given out."""
    return refused(errno.EBADF)
