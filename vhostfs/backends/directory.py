"""A directory of the host as a file system in Python: what layers and overlays stand on.

It does what the native passthrough does, with the means of Python's os: everything is found relative to
descriptors, without following links, so nothing resolves outside; files are opened from O_PATH descriptors
whose type was checked; what is made is made as the caller. Locks are left to the guest's kernel.

Names, attributes, listings and writes into the host's page cache are answered inline. What the host may have
to wait for (data that is not cached, fsync, fallocate, copies, leases) runs in threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import stat
import struct
import types
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vhostfs.backends import directory_calls as calls
from vhostfs.backends.contract import Backend
from vhostfs.backends.directory_credentials import acting_as, without_fsetid
from vhostfs.backends.directory_nodes import Node, NodeTable
from vhostfs.backends.opening import PROC_SELF_FD, open_path
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    FileType,
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
)
from vhostfs.filesystem.refusals import refused

_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
"""Those that concern the host. O_APPEND is said with each write, as the kernel writes back through the same
file at offsets of its own."""

_PERMISSIONS: Final = 0o7777
_NO_ID: Final = 0xFFFFFFFF
_CREATE_ATTEMPTS: Final = 4
_DIRENT: Final = struct.Struct("<QqHB")
_TYPES: Final = {int(kind): kind for kind in FileType}
_ACLS: Final = frozenset({"system.posix_acl_access", "system.posix_acl_default"})
_XATTR_OPERATIONS: Final = ("getxattr", "listxattr", "setxattr", "removexattr")
_TMPFS, _RAMFS = 0x01021994, 0x858458F6
_REMOTE: Final = frozenset(
    {0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x65735546, 0x01021997, 0x00C36400, 0x5346414F, 0x73757245}
)
"""NFS, SMB, CIFS, SMB2, FUSE, 9P, Ceph, AFS, Coda: closing a file there may report that data was lost."""

_THREADS: Final = 16


class Handle:
    """An open file or directory. Its descriptor is closed when it is released and no thread uses it."""

    __slots__ = ("_released", "append", "fd", "users", "waits")

    def __init__(self, fd: int, *, append: bool = False, waits: bool = False) -> None:
        """Own a descriptor; `waits` says that writes wait for the disk."""
        self.fd = fd
        self.append = append
        self.waits = waits
        self.users = 0
        self._released = False

    def release(self) -> None:
        """Give the handle up."""
        self._released = True
        self._close_if_idle()

    def leave(self) -> None:
        """Take note that a thread is done with it."""
        self.users -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._released and self.users == 0 and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class DirectoryFilesystem(Filesystem[Handle]):
    """Shares a directory of the host. One instance serves one session at a time, on its event loop.

    Raises OSError where the directory cannot be opened. `descriptors` is the most that are kept for nodes, at
    least 16; None: half of what the process may open.
    """

    def __init__(
        self,
        root: int | str | os.PathLike[str],
        *,
        options: Options | None = None,
        xattr: bool = True,
        keep_cache: bool = False,
        direct_io: bool = False,
        descriptors: int | None = None,
    ) -> None:
        """Share a directory by path, or by a descriptor, of which a duplicate is kept."""
        if options is not None:
            self.options = options
        if descriptors is None:
            descriptors = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        elif descriptors < 16:
            raise ValueError(f"{descriptors} descriptors are too few: 16 are needed")
        path_only = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        own = os.open(".", path_only, dir_fd=root) if isinstance(root, int) else open_path(root, path_only)
        self._proc = open_path(PROC_SELF_FD, path_only)
        self._nodes = NodeTable(own, descriptors)
        kind = calls.file_system_type(own)
        self._in_memory = kind in {_TMPFS, _RAMFS}
        self._local = kind not in _REMOTE
        self._open_flags = OpenReplyFlags.KEEP_CACHE if keep_cache else OpenReplyFlags(0)
        if direct_io:
            self._open_flags = OpenReplyFlags.DIRECT_IO
        if self._local:
            self._open_flags |= OpenReplyFlags.NOFLUSH
        self._directory_flags = (
            OpenReplyFlags.KEEP_CACHE | OpenReplyFlags.CACHE_DIR if keep_cache else OpenReplyFlags(0)
        )
        self._sees_proc: bool | None = None
        self._threads: ThreadPoolExecutor | None = None
        if not xattr:
            for operation in _XATTR_OPERATIONS:
                setattr(self, operation, types.MethodType(getattr(Filesystem, operation), self))

    def close(self) -> None:
        """Close all descriptors but those of handles; the file system is of no use any more."""
        self.destroy()
        self._nodes.close()
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    # ---- Life ----

    def init(self, session: Session) -> None:
        """Begin a session."""

    def destroy(self) -> None:
        """Forget what the kernel knew."""
        self._nodes.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def _in_thread[Result](self, handle: Handle, work: Callable[[], Result]) -> Result:
        """Run what waits for the host while the handle stays open, also if nobody waits for the answer."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "vhostfs-directory")
        handle.users += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(lambda _: handle.leave())
        return await asyncio.shield(future)

    # ---- Names and nodes ----

    def _entry(self, node: Node, status: os.stat_result) -> Entry:
        return Entry(Attr.from_stat(status), node.number)

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name."""
        if name in {".", ".."}:
            return self._lookup_dots(parent, name)
        directory = self._nodes.fd(parent)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            return self._entry(*self._nodes.enter(parent, directory, name, status))
        except FileNotFoundError:
            return None

    def _lookup_dots(self, number: int, name: str) -> Entry:
        node = self._nodes.find(number)
        if name == ".." and node.number != ROOT:
            if node.parent is None:
                raise refused(errno.ESTALE)
            node = self._nodes.find(node.parent)
        return self._entry(node, os.fstat(self._nodes.fd(node.number)))

    def forget(self, node: int) -> None:
        """Drop a node."""
        if node != ROOT:
            self._nodes.forget(node)

    def getattr(self, caller: Caller, node: int, handle: Handle | None) -> Attr:
        """Return attributes."""
        return Attr.from_stat(os.fstat(handle.fd if handle is not None else self._nodes.fd(node)))

    def statx(self, caller: Caller, node: int, handle: Handle | None, mask: int) -> StatX:
        """Return attributes with the time of birth."""
        fd = handle.fd if handle is not None else self._nodes.fd(node)
        about = calls.birth(fd)
        return StatX(Attr.from_stat(os.fstat(fd)), about.btime_ns, about.attributes, about.attributes_mask)

    def setattr(
        self, caller: Caller, node: int, handle: Handle | None, changes: SetAttr
    ) -> MaybeAwaitable[Attr]:
        """Change attributes: the owner first, as the host clears bits of the mode with it."""
        kind = self._nodes.find(node).kind
        if _NO_ID in {changes.uid, changes.gid}:
            raise refused(errno.EINVAL)
        if changes.mode is not None and kind == stat.S_IFLNK:
            raise refused(errno.EOPNOTSUPP)
        if changes.size is None:
            return self._change(node, handle, changes, -1)
        if kind != stat.S_IFREG:
            raise refused(errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL)
        if handle is not None:
            return self._change(node, handle, changes, handle.fd)
        try:
            opened = self._open_node(node, os.O_WRONLY | os.O_NONBLOCK)
        except BlockingIOError:
            return self._change_later(node, changes)
        try:
            return self._change(node, None, changes, opened)
        finally:
            os.close(opened)

    async def _change_later(self, node: int, changes: SetAttr) -> Attr:
        """Wait till the host's programs have given up their leases on a file."""
        opened = Handle(await self._open_later(node, os.O_WRONLY))
        try:
            return self._change(node, None, changes, opened.fd)
        finally:
            opened.release()

    def _change(self, node: int, handle: Handle | None, changes: SetAttr, truncated: int) -> Attr:
        fd = handle.fd if handle is not None else self._nodes.fd(node)
        name, proc = str(fd), self._proc
        if changes.uid is not None or changes.gid is not None:
            uid = -1 if changes.uid is None else changes.uid
            gid = -1 if changes.gid is None else changes.gid
            os.chown(name, uid, gid, dir_fd=proc)
        if changes.mode is not None:
            os.chmod(name, changes.mode & _PERMISSIONS, dir_fd=proc)
        if changes.size is not None:
            with without_fsetid(changes.kill_suid_sgid):
                os.ftruncate(truncated, changes.size)
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            calls.set_times(proc, name, changes.atime_ns, changes.mtime_ns)
        return Attr.from_stat(os.fstat(fd))

    def readlink(self, caller: Caller, node: int) -> str:
        """Return a symbolic link's target."""
        if self._nodes.find(node).kind != stat.S_IFLNK:
            raise refused(errno.EINVAL)
        return os.readlink("", dir_fd=self._nodes.fd(node))

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
        """Make what is no directory and no link."""
        directory = self._nodes.fd(parent)
        with acting_as(caller):
            os.mknod(name, mode & (0o170000 | _PERMISSIONS), rdev, dir_fd=directory)
        return self._entry(*self._nodes.enter_name(parent, directory, name))

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory."""
        directory = self._nodes.fd(parent)
        with acting_as(caller):
            os.mkdir(name, mode & _PERMISSIONS, dir_fd=directory)
        return self._entry(*self._nodes.enter_name(parent, directory, name))

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> Entry:
        """Make a symbolic link."""
        directory = self._nodes.fd(parent)
        with acting_as(caller):
            os.symlink(target, name, dir_fd=directory)
        return self._entry(*self._nodes.enter_name(parent, directory, name))

    def link(self, caller: Caller, node: int, parent: int, name: str) -> Entry:
        """Give a file one more name, by the magic link of its descriptor."""
        source, directory = self._nodes.fds(node, parent)
        os.link(str(source), name, src_dir_fd=self._proc, dst_dir_fd=directory, follow_symlinks=True)
        return self._entry(*self._nodes.enter_name(parent, directory, name))

    def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a name."""
        self._remove(parent, name, os.unlink)

    def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Remove an empty directory."""
        self._remove(parent, name, os.rmdir)

    def _remove(self, parent: int, name: str, remove: Callable[..., None]) -> None:
        node = self._nodes.at(self._nodes.fd(parent), name)
        self._nodes.hold(node)
        remove(name, dir_fd=self._nodes.fd(parent))
        self._nodes.lose(node, parent, name)

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename as renameat2(2) does."""
        nodes = self._nodes
        source, target = nodes.fds(parent, new_parent)
        moved, replaced = nodes.at(source, name), nodes.at(target, new_name)
        nodes.hold(replaced)
        calls.rename(*_interleaved(nodes.fds(parent, new_parent), name, new_name), int(flags))
        if moved is replaced:
            return  # two names of one file: nothing happens, or nothing that shows
        if replaced is not None and flags & RenameFlags.EXCHANGE:
            replaced.parent, replaced.name = parent, name
        else:
            nodes.lose(replaced, new_parent, new_name)
        if moved is not None and moved.number != ROOT:
            moved.parent, moved.name = new_parent, new_name

    # ---- Files ----

    def _open_node(self, node: int, flags: int) -> int:
        """Open a node itself, whatever its names are now."""
        return os.open(str(self._nodes.fd(node)), flags | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=self._proc)

    async def _open_later(self, node: int, flags: int) -> int:
        """Open a node, and wait for as long as that takes."""
        keeper = Handle(os.dup(self._nodes.fd(node)))
        name, proc = str(keeper.fd), self._proc
        flags |= os.O_CLOEXEC | os.O_NOCTTY
        try:
            return await self._in_thread(keeper, lambda: os.open(name, flags, dir_fd=proc))
        finally:
            keeper.release()

    def _host_flags(self, flags: int) -> int:
        flags &= _OPEN_FLAGS
        if flags & os.O_ACCMODE == os.O_ACCMODE:
            raise refused(errno.EINVAL)
        if self.options.writeback and flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR  # the kernel reads what it is to complete
        return flags

    def _opened(self, fd: int, flags: int) -> Opened[Handle]:
        append = bool(flags & os.O_APPEND) and not self.options.writeback
        handle = Handle(fd, append=append, waits=bool(flags & (os.O_SYNC | os.O_DSYNC)))
        return Opened(handle, self._open_flags)

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[Handle]]:
        """Open a regular file; a pipe or a device is the guest's own business, the host's is never opened."""
        kind = self._nodes.find(node).kind
        if kind != stat.S_IFREG:
            raise refused({stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(kind, errno.ENXIO))
        host_flags = self._host_flags(flags)
        try:
            with without_fsetid(caller.uid != 0 and bool(flags & os.O_TRUNC)):
                return self._opened(self._open_node(node, host_flags | os.O_NONBLOCK), flags)
        except BlockingIOError:
            return self._open_leased(node, host_flags, flags)

    async def _open_leased(self, node: int, host_flags: int, flags: int) -> Opened[Handle]:
        return self._opened(await self._open_later(node, host_flags), flags)

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make a regular file and open it.

        ESTALE where it is there by now and the caller is not root: its kernel then looks the name up, and
        checks what it had no reason to check.
        """
        host_flags = self._host_flags(flags)
        new_flags = host_flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
        directory = self._nodes.fd(parent)
        for _ in range(_CREATE_ATTEMPTS):
            try:
                with acting_as(caller):
                    fd = os.open(name, new_flags, mode & _PERMISSIONS, dir_fd=directory)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                return self._created(fd, parent, name, flags)
            try:
                node, status = self._nodes.enter_name(parent, directory, name)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                raise refused(errno.EISDIR)
            if not stat.S_ISREG(status.st_mode) or caller.uid != 0:
                break
            try:
                opened = self._opened(self._open_node(node.number, host_flags | os.O_NONBLOCK), flags)
            except BlockingIOError:
                break  # leased: OPEN, which comes next, waits for it
            return self._entry(node, os.fstat(opened.handle.fd)), opened
        raise refused(errno.ESTALE)

    def _created(self, fd: int, parent: int | None, name: str, flags: int) -> tuple[Entry, Opened[Handle]]:
        try:
            path_only = os.open(str(fd), os.O_PATH | os.O_CLOEXEC, dir_fd=self._proc)
            entry = self._entry(*self._nodes.enter_open(path_only, parent, name))
        except BaseException:
            os.close(fd)
            raise
        return entry, self._opened(fd, flags)

    def tmpfile(self, caller: Caller, parent: int, mode: int, flags: int) -> tuple[Entry, Opened[Handle]]:
        """Make a file without a name."""
        directory = self._nodes.fd(parent)
        host_flags = self._host_flags(flags) & ~os.O_TRUNC | flags & os.O_EXCL
        with acting_as(caller):
            fd = os.open(".", host_flags | os.O_TMPFILE, mode & _PERMISSIONS, dir_fd=directory)
        return self._created(fd, None, "", flags)

    def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[int]:
        """Read what is cached at once, and everything else in a thread."""
        fd = _fd_of(handle)
        if self._in_memory:
            return buffer.read_from_fd(fd, offset)
        try:
            size = os.preadv(fd, buffer.segments, offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
                raise
        else:
            if size == buffer.size or offset + size >= os.fstat(fd).st_size:
                return size
        return self._in_thread(_file(handle), lambda: buffer.read_from_fd(fd, offset))

    def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> MaybeAwaitable[int]:
        """Write into the page cache; in a thread what is to reach the disk."""
        file = _file(handle)
        kills = WriteFlags.KILL_SUIDGID in flags
        appends = file.append and WriteFlags.CACHE not in flags
        if not file.waits:
            return _write(file.fd, offset, data, kills, appends)
        return self._in_thread(file, lambda: _write(file.fd, offset, data, kills, appends))

    def flush(
        self, caller: Caller, node: int, handle: Handle | None, lock_owner: int
    ) -> MaybeAwaitable[None]:
        """Have the host say what became of the data, where closing may tell."""
        if self._local:
            return None
        file = _file(handle)
        return self._in_thread(file, lambda: os.close(os.dup(file.fd)))

    def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close a file."""
        handle.release()

    def fsync(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> Awaitable[None]:
        """Make a file durable."""
        file = _file(handle)
        return self._in_thread(file, lambda: (os.fdatasync if datasync else os.fsync)(file.fd))

    def fallocate(
        self, caller: Caller, node: int, handle: Handle | None, mode: int, offset: int, length: int
    ) -> Awaitable[None]:
        """Reserve, punch or zero a range."""
        file = _file(handle)
        return self._in_thread(file, lambda: calls.fallocate(file.fd, mode, offset, length))

    def lseek(self, caller: Caller, node: int, handle: Handle | None, offset: int, whence: int) -> int:
        """Find data or a hole."""
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise refused(errno.EINVAL)
        return os.lseek(_fd_of(handle), offset, whence)

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
    ) -> Awaitable[int]:
        """Copy on the host, which may share the blocks."""
        from_file, to_file = _file(source_handle), _file(target_handle)

        async def copied() -> int:
            to_file.users += 1
            try:
                return await self._in_thread(
                    from_file,
                    lambda: os.copy_file_range(
                        from_file.fd, to_file.fd, min(length, 0x7FFFF000), source_offset, target_offset
                    ),
                )
            finally:
                to_file.leave()

        return copied()

    # ---- Directories ----

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a directory for listing."""
        if self._nodes.find(node).kind != stat.S_IFDIR:
            raise refused(errno.ENOTDIR)
        return Opened(Handle(self._open_node(node, os.O_RDONLY | os.O_DIRECTORY)), self._directory_flags)

    def readdir(self, caller: Caller, node: int, handle: Handle | None, offset: int) -> Iterator[DirEntry]:
        """Yield the entries that the host has behind one of its own cookies."""
        fd = _fd_of(handle)
        root = self._nodes.root if node == ROOT else None
        os.lseek(fd, offset, os.SEEK_SET)
        return _entries(fd, root)

    def releasedir(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close a directory."""
        handle.release()

    def fsyncdir(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> Awaitable[None]:
        """Make a directory's entries durable."""
        return self.fsync(caller, node, handle, datasync)

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell what the host says of its file system."""
        found = os.fstatvfs(self._nodes.fd(node))
        return StatFs(
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_bsize,
            found.f_frsize,
            found.f_namemax,
        )

    async def syncfs(self, caller: Caller, node: int) -> None:
        """Make the host's file system durable."""
        root = Handle(self._open_node(ROOT, os.O_RDONLY | os.O_DIRECTORY))
        try:
            await self._in_thread(root, lambda: calls.syncfs(root.fd))
        finally:
            root.release()

    # ---- Extended attributes ----

    def _by_path[Result](self, node: int, call: Callable[[str], Result]) -> Result:
        """Do what the host does by path alone, with the magic link of a node's descriptor.

        In a sandbox /proc is out of sight, or may be the guest's: the working directory leads to it there.
        """
        fd = self._nodes.fd(node)
        if self._sees_proc is None:
            self._sees_proc = _is_proc(self._proc)
        if self._sees_proc:
            return call(f"{PROC_SELF_FD}/{fd}")
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchdir(self._proc)
            return call(str(fd))
        finally:
            os.fchdir(before)
            os.close(before)

    def _check_acl(self, name: str) -> None:
        """Refuse ACLs that the kernel would not enforce."""
        if name in _ACLS and not self.options.posix_acl:
            raise refused(errno.EOPNOTSUPP)

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return an attribute's value."""
        self._check_acl(name)
        return self._by_path(node, lambda path: os.getxattr(path, name))

    def listxattr(self, caller: Caller, node: int) -> list[str]:
        """Return the names of the attributes, without ACLs that the kernel would not enforce."""
        names = self._by_path(node, os.listxattr)
        return names if self.options.posix_acl else [name for name in names if name not in _ACLS]

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        """Set an attribute; as the caller where the host is to clear set-group-id of others' groups."""
        self._check_acl(name)
        if kill_sgid and name in _ACLS:
            with acting_as(caller), without_fsetid(True):
                self._by_path(node, lambda path: os.setxattr(path, name, value, flags))
        else:
            self._by_path(node, lambda path: os.setxattr(path, name, value, flags))

    def removexattr(self, caller: Caller, node: int, name: str) -> None:
        """Remove an attribute."""
        self._check_acl(name)
        self._by_path(node, lambda path: os.removexattr(path, name))


@dataclass(frozen=True, slots=True)
class DirectorySettings(Backend):
    """A directory of the host, served by Python; the native passthrough is faster, and has no layers."""

    shared_dir: PurePosixPath
    xattr: bool = False
    posix_acl: bool = False
    writeback: bool = False
    keep_cache: bool = False
    """Guests keep a file's data when it is opened again: nobody else writes to it."""
    direct_io: bool = False
    """Guests keep no data of files at all."""
    direct_io_mmap: bool = False
    """With direct_io, guests may map files shared all the same."""
    entry_seconds: float = 1.0
    attr_seconds: float = 1.0
    negative_seconds: float = 1.0
    descriptors: int | None = None
    """Most descriptors kept for nodes, at least 16; None: half of what the process may open."""

    def __post_init__(self) -> None:
        """Refuse what cannot be served, by ValueError."""
        if not all(
            0 <= each <= 1e9 for each in (self.entry_seconds, self.attr_seconds, self.negative_seconds)
        ):
            raise ValueError("seconds should be 0 to 1000000000")
        if self.descriptors is not None and self.descriptors < 16:
            raise ValueError("descriptors should be at least 16")

    def open(self) -> DirectoryFilesystem:
        """Open the directory."""
        options = Options(
            entry_seconds=self.entry_seconds,
            attr_seconds=self.attr_seconds,
            negative_seconds=self.negative_seconds,
            writeback=self.writeback,
            posix_acl=self.posix_acl,
            direct_io_mmap=self.direct_io_mmap,
        )
        return DirectoryFilesystem(
            self.shared_dir,
            options=options,
            xattr=self.xattr,
            keep_cache=self.keep_cache,
            direct_io=self.direct_io,
            descriptors=self.descriptors,
        )


def _interleaved(fds: tuple[int, int], name: str, new_name: str) -> tuple[int, str, int, str]:
    return fds[0], name, fds[1], new_name


def _file(handle: Handle | None) -> Handle:
    if handle is None:
        raise refused(errno.EBADF)
    return handle


def _fd_of(handle: Handle | None) -> int:
    return _file(handle).fd


def _write(fd: int, offset: int, data: WriteBuffer, kills: bool, appends: bool) -> int:
    with without_fsetid(kills):
        if appends:
            return os.pwritev(fd, data.segments, offset, os.RWF_APPEND)
        return data.write_to_fd(fd, offset)


def _entries(fd: int, root: Node | None) -> Iterator[DirEntry]:
    """Yield entries from where a directory's descriptor stands; '..' of the root is the root itself."""
    room = calls.Entries()
    unpack, header = _DIRENT.unpack_from, _DIRENT.size
    while records := room.read(fd):
        at, end = 0, len(records)
        while at < end:
            inode, cookie, length, kind = unpack(records, at)
            name = os.fsdecode(records[at + header : records.index(b"\0", at + header)])
            if root is not None and name == "..":
                inode = root.inode
            yield DirEntry(name, inode, _TYPES.get(kind, FileType.UNKNOWN), cookie)
            at += length


def _is_proc(descriptor: int) -> bool:
    """Tell whether /proc/self/fd is what a descriptor, which was opened there, leads to."""
    try:
        return Path(PROC_SELF_FD).stat().st_dev == os.fstat(descriptor).st_dev
    except OSError:
        return False
