"""From paths to nodes: what a kernel does with a path, done for programs of this process.

A place holds one lookup of its node, and its parent, so that '..' leads back the way that was come; when the
last who holds it is gone, the lookup is given back. Symbolic links are followed within the file system: an
absolute target begins at its root, and nothing leads above that.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, NoReturn

from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    implements,
    settled,
)
from vhostfs.filesystem.lookups import Lookups

type Path = str | os.PathLike[str]

PATH_LIMIT: Final = 4096
"""The most bytes of a path or of a link's target, the final NUL included (PATH_MAX)."""

NAME_LIMIT: Final = 255
LINK_LIMIT: Final = 40
"""The most links that one path may lead through (the kernel's MAXSYMLINKS)."""

_NODE_LIMIT: Final = 1 << 63


def fail(number: int, path: str | None = None) -> NoReturn:
    """Raise OSError."""
    raise OSError(number, os.strerror(number), path)


class Tree:
    """A file system as one caller sees it. Nothing is asked of it but by its methods.

    The caller's permissions are not checked: in a guest its kernel does that.
    """

    __slots__ = ("caller", "filesystem", "lookups")

    def __init__(self, filesystem: Filesystem[Any], caller: Caller | None = None) -> None:
        """Ask a file system, as root where no caller is named."""
        self.filesystem: Final = filesystem
        self.caller: Final = caller or Caller()
        self.lookups: Final = Lookups.of(filesystem)

    async def root(self) -> Place:
        """Return the root directory."""
        attr = await settled(self.filesystem.getattr(self.caller, ROOT, None))
        return Place(self, None, ROOT, attr)

    def enter(self, parent: Place, entry: Entry) -> Place:
        """Return the place of an entry that was given out, and count its lookup."""
        node = entry.attr.ino if entry.node is None else entry.node
        if not 0 < node < _NODE_LIMIT:
            raise ValueError(f"{node} is no number for a node")
        self.lookups.enter(node)
        return Place(self, parent.hold(), node, entry.attr)

    async def resolve(self, path: Path, *, follow: bool = True, start: Place | None = None) -> Place:
        """Return where a path leads; with `follow` false a link at its end stays one.

        A relative path begins at `start`, or at the root. Raises OSError: ENOENT, ENOTDIR, ELOOP,
        ENAMETOOLONG.
        """
        parent, _, found = await self.seek(path, follow=follow, start=start)
        parent.release()
        if found is None:
            fail(errno.ENOENT, os.fspath(path))
        return found

    async def seek(
        self, path: Path, *, follow: bool = True, start: Place | None = None
    ) -> tuple[Place, str, Place | None]:
        """Return the directory in which a path ends, the last name, and what has it, if anything.

        The name is empty where the path ends at a directory on the way ('/', '.', '..'). Errors as `resolve`,
        but a last name that is missing is none.
        """
        text = os.fspath(path)
        if "\0" in text:
            raise ValueError("embedded null byte")
        if len(os.fsencode(text)) >= PATH_LIMIT:
            fail(errno.ENAMETOOLONG, text)
        if not text:
            fail(errno.ENOENT, text)
        here = start.hold() if start is not None and not text.startswith("/") else await self.root()
        # Names to go, the next one last; an empty one asks that what is before it be a directory.
        names = _names(text)
        links = 0
        try:
            while True:
                name = names.pop() if names else ""
                here.check_directory(text)
                if name in {"", "."}:
                    if names:
                        continue
                    return here, "", here.hold()
                if name == "..":
                    above = here.parent if here.parent is not None else here
                    here = _moved(here, above.hold())
                    continue
                found = await here.find(name)
                if found is None:
                    if any(left not in {"", "."} for left in names):
                        fail(errno.ENOENT, text)
                    return here, name, None
                if stat.S_ISLNK(found.attr.mode) and (names or follow):
                    try:
                        links += 1
                        if links > LINK_LIMIT:
                            fail(errno.ELOOP, text)
                        target = await found.readlink()
                    finally:
                        found.release()
                    if target.startswith("/"):
                        here = _moved(here, await self.root())
                    names += _names(target)
                    if len(names) > PATH_LIMIT * 2:
                        fail(errno.ENAMETOOLONG, text)
                    continue
                if not names:
                    return here, name, found
                here = _moved(here, found)
        except BaseException:
            here.release()
            raise


