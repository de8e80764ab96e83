"""The class from which every file system is made.

    class Hello(Filesystem):
        def lookup(self, caller, parent, name): ...
        def getattr(self, caller, node, handle): ...
        async def read(self, caller, node, handle, offset, buffer): ...

The kernel asks by node, a number that the file system itself chose in an Entry; the root's is ROOT. An
operation that is not overridden is answered ENOSYS without Python being asked, after which the kernel does
without it (`open`, `flush`, `access` and the like) or tells the program.

Methods are `def`, answered at once on the event loop, or `async def`, each run as a task. A method answers by
returning, or with an error by raising OSError (FileNotFoundError() and its like count as the errno that they
stand for). Any other exception is a fault: logged with its traceback and answered EIO.

What may run at once: `def` operations never, `async def` ones whenever another one waits, in any number and
also for one file. The kernel serializes changes of one directory among each other; nothing else can be
relied upon. A guest may be hostile: names are checked (no '/', no NUL, not empty, at most 255 bytes, '.' and
'..' only where the kernel asks for them), nodes and handles are ones that were given out and are still held;
sizes, offsets, modes and flags are whatever the guest sent.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterable, Awaitable, Buffer, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from vhostfs.filesystem.buffers import ReadBuffer, WriteBuffer
from vhostfs.filesystem.commands import Command
from vhostfs.filesystem.refusals import refused
from vhostfs.filesystem.types import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    IoctlReply,
    Lock,
    LockType,
    Opened,
    SetAttr,
    StatFs,
    StatX,
)
from vhostfs.fuse_abi.flags import RenameFlags, WriteFlags

type MaybeAwaitable[Result] = Result | Awaitable[Result]
"""What a method that may be `def` or `async def` returns."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the kernel is to treat a file system; those of a class stand in `Filesystem.options`."""

    entry_seconds: float = 1.0
    """How long it may trust a name, where the Entry says nothing else."""
    attr_seconds: float = 1.0
    """How long it may trust attributes."""
    negative_seconds: float = 1.0
    """How long it may trust that a name is missing, where lookup answered None."""
    writeback: bool = False
    """It collects writes, and owns size and mtime of files meanwhile."""
    posix_acl: bool = False
    """It checks POSIX ACLs, which it gets as extended attributes; Caller.umask then counts at creations."""
    cache_symlinks: bool = False
    """It remembers the targets of symbolic links."""
    direct_io_mmap: bool = False
    """Files opened with DIRECT_IO may be mapped shared all the same."""
    nfs_export: bool = False
    """`lookup` answers '.' and '..' too, and knows every node it ever gave out: guests may export it."""
    max_write: int = 1 << 20
    """The most bytes of a READ or WRITE, 4,096 to 1,048,576."""
    timeout_seconds: float | None = None
    """An operation that takes longer is cancelled and answered ETIMEDOUT; locks that wait are exempt."""


class Session(Protocol):
    """What a file system may ask of the session that serves it, from `init` to `destroy`, on its event loop.

    The invalidations reach /dev/fuse, soon after they are asked for, also from an operation that the kernel
    waits for. They raise OSError ENOENT where the kernel does not hold the node, which is no fault, and
    ENOBUFS where too much waits to be told. Over virtio-fs Linux has no way to be told: ENOSYS.
    """

    @property
    def minor(self) -> int:
        """Return the minor version of FUSE 7 that the kernel speaks."""

    def invalidate_node(self, node: int, offset: int = 0, length: int = -1) -> None:
        """Have the kernel forget attributes, and cached data from an offset on (length <= 0: to the end).

        A negative offset leaves the data (NOTIFY_INVAL_INODE).
        """

    def invalidate_entry(self, parent: int, name: str) -> None:
        """Have the kernel ask for a name again (NOTIFY_INVAL_ENTRY)."""

    def entry_deleted(self, parent: int, node: int, name: str) -> None:
        """Tell that a name is gone, so that who watches the file by inotify learns it (NOTIFY_DELETE)."""

    def store(self, node: int, offset: int, data: Buffer) -> None:
        """Put data into the kernel's cache of a file (NOTIFY_STORE).

        What reaches beyond its end makes it longer there, until `getattr` says what its size is.
        """


def _missing() -> NoReturn:
    raise refused(errno.ENOSYS)


