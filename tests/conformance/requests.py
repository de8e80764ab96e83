"""A directory behind FUSE requests: calls made of them as Linux makes them, through any client.

The client may be a front-end's, over a ring to a daemon, or one in this process. Names are looked up each
time and forgotten afterwards. What Linux checks before it asks is not checked here.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.conformance.place import OpenFile, Place
from tests.frontend.client import Caller, FuseClient
from tests.operations.host_calls import STATX_BASIC_STATS, STATX_BTIME
from vhostfs.filesystem import Attr, StatFs
from vhostfs.fuse_abi.flags import FsyncFlags, OpenRequestFlags, ReleaseFlags, SetattrValid, WriteFlags
from vhostfs.fuse_abi.opcodes import ROOT_ID
from vhostfs.fuse_abi.structures import EntryOut, FileLock, SetattrIn
from vhostfs.testing import file_attr

_U64 = (1 << 64) - 1
_LOCK_END = (1 << 63) - 1
_FLOCK_KINDS = {
    fcntl.LOCK_SH: fcntl.F_RDLCK,
    fcntl.LOCK_EX: fcntl.F_WRLCK,
    fcntl.LOCK_UN: fcntl.F_UNLCK,
}
_OWNERS = itertools.count(0x10CC)
"""Owners of locks: each open file is one of its own."""
_LISTED_AT_ONCE = 512
_LISTED_PLUS_AT_ONCE = 1024


@contextmanager
def optional() -> Iterator[None]:
    """Take ENOSYS for success, as Linux does for some requests."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