def _names(path: str) -> list[str]:
    """Return the names of a path, the first one last; a slash at the end leaves an empty one there."""
    names = [name for name in path.split("/") if name]
    if path.endswith("/"):
        names.append("")
    names.reverse()
    return names


def _moved(old: Place, new: Place) -> Place:
    old.release()
    return new


class Place:
    """A node that a path led to, with its attributes as they were then."""

    __slots__ = ("_holders", "attr", "node", "parent", "tree")

    def __init__(self, tree: Tree, parent: Place | None, node: int, attr: Attr) -> None:
        """Take over a lookup of the node, and a hold of the parent."""
        self.tree: Final = tree
        self.parent: Final = parent
        self.node: Final = node
        self.attr = attr
        self._holders = 1

    def hold(self) -> Place:
        """Return this place, for one more who will release it."""
        self._holders += 1
        return self

    def release(self) -> None:
        """Give it up; with the last who held it its lookup goes, and the hold of its parent."""
        place: Place | None = self
        while place is not None:
            place._holders -= 1
            if place._holders:
                return
            if self.tree.lookups.leave(place.node):
                self.tree.filesystem.forget(place.node)
            place = place.parent

    def __enter__(self) -> Place:
        """Hold until the end of a block."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Release."""
        self.release()

    def check_directory(self, path: str | None = None) -> None:
        """Raise ENOTDIR unless this is a directory."""
        if not stat.S_ISDIR(self.attr.mode):
            fail(errno.ENOTDIR, path)

    async def find(self, name: str) -> Place | None:
        """Return what has a name in this directory. ENAMETOOLONG."""
        if len(os.fsencode(name)) > NAME_LIMIT:
            fail(errno.ENAMETOOLONG, name)
        try:
            entry = await settled(self.tree.filesystem.lookup(self.tree.caller, self.node, name))
        except FileNotFoundError:
            return None
        return None if entry is None else self.tree.enter(self, entry)

    async def readlink(self) -> str:
        """Return a symbolic link's target. ENOENT where it is empty, as Linux has it."""
        target = await settled(self.tree.filesystem.readlink(self.tree.caller, self.node))
        if not target:
            fail(errno.ENOENT)
        if len(os.fsencode(target)) >= PATH_LIMIT or "\0" in target:
            fail(errno.ENAMETOOLONG)
        return target

    async def refresh(self, handle: Any = None) -> Attr:
        """Ask for the attributes again, and return them."""
        self.attr = await settled(self.tree.filesystem.getattr(self.tree.caller, self.node, handle))
        return self.attr

    @asynccontextmanager
    async def listing(self) -> AsyncIterator[AsyncIterator[DirEntry]]:
        """Open this directory, and list it without '.' and '..'. What it yields is not counted as lookups."""
        filesystem, caller = self.tree.filesystem, self.tree.caller
        handle: Any = None
        opened = implements(filesystem, "opendir")
        if opened:
            handle = (await settled(filesystem.opendir(caller, self.node, os.O_RDONLY))).handle
        try:
            made = await settled(filesystem.readdir(caller, self.node, handle, 0))
            async with aclosing(_entries(made)) as entries:
                yield entries
        finally:
            if opened and implements(filesystem, "releasedir"):
                await settled(filesystem.releasedir(caller, self.node, handle, os.O_RDONLY))


async def _entries(made: Any) -> AsyncGenerator[DirEntry]:
    """Yield what `readdir` returned, whichever kind it is, and end it."""
    try:
        if isinstance(made, AsyncIterable):
            async for entry in made:
                if entry.name not in {".", ".."}:
                    yield _checked(entry)
        else:
            for entry in made:
                if entry.name not in {".", ".."}:
                    yield _checked(entry)
    finally:
        if hasattr(made, "aclose"):
            await made.aclose()
        elif hasattr(made, "close"):
            made.close()


def _checked(entry: DirEntry) -> DirEntry:
    if not entry.name or "/" in entry.name or "\0" in entry.name:
        raise ValueError(f"{entry.name!r} is no name of a directory's entry")
    return entry
