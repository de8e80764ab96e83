"""Copy-up: how a file of a lower layer comes into the upper one before it is changed, whole or not at all.

A copy is made in a directory of the overlay's own in the upper layer's root and moved to its place when it is
complete, so that a crash leaves either the old file or the new one. What a crash leaves in that directory is
removed when the overlay begins; the directory itself goes when it ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from contextlib import suppress
from typing import Final

from vhostfs.backends.overlay.data import copy_data, copy_xattrs
from vhostfs.backends.overlay.layers import OVERLAY, Layer, Real, is_directory, whole
from vhostfs.backends.overlay.tree import WORK_NAME, Node, Tree
from vhostfs.filesystem import Attr, Entry, RenameFlags, SetAttr, settled
from vhostfs.filesystem.refusals import refused

_PLAIN: Final = RenameFlags(0)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DEFAULT_ACL: Final = "system.posix_acl_default"


class Workplace:
    """Where files are made: a directory of the upper layer's that nobody else sees."""

    def __init__(self, upper: Layer, path: str) -> None:
        """Work in a directory of `upper`'s file system, by its path from there."""
        self._upper = upper
        self._path = path
        self._filesystem = upper.filesystem
        self._base: Real | None = None
        self._directory: Real | None = None
        self._making = asyncio.Lock()
        self._last = 0

    async def begin(self) -> None:
        """Remove what a crash has left, and see that the upper layer can be marked.

        OSError ENOENT, ENOTDIR where there is no place to work; what marking is refused with.
        """
        self._last = 0
        self._making = asyncio.Lock()
        base = self._base = await self._upper.directory(self._path)
        await self._discard(base, WORK_NAME)
        mark = self._upper.marks.opaque
        try:
            await self._upper.set_xattr(await self.directory(), mark, b"y")
        except OSError as error:
            if error.errno not in _FULL:
                hint = "; see userxattr" if self._upper.marks.follows_redirects else ""
                reason = f"the upper layer of an overlay does not take {mark}: {error.strerror}{hint}"
                raise OSError(error.errno, reason) from error
        finally:
            await self._remove_all()

    async def end(self) -> None:
        """Remove the directory."""
        with suppress(OSError):
            await self._remove_all()
        base, self._base = self._base, None
        if base is not None:
            self._upper.drop(base.node)

    async def _remove_all(self) -> None:
        directory, self._directory = self._directory, None
        if directory is not None and self._base is not None:
            try:
                await self._discard(self._base, WORK_NAME)
            finally:
                self._upper.drop(directory.node)

    async def directory(self) -> int:
        """Return the directory's node, and make it first if there is none."""
        if self._directory is None:
            async with self._making:
                if self._directory is None:
                    assert self._base is not None
                    entry = await settled(self._filesystem.mkdir(OVERLAY, self._base.node, WORK_NAME, 0o700))
                    self._directory = Real(self._upper, self._upper.hold(entry))
        return self._directory.node

    async def twin(self, directory: int) -> tuple[str, Real]:
        """Make a directory in which new files become what they would be in another one; return it, held."""
        above = await self._upper.getattr(directory)
        acl = await self._upper.xattr(directory, _DEFAULT_ACL)
        place, name = await self.directory(), self.name()
        made = await settled(self._filesystem.mkdir(OVERLAY, place, name, 0o777))
        real = Real(self._upper, self._upper.hold(made))
        try:
            await settled(self._filesystem.setattr(OVERLAY, real.node, None, SetAttr(gid=above.gid)))
            mode = SetAttr(mode=0o777 | above.mode & stat.S_ISGID)
            await settled(self._filesystem.setattr(OVERLAY, real.node, None, mode))
            if acl is not None:
                await self._upper.set_xattr(real.node, _DEFAULT_ACL, acl)
        except BaseException:
            self._upper.drop(real.node)
            await self.remove(name)
            raise
        return name, real

    def name(self) -> str:
        """Return a name that was not used yet."""
        self._last += 1
        return f"#{self._last:x}"

    async def remove(self, name: str) -> None:
        """Remove what was made, and whatever is in it."""
        await self._discard(Real(self._upper, await self.directory()), name)

    async def _discard(self, parent: Real, name: str) -> None:
        """Remove a file, or a directory and what it holds, however deep."""
        filesystem = self._filesystem
        path: list[tuple[Real, str]] = [(parent, name)]
        held: list[Real] = []
        try:
            while path:
                directory, current = path[-1]
                hit = await self._upper.lookup(directory.node, current)
                if hit is None:
                    path.pop()
                    continue
                real, attr = hit
                held.append(real)
                if not is_directory(attr):
                    await settled(filesystem.unlink(OVERLAY, directory.node, current))
                    path.pop()
                    continue
                names = [entry.name async for entry in self._upper.list(real.node)]
                if names:
                    path.extend((real, inner) for inner in names)
                else:
                    await settled(filesystem.rmdir(OVERLAY, directory.node, current))
                    path.pop()
        finally:
            for real in held:
                self._upper.drop(real.node)


