"""The overlay as a file system: every operation, asked of the layer that has the file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Buffer, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

from vhostfs.backends.overlay.changes import Changes, Make
from vhostfs.backends.overlay.copyup import CopyUp
from vhostfs.backends.overlay.layers import OVERLAY, Layer, Real, whole
from vhostfs.backends.overlay.listing import OpenDirectory
from vhostfs.backends.overlay.marks import TRUSTED, USER
from vhostfs.backends.overlay.notices import LayerSession
from vhostfs.backends.overlay.tree import Node, Tree
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    MaybeAwaitable,
    Opened,
    OpenReplyFlags,
    Options,
    ReadBuffer,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
    StatX,
    WriteBuffer,
    WriteFlags,
    implemented,
    settled,
)
from vhostfs.filesystem.refusals import refused

_RENAMES: Final = frozenset({0, int(RenameFlags.NOREPLACE), int(RenameFlags.EXCHANGE)})


class OpenFile:
    """An open file: where it is open, which changes when a file that is open for reading is copied up."""

    __slots__ = ("flags", "handle", "node", "real")

    def __init__(self, node: Node, real: Real, handle: Any, flags: int) -> None:
        self.node = node
        self.real = real
        self.handle = handle
        self.flags = flags


type Handle = OpenFile | OpenDirectory


class OverlayFilesystem(Filesystem[Handle]):
    """File systems one over the other, merged as overlayfs of Linux merges them.

    What is changed goes to the upper one, in overlayfs' format; without an upper one every change is EROFS.
    A file of a lower layer is copied up whole, at the first change or opening for writing, and st_ino stays;
    one that has several names there loses the others by that, and gets a number of its own. Files that are
    open are read from the copy from then on. A directory that lower layers have is renamed by
    overlay.redirect; under userxattr, where the kernel follows none, that is EXDEV. Files whose data is to be
    found in another layer (metacopy) are EPERM. Nobody else may change the layers meanwhile.

    Layers are asked without regard to who asks for lookups, copies and marks; all else in the caller's name.
    """

    def __init__(
        self,
        lower: Sequence[Filesystem[Any]],
        upper: Filesystem[Any] | None = None,
        *,
        upper_path: str = "",
        work: str | None = None,
        userxattr: bool = False,
    ) -> None:
        """Stack `lower`, the topmost first, below the directory `upper_path` of `upper`.

        `work` is the path of the directory in `upper` where files are made, upper_path if none is given.
        ValueError without any lower one, for paths that cannot be, and if the upper one keeps no extended
        attributes.
        """
        work = upper_path if work is None else work
        check_layers(len(lower), upper_path, work)
        if upper is not None and not {"setxattr", "getxattr", "listxattr"} <= implemented(upper):
            raise ValueError("the upper layer of an overlay has to keep extended attributes")
        marks = USER if userxattr else TRUSTED
        self._upper = Layer(0, upper, marks, upper_path) if upper is not None else None
        lowers = tuple(Layer(1 + index, filesystem, marks) for index, filesystem in enumerate(lower))
        hides_work = PurePosixPath(work) == PurePosixPath(upper_path)
        self._tree = Tree(self._upper, lowers, marks, hides_work=hides_work)
        self._marks = marks
        self._copyup = CopyUp(self._tree, self._upper, work) if self._upper is not None else None
        self._changes = (
            Changes(self._tree, self._upper, self._copyup)
            if self._upper is not None and self._copyup is not None
            else None
        )
        flushes = any("flush" in layer.answers for layer in self._tree.layers)
        self._open_flags = OpenReplyFlags(0) if flushes else OpenReplyFlags.NOFLUSH
        every = [layer.filesystem.options for layer in self._tree.layers]
        self.options = Options(
            entry_seconds=min(options.entry_seconds for options in every),
            attr_seconds=min(options.attr_seconds for options in every),
            negative_seconds=min(options.negative_seconds for options in every),
            cache_symlinks=all(options.cache_symlinks for options in every),
            direct_io_mmap=all(options.direct_io_mmap for options in every),
            writeback=upper is not None and upper.options.writeback,
            posix_acl=all(options.posix_acl for options in every),
            max_write=min(options.max_write for options in every),
        )

    async def init(self, session: Session) -> None:
        """Begin every layer, and remove what a crash has left in the upper one."""
        for layer in self._tree.layers:
            await settled(layer.filesystem.init(LayerSession(session, self._tree, layer)))
        if self._copyup is not None:
            await self._copyup.work.begin()
        await self._tree.begin()

    async def destroy(self) -> None:
        """End every layer, which forgets all its nodes."""
        if self._copyup is not None:
            await self._copyup.work.end()
        self._tree.end()
        for layer in self._tree.layers:
            await settled(layer.filesystem.destroy())

    def close(self) -> None:
        """Let go of what the layers hold."""
        for layer in self._tree.layers:
            layer.filesystem.close()

    # ---- Names and nodes ----

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name in the topmost layer that has it, and in those below where it is a directory."""
        with self._tree.using(parent) as directory:
            child = await self._tree.child(directory, name)
            if child is None:
                return None
            node, attr = child
            try:
                return self._entry(node, attr)
            finally:
                self._tree.release(node)

    def forget(self, node: int) -> None:
        """Let go of a node, in the layers too unless something else needs it."""
        self._tree.forget(node)

    def getattr(self, caller: Caller, node: int, handle: Handle | None) -> MaybeAwaitable[Attr]:
        """Return the topmost file's attributes with the overlay's st_ino; a merged directory has one link."""
        held = self._tree.node(node)
        real = held.real
        inner = handle.handle if type(handle) is OpenFile and handle.real is real else None
        answer = real.layer.filesystem.getattr(caller, real.node, inner)
        if type(answer) is Attr:
            return _shown(held, answer)
        return self._getattr_later(held, answer)

    @staticmethod
    async def _getattr_later(held: Node, answer: MaybeAwaitable[Attr]) -> Attr:
        return _shown(held, await settled(answer))

    async def statx(self, caller: Caller, node: int, handle: Handle | None, mask: int) -> StatX:
        """Return attributes with the topmost file's time of birth, where its layer tells it."""
        with self._tree.using(node) as held:
            real = held.real
            if "statx" not in real.layer.answers:
                return StatX(_shown(held, await real.layer.getattr(real.node)))
            inner = handle.handle if type(handle) is OpenFile and handle.real is real else None
            about = await settled(real.layer.filesystem.statx(caller, real.node, inner, mask))
            return replace(about, attr=_shown(held, about.attr))

    async def setattr(self, caller: Caller, node: int, handle: Handle | None, changes: SetAttr) -> Attr:
        """Change attributes in the upper layer; of what is cut off nothing is copied there."""
        with self._tree.using(node) as held:
            real = await self._writable(held, changes.size)
            inner = None
            if type(handle) is OpenFile and (changes.size is None or handle.flags & os.O_ACCMODE):
                inner = (await self._current(handle)).handle
            filesystem = real.layer.filesystem
            return _shown(held, await settled(filesystem.setattr(caller, real.node, inner, changes)))

    def readlink(self, caller: Caller, node: int) -> MaybeAwaitable[str]:
        """Return a symbolic link's target."""
        real = self._tree.node(node).real
        return real.layer.filesystem.readlink(caller, real.node)

    async def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file in the upper layer. EPERM for the device that would be a whiteout."""
        if stat.S_ISCHR(mode) and rdev == 0:
            raise refused(errno.EPERM)
        filesystem = self._upper_filesystem()

        async def make(maker: Caller, directory: int, new_name: str) -> Entry:
            return await settled(filesystem.mknod(maker, directory, new_name, mode, rdev))

        return await self._make(caller, parent, name, make)

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory in the upper layer, opaque where one was removed."""
        filesystem = self._upper_filesystem()

        async def make(maker: Caller, directory: int, new_name: str) -> Entry:
            return await settled(filesystem.mkdir(maker, directory, new_name, mode))

        return await self._make(caller, parent, name, make)

    async def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link in the upper layer."""
        filesystem = self._upper_filesystem()

        async def make(maker: Caller, directory: int, new_name: str) -> Entry:
            return await settled(filesystem.symlink(maker, directory, new_name, target))

        return await self._make(caller, parent, name, make)

    async def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        """Give a file one more name, in the upper layer."""
        _, copyup, changes = self._writing()
        with self._tree.using(node) as held, self._tree.using(parent) as directory:
            self._tree.check_name(directory, name)
            if held.is_directory or held.upper is None:
                found = await self._tree.child(directory, name)
                if found is not None:
                    self._tree.release(found[0])
                    raise refused(errno.EEXIST)
            if held.is_directory:
                raise refused(errno.EPERM)
            await copyup.ensure(held)
            async with self._tree.changing():
                attr = await whole(changes.link(caller, held, directory, name))
            return self._entry(held, attr)

    async def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a name, by a whiteout where a lower layer has it."""
        _, _, changes = self._writing()
        with self._tree.using(parent) as directory:
            async with self._tree.changing():
                await whole(changes.unlink(caller, directory, name))

    async def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a directory that shows no entries."""
        _, _, changes = self._writing()
        with self._tree.using(parent) as directory:
            async with self._tree.changing():
                await whole(changes.rmdir(caller, directory, name))

    async def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename in the upper layer. EINVAL with WHITEOUT, as a whiteout cannot be seen in an overlay.

        Under userxattr EXDEV for directories that lower layers have.
        """
        _, copyup, changes = self._writing()
        if int(flags) not in _RENAMES:
            raise refused(errno.EINVAL)
        with self._tree.using(parent) as directory, self._tree.using(new_parent) as target:
            while True:
                async with self._tree.changing():
                    steps = changes.rename(caller, directory, name, target, new_name, flags)
                    if await whole(steps):
                        return
                if caller.interrupted():
                    raise refused(errno.EINTR)
                for above, moved in ((directory, name), (target, new_name)):
                    if moved is name or flags & RenameFlags.EXCHANGE:
                        await self._copy_up_child(copyup, above, moved)

    async def _copy_up_child(self, copyup: CopyUp, parent: Node, name: str) -> None:
        child = await self._tree.child(parent, name)
        if child is not None:
            try:
                if not child[0].is_directory:
                    await copyup.ensure(child[0])
            finally:
                self._tree.release(child[0])

    # ---- Files ----

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a file; for writing in the upper layer, copied there first, by O_TRUNC without data."""
        with self._tree.using(node) as held:
            real = held.real
            if held.is_directory:
                raise refused(errno.EISDIR)
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                real = await self._writable(held, 0 if flags & os.O_TRUNC else None)
            return await self._open(caller, held, real, flags)

    async def _open(self, caller: Caller, node: Node, real: Real, flags: int) -> Opened[Handle]:
        if "open" not in real.layer.answers:
            return self._opened(node, real, Opened(None), flags)
        opened = await settled(real.layer.filesystem.open(caller, real.node, flags))
        return self._opened(node, real, opened, flags)

    def _opened(self, node: Node, real: Real, opened: Opened[Any], flags: int) -> Opened[Handle]:
        node.holds += 1
        return Opened(OpenFile(node, real, opened.handle, flags), opened.flags | self._open_flags)

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a file in the upper layer and open it, or open the one that is there."""
        upper, _, changes = self._writing()
        filesystem = upper.filesystem
        opened: Opened[Any] | None = None
        made_node = 0

        async def make(maker: Caller, directory: int, new_name: str) -> Entry:
            nonlocal opened, made_node
            if "create" in upper.answers:
                made = filesystem.create(maker, directory, new_name, mode, flags | os.O_EXCL)
                entry, opened = await settled(made)
                made_node = entry.attr.ino if entry.node is None else entry.node
                return entry
            return await settled(filesystem.mknod(maker, directory, new_name, stat.S_IFREG | mode, 0))

        with self._tree.using(parent) as directory:
            try:
                async with self._tree.changing():
                    node, attr = await whole(self._made(caller, directory, name, make, changes))
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                return await self._open_existing(caller, directory, name, flags)
            except OSError:
                if opened is not None:
                    await upper.close_file(made_node, opened.handle, flags)
                raise
            try:
                real = node.real
                if opened is not None:
                    return self._entry(node, attr), self._opened(node, real, opened, flags)
                handle = await self._open(caller, node, real, flags & ~os.O_EXCL)
                return self._entry(node, attr), handle
            finally:
                self._tree.release(node)

    async def _made(
        self, caller: Caller, parent: Node, name: str, make: Make, changes: Changes
    ) -> tuple[Node, Attr]:
        real, attr = await changes.make(caller, parent, name, make)
        return self._tree.adopt(parent, name, real, attr), attr

    async def _open_existing(
        self, caller: Caller, parent: Node, name: str, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        child = await self._tree.child(parent, name)
        if child is None:
            raise refused(errno.ENOENT)
        node = child[0]
        try:
            if node.is_directory:
                raise refused(errno.EISDIR)
            opened = await self.open(caller, node.number, flags & ~os.O_CREAT)
            return self._entry(node, await node.real.layer.getattr(node.real.node)), opened
        finally:
            self._tree.release(node)

    async def tmpfile(
        self, caller: Caller, parent: int, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a file without a name in the upper layer; ENOSYS where that has no such."""
        upper, copyup, _ = self._writing()
        with self._tree.using(parent) as directory:
            if not directory.is_directory:
                raise refused(errno.ENOTDIR)
            real = await copyup.ensure(directory)
            entry, opened = await settled(upper.filesystem.tmpfile(caller, real.node, mode, flags))
            made = Real(upper, upper.hold(entry))
            node = self._tree.adopt(None, "", made, entry.attr)
            try:
                return self._entry(node, entry.attr), self._opened(node, made, opened, flags)
            finally:
                self._tree.release(node)

    def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[Buffer | int]:
        """Read from where the file is open, or from its copy once there is one."""
        if type(handle) is not OpenFile:
            raise refused(errno.EBADF)
        real = handle.real
        if real is not handle.node.real:
            return self._read_later(caller, handle, offset, buffer)
        return real.layer.filesystem.read(caller, real.node, handle.handle, offset, buffer)

    async def _read_later(
        self, caller: Caller, handle: OpenFile, offset: int, buffer: ReadBuffer
    ) -> Buffer | int:
        file = await self._current(handle)
        real = file.real
        return await settled(real.layer.filesystem.read(caller, real.node, file.handle, offset, buffer))

    def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> MaybeAwaitable[int]:
        """Write to a file of the upper layer."""
        if type(handle) is not OpenFile or not handle.flags & os.O_ACCMODE:
            raise refused(errno.EBADF)
        real = handle.real
        return real.layer.filesystem.write(caller, real.node, handle.handle, offset, data, flags)

    async def flush(self, caller: Caller, node: int, handle: Handle | None, lock_owner: int) -> None:
        """Have the layer flush the file."""
        if type(handle) is OpenFile and "flush" in handle.real.layer.answers:
            filesystem = handle.real.layer.filesystem
            await settled(filesystem.flush(caller, handle.real.node, handle.handle, lock_owner))

    async def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close the file in its layer."""
        assert type(handle) is OpenFile
        try:
            await self._close(handle, caller, flags)
        finally:
            self._tree.release(handle.node)

    @staticmethod
    async def _close(file: OpenFile, caller: Caller, flags: int) -> None:
        await file.real.layer.close_file(file.real.node, file.handle, flags, caller)

    async def _current(self, file: OpenFile) -> OpenFile:
        """Open a file anew in the upper layer, where it was copied to since it was opened for reading."""
        real = file.node.real
        if file.real is not real:
            opened = None
            if "open" in real.layer.answers:
                opened = await settled(real.layer.filesystem.open(OVERLAY, real.node, file.flags))
            handle = opened.handle if opened is not None else None
            if file.real is real:
                # Somebody else was faster.
                await self._close(OpenFile(file.node, real, handle, file.flags), OVERLAY, file.flags)
                return file
            old = OpenFile(file.node, file.real, file.handle, file.flags)
            file.real, file.handle = real, handle
            await self._close(old, OVERLAY, file.flags)
        return file

    async def fsync(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Have the layer make the file durable, where that is the upper one: others have not changed."""
        if type(handle) is not OpenFile:
            raise refused(errno.EBADF)
        real = handle.real
        if real.layer is self._upper and "fsync" in real.layer.answers:
            await settled(real.layer.filesystem.fsync(caller, real.node, handle.handle, datasync))

    async def fallocate(
        self, caller: Caller, node: int, handle: Handle | None, mode: int, offset: int, length: int
    ) -> None:
        """Reserve, punch or zero a range in the upper layer."""
        if type(handle) is not OpenFile or not handle.flags & os.O_ACCMODE:
            raise refused(errno.EBADF)
        real = self._answering(handle.real, "fallocate")
        filesystem = real.layer.filesystem
        await settled(filesystem.fallocate(caller, real.node, handle.handle, mode, offset, length))

    async def lseek(self, caller: Caller, node: int, handle: Handle | None, offset: int, whence: int) -> int:
        """Find data or a hole; without an answer of the layer's the file is all data."""
        if type(handle) is not OpenFile:
            raise refused(errno.EBADF)
        file = await self._current(handle)
        real = file.real
        if "lseek" in real.layer.answers:
            filesystem = real.layer.filesystem
            return await settled(filesystem.lseek(caller, real.node, file.handle, offset, whence))
        size = (await real.layer.getattr(real.node)).size
        if not 0 <= offset < size:
            raise refused(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else size

    async def copy_file_range(
        self,
        caller: Caller,
        source: int,
        source_handle: Handle | None,
        source_offset: int,
        target: int,
        target_handle: Handle | None,
        target_offset: int,
        length: int,
    ) -> int:
        """Copy within one layer; EXDEV across two."""
        if type(source_handle) is not OpenFile or type(target_handle) is not OpenFile:
            raise refused(errno.EBADF)
        file = await self._current(source_handle)
        layer = target_handle.real.layer
        if file.real.layer is not layer or "copy_file_range" not in layer.answers:
            raise refused(errno.EXDEV)
        copied = layer.filesystem.copy_file_range(
            caller,
            file.real.node,
            file.handle,
            source_offset,
            target_handle.real.node,
            target_handle.handle,
            target_offset,
            length,
        )
        return await settled(copied)

    # ---- Directories ----

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a directory: its layers are opened when it is listed."""
        held = self._tree.node(node)
        if not held.is_directory:
            raise refused(errno.ENOTDIR)
        held.holds += 1
        return Opened(OpenDirectory(self._tree, held))

    def readdir(
        self, caller: Caller, node: int, handle: Handle | None, offset: int
    ) -> AsyncIterator[DirEntry]:
        """Yield each name once, of the topmost layer that has it; a listing that goes on is the same one."""
        if type(handle) is not OpenDirectory:
            raise refused(errno.EBADF)
        return handle.entries(offset)

    async def releasedir(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close the directory in its layers."""
        assert type(handle) is OpenDirectory
        try:
            await handle.close()
        finally:
            self._tree.release(handle.node)

    async def fsyncdir(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Have the upper layer make the directory durable."""
        with self._tree.using(node) as held:
            upper = held.upper
            if upper is None or "fsyncdir" not in upper.layer.answers:
                return
            filesystem = upper.layer.filesystem
            opened = None
            if "opendir" in upper.layer.answers:
                flags = os.O_RDONLY | os.O_DIRECTORY
                opened = await settled(filesystem.opendir(OVERLAY, upper.node, flags))
            inner = opened.handle if opened is not None else None
            try:
                await settled(filesystem.fsyncdir(caller, upper.node, inner, datasync))
            finally:
                if opened is not None and "releasedir" in upper.layer.answers:
                    await settled(filesystem.releasedir(OVERLAY, upper.node, inner, os.O_RDONLY))

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> MaybeAwaitable[StatFs]:
        """Tell the size and free space of the upper layer; of the topmost one where there is none."""
        layer = self._tree.layers[0]
        if "statfs" not in layer.answers:
            return StatFs()
        answer: MaybeAwaitable[StatFs] = layer.filesystem.statfs(caller, ROOT)
        return answer

    async def syncfs(self, caller: Caller, node: int) -> None:
        """Have the upper layer make everything durable."""
        if self._upper is not None and "syncfs" in self._upper.answers:
            await settled(self._upper.filesystem.syncfs(caller, ROOT))

    # ---- Extended attributes ----

    def getxattr(self, caller: Caller, node: int, name: str) -> MaybeAwaitable[bytes]:
        """Return an attribute of the topmost file; overlayfs' own are not seen."""
        real = self._answering(self._tree.node(node).real, "getxattr")
        return real.layer.filesystem.getxattr(caller, real.node, self._marks.stored(name))

    async def listxattr(self, caller: Caller, node: int) -> Iterable[str]:
        """Return the names of the topmost file's attributes but overlayfs' own."""
        with self._tree.using(node) as held:
            real = self._answering(held.real, "listxattr")
            names = await settled(real.layer.filesystem.listxattr(caller, real.node))
            return [shown for name in names if (shown := self._marks.shown(name)) is not None]

    async def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """Set an attribute in the upper layer."""
        with self._tree.using(node) as held:
            real = self._answering(await self._writable(held), "setxattr")
            filesystem = real.layer.filesystem
            stored = self._marks.stored(name)
            await settled(filesystem.setxattr(caller, real.node, stored, value, flags, kill_sgid))

    async def removexattr(self, caller: Caller, node: int, name: str) -> None:
        """Remove an attribute in the upper layer; what has none such is not copied there."""
        self._upper_filesystem()
        with self._tree.using(node) as held:
            stored = self._marks.stored(name)
            if held.upper is None:
                await self._check_removable(held.real, name)
            real = self._answering(await self._writable(held), "removexattr")
            await settled(real.layer.filesystem.removexattr(caller, real.node, stored))

    async def _check_removable(self, real: Real, name: str) -> None:
        """Refuse as a layer would that were asked to remove an attribute: what it has none such of."""
        self._answering(real, "getxattr")
        try:
            await settled(real.layer.filesystem.getxattr(OVERLAY, real.node, self._marks.stored(name)))
        except OSError as error:
            if error.errno == errno.ENODATA and name.startswith("user."):
                kind = stat.S_IFMT((await real.layer.getattr(real.node)).mode)
                if kind not in {stat.S_IFREG, stat.S_IFDIR}:
                    raise refused(errno.EPERM) from None
            raise

    # ---- What they share ----

    def _entry(self, node: Node, attr: Attr) -> Entry:
        """Return what the kernel is told of a node, which it holds from now on."""
        self._tree.known(node)
        return Entry(_shown(node, attr), node.number)

    async def _make(self, caller: Caller, parent: int, name: str, make: Make) -> Entry:
        _, _, changes = self._writing()
        with self._tree.using(parent) as directory:
            async with self._tree.changing():
                node, attr = await whole(self._made(caller, directory, name, make, changes))
            try:
                return self._entry(node, attr)
            finally:
                self._tree.release(node)

    def _writing(self) -> tuple[Layer, CopyUp, Changes]:
        """Return what changes need; OSError EROFS without an upper layer."""
        if self._upper is None or self._copyup is None or self._changes is None:
            raise refused(errno.EROFS)
        return self._upper, self._copyup, self._changes

    def _upper_filesystem(self) -> Filesystem[Any]:
        return self._writing()[0].filesystem

    async def _writable(self, node: Node, limit: int | None = None) -> Real:
        """Return a node's file in the upper layer, copied up if need be."""
        if node.upper is not None:
            return node.upper
        return await self._writing()[1].ensure(node, limit)

    @staticmethod
    def _answering(real: Real, operation: str) -> Real:
        """Refuse, as not supported, what a file's layer does not answer."""
        if operation not in real.layer.answers:
            raise refused(errno.EOPNOTSUPP)
        return real


def check_layers(lowers: int, upper_path: str, work: str) -> None:
    """Raise ValueError for what cannot be an overlay."""
    if not lowers:
        raise ValueError("an overlay needs a lower layer")
    upper, place = PurePosixPath(upper_path), PurePosixPath(work)
    for key, path in (("upper_path", upper), ("work", place)):
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{key} is to be a path inside the upper layer's mount")
    if place != upper and place.is_relative_to(upper):
        raise ValueError("work is to be outside upper_path, as guests would see it")


def _shown(node: Node, attr: Attr) -> Attr:
    """Return attributes as the overlay shows them."""
    nlink = 1 if node.is_directory and node.merged else attr.nlink
    if node.ino == attr.ino and nlink == attr.nlink:
        return attr
    return replace(attr, ino=node.ino, nlink=nlink)
