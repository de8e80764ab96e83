"""The tree that the members of an archive make, whatever their names and their order.

Names are those of a file system: a leading '/' goes, and what has '..' among its names, or a name that is too
long, is left out. Of members with one name the last wins; directories of one name are one. A hard link may
come before what it links to.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import ROOT, Attr, Entry

logger = logging.getLogger(__name__)

NAME_LIMIT: Final = 255
PATH_LIMIT: Final = 4096
SIZE_LIMIT: Final = (1 << 63) - 1
ID_LIMIT: Final = (1 << 32) - 1
"""One more than the largest uid or gid."""

_NOBODY: Final = 65534
_TIME_LIMIT: Final = 1 << 63


class Node:
    """A file of any type. `data` says where a regular file's content is, in terms of its archive's format."""

    __slots__ = (
        "atime_ns",
        "children",
        "ctime_ns",
        "data",
        "entry",
        "gid",
        "mode",
        "mtime_ns",
        "nlink",
        "number",
        "rdev",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        mode: int,
        *,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_ns: int = 0,
        atime_ns: int | None = None,
        ctime_ns: int | None = None,
        rdev: int = 0,
        target: str | None = None,
        data: Any = None,
        xattrs: dict[str, bytes] | None = None,
    ) -> None:
        """Describe a file; ids and times that cannot be are made ones that can."""
        self.mode = stat.S_IFMT(mode) | (mode & 0o7777)
        self.uid = _checked_id(uid)
        self.gid = _checked_id(gid)
        self.size = size if target is None else len(os.fsencode(target))
        self.mtime_ns = _checked_time(mtime_ns)
        self.atime_ns = self.mtime_ns if atime_ns is None else _checked_time(atime_ns)
        self.ctime_ns = self.mtime_ns if ctime_ns is None else _checked_time(ctime_ns)
        self.rdev = rdev
        self.target = target
        self.data = data
        self.xattrs = xattrs
        self.children: dict[str, Node] | None = {} if stat.S_ISDIR(mode) else None
        self.number = 0
        self.nlink = 0
        self.entry: Entry | None = None

    def describe(self) -> Entry:
        """Return the entry, the same until the kernel has forgotten it."""
        if self.entry is None:
            attr = Attr(
                ino=self.number,
                mode=self.mode,
                size=self.size,
                nlink=self.nlink,
                uid=self.uid,
                gid=self.gid,
                atime_ns=self.atime_ns,
                mtime_ns=self.mtime_ns,
                ctime_ns=self.ctime_ns,
                rdev=self.rdev,
            )
            self.entry = Entry(attr)
        return self.entry

    def take_attributes(self, other: Node) -> None:
        """Become what another directory is, but for what is in it."""
        for name in ("mode", "uid", "gid", "mtime_ns", "atime_ns", "ctime_ns", "xattrs"):
            setattr(self, name, getattr(other, name))


def _checked_id(number: int) -> int:
    return number if 0 <= number < ID_LIMIT else _NOBODY


def _checked_time(nanoseconds: int) -> int:
    return max(-_TIME_LIMIT, min(nanoseconds, _TIME_LIMIT - 1))


class Index:
    """All that an archive holds. First members are added, then `finish` makes it what can be served."""

    def __init__(self, limit: int, *, uid: int = 0, gid: int = 0) -> None:
        """Hold `limit` members at most, directories that are only mentioned in names included."""
        self._limit = limit
        self._count = 0
        self._owner = uid, gid
        self._later: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.root: Final = Node(stat.S_IFDIR | 0o755, uid=uid, gid=gid)
        self.nodes: list[Node] = []
        """Node `number` is at `number - ROOT`."""
        self.left_out: Counter[str] = Counter()
        """How many members were left out, by the reason."""

    # ---- Adding members ----

    def leave_out(self, reason: str) -> None:
        """Note a member that there cannot be."""
        self.left_out[reason] += 1

    def add(self, path: str, node: Node) -> None:
        """Add a member. ConfigurationError where there are too many."""
        names = self._names(path)
        if names is None:
            return
        if node.children is not None:
            self._directory(names).take_attributes(node)
        elif names:
            self._put(names, node)
        else:
            self.leave_out("the root is no directory there")

    def link(self, path: str, target: str) -> None:
        """Add a hard link to a member that came before, or comes later."""
        names, target_names = self._names(path), self._names(target)
        if not names or target_names is None:
            return
        found = self._find(target_names)
        if found is None:
            self._take_count()
            self._later[names] = target_names
        elif found.children is not None:
            self.leave_out("a hard link to a directory")
        elif found is not self._find(names):
            self._put(names, found)

    def _names(self, path: str) -> tuple[str, ...] | None:
        """Return the names of a path; None, and a note, where they cannot be names."""
        names = tuple(name for name in path.split("/") if name not in {"", "."})
        if ".." in names:
            self.leave_out("'..' in the name")
            return None
        try:
            lengths = [len(os.fsencode(name)) for name in names]
        except UnicodeEncodeError:
            lengths = [NAME_LIMIT + 1]
        if "\0" in path or sum(lengths) + len(lengths) >= PATH_LIMIT or max(lengths, default=0) > NAME_LIMIT:
            self.leave_out("a name that no file can have")
            return None
        return names

    def _take_count(self) -> None:
        self._count += 1
        if self._count > self._limit:
            raise ConfigurationError(f"the archive has more than {self._limit} members")

    def _find(self, names: tuple[str, ...]) -> Node | None:
        node: Node | None = self.root
        for name in names:
            if node is None or node.children is None:
                return None
            node = node.children.get(name)
        return node

    def _directory(self, names: tuple[str, ...]) -> Node:
        """Return a directory, made with all above it where there is none."""
        node = self.root
        for name in names:
            assert node.children is not None
            child = node.children.get(name)
            if child is None or child.children is None:
                self._take_count()
                child = Node(stat.S_IFDIR | 0o755, uid=self._owner[0], gid=self._owner[1])
                node.children[name] = child
            node = child
        return node

    def _put(self, names: tuple[str, ...], node: Node) -> None:
        self._take_count()
        parent = self._directory(names[:-1])
        assert parent.children is not None
        parent.children[names[-1]] = node
        self._later.pop(names, None)

    # ---- The end ----

    def finish(self) -> None:
        """Find what links lead to, and number all that is left. Tells the log what was left out."""
        while self._later:
            self._resolve(next(iter(self._later)))
        for number, node in enumerate(self._walk(), ROOT):
            node.number = number
            self.nodes.append(node)
        for reason, count in self.left_out.items():
            logger.warning("%d members of the archive are left out: %s", count, reason)

    def _resolve(self, names: tuple[str, ...]) -> None:
        """Make a link, and those that it leads through, where there is something at the end."""
        chain: list[tuple[str, ...]] = []
        while names in self._later:
            chain.append(names)
            names = self._later.pop(names)
        found = self._find(names)
        for each in reversed(chain):
            older = self._find(each)
            if found is None or found.children is not None or (older and older.children is not None):
                self.leave_out("a hard link to what is no file there")
            else:
                self._count -= 1
                self._put(each, found)

    def _walk(self) -> Iterator[Node]:
        """Yield each node once, counting names and directories below."""
        self.root.nlink = 2
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            for child in (node.children or {}).values():
                if child.children is not None:
                    child.nlink = 2
                    node.nlink += 1
                    stack.append(child)
                else:
                    child.nlink += 1
                    if child.nlink == 1:
                        stack.append(child)
