"""From nodes to paths: a PathFilesystem as the file system that the kernel asks by node."""

from __future__ import annotations

import errno
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any, Final

from vhostfs.filesystem.interface import Filesystem, MaybeAwaitable, Session
from vhostfs.filesystem.operations import OPERATIONS
from vhostfs.filesystem.paths import PathFilesystem
from vhostfs.filesystem.refusals import refused
from vhostfs.filesystem.types import ROOT, Attr, Caller, DirEntry, Entry, Opened
from vhostfs.fuse_abi.flags import RenameFlags

_UNKNOWN_INO: Final = 0xFFFF_FFFF
"""What a listing says of a name whose number it does not know, as libfuse does."""

_BY_NODE: Final = (
    *("setattr", "access", "readlink", "read", "write", "flush", "fsync", "fallocate", "lseek"),
    *("fsyncdir", "statfs", "getxattr", "listxattr", "setxattr", "removexattr"),
)
"""What is asked of one node: (caller, node, ...) becomes (caller, path, ...)."""

_WITH_HANDLE: Final = frozenset(
    {"setattr", "read", "write", "flush", "fsync", "fallocate", "lseek", "fsyncdir"}
)
"""Those of them whose next argument is a handle."""


def by_nodes[H](filesystem: PathFilesystem[H] | Filesystem[H]) -> Filesystem[H]:
    """Return a file system that can be served; one that is asked by node stays itself."""
    return filesystem if isinstance(filesystem, Filesystem) else PathNodes(filesystem)


class Place:
    """A node: its place among the names, what the kernel has of it, and whether its name is still its own."""

    __slots__ = ("children", "handles", "known", "name", "number", "parent", "removed")

    def __init__(self, number: int, parent: Place | None, name: str) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.children: dict[str, Place] = {}
        self.handles: list[Any] = []
        """The handles that are open."""
        self.known = False
        """The kernel holds lookups."""
        self.removed = False

    @property
    def path(self) -> str:
        """Return where it is, or was when it was removed."""
        names = []
        place = self
        while place.parent is not None:
            names.append(place.name)
            place = place.parent
        return "/" + "/".join(reversed(names))

    @property
    def needed(self) -> bool:
        """Tell whether anything leads here."""
        return self.known or bool(self.handles) or bool(self.children) or self.parent is None


def _then[Given, Made](answer: MaybeAwaitable[Given], make: Callable[[Given], Made]) -> MaybeAwaitable[Made]:
    """Return what is made of an answer, at once or later."""
    if inspect.isawaitable(answer):
        return _later(answer, make)
    return make(answer)


async def _later[Given, Made](answer: Awaitable[Given], make: Callable[[Given], Made]) -> Made:
    return make(await answer)


def _missing_name(error: OSError) -> None:
    """Pass over ENOENT, and raise all else."""
    if error.errno not in {errno.ENOENT, None} or not isinstance(error, FileNotFoundError):
        raise error