class Filesystem[H]:
    """A file system. H is the type of the handles that `open`, `create`, `tmpfile` and `opendir` give out.

    `handle` is None in an operation where the kernel named none: in `getattr` and `setattr` by path, and
    wherever `open` or `opendir` is not overridden.
    """

    options: Options = Options()

    # ---- Life ----

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Prepare: the kernel has mounted the file system, no operation was asked for yet.

        One instance serves one session at a time; after `destroy` it may be asked to begin again.
        """

    def destroy(self) -> MaybeAwaitable[None]:
        """Finish: no operation is asked for any more, and none runs; handles were released."""

    def close(self) -> None:
        """Let go of what the object holds beside its sessions, such as descriptors: none begins any more.

        Called when its mount was removed from a device that goes on. Must not wait.
        """

    def commands(self) -> Mapping[str, Command]:
        """Return what whoever runs it may ask of it while it serves, by name."""
        return {}

    # ---- Names and nodes ----

    def lookup(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[Entry | None]:
        """Find a name in a directory (LOOKUP).

        None answers that there is none, which the kernel may remember for negative_seconds; ENOENT that it
        shall ask again each time. '.' and '..' come only with
        Options.nfs_export: to others a guest that sends them is answered ENOENT.
        """
        _missing()

    def forget(self, node: int) -> None:
        """Take note that the kernel holds no lookup of a node any more (FORGET, BATCH_FORGET, the end).

        It will not ask by this node again before it was given out anew. Always `def`; never for the root.
        """

    def getattr(self, caller: Caller, node: int, handle: H | None) -> MaybeAwaitable[Attr]:
        """Return the attributes of a node (GETATTR). ENOENT or ESTALE where it is gone for good."""
        _missing()

    def setattr(self, caller: Caller, node: int, handle: H | None, changes: SetAttr) -> MaybeAwaitable[Attr]:
        """Change attributes, and return all as they are then (SETATTR: chmod, chown, truncate, utimens)."""
        _missing()

    def statx(self, caller: Caller, node: int, handle: H | None, mask: int) -> MaybeAwaitable[StatX]:
        """Return attributes with the time of birth (STATX). Not overridden, the kernel asks getattr."""
        _missing()

    def access(self, caller: Caller, node: int, mask: int) -> MaybeAwaitable[None]:
        """Check access(2): EACCES where not granted. Asked only of mounts that check permissions here."""
        _missing()

    def readlink(self, caller: Caller, node: int) -> MaybeAwaitable[str]:
        """Return the target of a symbolic link (READLINK)."""
        _missing()

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> MaybeAwaitable[Entry]:
        """Make a file that is no directory and no link; mode holds its type (MKNOD). EEXIST where it is."""
        _missing()

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> MaybeAwaitable[Entry]:
        """Make a directory (MKDIR). EEXIST where the name exists."""
        _missing()

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> MaybeAwaitable[Entry]:
        """Make a symbolic link (SYMLINK). EEXIST where the name exists."""
        _missing()

    def link(self, caller: Caller, node: int, parent: int, name: str) -> MaybeAwaitable[Entry]:
        """Give a node one more name; return its entry with the new nlink (LINK). EEXIST, EMLINK, EPERM."""
        _missing()

    def unlink(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[None]:
        """Remove a name of what is no directory (UNLINK). ENOENT, EISDIR.

        The node lives on until it is neither open nor known to the kernel (`release`, `forget`).
        """
        _missing()

    def rmdir(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[None]:
        """Remove an empty directory (RMDIR). ENOENT, ENOTDIR, ENOTEMPTY."""
        _missing()

    def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> MaybeAwaitable[None]:
        """Rename, replacing what has the new name (RENAME, RENAME2).

        ENOENT, ENOTEMPTY, EISDIR, ENOTDIR as rename(2); EEXIST with NOREPLACE; EINVAL for flags that are not
        supported, and for a directory moved into itself.
        """
        _missing()

    # ---- Files ----

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Open a file with the flags of open(2), O_CREAT and O_EXCL left out, O_TRUNC left in (OPEN)."""
        _missing()

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Entry, Opened[H]]]:
        """Make a regular file and open it (CREATE). EEXIST where it exists and flags hold O_EXCL.

        Not overridden, the kernel calls mknod and open.
        """
        _missing()

    def tmpfile(
        self, caller: Caller, parent: int, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Entry, Opened[H]]]:
        """Make a file without a name in the file system of a directory, and open it (TMPFILE: O_TMPFILE)."""
        _missing()

    def read(
        self, caller: Caller, node: int, handle: H | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[Buffer | int]:
        """Read buffer.size bytes from an offset on (READ).

        Return the bytes, or how many were put into the buffer. Fewer than wanted mean the end of the file,
        but for files opened with DIRECT_IO. More are EIO.
        """
        _missing()

    def write(
        self, caller: Caller, node: int, handle: H | None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> MaybeAwaitable[int]:
        """Write data at an offset, and return how many bytes were taken (WRITE).

        With WriteFlags.CACHE the kernel writes its cache back: caller is not who wrote. With KILL_SUIDGID the
        set-user-id and set-group-id bits are to go.
        """
        _missing()

    def flush(self, caller: Caller, node: int, handle: H | None, lock_owner: int) -> MaybeAwaitable[None]:
        """Note that a descriptor of the file was closed: its error is what close(2) returns (FLUSH).

        May come several times for one handle. The POSIX locks of lock_owner on the file go.
        """
        _missing()

    def release(self, caller: Caller, node: int, handle: H, flags: int) -> MaybeAwaitable[None]:
        """Give up a handle, once for each that was given out (RELEASE). Nobody sees its error."""
        _missing()

    def fsync(self, caller: Caller, node: int, handle: H | None, datasync: bool) -> MaybeAwaitable[None]:
        """Make what was written durable; with datasync what is needed to read it again (FSYNC)."""
        _missing()

    def fallocate(
        self, caller: Caller, node: int, handle: H | None, mode: int, offset: int, length: int
    ) -> MaybeAwaitable[None]:
        """Reserve, punch or zero a range: FallocateFlags (FALLOCATE). EOPNOTSUPP."""
        _missing()

    def lseek(
        self, caller: Caller, node: int, handle: H | None, offset: int, whence: int
    ) -> MaybeAwaitable[int]:
        """Find data or a hole: whence is SEEK_DATA or SEEK_HOLE (LSEEK). ENXIO beyond the end."""
        _missing()

    def copy_file_range(
        self,
        caller: Caller,
        source: int,
        source_handle: H | None,
        source_offset: int,
        target: int,
        target_handle: H | None,
        target_offset: int,
        length: int,
    ) -> MaybeAwaitable[int]:
        """Copy between two files here; return how many bytes (COPY_FILE_RANGE). EXDEV: the kernel copies."""
        _missing()

    def ioctl(
        self, caller: Caller, node: int, handle: H | None, command: int, argument: int, data: bytes, room: int
    ) -> MaybeAwaitable[IoctlReply]:
        """Do an ioctl whose command says how much it takes and gives; data goes in, up to `room` out (IOCTL).

        ENOTTY where there is none such.
        """
        _missing()

    def poll(self, caller: Caller, node: int, handle: H | None, events: int) -> MaybeAwaitable[int]:
        """Return which of the events (POLLIN and so on) are ready (POLL)."""
        _missing()

    def bmap(self, caller: Caller, node: int, block: int, block_size: int) -> MaybeAwaitable[int]:
        """Return where a block of a file lies on the device (BMAP)."""
        _missing()

    # ---- Directories ----

    def opendir(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Open a directory (OPENDIR). Not overridden, listings have no handle."""
        _missing()

    def readdir(
        self, caller: Caller, node: int, handle: H | None, offset: int
    ) -> MaybeAwaitable[Iterable[DirEntry] | AsyncIterable[DirEntry]]:
        """Yield the entries behind a cookie, 0 being the beginning (READDIR, READDIRPLUS).

        A generator or an async generator is kept between requests and goes on where the next one wants it to,
        also from within the last reply; a request from elsewhere (seekdir) closes it and calls again. Entries
        without offsets are numbered by the session, which then skips what lies before. Every entry that the
        kernel accepts with attributes counts one lookup.
        """
        _missing()

    def releasedir(self, caller: Caller, node: int, handle: H, flags: int) -> MaybeAwaitable[None]:
        """Give up a directory's handle (RELEASEDIR)."""
        _missing()

    def fsyncdir(self, caller: Caller, node: int, handle: H | None, datasync: bool) -> MaybeAwaitable[None]:
        """Make a directory's entries durable (FSYNCDIR)."""
        _missing()

    # ---- The whole ----

    def statfs(self, caller: Caller, node: int) -> MaybeAwaitable[StatFs]:
        """Tell size and free space (STATFS). Not overridden, both are 0."""
        _missing()

    def syncfs(self, caller: Caller, node: int) -> MaybeAwaitable[None]:
        """Make everything durable (SYNCFS)."""
        _missing()

    # ---- Extended attributes ----

    def getxattr(self, caller: Caller, node: int, name: str) -> MaybeAwaitable[bytes]:
        """Return an attribute's value (GETXATTR). ENODATA where it has none such."""
        _missing()

    def listxattr(self, caller: Caller, node: int) -> MaybeAwaitable[Iterable[str]]:
        """Return the names of the attributes (LISTXATTR)."""
        _missing()

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> MaybeAwaitable[None]:
        """Set an attribute; flags may be XATTR_CREATE (EEXIST) or XATTR_REPLACE (ENODATA) (SETXATTR).

        With kill_sgid, which comes with a POSIX ACL, the set-group-id bit is to go. ENOSPC, E2BIG.
        """
        _missing()

    def removexattr(self, caller: Caller, node: int, name: str) -> MaybeAwaitable[None]:
        """Remove an attribute (REMOVEXATTR). ENODATA where it has none such."""
        _missing()

    # ---- Locks: overriding these takes the locks of all programs out of the kernel's hands ----

    def getlk(
        self, caller: Caller, node: int, handle: H | None, owner: int, lock: Lock
    ) -> MaybeAwaitable[Lock | None]:
        """Return a POSIX lock that stands in the way of this one, or None (GETLK)."""
        _missing()

    def setlk(
        self, caller: Caller, node: int, handle: H | None, owner: int, lock: Lock, wait: bool
    ) -> MaybeAwaitable[None]:
        """Set, change or drop (UNLOCK) a POSIX lock (SETLK, SETLKW).

        EAGAIN where another owner's stands in the way and `wait` is false; EDEADLK. One that waits is
        cancelled by a signal to the caller.
        """
        _missing()

    def flock(
        self, caller: Caller, node: int, handle: H | None, owner: int, kind: LockType, wait: bool
    ) -> MaybeAwaitable[None]:
        """Set or drop a lock of flock(2) (SETLK and SETLKW with FUSE_LK_FLOCK). EWOULDBLOCK."""
        _missing()
