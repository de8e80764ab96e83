"""The merged tree: what its files are made of, how a name is found over the layers, who holds a file."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from vhostfs.backends.overlay.layers import Layer, Real, is_directory
from vhostfs.backends.overlay.marks import MarkNames, checked_redirect, is_whiteout
from vhostfs.filesystem import ROOT, Attr
from vhostfs.filesystem.refusals import refused

WORK_NAME: Final = ".vhostfs-overlay"
"""The directory where files are made before they are moved to their place in the upper layer."""


class Node:
    """One file of the merged tree: the file in the upper layer, where there is one, and those below.

    A directory has one place, and so has a file that is in no upper layer yet: `parent` and `name` say where.
    Other files are known by their node in the upper layer, and may have any number of names.
    `holds` counts who needs the node: the kernel (once), its children, open handles, operations under way.
    """

    __slots__ = (
        *("children", "holds", "impure", "ino", "is_directory", "known", "linked", "lock", "lowers", "name"),
        *("number", "parent", "redirect", "upper"),
    )

    def __init__(self, number: int, parent: Node | None, name: str, *, is_directory: bool, ino: int) -> None:
        self.number: Final = number
        self.parent = parent
        self.name = name
        self.is_directory: Final = is_directory
        self.ino = ino
        """What st_ino shows."""
        self.upper: Real | None = None
        self.lowers: tuple[Real, ...] = ()
        self.redirect: str | None = None
        """Where the upper directory says that those below are, if not under its own name."""
        self.impure = False
        """The upper directory says that files in it show numbers of lower layers."""
        self.children: Final[dict[str, Node]] = {}
        self.holds = 0
        self.known = False
        self.linked = True
        self.lock: asyncio.Lock | None = None
        """Held by who copies the file up."""

    @property
    def real(self) -> Real:
        """Return the topmost file, whose attributes and data are shown."""
        return self.lowers[0] if self.upper is None else self.upper

    @property
    def merged(self) -> bool:
        """Tell whether a directory has entries from below an upper layer, or from several lower ones."""
        return len(self.lowers) > (0 if self.upper is not None else 1)

    @property
    def reals(self) -> tuple[Real, ...]:
        """Return the files of all layers, the topmost first."""
        return self.lowers if self.upper is None else (self.upper, *self.lowers)

    @property
    def is_placed(self) -> bool:
        """Tell whether the node is known by its place: not so files that came to be in the upper layer."""
        return self.parent is not None and self.parent.children.get(self.name) is self


type Place = tuple[Node, str]
"""A directory, and a name in it."""


class Found:
    """What lookups over the layers have found under a name; its files are held."""

    __slots__ = ("attr", "impure", "lower_attr", "lowers", "number", "redirect", "upper")

    def __init__(self) -> None:
        self.upper: Real | None = None
        self.lowers: list[Real] = []
        self.attr: Attr | None = None
        """The topmost file's."""
        self.lower_attr: Attr | None = None
        """The topmost one's of those in lower layers."""
        self.redirect: str | None = None
        self.impure = False
        self.number: int | None = None
        """What st_ino showed before the file was copied up."""

    def drop(self) -> None:
        """Give back all files."""
        if self.upper is not None:
            self.upper.layer.drop(self.upper.node)
        for real in self.lowers:
            real.layer.drop(real.node)
        self.upper = None
        self.lowers = []


class _Search:
    """How far a search is: under which path the next layer is asked, and whether it is asked at all."""

    __slots__ = ("directory", "impure", "path", "redirected", "stop")

    def __init__(self, name: str) -> None:
        self.path = name
        """One name; or, behind a slash, a path from the layer's root."""
        self.redirected: str | None = None
        self.directory = False
        """A layer above has a directory here."""
        self.stop = False
        self.impure = False


