"""Changes of names: what they put into the upper layer so that the merged tree shows them.

Each takes as few steps in the upper layer as its file system allows, with RENAME_EXCHANGE and RENAME_WHITEOUT
where it knows them, and in an order in which a crash loses nothing: without these two, a crash in the midst
may show a name of a lower layer that was just removed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from vhostfs.backends.overlay.copyup import CopyUp
from vhostfs.backends.overlay.layers import OVERLAY, Layer, Real, is_directory
from vhostfs.backends.overlay.tree import Node, Tree
from vhostfs.filesystem import Attr, Caller, Entry, RenameFlags, settled
from vhostfs.filesystem.refusals import refused

_PLAIN: Final = RenameFlags(0)
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

type Make = Callable[[Caller, int, str], Awaitable[Entry]]
"""Makes a file in a directory of the upper layer: (caller, directory, name)."""


class Changes:
    """The changes of an overlay that has an upper layer. `Tree.changing()` is held by whoever calls."""

    def __init__(self, tree: Tree, upper: Layer, copyup: CopyUp) -> None:
        """Change `upper`, the upper layer of `tree`."""
        self._tree = tree
        self._upper = upper
        self._filesystem = upper.filesystem
        self._copyup = copyup

    # ---- New names ----

    async def make(self, caller: Caller, parent: Node, name: str, make: Make) -> tuple[Real, Attr]:
        """Make a file under a name that shows none (OSError EEXIST); return it, held.

        Where a whiteout is, it is made elsewhere and moved there.
        """
        self._tree.check_name(parent, name)
        if not parent.linked:
            raise refused(errno.ENOENT)
        found = await self._tree.find(parent, name)
        if found is not None:
            found.drop()
            raise refused(errno.EEXIST)
        directory = await self._copyup.ensure_directory(parent)
        hidden = await self._tree.in_upper(parent, name)
        if hidden is None:
            entry = await make(caller, directory.node, name)
            return Real(self._upper, self._upper.hold(entry)), entry.attr
        self._upper.drop(hidden[0].node)
        return await self._make_over_whiteout(caller, directory.node, name, make)

    async def _make_over_whiteout(
        self, caller: Caller, directory: int, name: str, make: Make
    ) -> tuple[Real, Attr]:
        work = self._copyup.work
        twin, place = await work.twin(directory)
        real = None
        try:
            entry = await make(caller, place.node, name)
            real = Real(self._upper, self._upper.hold(entry))
            if is_directory(entry.attr):
                await self._upper.set_xattr(real.node, self._tree.marks.opaque, b"y")
                await self._move_directory_over_whiteout(place.node, directory, name)
            else:
                await self._rename(place.node, name, directory, name)
            return real, await self._upper.getattr(real.node)
        except BaseException:
            if real is not None:
                self._upper.drop(real.node)
            raise
        finally:
            self._upper.drop(place.node)
            await work.remove(twin)

    async def _move_directory_over_whiteout(self, place: int, directory: int, name: str) -> None:
        if not await self._rename_as_wanted(place, name, directory, name, RenameFlags.EXCHANGE):
            await settled(self._filesystem.unlink(OVERLAY, directory, name))
            await self._rename(place, name, directory, name)

    # ---- Removed names ----

    async def unlink(self, caller: Caller, parent: Node, name: str) -> None:
        """Remove a name of what is no directory."""
        self._tree.check_name(parent, name)
        child = await self._tree.child_now(parent, name)
        if child is None:
            raise refused(errno.ENOENT)
        node, _ = child
        try:
            if node.is_directory:
                raise refused(errno.EISDIR)
            below = await self._tree.has_below(parent, name)
            directory = await self._copyup.ensure_directory(parent)
            if node.upper is None:
                await self._whiteout(directory.node, name)
            elif not below:
                await settled(self._filesystem.unlink(caller, directory.node, name))
            else:
                work = self._copyup.work
                place, made = await work.directory(), work.name()
                await self._whiteout(place, made)
                await self._rename(place, made, directory.node, name)
            self._lost(parent, name)
        finally:
            self._tree.release(node)

    async def rmdir(self, caller: Caller, parent: Node, name: str) -> None:
        """Remove a directory that shows no entries."""
        self._tree.check_name(parent, name)
        child = await self._tree.child_now(parent, name)
        if child is None:
            raise refused(errno.ENOENT)
        node, _ = child
        try:
            if not node.is_directory:
                raise refused(errno.ENOTDIR)
            if not await self.is_empty(node):
                raise refused(errno.ENOTEMPTY)
            below = await self._tree.has_below(parent, name)
            directory = await self._copyup.ensure_directory(parent)
            if node.upper is None:
                await self._whiteout(directory.node, name)
            elif not below and not await self._holds_any(node.upper):
                await settled(self._filesystem.rmdir(caller, directory.node, name))
            else:
                await self._remove_directory(directory.node, name, whiteout=below)
            self._lost(parent, name)
        finally:
            self._tree.release(node)

    async def _remove_directory(self, directory: int, name: str, *, whiteout: bool) -> None:
        """Take a directory away with the whiteouts that it holds."""
        work = self._copyup.work
        place, made = await work.directory(), work.name()
        if whiteout:
            await self._whiteout(place, made)
            if not await self._rename_as_wanted(place, made, directory, name, RenameFlags.EXCHANGE):
                aside = work.name()
                await self._rename(directory, name, place, aside)
                await self._rename(place, made, directory, name)
                made = aside
        else:
            await self._rename(directory, name, place, made)
        await work.remove(made)

    def _lost(self, parent: Node, name: str) -> None:
        """Note that a name shows nothing any more."""
        child = parent.children.get(name)
        if child is not None:
            self._tree.detach(child)

    async def is_empty(self, node: Node) -> bool:
        """Tell whether a directory shows no entries."""
        seen: set[str] = set()
        for real in node.reals:
            async with aclosing(real.layer.list(real.node)) as entries:
                async for entry in entries:
                    if entry.name in seen or self._tree.is_reserved(node, entry.name):
                        continue
                    seen.add(entry.name)
                    hit = await real.layer.lookup(real.node, entry.name)
                    if hit is None:
                        continue
                    hidden = await self._tree.is_hidden(real, *hit)
                    real.layer.drop(hit[0].node)
                    if not hidden:
                        return False
        return True

    async def _holds_any(self, directory: Real) -> bool:
        """Tell whether there is anything in a directory of the upper layer, seen or not."""
        async with aclosing(self._upper.list(directory.node)) as entries:
            return await anext(entries, None) is not None

    # ---- Other names ----

    async def link(self, caller: Caller, node: Node, parent: Node, name: str) -> Attr:
        """Give a file, which is in the upper layer, one more name; return its attributes."""
        upper = node.upper
        assert upper is not None

        async def make(maker: Caller, directory: int, new_name: str) -> Entry:
            return await settled(self._filesystem.link(maker, upper.node, directory, new_name))

        real, attr = await self.make(caller, parent, name, make)
        self._upper.drop(real.node)
        if node.ino != self._upper.number(attr.ino):
            await self._copyup.mark_impure(parent)
        return attr

    async def rename(
        self, caller: Caller, parent: Node, name: str, new_parent: Node, new_name: str, flags: RenameFlags
    ) -> bool:
        """Rename as rename(2) does; False where a file has to be copied up first, without Tree.changing()."""
        self._tree.check_name(parent, name)
        self._tree.check_name(new_parent, new_name)
        if not parent.linked or not new_parent.linked:
            raise refused(errno.ENOENT)
        child = await self._tree.child_now(parent, name)
        if child is None:
            raise refused(errno.ENOENT)
        node = child[0]
        other: Node | None = None
        try:
            target = await self._tree.child_now(new_parent, new_name)
            other = target[0] if target is not None else None
            self._check_rename(node, other, parent, new_parent, flags)
            if node is other:
                return True
            exchanged = bool(flags & RenameFlags.EXCHANGE)
            if other is not None and not exchanged and other.is_directory and not await self.is_empty(other):
                raise refused(errno.ENOTEMPTY)
            for file in (node, other if exchanged else None):
                if file is not None and not file.is_directory and file.upper is None:
                    return False
            await self._copyup.ensure_directory(parent)
            await self._copyup.ensure_directory(new_parent)
            # A file is in the upper layer now if it moves, a directory comes there without what is in it.
            moves = [(node, new_parent)]
            if exchanged and other is not None:
                moves.append((other, parent))
            for directory, above in moves:
                if directory.is_directory:
                    await self._copyup.ensure_directory(directory)
                    await self._mark_moved(directory, above, same=parent is new_parent)
                if directory.lowers or parent.impure or new_parent.impure:
                    await self._copyup.mark_impure(above)
            if exchanged:
                assert other is not None
                await self._exchange(parent, name, new_parent, new_name)
                self._tree.exchange(node, other, (parent, name), (new_parent, new_name))
            else:
                await self._replace(caller, node, parent, name, new_parent, new_name)
                self._lost(new_parent, new_name)
                if node.is_placed:
                    self._tree.attach(node, new_parent, new_name)
            return True
        finally:
            self._tree.release(node)
            self._tree.release(other)

    @staticmethod
    def _check_rename(
        node: Node, other: Node | None, parent: Node, new_parent: Node, flags: RenameFlags
    ) -> None:
        """Refuse what rename(2) refuses before it looks into directories."""
        exchange = bool(flags & RenameFlags.EXCHANGE)
        if other is None and exchange:
            raise refused(errno.ENOENT)
        if other is not None and flags & RenameFlags.NOREPLACE:
            raise refused(errno.EEXIST)
        if _is_within(new_parent, node):
            raise refused(errno.EINVAL)
        if other is not None and _is_within(parent, other):
            raise refused(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if other is not None and not exchange and node.is_directory != other.is_directory:
            raise refused(errno.ENOTDIR if node.is_directory else errno.EISDIR)

    async def _mark_moved(self, node: Node, above: Node, *, same: bool) -> None:
        """Say on a directory where its lower ones are found from its new place, if anywhere.

        EXDEV where these marks cannot be kept, as from the kernel: programs copy then.
        """
        upper = node.upper
        assert upper is not None
        marks = self._tree.marks
        if not node.lowers:
            if above.lowers:
                await self._mark(upper, marks.opaque, b"y")
            return
        if not marks.follows_redirects:
            raise refused(errno.EXDEV)
        if node.redirect is not None and (same or node.redirect.startswith("/")):
            return
        redirect = (node.redirect or node.name) if same else _path(node)
        await self._mark(upper, marks.redirect, os.fsencode(redirect))
        node.redirect = redirect

    async def _mark(self, upper: Real, name: str, value: bytes) -> None:
        try:
            await self._upper.set_xattr(upper.node, name, value)
        except OSError:
            raise refused(errno.EXDEV) from None

    async def _exchange(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        assert parent.upper is not None
        assert new_parent.upper is not None
        exchange = RenameFlags.EXCHANGE
        await self._rename(parent.upper.node, name, new_parent.upper.node, new_name, exchange)

    async def _replace(
        self, caller: Caller, node: Node, parent: Node, name: str, new_parent: Node, new_name: str
    ) -> None:
        """Rename in the upper layer, where a whiteout or an empty directory may have the new name."""
        assert parent.upper is not None
        assert new_parent.upper is not None
        old, new = parent.upper.node, new_parent.upper.node
        below = await self._tree.has_below(parent, name)
        target = await self._tree.in_upper(new_parent, new_name)
        if target is not None:
            real, attr = target
            try:
                if node.is_directory and not is_directory(attr):
                    if await self._rename_as_wanted(old, name, new, new_name, RenameFlags.EXCHANGE):
                        if not below:
                            await settled(self._filesystem.unlink(OVERLAY, old, name))
                        return
                    await settled(self._filesystem.unlink(OVERLAY, new, new_name))
                elif node.is_directory:
                    await self._clear(real)
            finally:
                self._upper.drop(real.node)
        if not below:
            await settled(self._filesystem.rename(caller, old, name, new, new_name, _PLAIN))
        elif not await self._rename_as_wanted(old, name, new, new_name, RenameFlags.WHITEOUT):
            await self._rename(old, name, new, new_name)
            await self._whiteout(old, name)

    async def _clear(self, directory: Real) -> None:
        """Empty a directory that shows no entries of the whiteouts that it holds."""
        names = [entry.name async for entry in self._upper.list(directory.node)]
        if names:
            # First, or else what they hide would be seen.
            await self._upper.set_xattr(directory.node, self._tree.marks.opaque, b"y")
        for name in names:
            await settled(self._filesystem.unlink(OVERLAY, directory.node, name))

    # ---- Steps in the upper layer ----

    async def _whiteout(self, directory: int, name: str) -> None:
        entry = await settled(self._filesystem.mknod(OVERLAY, directory, name, stat.S_IFCHR, 0))
        self._upper.drop(self._upper.hold(entry))

    async def _rename(
        self, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags = _PLAIN
    ) -> None:
        await settled(self._filesystem.rename(OVERLAY, parent, name, new_parent, new_name, flags))

    async def _rename_as_wanted(
        self, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> bool:
        """Rename with flags; False where the upper layer knows no such."""
        try:
            await self._rename(parent, name, new_parent, new_name, flags)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True


def _is_within(node: Node, directory: Node) -> bool:
    """Tell whether a node is a directory or lies somewhere below it."""
    current: Node | None = node
    while current is not None:
        if current is directory:
            return True
        current = current.parent
    return False


def _path(node: Node) -> str:
    """Return where the lower layers have a directory, from their roots on."""
    names: list[str] = []
    current: Node | None = node
    while current is not None and current.parent is not None:
        name = current.redirect or current.name
        names.append(name.removeprefix("/"))
        if name.startswith("/"):
            break
        current = current.parent
    return "/" + "/".join(reversed(names))