class RequestFile(OpenFile):
    """A handle, and a lookup of its node."""

    def __init__(self, place: RequestPlace, node: int, fh: int, flags: int) -> None:
        self._place = place
        self._client = place.client
        self.node = node
        self.fh = fh
        self._flags = flags
        self._owner = next(_OWNERS)

    def stat(self) -> Attr:
        return file_attr(self._client.getattr(self.node, self.fh).attr)

    def read(self, size: int, offset: int = 0) -> bytes:
        return self._client.read(self.node, self.fh, size, offset & _U64)

    def write(self, data: bytes, offset: int = 0) -> int:
        if not data:
            return 0
        if self._flags & os.O_APPEND:
            offset = self.stat().size
        kill = WriteFlags.KILL_SUIDGID if self._place.unprivileged else 0
        return self._client.write(
            self.node, self.fh, data, offset & _U64, write_flags=int(kill), flags=self._flags
        )

    def truncate(self, size: int) -> None:
        self._client.truncate(self.node, size & _U64, self.fh, kill=self._place.unprivileged)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        self._client.fallocate(self.node, self.fh, mode, offset & _U64, length & _U64)

    def seek(self, offset: int, whence: int) -> int:
        with optional():
            return self._client.lseek(self.node, self.fh, offset & _U64, whence)
        size = self.stat().size
        if offset & _U64 >= size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return offset if whence == os.SEEK_DATA else size

    def copy_to(self, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        assert isinstance(target, RequestFile)
        with optional():
            return self._client.copy_file_range_64(
                (self.node, self.fh, offset), (target.node, target.fh, target_offset), length
            )
        if target.node == self.node and abs(target_offset - offset) < length:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        data = self.read(length, offset)
        return target.write(data, target_offset)

    def link(self, path: str) -> None:
        with self._place.parent(path) as (parent, name):
            self._place.forget(self._client.link(self.node, parent, name))

    def sync(self, *, data_only: bool = False) -> None:
        with optional():
            self._client.fsync(self.node, self.fh, FsyncFlags.FDATASYNC if data_only else 0)

    def _file_lock(self, kind: int, start: int, length: int) -> FileLock:
        return FileLock(start, start + length - 1 if length else _LOCK_END, kind)

    def lock(self, kind: int, start: int = 0, length: int = 0) -> None:
        self._client.setlk(self.node, self.fh, self._owner, self._file_lock(kind, start, length))

    def wait_for_lock(self, kind: int, start: int = 0, length: int = 0) -> Callable[[], object]:
        lock = self._file_lock(kind, start, length)
        return self._client.start_setlkw(self.node, self.fh, self._owner, lock).result

    def lock_in_the_way(self, kind: int, start: int = 0, length: int = 0) -> tuple[int, int, int] | None:
        lock = self._file_lock(kind, start, length)
        found = self._client.getlk(self.node, self.fh, self._owner, lock)
        if found.type == fcntl.F_UNLCK:
            return None
        return found.type, found.start, 0 if found.end == _LOCK_END else found.end + 1 - found.start

    def flock(self, operation: int) -> None:
        self._client.flock(self.node, self.fh, self._owner, _FLOCK_KINDS[operation & ~fcntl.LOCK_NB])

    def close(self) -> None:
        with optional():
            self._client.flush(self.node, self.fh, self._owner)
        self._client.release(self.node, self.fh, 0, ReleaseFlags.FLOCK_UNLOCK, self._owner)
        self._client.forget(self.node)


class RequestPlace(Place):
    """The root of a mount. '..' and links in the middle of paths are not followed."""

    def __init__(self, client: FuseClient, differences: frozenset[str] = frozenset()) -> None:
        self.client = client
        self.differences = differences

    def as_user(self, uid: int, gid: int) -> RequestPlace:
        return RequestPlace(self.client.as_caller(Caller(uid, gid)), self.differences)

    @property
    def unprivileged(self) -> bool:
        """Tell whether the caller has no CAP_FSETID."""
        return self.client.caller.uid != 0

    def forget(self, entry: EntryOut) -> None:
        """Give back the lookup that came with an entry."""
        self.client.forget(entry.nodeid)

    def look_up(self, parent: int, name: bytes) -> EntryOut:
        """Look a name up; nothing is there where it is not found, and where that is not to be remembered."""
        try:
            return self.client.lookup(parent, name)
        except FileNotFoundError:
            return EntryOut()

    @contextmanager
    def node(self, path: str) -> Iterator[int]:
        """Hold the node of a path."""
        node = ROOT_ID
        for name in filter(None, path.split("/")):
            try:
                entry = self.look_up(node, os.fsencode(name))
            finally:
                if node != ROOT_ID:
                    self.client.forget(node)
            if entry.nodeid == 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = entry.nodeid
        try:
            yield node
        finally:
            if node != ROOT_ID:
                self.client.forget(node)

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        """Hold the directory of a path; yield its node, and the last name."""
        directory, _, name = path.rpartition("/")
        with self.node(directory) as node:
            if directory and not stat.S_ISDIR(self.client.getattr(node).attr.mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
            yield node, os.fsencode(name)

    def stat(self, path: str = "") -> Attr:
        with self.node(path) as node:
            return file_attr(self.client.getattr(node).attr)

    def born(self, path: str) -> int | None:
        with self.node(path) as node, optional():
            about = self.client.statx(node, STATX_BASIC_STATS | STATX_BTIME).stat
            return about.btime.tv_sec * 10**9 + about.btime.tv_nsec if about.mask & STATX_BTIME else None
        return None

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        with self.parent(path) as (parent, name):
            self.forget(self.client.mkdir(parent, name, mode & 0o1777))

    def mknod(self, path: str, mode: int, rdev: int = 0) -> None:
        with self.parent(path) as (parent, name):
            self.forget(self.client.mknod(parent, name, mode, rdev))

    def symlink(self, target: str, path: str) -> None:
        with self.parent(path) as (parent, name):
            self.forget(self.client.symlink(parent, name, os.fsencode(target)))

    def readlink(self, path: str) -> str:
        with self.node(path) as node:
            return os.fsdecode(self.client.readlink(node))

    def link(self, path: str, new_path: str) -> None:
        with self.node(path) as node, self.parent(new_path) as (parent, name):
            self.forget(self.client.link(node, parent, name))

    def unlink(self, path: str) -> None:
        with self.parent(path) as (parent, name):
            self.client.unlink(parent, name)

    def rmdir(self, path: str) -> None:
        with self.parent(path) as (parent, name):
            self.client.rmdir(parent, name)

    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        with self.parent(path) as (parent, name), self.parent(new_path) as (new_parent, new_name):
            if flags:
                self.client.rename2(parent, name, new_parent, new_name, flags)
            else:
                self.client.rename(parent, name, new_parent, new_name)

    def chmod(self, path: str, mode: int) -> None:
        with self.node(path) as node:
            self.client.chmod(node, mode)

    def chown(self, path: str, uid: int = -1, gid: int = -1) -> None:
        valid = SetattrValid(0)
        if uid >= 0:
            valid |= SetattrValid.UID
        if gid >= 0:
            valid |= SetattrValid.GID
        with self.node(path) as node:
            self.client.setattr(node, SetattrIn(valid=valid, uid=max(uid, 0), gid=max(gid, 0)))

    def truncate(self, path: str, size: int) -> None:
        with self.node(path) as node:
            self.client.truncate(node, size & _U64, kill=self.unprivileged)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        atime, atimensec = divmod(atime_ns, 1_000_000_000)
        mtime, mtimensec = divmod(mtime_ns, 1_000_000_000)
        message = SetattrIn(
            valid=SetattrValid.ATIME | SetattrValid.MTIME,
            atime=atime & _U64,
            atimensec=atimensec,
            mtime=mtime & _U64,
            mtimensec=mtimensec,
        )
        with self.node(path) as node:
            self.client.setattr(node, message)

    def open(self, path: str, flags: int, mode: int = 0o644) -> OpenFile:
        with self.parent(path) as (parent, name):
            entry = self.look_up(parent, name) if name else EntryOut()
            if entry.nodeid == 0 and flags & os.O_CREAT:
                entry, opened = self.client.create(parent, name, flags, mode)
                return RequestFile(self, entry.nodeid, opened.fh, flags)
            if entry.nodeid == 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            try:
                if flags & os.O_CREAT and flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                kill = OpenRequestFlags.KILL_SUIDGID if self.unprivileged and flags & os.O_TRUNC else 0
                opened = self.client.open(entry.nodeid, flags & ~(os.O_CREAT | os.O_EXCL), int(kill))
            except OSError:
                self.forget(entry)
                raise
            return RequestFile(self, entry.nodeid, opened.fh, flags)

    def tmpfile(self, path: str, flags: int, mode: int = 0o600) -> OpenFile:
        with self.node(path) as node, optional():
            entry, opened = self.client.tmpfile(node, flags | os.O_TMPFILE, mode)
            return RequestFile(self, entry.nodeid, opened.fh, flags)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def listing(self, path: str = "") -> Iterator[tuple[str, int]]:
        with self.node(path) as node:
            fh = self._opendir(node)
            offset, plus = 0, False
            try:
                while True:
                    # By turns, as Linux asks for attributes where it thinks that they will be wanted.
                    size = _LISTED_PLUS_AT_ONCE if plus else _LISTED_AT_ONCE
                    read = self.client.readdirplus if plus else self.client.readdir
                    page = read(node, fh, size, offset)
                    if not page:
                        return
                    for each in page:
                        if each.entry is not None and each.entry.nodeid:
                            self.forget(each.entry)
                    yield from ((os.fsdecode(each.name), each.ino) for each in page)
                    offset, plus = page[-1].off, not plus
            finally:
                if fh:
                    self.client.releasedir(node, fh)

    def _opendir(self, node: int) -> int:
        with optional():
            return self.client.opendir(node).fh
        return 0

    def sync(self, path: str = "") -> None:
        with self.node(path) as node:
            fh = self._opendir(node)
            with optional():
                self.client.fsyncdir(node, fh)
            if fh:
                self.client.releasedir(node, fh)
        with optional():
            self.client.syncfs()

    def statfs(self) -> StatFs:
        said = self.client.statfs()
        return StatFs(
            blocks=said.blocks,
            bfree=said.bfree,
            bavail=said.bavail,
            files=said.files,
            ffree=said.ffree,
            bsize=said.bsize,
            frsize=said.frsize,
            namelen=said.namelen,
        )

    def getxattr(self, path: str, name: str) -> bytes:
        with self.node(path) as node:
            return self.client.getxattr(node, os.fsencode(name))

    def listxattr(self, path: str) -> Sequence[str]:
        with self.node(path) as node:
            return [os.fsdecode(name) for name in self.client.listxattr(node)]

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        with self.node(path) as node:
            self.client.setxattr(node, os.fsencode(name), value, flags)

    def removexattr(self, path: str, name: str) -> None:
        with self.node(path) as node:
            self.client.removexattr(node, os.fsencode(name))
