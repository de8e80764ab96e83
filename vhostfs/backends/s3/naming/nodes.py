"""The files and directories that are known: what an object is to the guest, and what it is in the bucket.

A node knows its parent and its name; its key follows from these, so that a directory is moved by moving one
node. What a listing tells of an object (size, ETag, time) is less than what HEAD tells (its metadata):
`posix` is None until that was asked for.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vhostfs.backends.s3.naming.metadata import PosixMetadata
from vhostfs.filesystem import ROOT, Attr

if TYPE_CHECKING:
    from vhostfs.backends.s3.contents import Contents
    from vhostfs.backends.s3.journal.intents import Intent

BLOCK: Final = 512

LOOKUPS_BEFORE_LISTING: Final = 4
"""How many names are asked for one by one before their directory is listed."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What files have whose metadata says nothing."""

    file_mode: int = 0o644
    directory_mode: int = 0o755
    uid: int = 0
    gid: int = 0


_NO_CHILDREN: Final[dict[str, Node]] = {}
_NO_NAMES: Final[dict[str, float]] = {}
"""What all that is no directory shares."""


class Node:
    """A file, directory or link that is known. Directories have `children`; all else may have `contents`.

    `etag` is None for what is not in the bucket yet, and for directories that are no more than a prefix of
    keys; `expires` says until when (as time.monotonic counts) what is known may be believed.
    """

    __slots__ = (
        "cached",
        "children",
        "committing",
        "contents",
        "error",
        "etag",
        "expires",
        "gone",
        "intent",
        "known",
        "listed_until",
        "lookups",
        "lookups_enough",
        "missing",
        "modified",
        "name",
        "number",
        "opens",
        "parent",
        "pending",
        "posix",
        "size",
        "taken",
        "times_set",
        "touched",
        "type",
        "written",
    )

    def __init__(self, number: int, parent: Node | None, name: str, kind: int) -> None:
        """A node of a type (S_IFREG and so on) of which nothing more is known."""
        self.number = number
        self.parent = parent
        self.name = name
        self.type = kind
        self.size = 0
        self.etag: str | None = None
        self.modified = 0
        self.posix: PosixMetadata | None = None
        self.pending = False
        """Its attributes were changed and are not in the bucket yet."""
        self.committing = False
        """Its changes are on their way to the bucket."""
        self.times_set = False
        """Somebody has set its times since its data was last in the bucket."""
        self.intent: Intent | None = None
        """What the journal says of it."""
        self.error: OSError | None = None
        """Why it could not be brought to the bucket, until that was told."""
        self.expires = 0.0
        self.written = 0
        """Which write of its mount's was the last of it."""
        self.known = False
        """The kernel holds lookups of it."""
        self.opens = 0
        self.gone = False
        """It was deleted, or replaced: no name leads to it."""
        self.taken = False
        """Others have done that: what is written to it could not be kept, and is refused."""
        self.cached: str | None = None
        """The ETag of what the kernel's page cache may hold of it, where that is one object and unchanged."""
        self.contents: Contents | None = None
        self.children: dict[str, Node] = {} if kind == stat.S_IFDIR else _NO_CHILDREN
        self.listed_until = 0.0
        self.missing: dict[str, float] = {} if kind == stat.S_IFDIR else _NO_NAMES
        self.lookups = 0
        """Of names in it since it was last listed."""
        self.lookups_enough = LOOKUPS_BEFORE_LISTING
        """How many of them there are to be before it is listed for more."""
        self.touched: int | None = None
        """When names in it were last changed here; the bucket is not told, as each would be a request."""

    @property
    def is_directory(self) -> bool:
        """Tell whether it is a directory."""
        return self.type == stat.S_IFDIR

    @property
    def is_changed(self) -> bool:
        """Tell whether something of it is to be brought to the bucket."""
        return self.pending or (self.contents is not None and self.contents.changed)

    @property
    def is_local(self) -> bool:
        """Tell whether something of it is not in the bucket yet, or on its way."""
        return self.committing or self.is_changed

    @property
    def has_local(self) -> bool:
        """Tell whether it, or anything below it, is not in the bucket yet."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.is_local:
                return True
            waiting += node.children.values()
        return False

    def is_below(self, directory: Node) -> bool:
        """Tell whether it is a directory, or lies anywhere below it."""
        at: Node | None = self
        while at is not None and at is not directory:
            at = at.parent
        return at is not None

    @property
    def path(self) -> str:
        """Return the key without the mount's prefix, and without a directory's last slash."""
        names = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))

    @property
    def prefix(self) -> str:
        """Return what the paths of a directory's children begin with."""
        return f"{self.path}/" if self.parent is not None else ""

    def touch(self) -> None:
        """Take note that names in a directory have changed."""
        self.touched = time.time_ns()

    def attr(self, defaults: Defaults) -> Attr:
        """Return the attributes, as far as they are known, else the defaults."""
        posix = self.posix or NOTHING
        permissions = defaults.directory_mode if self.is_directory else defaults.file_mode
        mode = self.type | (permissions if posix.mode is None else stat.S_IMODE(posix.mode))
        if self.type == stat.S_IFLNK:
            mode = self.type | 0o777
        contents = self.contents
        # Contents that were opened before somebody else replaced the object are not what it is now.
        is_current = contents is not None and (contents.changed or contents.etag == self.etag)
        size = contents.size if contents is not None and is_current else self.size
        mtime = self.modified if posix.mtime is None else posix.mtime
        ctime = mtime if posix.ctime is None else posix.ctime
        if self.touched is not None:
            mtime, ctime = max(mtime, self.touched), max(ctime, self.touched)
        return Attr(
            self.number,
            mode,
            4096 if self.is_directory else size,
            0 if self.gone else 1,
            defaults.uid if posix.uid is None else posix.uid,
            defaults.gid if posix.gid is None else posix.gid,
            mtime if posix.atime is None else posix.atime,
            mtime,
            ctime,
            posix.rdev or 0,
            blksize=1 << 20,
            blocks=-(-size // BLOCK),
        )


NOTHING: Final = PosixMetadata()


class NodeTable:
    """All nodes by their numbers, which are never used again while the daemon lives."""

    def __init__(self) -> None:
        """A table with a root."""
        self.root = Node(ROOT, None, "", stat.S_IFDIR)
        self.root.known = True
        self._nodes: dict[int, Node] = {ROOT: self.root}
        self._next = ROOT + 1
        self._watches: dict[int, list[set[str]]] = {}

    def __getitem__(self, number: int) -> Node:
        """Return a node; KeyError."""
        return self._nodes[number]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        """Return all."""
        return iter(list(self._nodes.values()))

    def add(self, parent: Node, name: str, kind: int) -> Node:
        """Make a node, the child of a directory, in place of one whose name others have taken."""
        old = parent.children.get(name)
        if old is not None:
            self.lose(old)
        node = Node(self._next, parent, name, kind)
        self._next += 1
        self._nodes[node.number] = node
        parent.children[name] = node
        parent.missing.pop(name, None)
        return node

    def detach(self, node: Node) -> None:
        """Take a node's name away. It lives on while it is known or open."""
        self._part(node)
        node.gone = True
        self.drop_unused(node)

    def lose(self, node: Node) -> None:
        """Take away the name of a node that others have deleted, or made something else of."""
        node.taken = True
        self.detach(node)

    def move(self, node: Node, parent: Node, name: str) -> None:
        """Give a node another name, in place of what has it."""
        replaced = parent.children.get(name)
        if replaced is not None and replaced is not node:
            self.detach(replaced)
        self._part(node)
        node.parent, node.name = parent, name
        parent.children[name] = node
        parent.missing.pop(name, None)

    def watch(self, directory: Node) -> set[str]:
        """Return what the names are noted in that a directory loses from now on, until `unwatch`."""
        removed: set[str] = set()
        self._watches.setdefault(directory.number, []).append(removed)
        return removed

    def unwatch(self, directory: Node, removed: set[str]) -> None:
        """Note names no longer."""
        watches = [each for each in self._watches[directory.number] if each is not removed]
        if watches:
            self._watches[directory.number] = watches
        else:
            del self._watches[directory.number]

    def _part(self, node: Node) -> None:
        """Take a node out of its directory."""
        parent = node.parent
        if parent is not None and parent.children.get(node.name) is node:
            del parent.children[node.name]
            for removed in self._watches.get(parent.number, ()):
                removed.add(node.name)

    def drop_unused(self, node: Node) -> None:
        """Forget a node without name that nobody holds."""
        if node.gone and not node.known and not node.opens and node.number != ROOT:
            self._nodes.pop(node.number, None)
            for child in list(node.children.values()):
                self.detach(child)

    def trim(self, directory: Node, most: int) -> None:
        """Forget children of a directory that nobody holds, when there are more than so many nodes."""
        if len(self._nodes) <= most:
            return
        for child in list(directory.children.values()):
            if not (child.known or child.opens or child.is_local or child.children):
                directory.listed_until = 0.0
                del directory.children[child.name]
                self._nodes.pop(child.number, None)
