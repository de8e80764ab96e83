"""The operations of the memory file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Buffer, Iterable
from time import time_ns
from typing import Final

from vhostfs.backends.memory import xattrs
from vhostfs.backends.memory.data import SIZE_LIMIT, SparseData
from vhostfs.backends.memory.nodes import SHORT_SYMLINK, Directory, File, Node, Special, Symlink
from vhostfs.backends.memory.space import INODE, Space
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    FallocateFlags,
    Filesystem,
    Opened,
    OpenReplyFlags,
    Options,
    ReadBuffer,
    RenameFlags,
    SetAttr,
    StatFs,
    StatX,
    WriteBuffer,
    WriteFlags,
)
from vhostfs.filesystem.refusals import refused

LINK_LIMIT: Final = 2**32 - 1
"""The most names of one file: what st_nlink can tell."""

_COPY_LIMIT: Final = 4 << 20
"""The most bytes that one request copies, as nothing else is answered meanwhile."""

_DAY: Final = 86400.0


_NO_WRITE_FLAGS: Final = WriteFlags(0)
_CACHED: Final = OpenReplyFlags.KEEP_CACHE


class Handle:
    """An open file; `quiet` when its time of access shall stay (O_NOATIME)."""

    __slots__ = ("file", "quiet")

    def __init__(self, file: File, flags: int) -> None:
        self.file = file
        self.quiet = bool(flags & os.O_NOATIME)


class MemoryFilesystem(Filesystem[Handle]):
    """A file system in this process's memory, which behaves as tmpfs does wherever that can be seen.

    Permissions are the kernel's to check, locks the kernel's to hold. Everything is `def`: nothing waits. It
    outlives sessions: what has a name is there again in the next one. The kernel may trust what it knows for
    a day, since nobody else changes anything.
    """

    options = Options(
        entry_seconds=_DAY,
        attr_seconds=_DAY,
        negative_seconds=_DAY,
        cache_symlinks=True,
    )

    def __init__(self, *, size: int, inodes: int, mode: int = 0o1777, uid: int = 0, gid: int = 0) -> None:
        """Make one that holds `size` bytes of data, in pages, and `inodes` inodes, with an empty root.

        A further name of a file counts as an inode, and so does each KiB of extended attributes.
        """
        self._space = Space(size, inodes)
        self._space.take_bookkeeping(INODE)
        root = Directory(ROOT, stat.S_IFDIR | mode, uid, gid, None)
        root.known = True
        self._nodes: dict[int, Node] = {ROOT: root}
        self._next_number = ROOT + 1

    # ---- Life ----

    def destroy(self) -> None:
        """Drop what has no name any more, also where a kernel forgot to forget it."""
        for node in [node for node in self._nodes.values() if node.nlink == 0]:
            node.known = False
            node.opens = 0
            self._free(node)

    def forget(self, node: int) -> None:
        """Free a node that has no name."""
        found = self._nodes.get(node)
        if found is not None and node != ROOT:
            found.known = False
            if found.nlink == 0:
                self._free(found)

    # ---- Names and nodes ----

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name."""
        directory = self._directory(parent)
        found = directory.find(name)
        if found is None:
            if name == ".":
                found = directory
            elif name == "..":
                found = directory.parent
            else:
                return None
        found.known = True
        return found.entry or found.describe()

    def getattr(self, caller: Caller, node: int, handle: Handle | None) -> Attr:
        """Return the attributes."""
        try:
            found = self._nodes[node]
        except KeyError:
            raise refused(errno.ESTALE) from None
        return (found.entry or found.describe()).attr

    def statx(self, caller: Caller, node: int, handle: Handle | None, mask: int) -> StatX:
        """Return the attributes with the time of birth."""
        found = self._node(node)
        return StatX(found.describe().attr, found.btime_ns)

    def setattr(self, caller: Caller, node: int, handle: Handle | None, changes: SetAttr) -> Attr:
        """Change attributes. EINVAL, EISDIR where the size of what is no file is to change."""
        found = self._node(node)
        owned = changes.uid is not None or changes.gid is not None
        if changes.size is not None:
            self._truncate(found, changes.size)
        if changes.mode is not None:
            found.mode = stat.S_IFMT(found.mode) | (changes.mode & 0o7777)
        if changes.uid is not None:
            found.uid = changes.uid
        if changes.gid is not None:
            found.gid = changes.gid
        if changes.kill_suid_sgid or (owned and changes.mode is None):
            found.drop_privileges()
        if owned or changes.size is not None:
            xattrs.drop_capabilities(self._space, found)
        times = changes.atime_ns is not None or changes.mtime_ns is not None
        if owned or times or changes.mode is not None:
            found.changed()
        if changes.atime_ns is not None:
            found.atime_ns = changes.atime_ns
        if changes.mtime_ns is not None:
            found.mtime_ns = changes.mtime_ns
        if changes.ctime_ns is not None:
            found.ctime_ns = changes.ctime_ns
            found.entry = None
        return found.describe().attr

    def readlink(self, caller: Caller, node: int) -> str:
        """Return the target. EINVAL for what is no symbolic link."""
        found = self._node(node)
        if not isinstance(found, Symlink):
            raise refused(errno.EINVAL)
        found.accessed()
        return found.target

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make a file, device, FIFO or socket. EPERM for a directory, EINVAL for what is no type."""
        directory = self._place(parent, name)
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFREG:
            return self._added(directory, name, self._new_file(caller, directory, mode))
        if kind == stat.S_IFDIR:
            raise refused(errno.EPERM)
        if kind not in {stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}:
            raise refused(errno.EINVAL)
        return self._added(directory, name, self._new_special(caller, directory, kind | mode & 0o7777, rdev))

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory, which inherits a set-group-id bit."""
        directory = self._place(parent, name)
        mode = stat.S_IFDIR | (mode & 0o7777) | (directory.mode & stat.S_ISGID)
        node = Directory(self._take_number(), mode, caller.uid, _group(caller, directory), directory)
        return self._added(directory, name, node)

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link, which costs a page where the target is long. ENAMETOOLONG."""
        directory = self._place(parent, name)
        length = len(os.fsencode(target))
        if length >= 4096:
            raise refused(errno.ENAMETOOLONG)
        if length > SHORT_SYMLINK:
            self._space.take_pages(1)
        try:
            number = self._take_number()
        except OSError:
            self._space.give_pages(int(length > SHORT_SYMLINK))
            raise
        return self._added(directory, name, Symlink(number, caller.uid, _group(caller, directory), target))

    def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        """Give a node one more name. EPERM for a directory, ENOENT for what has lost its last."""
        found = self._node(node)
        directory = self._place(parent, name)
        if isinstance(found, Directory):
            raise refused(errno.EPERM)
        if found.nlink == 0 and not found.linkable:
            raise refused(errno.ENOENT)
        if found.nlink >= LINK_LIMIT:
            raise refused(errno.EMLINK)
        if found.nlink:
            self._space.take_bookkeeping(INODE)
        found.nlink += 1
        found.linkable = False
        found.changed()
        return self._added(directory, name, found)

    def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a name of what is no directory."""
        directory = self._directory(parent)
        found = self._child(directory, name)
        if isinstance(found, Directory):
            raise refused(errno.EISDIR)
        directory.remove(name)
        self._unnamed(found)

    def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Remove an empty directory."""
        directory = self._directory(parent)
        found = self._child(directory, name)
        if not isinstance(found, Directory):
            raise refused(errno.ENOTDIR)
        if len(found):
            raise refused(errno.ENOTEMPTY)
        directory.remove(name)
        self._unnamed(found)

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename, with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT if asked."""
        bits = int(flags)
        noreplace, exchange, whiteout = bits & 1, bits & 2, bits & 4
        if bits & ~7 or (exchange and (noreplace or whiteout)):
            raise refused(errno.EINVAL)
        old, new = self._directory(parent), self._directory(new_parent)
        moved = self._child(old, name)
        target = new.find(new_name)
        if target is not None and noreplace:
            raise refused(errno.EEXIST)
        if target is None and exchange:
            raise refused(errno.ENOENT)
        if new.nlink == 0:
            raise refused(errno.ENOENT)
        if isinstance(moved, Directory) and new.within(moved):
            raise refused(errno.EINVAL)
        if isinstance(target, Directory) and old.within(target):
            raise refused(errno.EINVAL if exchange else errno.ENOTEMPTY)
        if target is moved:
            return
        if exchange:
            assert target is not None
            old.replace(name, target)
            new.replace(new_name, moved)
            target.changed()
        else:
            if target is not None:
                _check_replaceable(moved, target)
            left = self._new_whiteout(caller, old) if whiteout else None
            if target is not None:
                new.remove(new_name)
            old.remove(name)
            if left is not None:
                old.add(name, left)
            new.add(new_name, moved)
            if target is not None:
                self._unnamed(target)
        moved.changed()

    # ---- Files ----

    def open(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a file. EISDIR, ELOOP, ENXIO for what is none."""
        found = self._node(node)
        if not isinstance(found, File):
            raise refused(
                errno.EISDIR
                if isinstance(found, Directory)
                else errno.ELOOP
                if isinstance(found, Symlink)
                else errno.ENXIO
            )
        if flags & os.O_TRUNC:
            self._truncate(found, 0)
            xattrs.drop_capabilities(self._space, found)
            if caller.uid:
                found.drop_privileges()
        return self._opened(found, flags)

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a file, or take the one that is there, and open it."""
        directory = self._directory(parent)
        existing = directory.find(name)
        if existing is not None:
            if flags & os.O_EXCL:
                raise refused(errno.EEXIST)
            opened = self.open(caller, existing.number, flags)
            existing.known = True
            return existing.describe(), opened
        self._place(parent, name)
        file = self._new_file(caller, directory, mode)
        return self._added(directory, name, file), self._opened(file, flags)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened[Handle]]:
        """Make a file without a name, which `link` can give one unless flags hold O_EXCL."""
        directory = self._directory(parent)
        file = self._new_file(caller, directory, mode)
        file.nlink = 0
        file.linkable = not flags & os.O_EXCL
        file.known = True
        return file.describe(), self._opened(file, flags)

    def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> bytes | int:
        """Read data."""
        if handle is None:
            raise refused(errno.EBADF)
        file = handle.file
        if not handle.quiet and time_ns() >= file.seen_until_ns:
            file.accessed()
        return file.data.read(offset, buffer)

    def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        """Write data. EFBIG, ENOSPC; fewer bytes than wanted where space ends within them."""
        if handle is None:
            raise refused(errno.EBADF)
        file = handle.file
        if not data.size:
            return 0
        if offset + data.size > SIZE_LIMIT:
            raise refused(errno.EFBIG)
        if flags is not _NO_WRITE_FLAGS and flags & WriteFlags.KILL_SUIDGID:
            file.drop_privileges()
        if file.xattrs:
            xattrs.drop_capabilities(self._space, file)
        # Before it is known whether there is space, as Linux does.
        file.modified()
        return file.data.write(offset, data)

    def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close a file, and free it where it is gone."""
        file = handle.file
        file.opens -= 1
        if file.nlink == 0:
            self._free(file)

    def fallocate(
        self, caller: Caller, node: int, handle: Handle | None, mode: int, offset: int, length: int
    ) -> None:
        """Reserve, punch or zero. EINVAL, EFBIG, ENOSPC; EOPNOTSUPP for any other mode."""
        if handle is None:
            raise refused(errno.EBADF)
        file = handle.file
        action = mode & ~int(FallocateFlags.KEEP_SIZE)
        keeps = bool(mode & FallocateFlags.KEEP_SIZE)
        if offset < 0 or length <= 0:
            raise refused(errno.EINVAL)
        punches = action == FallocateFlags.PUNCH_HOLE
        if action not in {0, FallocateFlags.ZERO_RANGE} and not (punches and keeps):
            raise refused(errno.EOPNOTSUPP)
        end = offset + length
        if end > SIZE_LIMIT:
            raise refused(errno.EFBIG)
        data = file.data
        if action:
            data.punch(offset, end)
        if not punches:
            data.reserve(offset, end)
            if not keeps and end > data.size:
                data.size = end
        xattrs.drop_capabilities(self._space, file)
        if caller.uid:
            file.drop_privileges()
        file.modified()

    def lseek(self, caller: Caller, node: int, handle: Handle | None, offset: int, whence: int) -> int:
        """Find data or a hole, exact to the page."""
        if handle is None:
            raise refused(errno.EBADF)
        if whence == os.SEEK_DATA:
            return handle.file.data.seek_data(offset)
        if whence == os.SEEK_HOLE:
            return handle.file.data.seek_hole(offset)
        raise refused(errno.EINVAL)

    def copy_file_range(
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
        """Copy, up to 4 MiB at once. EINVAL where source and target overlap."""
        if source_handle is None or target_handle is None:
            raise refused(errno.EBADF)
        reader, writer = source_handle.file, target_handle.file
        size = min(length, reader.data.size - source_offset)
        if reader is writer and abs(source_offset - target_offset) < size:
            raise refused(errno.EINVAL)
        size = min(size, _COPY_LIMIT)
        if size <= 0:
            return 0
        if target_offset + size > SIZE_LIMIT:
            raise refused(errno.EFBIG)
        xattrs.drop_capabilities(self._space, writer)
        if caller.uid:
            writer.drop_privileges()
        writer.modified()
        pieces: Iterable[Buffer] = reader.data.pieces(source_offset, source_offset + size)
        if reader is writer:
            # A run of which a view is out cannot grow.
            pieces = [b"".join(pieces)]
        done = 0
        try:
            for piece in pieces:
                stored = writer.data.store(target_offset + done, piece)
                done += stored
                if stored < memoryview(piece).nbytes:
                    break
        except OSError:
            if not done:
                raise
        if not source_handle.quiet:
            reader.accessed()
        return done

    # ---- Directories ----

    def readdir(self, caller: Caller, node: int, handle: Handle | None, offset: int) -> Iterable[DirEntry]:
        """Yield the names in the order in which they came, as they are when their turn comes."""
        directory = self._directory(node)
        directory.accessed()
        return directory.listing(offset)

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell the limits, and what is left."""
        return self._space.statfs()

    # ---- Extended attributes ----

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return a value."""
        return xattrs.get(self._node(node), name)

    def listxattr(self, caller: Caller, node: int) -> Iterable[str]:
        """Return the names."""
        return xattrs.names(self._node(node))

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """Set a value, of user.*, trusted.* or security.*; EOPNOTSUPP for any other."""
        xattrs.put(self._space, self._node(node), name, value, flags)

    def removexattr(self, caller: Caller, node: int, name: str) -> None:
        """Remove an attribute."""
        xattrs.remove(self._space, self._node(node), name)

    # ---- What the operations are made of ----

    def _node(self, number: int) -> Node:
        try:
            return self._nodes[number]
        except KeyError:
            raise refused(errno.ESTALE) from None

    def _directory(self, number: int) -> Directory:
        node = self._nodes.get(number)
        if not isinstance(node, Directory):
            raise refused(errno.ESTALE if node is None else errno.ENOTDIR)
        return node

    def _place(self, parent: int, name: str) -> Directory:
        """Return a directory in which a name can be made: ENOENT where it was removed, EEXIST."""
        directory = self._directory(parent)
        if directory.nlink == 0:
            raise refused(errno.ENOENT)
        if directory.find(name) is not None:
            raise refused(errno.EEXIST)
        return directory

    @staticmethod
    def _child(directory: Directory, name: str) -> Node:
        found = directory.find(name)
        if found is None:
            raise refused(errno.ENOENT)
        return found

    def _take_number(self) -> int:
        self._space.take_bookkeeping(INODE)
        number = self._next_number
        self._next_number = number + 1
        return number

    def _new_file(self, caller: Caller, directory: Directory, mode: int) -> File:
        mode = stat.S_IFREG | (mode & 0o7777)
        group = _group(caller, directory)
        file = File(self._take_number(), mode, caller.uid, group, SparseData(self._space))
        self._nodes[file.number] = file
        return file

    def _new_special(self, caller: Caller, directory: Directory, mode: int, rdev: int) -> Special:
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            rdev = 0
        return Special(self._take_number(), mode, caller.uid, _group(caller, directory), rdev)

    def _new_whiteout(self, caller: Caller, directory: Directory) -> Special:
        node = self._new_special(caller, directory, stat.S_IFCHR, 0)
        self._nodes[node.number] = node
        return node

    def _added(self, directory: Directory, name: str, node: Node) -> Entry:
        """Give a node a name, and return its entry."""
        self._nodes[node.number] = node
        directory.add(name, node)
        node.known = True
        return node.describe()

    def _opened(self, file: File, flags: int) -> Opened[Handle]:
        file.opens += 1
        return Opened(Handle(file, flags), _CACHED)

    def _truncate(self, node: Node, size: int) -> None:
        """Change the length, and the times also where it is the same one."""
        if not isinstance(node, File):
            raise refused(errno.EISDIR if isinstance(node, Directory) else errno.EINVAL)
        if size > SIZE_LIMIT:
            raise refused(errno.EFBIG)
        node.data.truncate(size)
        node.modified()

    def _unnamed(self, node: Node) -> None:
        """Note that a node has lost a name, which is taken out of its directory."""
        if isinstance(node, Directory):
            node.nlink = 0
        else:
            node.nlink -= 1
            if node.nlink:
                self._space.give_bookkeeping(INODE)
        node.changed()
        if node.nlink == 0:
            self._free(node)

    def _free(self, node: Node) -> None:
        """Free a node without a name, unless it is open or the kernel knows it."""
        if node.opens or node.known:
            return
        if isinstance(node, File):
            node.data.clear()
        elif isinstance(node, Symlink):
            self._space.give_pages(node.pages)
        xattrs.clear(self._space, node)
        self._space.give_bookkeeping(INODE)
        del self._nodes[node.number]


def _group(caller: Caller, directory: Directory) -> int:
    """Return the group of a new file: the directory's where that passes it on."""
    return directory.gid if directory.mode & stat.S_ISGID else caller.gid


def _check_replaceable(moved: Node, target: Node) -> None:
    """Raise the errno for which rename(2) refuses to put one node into the place of another."""
    if isinstance(moved, Directory):
        if not isinstance(target, Directory):
            raise refused(errno.ENOTDIR)
        if len(target):
            raise refused(errno.ENOTEMPTY)
    elif isinstance(target, Directory):
        raise refused(errno.EISDIR)
