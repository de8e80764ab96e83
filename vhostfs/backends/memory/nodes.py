"""The nodes of a memory file system: what is common to all, and files, directories, links and the rest.

The Entry of a node, with its Attr, is made when it is first asked for and kept until something in it changes:
whoever changes a node sets `entry` to None, by `changed`, `modified` or `accessed` where times move too.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from time import time_ns
from typing import Final

from vhostfs.backends.memory.data import SparseData
from vhostfs.backends.memory.space import PAGE
from vhostfs.filesystem import Attr, DirEntry, Entry, FileType

_DAY_NS: Final = 24 * 3600 * 1_000_000_000
_NAME_SIZE: Final = 20
"""What a name adds to the size of a directory (tmpfs: BOGO_DIRENT_SIZE)."""
_FIRST_COOKIE: Final = 3
"""The cookies 1 and 2 are those of '.' and '..'."""
_DEAD_SLOTS: Final = 32
"""How many removed names a directory may always remember."""

SHORT_SYMLINK: Final = 128
"""Up to how many bytes a link's target is not charged a page (tmpfs: SHORT_SYMLINK_LEN)."""


class Node:
    """What all nodes have. `mode` holds the type; times are nanoseconds since 1970."""

    __slots__ = (
        *("atime_ns", "btime_ns", "ctime_ns", "entry", "gid", "known", "linkable", "mode", "mtime_ns"),
        *("nlink", "number", "opens", "rdev", "seen_until_ns", "uid", "xattrs"),
    )

    def __init__(self, number: int, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.nlink = 1
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.btime_ns = time_ns()
        self.seen_until_ns = 0
        """Until when a reading access changes nothing, as the time of access is recent enough (relatime)."""
        self.xattrs: dict[str, bytes] | None = None
        self.entry: Entry | None = None
        self.known = False
        """Whether the kernel may hold lookups of it."""
        self.opens = 0
        self.linkable = False
        """Whether it may be given a first name (O_TMPFILE without O_EXCL)."""

    @property
    def size(self) -> int:
        """Return what st_size shows."""
        return 0

    @property
    def pages(self) -> int:
        """Return how many pages are charged."""
        return 0

    def describe(self) -> Entry:
        """Return the entry, made anew where something has changed."""
        entry = self.entry
        if entry is None:
            attr = Attr(
                self.number,
                self.mode,
                self.size,
                self.nlink,
                self.uid,
                self.gid,
                self.atime_ns,
                self.mtime_ns,
                self.ctime_ns,
                self.rdev,
                PAGE,
                self.pages * (PAGE // 512),
            )
            self.entry = entry = Entry(attr)
        return entry

    def changed(self) -> None:
        """Note a change of what stands in the inode: the time of change is now."""
        self.ctime_ns = time_ns()
        self.seen_until_ns = 0
        self.entry = None

    def modified(self) -> None:
        """Note a change of the contents: the times of modification and of change are now."""
        self.mtime_ns = self.ctime_ns = time_ns()
        self.seen_until_ns = 0
        self.entry = None

    def accessed(self) -> None:
        """Note a reading access as a mount with relatime does: once after a change, or once a day."""
        now = time_ns()
        if now >= self.seen_until_ns:
            if self.atime_ns <= max(self.mtime_ns, self.ctime_ns) or now - self.atime_ns >= _DAY_NS:
                self.atime_ns = now
                self.entry = None
            self.seen_until_ns = self.atime_ns + _DAY_NS

    def drop_privileges(self) -> None:
        """Drop set-user-id, and set-group-id where it means execution (setattr_should_drop_suidgid)."""
        mode = self.mode
        if stat.S_ISDIR(mode):
            return
        mode &= ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            mode &= ~stat.S_ISGID
        if mode != self.mode:
            self.mode = mode
            self.entry = None


class Special(Node):
    """A device, FIFO or socket: the kernel's business, but for its attributes."""

    __slots__ = ()


class File(Node):
    """A regular file."""

    __slots__ = ("data",)

    def __init__(self, number: int, mode: int, uid: int, gid: int, data: SparseData) -> None:
        super().__init__(number, mode, uid, gid)
        self.data = data

    @property
    def size(self) -> int:
        """Return the length of the data."""
        return self.data.size

    @property
    def pages(self) -> int:
        """Return the pages of the data."""
        return self.data.pages


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, number: int, uid: int, gid: int, target: str) -> None:
        super().__init__(number, stat.S_IFLNK | 0o777, uid, gid)
        self.target = target

    @property
    def size(self) -> int:
        """Return the length of the target in bytes."""
        return len(os.fsencode(self.target))

    @property
    def pages(self) -> int:
        """Return 1 for a long target."""
        return int(self.size > SHORT_SYMLINK)


class Slot:
    """One name of a directory; `node` is None when the name is gone. Cookies are never used twice."""

    __slots__ = ("cookie", "name", "node")

    def __init__(self, name: str, node: Node, cookie: int) -> None:
        self.name = name
        self.node: Node | None = node
        self.cookie = cookie


def _cookie(slot: Slot) -> int:
    return slot.cookie


class Directory(Node):
    """A directory: names in the order in which they came."""

    __slots__ = ("_dead", "_names", "_next_cookie", "_slots", "parent")

    def __init__(self, number: int, mode: int, uid: int, gid: int, parent: Directory | None) -> None:
        super().__init__(number, mode, uid, gid)
        self.nlink = 2
        self.parent = parent if parent is not None else self
        self._names: dict[str, Slot] = {}
        self._slots: list[Slot] = []
        self._next_cookie = _FIRST_COOKIE
        self._dead = 0

    @property
    def size(self) -> int:
        """Return what tmpfs shows: some bytes a name."""
        return _NAME_SIZE * (2 + len(self._names))

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._names)

    def find(self, name: str) -> Node | None:
        """Return the node of a name."""
        slot = self._names.get(name)
        return None if slot is None else slot.node

    def add(self, name: str, node: Node) -> None:
        """Put a new name at the end."""
        slot = Slot(name, node, self._next_cookie)
        self._next_cookie += 1
        self._names[name] = slot
        self._slots.append(slot)
        self._counted(node, 1)

    def remove(self, name: str) -> None:
        """Take a name out."""
        slot = self._names.pop(name)
        self._counted(slot.node, -1)
        slot.node = None
        self._dead += 1
        if self._dead > _DEAD_SLOTS + len(self._names):
            # A new list: a listing that is under way sees that it has to find its place again.
            self._slots = [slot for slot in self._slots if slot.node is not None]
            self._dead = 0

    def replace(self, name: str, node: Node) -> None:
        """Let a name mean another node, at its place."""
        slot = self._names[name]
        self._counted(slot.node, -1)
        slot.node = node
        self._counted(node, 1)

    def _counted(self, node: Node | None, change: int) -> None:
        if isinstance(node, Directory):
            self.nlink += change
            if change > 0:
                node.parent = self
        self.modified()

    def within(self, other: Node) -> bool:
        """Tell whether this directory is another one or lies below it."""
        directory = self
        while directory is not other:
            if directory.parent is directory:
                return False
            directory = directory.parent
        return True

    def listing(self, cookie: int) -> Iterator[DirEntry]:
        """Yield the entries behind a cookie, also those that come while it is under way."""
        if cookie < 1:
            yield DirEntry(".", self.number, FileType.DIRECTORY, 1)
        if cookie < 2:
            yield DirEntry("..", self.parent.number, FileType.DIRECTORY, 2)
        slots = self._slots
        index = bisect_right(slots, cookie, key=_cookie)
        while index < len(slots):
            slot = slots[index]
            index += 1
            node = slot.node
            if node is None:
                continue
            node.known = True
            cookie = slot.cookie
            yield DirEntry(slot.name, node.number, _TYPES[node.mode >> 12], cookie, node.describe())
            if self._slots is not slots:
                slots = self._slots
                index = bisect_right(slots, cookie, key=_cookie)


_TYPES: Final = {int(kind): kind for kind in FileType}