class CopyUp:
    """Brings files of lower layers into the upper one."""

    def __init__(self, tree: Tree, upper: Layer, work: str) -> None:
        """Copy into `upper`, the upper layer of `tree`, by way of the directory `work` of its file system."""
        self._tree = tree
        self._upper = upper
        self._filesystem = upper.filesystem
        self.work = Workplace(upper, work)

    async def ensure(self, node: Node, limit: int | None = None) -> Real:
        """Return a node's file in the upper layer, copied there first where it was not.

        With a limit, only so many bytes of data matter. Copies of one file are made one at a time; the file
        is seen in the upper layer when its copy is complete.
        """
        if node.upper is not None:
            return node.upper
        if node.is_directory:
            async with self._tree.changing():
                return await whole(self.ensure_directory(node))
        if node.lock is None:
            node.lock = asyncio.Lock()
        async with node.lock:
            if node.upper is None:
                await self._copy_file(node, limit)
        upper: Real | None = node.upper
        assert upper is not None
        return upper

    async def ensure_directory(self, node: Node) -> Real:
        """Do the same for a directory, and those above it; Tree.changing is held.

        Those that show what lower layers have are marked so.
        """
        above: list[Node] = []
        current: Node | None = node
        while current is not None and current.upper is None:
            above.append(current)
            current = current.parent
        for missing in reversed(above):
            await self._copy_directory(missing)
        upper = node.upper
        assert upper is not None
        return upper

    async def _copy_directory(self, node: Node) -> None:
        parent = node.parent
        if parent is None or parent.upper is None:
            raise refused(errno.ENOENT)
        lower = node.lowers[0]
        attr = await lower.layer.getattr(lower.node)
        name = self.work.name()
        work = await self.work.directory()
        upper = self._held(await settled(self._filesystem.mkdir(OVERLAY, work, name, 0o700)))
        try:
            await self._copy_attributes(lower, attr, upper)
            await self._place(node, upper, None, work, name)
        except BaseException:
            await whole(self._give_up(node, upper, name))
            raise

    async def _copy_file(self, node: Node, limit: int | None) -> None:
        lower = node.lowers[0]
        attr = await lower.layer.getattr(lower.node)
        number = lower.layer.number(attr.ino)
        name = self.work.name()
        work = await self.work.directory()
        upper = None
        try:
            upper = await self._copy_inode(lower, attr, work, name, limit)
            if attr.nlink == 1:
                # The other names of a file that has several stay with the lower one, and so does its number.
                with suppress(OSError):
                    await self._upper.set_xattr(upper.node, self._tree.marks.number, b"%d" % number)
            else:
                number = self._upper.number((await self._upper.getattr(upper.node)).ino)
            await self._copy_attributes(lower, attr, upper)
            async with self._tree.changing():
                await whole(self._publish(node, upper, number, work, name))
        except BaseException:
            await whole(self._give_up(node, upper, name))
            raise

    async def _give_up(self, node: Node, upper: Real | None, name: str) -> None:
        """Remove an unfinished copy; one that was finished when the cancellation came stays."""
        if upper is not None and node.upper is upper:
            return
        if upper is not None:
            self._upper.drop(upper.node)
        with suppress(OSError):
            await self.work.remove(name)

    async def _publish(self, node: Node, upper: Real, number: int, work: int, name: str) -> None:
        if not node.linked or node.parent is None:
            # Open, but removed: the copy has no name either.
            await settled(self._filesystem.unlink(OVERLAY, work, name))
            self._tree.copied_up(node, upper, number)
            return
        await self.ensure_directory(node.parent)
        await self._place(node, upper, number, work, name)

    async def _place(self, node: Node, upper: Real, number: int | None, work: int, name: str) -> None:
        """Move a copy to where its original is seen; the directory does not look changed."""
        parent = node.parent
        assert parent is not None
        directory = parent.upper
        assert directory is not None
        with self._tree.using(parent.number):
            attr = await self._upper.getattr(directory.node)
            await self.mark_impure(parent)
            await settled(self._filesystem.rename(OVERLAY, work, name, directory.node, node.name, _PLAIN))
            self._tree.copied_up(node, upper, number)
            times = SetAttr(atime_ns=attr.atime_ns, mtime_ns=attr.mtime_ns)
            with suppress(OSError):
                await settled(self._filesystem.setattr(OVERLAY, directory.node, None, times))

    async def mark_impure(self, directory: Node) -> None:
        """Say on an upper directory that files in it show numbers of lower layers, as listings then do.

        Without extended attributes such listings show the upper layer's numbers, and no harm is done.
        """
        if not directory.impure and directory.upper is not None:
            with suppress(OSError):
                await self._upper.set_xattr(directory.upper.node, self._tree.marks.impure, b"y")
                directory.impure = True

    async def _copy_inode(self, lower: Real, attr: Attr, work: int, name: str, limit: int | None) -> Real:
        """Make a file of the same kind and with the same data."""
        filesystem = self._filesystem
        kind = stat.S_IFMT(attr.mode)
        if kind == stat.S_IFLNK:
            target = await settled(lower.layer.filesystem.readlink(OVERLAY, lower.node))
            return self._held(await settled(filesystem.symlink(OVERLAY, work, name, target)))
        if kind != stat.S_IFREG:
            made = filesystem.mknod(OVERLAY, work, name, kind | 0o600, attr.rdev)
            return self._held(await settled(made))
        flags = os.O_RDWR
        if "create" in self._upper.answers:
            entry, opened = await settled(filesystem.create(OVERLAY, work, name, 0o600, flags | os.O_EXCL))
            upper = self._held(entry)
            handle, is_open = opened.handle, True
        else:
            upper = self._held(await settled(filesystem.mknod(OVERLAY, work, name, kind | 0o600, 0)))
            is_open = "open" in self._upper.answers
            handle = (await settled(filesystem.open(OVERLAY, upper.node, flags))).handle if is_open else None
        try:
            size = attr.size if limit is None else min(limit, attr.size)
            if size:
                await copy_data(lower.layer, lower.node, self._upper, upper.node, handle, size)
                await settled(filesystem.setattr(OVERLAY, upper.node, handle, SetAttr(size=size)))
                if "fsync" in self._upper.answers:
                    await settled(filesystem.fsync(OVERLAY, upper.node, handle, False))
        except BaseException:
            self._upper.drop(upper.node)
            raise
        finally:
            if is_open:
                await self._upper.close_file(upper.node, handle, flags)
        return upper

    async def _copy_attributes(self, lower: Real, attr: Attr, upper: Real) -> None:
        """Give a copy owner, attributes, permissions and times, each behind what would change it."""
        filesystem = self._filesystem
        owner = SetAttr(uid=attr.uid, gid=attr.gid)
        made = await settled(filesystem.setattr(OVERLAY, upper.node, None, owner))
        await copy_xattrs(lower.layer, lower.node, self._upper, upper.node)
        mode = None if stat.S_ISLNK(made.mode) else stat.S_IMODE(attr.mode)
        rest = SetAttr(mode=mode, atime_ns=attr.atime_ns, mtime_ns=attr.mtime_ns)
        await settled(filesystem.setattr(OVERLAY, upper.node, None, rest))

    def _held(self, entry: Entry) -> Real:
        return Real(self._upper, self._upper.hold(entry))
