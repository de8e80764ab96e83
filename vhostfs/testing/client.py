"""Programs in the same process: what they do by path, each method a call of theirs."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from vhostfs.filesystem import Attr as FileAttr
from vhostfs.filesystem import FileType, RenameFlags
from vhostfs.fuse_abi.directory import DirectoryEntry
from vhostfs.fuse_abi.flags import AttrFlags, InitFlags, SetattrValid
from vhostfs.fuse_abi.structures import Attr, Kstatfs, SetattrIn
from vhostfs.testing.kernel import LIST_SIZE, KernelClient


def file_attr(attr: Attr) -> FileAttr:
    """Return the attributes of a reply as a file system writes them."""
    return FileAttr(
        ino=attr.ino,
        mode=attr.mode,
        size=attr.size,
        nlink=attr.nlink,
        uid=attr.uid,
        gid=attr.gid,
        atime_ns=_nanoseconds(attr.atime, attr.atimensec),
        mtime_ns=_nanoseconds(attr.mtime, attr.mtimensec),
        ctime_ns=_nanoseconds(attr.ctime, attr.ctimensec),
        rdev=attr.rdev,
        blksize=attr.blksize,
        blocks=attr.blocks,
        flags=AttrFlags(attr.flags),
    )


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    return signed * 1_000_000_000 + nanoseconds


class Client(KernelClient):
    """Asks by path as well: what programs do, each method one call of theirs. Links are not followed.

    Names are looked up each time and forgotten afterwards; nothing is cached.
    """

    async def _walk(self, path: str) -> int:
        """Look a path up, and hold its node alone."""
        node = self.root
        for name in _names(path):
            try:
                found = await self.lookup(node, name)
            finally:
                self._let_go(node)
            node = found.nodeid
        return node

    def _let_go(self, node: int) -> None:
        if node != self.root:
            self.forget(node, 1)

    async def _parent(self, path: str) -> tuple[int, str]:
        names = _names(path)
        if not names:
            raise OSError(errno.EBUSY, "the root has no name", path)
        return await self._walk("/".join(names[:-1])), names[-1]

    async def stat(self, path: str) -> FileAttr:
        """Return a path's attributes."""
        node = await self._walk(path)
        try:
            return file_attr((await self.getattr(node)).attr)
        finally:
            self._let_go(node)

    async def exists(self, path: str) -> bool:
        """Tell whether a path leads anywhere."""
        try:
            self._let_go(await self._walk(path))
        except FileNotFoundError:
            return False
        return True

    async def read_bytes(self, path: str) -> bytes:
        """Return a file's content."""
        node = await self._walk(path)
        try:
            opened = await self.open_node(node)
            try:
                content = b""
                while part := await self.read(node, opened.fh, len(content), LIST_SIZE):
                    content += part
                await self.flush(node, opened.fh)
                return content
            finally:
                await self.release(node, opened.fh)
        finally:
            self._let_go(node)

    async def write_bytes(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Make a file with this content, or replace its content."""
        flags = os.O_WRONLY | os.O_TRUNC
        parent, name = await self._parent(path)
        try:
            try:
                node = (await self.lookup(parent, name)).nodeid
            except FileNotFoundError:
                entry, opened = await self.create_at(parent, name, mode, flags)
                node = entry.nodeid
            else:
                try:
                    opened = await self.open_node(node, flags)
                except BaseException:
                    self._let_go(node)
                    raise
                if InitFlags.ATOMIC_O_TRUNC not in self.flags:
                    await self.setattr(node, SetattrIn(SetattrValid.SIZE))
        finally:
            self._let_go(parent)
        try:
            done = 0
            while done < len(content):
                size = self.session.options.max_write
                done += await self.write(node, opened.fh, done, content[done : done + size])
            await self.flush(node, opened.fh)
        finally:
            await self.release(node, opened.fh)
            self._let_go(node)

    async def entries(self, path: str = "/", *, plus: bool = False) -> list[DirectoryEntry]:
        """Return a directory's entries without '.' and '..'."""
        node = await self._walk(path)
        try:
            entries = await self.list_node(node, plus=plus)
        finally:
            self._let_go(node)
        for each in entries:
            if each.entry is not None and each.entry.nodeid:
                self._let_go(each.entry.nodeid)
        return [each for each in entries if each.name not in {b".", b".."}]

    async def listdir(self, path: str = "/") -> list[str]:
        """Return the names in a directory, in its order."""
        return [os.fsdecode(each.name) for each in await self.entries(path)]

    async def types(self, path: str = "/") -> dict[str, FileType]:
        """Return the names in a directory with their types."""
        return {os.fsdecode(each.name): FileType(each.type) for each in await self.entries(path)}

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory."""
        parent, name = await self._parent(path)
        try:
            self._let_go((await self.mkdir_at(parent, name, mode)).nodeid)
        finally:
            self._let_go(parent)

    async def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        """Make a file of any type but directory and link."""
        parent, name = await self._parent(path)
        try:
            self._let_go((await self.mknod_at(parent, name, mode, rdev)).nodeid)
        finally:
            self._let_go(parent)

    async def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link."""
        parent, name = await self._parent(path)
        try:
            self._let_go((await self.symlink_at(parent, name, target)).nodeid)
        finally:
            self._let_go(parent)

    async def readlink(self, path: str) -> str:
        """Return a symbolic link's target."""
        node = await self._walk(path)
        try:
            return await self.readlink_node(node)
        finally:
            self._let_go(node)

    async def link(self, path: str, new_path: str) -> None:
        """Give a file another name."""
        node = await self._walk(path)
        try:
            parent, name = await self._parent(new_path)
            try:
                self._let_go((await self.link_at(node, parent, name)).nodeid)
            finally:
                self._let_go(parent)
        finally:
            self._let_go(node)

    async def unlink(self, path: str) -> None:
        """Remove a file."""
        parent, name = await self._parent(path)
        try:
            await self.unlink_at(parent, name)
        finally:
            self._let_go(parent)

    async def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        parent, name = await self._parent(path)
        try:
            await self.rmdir_at(parent, name)
        finally:
            self._let_go(parent)

    async def rename(self, path: str, new_path: str, flags: RenameFlags | int = 0) -> None:
        """Rename."""
        parent, name = await self._parent(path)
        try:
            new_parent, new_name = await self._parent(new_path)
            try:
                await self.rename_at(parent, name, new_parent, new_name, flags)
            finally:
                self._let_go(new_parent)
        finally:
            self._let_go(parent)

    async def _change(self, path: str, changes: SetattrIn) -> None:
        node = await self._walk(path)
        try:
            await self.setattr(node, changes)
        finally:
            self._let_go(node)

    async def chmod(self, path: str, mode: int) -> None:
        """Set permissions."""
        await self._change(path, SetattrIn(SetattrValid.MODE, mode=mode))

    async def chown(self, path: str, uid: int = -1, gid: int = -1) -> None:
        """Set owner and group, -1 leaving either."""
        valid = (SetattrValid.UID if uid >= 0 else 0) | (SetattrValid.GID if gid >= 0 else 0)
        await self._change(path, SetattrIn(valid, uid=max(uid, 0), gid=max(gid, 0)))

    async def truncate(self, path: str, size: int) -> None:
        """Set a file's size."""
        await self._change(path, SetattrIn(SetattrValid.SIZE, size=size))

    async def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        """Set the times of access and modification."""
        atime, atimensec = divmod(atime_ns, 1_000_000_000)
        mtime, mtimensec = divmod(mtime_ns, 1_000_000_000)
        word = (1 << 64) - 1
        changes = SetattrIn(
            SetattrValid.ATIME | SetattrValid.MTIME,
            atime=atime & word,
            mtime=mtime & word,
            atimensec=atimensec,
            mtimensec=mtimensec,
        )
        await self._change(path, changes)

    async def statfs(self, path: str = "/") -> Kstatfs:
        """Return what statfs(2) says."""
        node = await self._walk(path)
        try:
            return await self.statfs_node(node)
        finally:
            self._let_go(node)

    async def getxattr(self, path: str, name: str) -> bytes:
        """Return an extended attribute."""
        node = await self._walk(path)
        try:
            value = await self.getxattr_node(node, name)
            assert isinstance(value, bytes)
            return value
        finally:
            self._let_go(node)

    async def listxattr(self, path: str) -> Sequence[str]:
        """Return the names of a path's extended attributes."""
        node = await self._walk(path)
        try:
            names = await self.listxattr_node(node)
            assert isinstance(names, list)
            return names
        finally:
            self._let_go(node)

    async def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute."""
        node = await self._walk(path)
        try:
            await self.setxattr_node(node, name, value, flags)
        finally:
            self._let_go(node)

    async def removexattr(self, path: str, name: str) -> None:
        """Remove an extended attribute."""
        node = await self._walk(path)
        try:
            await self.removexattr_node(node, name)
        finally:
            self._let_go(node)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]