class PathNodes[H](Filesystem[H]):
    """Keeps the table of nodes, and asks a PathFilesystem."""

    def __init__(self, filesystem: PathFilesystem[H]) -> None:
        """Serve a file system that is asked by path."""
        self.filesystem: Final = filesystem
        self.options = filesystem.options
        self._root = Place(ROOT, None, "")
        self._places: dict[int, Place] = {ROOT: self._root}
        self._last = ROOT
        for name in OPERATIONS:
            if not self._answers(name):
                setattr(self, name, MethodType(getattr(Filesystem, name), self))
            elif name in _BY_NODE:
                setattr(self, name, self._asked_by_node(name))

    def _answers(self, operation: str) -> bool:
        named = "getattr" if operation == "lookup" else operation
        method = getattr(self.filesystem, named, None)
        return method is not None and getattr(method, "__func__", method) is not getattr(
            PathFilesystem, named
        )

    def _asked_by_node(self, name: str) -> Callable[..., Any]:
        method = getattr(self.filesystem, name)
        place_of = self._place

        if name not in _WITH_HANDLE:

            def ask(caller: Caller, node: int, *arguments: Any) -> Any:
                return method(caller, place_of(node, None)[0].path, *arguments)

            return ask

        finish = self._attr if name == "setattr" else None

        def ask_with_handle(caller: Caller, node: int, handle: Any, *arguments: Any) -> Any:
            place, handle = place_of(node, handle)
            answer = method(caller, place.path, handle, *arguments)
            return answer if finish is None else _then(answer, lambda attr: finish(place, attr))

        return ask_with_handle

    # ---- The table ----

    @property
    def nodes(self) -> int:
        """Return how many nodes are in the table."""
        return len(self._places)

    def _place(self, node: int, handle: Any) -> tuple[Place, Any]:
        """Return a node, and where it was removed a handle of it; ESTALE where there is none."""
        place = self._places.get(node)
        if place is None:
            raise refused(errno.ESTALE)
        if handle is None and place.removed:
            if not place.handles:
                raise refused(errno.ESTALE)
            handle = place.handles[-1]
        return place, handle

    def _directory(self, node: int) -> Place:
        place = self._place(node, None)[0]
        if place.removed:
            raise refused(errno.ENOENT)
        return place

    @staticmethod
    def _path_in(directory: Place, name: str) -> str:
        return f"{directory.path.rstrip('/')}/{name}"

    def _child(self, directory: Place, name: str) -> Place:
        place = directory.children.get(name)
        if place is None:
            self._last += 1
            place = directory.children[name] = self._places[self._last] = Place(self._last, directory, name)
        return place

    @staticmethod
    def _attr(place: Place, attr: Attr) -> Attr:
        return attr if attr.ino else replace(attr, ino=place.number)

    def _entry(self, directory: Place, name: str, attr: Attr) -> Entry:
        """Return the entry of what is there now; the session counts its lookup."""
        place = self._child(directory, name)
        place.known = True
        return Entry(self._attr(place, attr), place.number)

    def _made(self, directory: Place, name: str, attr: Attr) -> Entry:
        """Return the entry of what was made just now, which is none that was there before."""
        self._part(directory, name)
        return self._entry(directory, name, attr)

    def _part(self, directory: Place, name: str) -> None:
        """Note that a name leads no longer to what it led to."""
        place = directory.children.pop(name, None)
        if place is None:
            return
        # Its path is remembered by its parent, which must not go before.
        place.removed = True
        self._drop(place)

    def _drop(self, place: Place | None) -> None:
        """Free a node that nothing leads to, and those above that only it held."""
        while place is not None and not place.needed:
            del self._places[place.number]
            parent = place.parent
            if parent is not None and not place.removed:
                del parent.children[place.name]
            place.known = True  # it is gone: not to be dropped twice
            place = parent

    def forget(self, node: int) -> None:
        """Free a node, unless it is open or something in it is known."""
        place = self._places.get(node)
        if place is not None:
            place.known = False
            self._drop(place)

    # ---- Life ----

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Begin."""
        return self.filesystem.init(session)

    def destroy(self) -> MaybeAwaitable[None]:
        """End; the table is empty then."""
        self._root = Place(ROOT, None, "")
        self._places = {ROOT: self._root}
        return self.filesystem.destroy()

    # ---- Names ----

    def lookup(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[Entry | None]:
        """Find what getattr finds."""
        directory = self._directory(parent)
        try:
            answer = self.filesystem.getattr(caller, self._path_in(directory, name), None)
        except FileNotFoundError as error:
            _missing_name(error)
            return None
        if inspect.isawaitable(answer):
            return self._lookup_later(answer, directory, name)
        return self._entry(directory, name, answer)

    async def _lookup_later(self, answer: Awaitable[Attr], directory: Place, name: str) -> Entry | None:
        try:
            attr = await answer
        except FileNotFoundError as error:
            _missing_name(error)
            return None
        return self._entry(directory, name, attr)

    def getattr(self, caller: Caller, node: int, handle: H | None) -> MaybeAwaitable[Attr]:
        """Ask by path."""
        place, handle = self._place(node, handle)
        answer = self.filesystem.getattr(caller, place.path, handle)
        return _then(answer, lambda attr: self._attr(place, attr))

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> MaybeAwaitable[Entry]:
        """Ask by path."""
        directory = self._directory(parent)
        answer = self.filesystem.mknod(caller, self._path_in(directory, name), mode, rdev)
        return _then(answer, lambda attr: self._made(directory, name, attr))

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> MaybeAwaitable[Entry]:
        """Ask by path."""
        directory = self._directory(parent)
        answer = self.filesystem.mkdir(caller, self._path_in(directory, name), mode)
        return _then(answer, lambda attr: self._made(directory, name, attr))

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> MaybeAwaitable[Entry]:
        """Ask by path."""
        directory = self._directory(parent)
        answer = self.filesystem.symlink(caller, self._path_in(directory, name), target)
        return _then(answer, lambda attr: self._made(directory, name, attr))

    def link(self, caller: Caller, node: int, parent: int, name: str) -> MaybeAwaitable[Entry]:
        """Ask by both paths."""
        place = self._place(node, None)[0]
        if place.removed:
            raise refused(errno.ENOENT)
        directory = self._directory(parent)
        answer = self.filesystem.link(caller, place.path, self._path_in(directory, name))
        return _then(answer, lambda attr: self._made(directory, name, attr))

    def unlink(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[None]:
        """Ask by path."""
        directory = self._directory(parent)
        answer = self.filesystem.unlink(caller, self._path_in(directory, name))
        return _then(answer, lambda _: self._part(directory, name))

    def rmdir(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[None]:
        """Ask by path."""
        directory = self._directory(parent)
        answer = self.filesystem.rmdir(caller, self._path_in(directory, name))
        return _then(answer, lambda _: self._part(directory, name))

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> MaybeAwaitable[None]:
        """Ask by both paths; whatever is below goes along."""
        old, new = self._directory(parent), self._directory(new_parent)
        path, new_path = self._path_in(old, name), self._path_in(new, new_name)
        answer = self.filesystem.rename(caller, path, new_path, flags)
        return _then(answer, lambda _: self._renamed(old, name, new, new_name, flags))

    def _renamed(self, old: Place, name: str, new: Place, new_name: str, flags: RenameFlags) -> None:
        moved = old.children.get(name)
        if old is new and name == new_name:
            return
        if RenameFlags.EXCHANGE in flags:
            other = new.children.get(new_name)
            self._put(other, old, name)
            self._put(moved, new, new_name)
        else:
            self._part(new, new_name)
            old.children.pop(name, None)
            self._put(moved, new, new_name)
        self._drop(old)
        self._drop(new)

    @staticmethod
    def _put(place: Place | None, directory: Place, name: str) -> None:
        if place is None:
            directory.children.pop(name, None)
        else:
            directory.children[name] = place
            place.parent, place.name = directory, name

    # ---- Files ----

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Ask by path, and remember the handle."""
        place, _ = self._place(node, None)
        if place.removed:
            raise refused(errno.ESTALE)
        return _then(
            self.filesystem.open(caller, place.path, flags), lambda opened: self._opened(place, opened)
        )

    @staticmethod
    def _opened(place: Place, opened: Opened[H]) -> Opened[H]:
        place.handles.append(opened.handle)
        return opened

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Entry, Opened[H]]]:
        """Ask by path, and remember the handle. What is there already is opened."""
        directory = self._directory(parent)
        answer = self.filesystem.create(caller, self._path_in(directory, name), mode, flags)

        def made(answered: tuple[Attr, Opened[H]]) -> tuple[Entry, Opened[H]]:
            attr, opened = answered
            entry = self._entry(directory, name, attr)
            return entry, self._opened(directory.children[name], opened)

        return _then(answer, made)

    def release(self, caller: Caller, node: int, handle: H, flags: int) -> MaybeAwaitable[None]:
        """Ask by path, and let the handle go, whatever is answered."""
        place, _ = self._place(node, handle)
        path = place.path
        at = next(at for at, held in enumerate(place.handles) if held is handle)
        del place.handles[at]
        self._drop(place)
        return self.filesystem.release(caller, path, handle, flags)

    # ---- Directories ----

    def readdir(
        self, caller: Caller, node: int, handle: H | None, offset: int
    ) -> MaybeAwaitable[Iterable[DirEntry] | AsyncIterable[DirEntry]]:
        """Ask by path; names alone become entries of unknown type."""
        place = self._directory(node)
        answer = self.filesystem.readdir(caller, place.path, None, offset)
        return _then(answer, partial(self._listing, place))

    def _listing(
        self, directory: Place, listing: Iterable[DirEntry | str] | AsyncIterable[DirEntry | str]
    ) -> Iterator[DirEntry] | AsyncIterator[DirEntry]:
        if isinstance(listing, AsyncIterable):
            return self._listing_later(directory, listing)
        return (self._listed(directory, each) for each in listing)

    async def _listing_later(
        self, directory: Place, listing: AsyncIterable[DirEntry | str]
    ) -> AsyncIterator[DirEntry]:
        try:
            async for each in listing:
                yield self._listed(directory, each)
        finally:
            close = getattr(listing, "aclose", None)
            if close is not None:
                await close()

    @staticmethod
    def _listed(directory: Place, each: DirEntry | str) -> DirEntry:
        entry = DirEntry(each, 0) if isinstance(each, str) else each
        if entry.ino and entry.entry is None:
            return entry
        known = directory.children.get(entry.name)
        ino = entry.ino or (_UNKNOWN_INO if known is None else known.number)
        # Its node would have to be remembered before anybody has looked it up.
        return replace(entry, ino=ino, entry=None)