class Tree:
    """The nodes of one overlay, and the way to them through its layers."""

    def __init__(
        self, upper: Layer | None, lowers: tuple[Layer, ...], marks: MarkNames, *, hides_work: bool
    ) -> None:
        self.upper: Final = upper
        self.lowers: Final = lowers
        self.hides_work: Final = hides_work
        """The work directory is in the upper layer's root."""
        self.layers: Final = (*((upper,) if upper is not None else ()), *lowers)
        self.marks: Final = marks
        self._changing = asyncio.Lock()
        self._version = 0
        """Odd while names change."""
        self._nodes: Final[dict[int, Node]] = {}
        self._uppers: Final[dict[int, Node]] = {}
        """Files in the upper layer that are no directories, which may have several names, by its node."""
        self._last = ROOT
        self.root = Node(ROOT, None, "", is_directory=True, ino=ROOT)

    async def begin(self) -> None:
        """Set the root up, when all layers have begun."""
        self._nodes.clear()
        self._uppers.clear()
        self._last = ROOT
        self._changing = asyncio.Lock()
        self._version = 0
        root = self.root = Node(ROOT, None, "", is_directory=True, ino=ROOT)
        reals = []
        for layer in self.layers:
            await layer.begin()
            marks = await layer.directory_marks(layer.root)
            reals.append(Real(layer, layer.root, marks.holds_files_as_whiteouts))
            root.impure |= layer is self.upper and marks.impure
        if self.upper is not None:
            root.upper = reals.pop(0)
        root.lowers = tuple(reals)
        root.ino = self.lowers[0].number((await self.lowers[0].getattr(self.lowers[0].root)).ino)
        root.holds = 1
        self._nodes[ROOT] = root

    def end(self) -> None:
        """Give everything back."""
        self._nodes.clear()
        self._uppers.clear()
        for layer in self.layers:
            layer.drop_all()

    @asynccontextmanager
    async def changing(self) -> AsyncGenerator[None]:
        """Be the only one who changes names, or what directories are made of."""
        async with self._changing:
            self._version += 1
            try:
                yield
            finally:
                self._version += 1

    # ---- Nodes ----

    def node(self, number: int) -> Node:
        """Return a node that was given out; OSError ESTALE where it is gone."""
        node = self._nodes.get(number)
        if node is None:
            raise refused(errno.ESTALE)
        return node

    def by_real(self, layer: Layer, node: int) -> Node:
        """Return the node that shows a layer's file; OSError ENOENT where none does."""
        for candidate in self._nodes.values():
            if candidate.real.layer is layer and candidate.real.node == node:
                return candidate
        raise refused(errno.ENOENT)

    @contextmanager
    def using(self, number: int) -> Iterator[Node]:
        """Hold a node for as long as an operation lasts."""
        node = self.node(number)
        node.holds += 1
        try:
            yield node
        finally:
            self.release(node)

    def release(self, node: Node | None) -> None:
        """Hold a node no longer; who is held by nobody goes, and its parent perhaps with it."""
        while node is not None:
            node.holds -= 1
            if node.holds > 0 or node is self.root:
                return
            self._nodes.pop(node.number, None)
            if node.upper is not None and self._uppers.get(node.upper.node) is node:
                del self._uppers[node.upper.node]
            for real in node.reals:
                real.layer.drop(real.node)
            node = self._unlink_child(node)

    def known(self, node: Node) -> None:
        """Note that the kernel is told of a node."""
        if not node.known:
            node.known = True
            node.holds += 1

    def forget(self, number: int) -> None:
        """Note that the kernel holds a node no longer."""
        node = self._nodes.get(number)
        if node is not None and node.known and node is not self.root:
            node.known = False
            self.release(node)

    def _unlink_child(self, node: Node) -> Node | None:
        """Take a node from its place; return its parent where that is to be released."""
        parent = node.parent
        if parent is None or parent.children.get(node.name) is not node:
            return None
        del parent.children[node.name]
        return parent

    def detach(self, node: Node) -> None:
        """Note that a node has lost its only place."""
        node.linked = False
        parent = self._unlink_child(node)
        node.parent = None
        self.release(parent)

    def attach(self, node: Node, parent: Node, name: str) -> None:
        """Give a node its place, from which another one may have to go."""
        other = parent.children.get(name)
        if other is node:
            return
        if other is not None:
            self.detach(other)
        old = self._unlink_child(node)
        node.parent, node.name, node.linked = parent, name, True
        parent.children[name] = node
        parent.holds += 1
        self.release(old)

    def exchange(self, node: Node, other: Node, place: Place, other_place: Place) -> None:
        """Note that two nodes, of which the first one had the first place, have changed places."""
        placed = [move for move in ((node, other_place), (other, place)) if move[0].is_placed]
        for moved, _ in placed:
            self.detach(moved)
        for moved, new in placed:
            self.attach(moved, *new)

    def copied_up(self, node: Node, upper: Real, number: int | None) -> None:
        """Note that a file is in the upper layer now, and shows another number if one is given."""
        node.upper = upper
        if node.is_directory:
            return
        if number is not None:
            node.ino = number
        self._uppers[upper.node] = node
        released = self._unlink_child(node)
        node.parent = None
        self.release(released)

    def adopt(self, parent: Node | None, name: str, real: Real, attr: Attr) -> Node:
        """Return the node, held once, of what was just made in the upper layer; takes its lookup over."""
        found = Found()
        found.upper, found.attr = real, attr
        return self._intern(parent, name, found)

    def _intern(self, parent: Node | None, name: str, found: Found) -> Node:
        """Return the node, held once, of what a search has found; takes its files over.

        No names may have changed since the search began.
        """
        attr = found.attr
        assert attr is not None
        node = parent.children.get(name) if parent is not None else None
        if node is None or not _is_same(node, found):
            node = None
            if found.upper is not None and not is_directory(attr):
                node = self._uppers.get(found.upper.node)
        if node is not None:
            found.drop()
            node.holds += 1
            return node
        directory = is_directory(attr)
        number = found.number
        if number is None:
            shown, shown_attr = found.upper, attr
            if found.lowers and found.lower_attr is not None:
                shown, shown_attr = found.lowers[0], found.lower_attr
            assert shown is not None
            number = shown.layer.number(shown_attr.ino)
        self._last += 1
        node = Node(self._last, None, name, is_directory=directory, ino=number)
        node.upper, node.lowers, node.redirect = found.upper, tuple(found.lowers), found.redirect
        node.impure = found.impure
        node.holds = 1
        self._nodes[node.number] = node
        if node.upper is not None and not directory:
            self._uppers[node.upper.node] = node
        elif parent is not None:
            self.attach(node, parent, name)
        else:
            node.linked = False
        return node

    # ---- Names ----

    def is_reserved(self, parent: Node, name: str) -> bool:
        """Tell whether a name is that of the overlay's work directory, where the upper layer has this."""
        return name == WORK_NAME and parent is self.root and self.hides_work

    def check_name(self, parent: Node, name: str) -> None:
        """Refuse a name that is the overlay's own: OSError EPERM."""
        if self.is_reserved(parent, name):
            raise refused(errno.EPERM)

    async def child(self, parent: Node, name: str) -> tuple[Node, Attr] | None:
        """Find a name; return its node, held once, and the attributes as the layer has them.

        Waits for changes under way, and looks again after a change meanwhile.
        """
        version = self._version
        if not version & 1:
            found = await self._numbered(parent, name)
            if version == self._version:
                return self._interned(parent, name, found)
            if found is not None:
                found.drop()
        async with self._changing:
            return await self.child_now(parent, name)

    async def child_now(self, parent: Node, name: str) -> tuple[Node, Attr] | None:
        """Do the same for who is changing names."""
        return self._interned(parent, name, await self._numbered(parent, name))

    def _interned(self, parent: Node, name: str, found: Found | None) -> tuple[Node, Attr] | None:
        if found is None:
            return None
        attr = found.attr
        assert attr is not None
        return self._intern(parent, name, found), attr

    async def _numbered(self, parent: Node, name: str) -> Found | None:
        """Find a name, and the number that it showed before it was copied up."""
        found = await self.find(parent, name)
        if found is None or found.upper is None or found.attr is None or is_directory(found.attr):
            return found
        try:
            if found.upper.node not in self._uppers:
                found.number = await self._recorded_number(found.upper)
        except BaseException:
            found.drop()
            raise
        return found

    async def _recorded_number(self, upper: Real) -> int | None:
        value = await upper.layer.xattr(upper.node, self.marks.number)
        if value is None or not value.isdigit() or len(value) > 20 or not 0 < int(value) < 2**64:
            return None
        return int(value)

    async def find(self, parent: Node, name: str) -> Found | None:
        """Look a name up in every layer that a directory has, as far down as one hides the others."""
        if self.is_reserved(parent, name):
            return None
        search, found = _Search(name), Found()
        try:
            if parent.upper is not None:
                hit = await self._ask(parent.upper, search)
                if hit is not None:
                    found.upper, found.attr = hit
                    found.redirect, found.impure = search.redirected, search.impure
            await self._find_below(parent, search, found)
        except BaseException:
            found.drop()
            raise
        return found if found.attr is not None else None

    async def has_below(self, parent: Node, name: str) -> bool:
        """Tell whether the lower layers of a directory show a name."""
        if not parent.lowers:
            return False
        found = Found()
        try:
            await self._find_below(parent, _Search(name), found)
            return found.attr is not None
        finally:
            found.drop()

    async def in_upper(self, parent: Node, name: str) -> tuple[Real, Attr] | None:
        """Look a name up in the upper layer alone; whiteouts count."""
        return None if parent.upper is None else await parent.upper.layer.lookup(parent.upper.node, name)

    async def _find_below(self, parent: Node, search: _Search, found: Found) -> None:
        bases = parent.lowers
        index = 0
        if search.path.startswith("/"):
            bases = self.root.lowers
        while index < len(bases) and not search.stop:
            base = bases[index]
            hit = await self._ask(base, search)
            if hit is not None:
                found.lowers.append(hit[0])
                if found.lower_attr is None:
                    found.lower_attr = hit[1]
                if found.attr is None:
                    found.attr = hit[1]
            index += 1
            if search.path.startswith("/") and bases is not self.root.lowers:
                bases = self.root.lowers
                index = sum(real.layer.position <= base.layer.position for real in bases)

    async def _ask(self, base: Real, search: _Search) -> tuple[Real, Attr] | None:
        """Look the search's path up in one layer, beginning at a directory or at the root."""
        if not search.path.startswith("/"):
            return await self._ask_one(base, search, 0, len(search.path))
        layer = base.layer
        base = next(real for real in self.root.reals if real.layer is layer)
        layer.keep(base.node)
        remaining = len(search.path) - 1
        while True:
            # Counted from the end, as redirects on the way change what lies before it.
            begin = len(search.path) - remaining
            end = search.path.find("/", begin)
            rest = 0 if end < 0 else len(search.path) - end
            try:
                hit = await self._ask_one(base, search, begin, len(search.path) - rest)
            finally:
                layer.drop(base.node)
            if hit is None or rest == 0:
                return hit
            base = hit[0]
            remaining = rest - 1

    async def _ask_one(self, base: Real, search: _Search, begin: int, end: int) -> tuple[Real, Attr] | None:
        """Look one name of the search's path up in a directory, and see to what its marks say."""
        path = search.path
        last = end == len(path)
        layer = base.layer
        hit = await layer.lookup(base.node, path[begin:end])
        if hit is None:
            return None
        real, attr = hit
        try:
            if await self.is_hidden(base, real, attr):
                search.stop = True
                layer.drop(real.node)
                return None
            if not is_directory(attr):
                search.stop = True
                if search.directory or not last:
                    layer.drop(real.node)
                    return None
                if stat.S_ISREG(attr.mode) and await layer.xattr(real.node, self.marks.metacopy) is not None:
                    raise OSError(errno.EPERM, "a file of a layer has its data elsewhere (overlay.metacopy)")
                return hit
            marks = await layer.directory_marks(real.node)
            if last:
                search.directory, search.impure = True, marks.impure
            if marks.opaque:
                search.stop = True
            elif marks.redirect is not None:
                if not self.marks.follows_redirects:
                    raise OSError(errno.EPERM, "a directory has a redirect, which userxattr forbids")
                self._redirect(search, marks.redirect, begin, end)
            return Real(layer, real.node, marks.holds_files_as_whiteouts), attr
        except BaseException:
            layer.drop(real.node)
            raise

    def _redirect(self, search: _Search, value: bytes, begin: int, end: int) -> None:
        redirect = checked_redirect(value)
        rest = search.path[end:]
        if redirect.startswith("/"):
            search.path = redirect + rest
            search.stop = False
        else:
            search.path = search.path[:begin] + redirect + rest
        search.redirected = redirect

    async def is_hidden(self, directory: Real, real: Real, attr: Attr) -> bool:
        """Tell whether a file found in a directory of a layer is a whiteout of either kind."""
        if is_whiteout(attr):
            return True
        return (
            directory.holds_files_as_whiteouts
            and stat.S_ISREG(attr.mode)
            and attr.size == 0
            and await real.layer.xattr(real.node, self.marks.whiteout) is not None
        )


def _is_same(node: Node, found: Found) -> bool:
    """Tell whether a search has found what a node is, which may have been copied up meanwhile."""
    if found.upper is not None:
        return node.upper is not None and node.upper.node == found.upper.node
    return node.lowers[:1] == tuple(found.lowers[:1])
