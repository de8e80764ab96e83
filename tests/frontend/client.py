"""A FUSE client as the guest's kernel is one: a typed method an opcode, over one queue of a front-end.

Every reply is checked as Linux 7.1 and newer check it: the used length equals the length in the header,
unique is that of the request, and an error comes alone. Errors of the server are raised as OSError.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from itertools import count

from tests.frontend.frontend import Frontend
from tests.frontend.queue import DEFAULT_TIMEOUT, Queue
from tests.frontend.rings import Buffer
from vhostfs.fuse_abi.directory import DirectoryEntry, unpack_entries
from vhostfs.fuse_abi.extensions import Extensions
from vhostfs.fuse_abi.flags import GetattrFlags, InitFlags, LockFlags, SetattrValid
from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION, KERNEL_VERSION, ROOT_ID, Opcode
from vhostfs.fuse_abi.structures import (
    AccessIn,
    AttrOut,
    BatchForgetIn,
    BmapIn,
    CopyFileRangeIn,
    CopyFileRangeOut,
    CreateIn,
    EntryOut,
    FallocateIn,
    FileLock,
    FlushIn,
    ForgetIn,
    ForgetOne,
    FsyncIn,
    GetattrIn,
    GetxattrIn,
    GetxattrOut,
    InHeader,
    InitIn,
    InitOut,
    InterruptIn,
    IoctlIn,
    IoctlOut,
    Kstatfs,
    LinkIn,
    LkIn,
    LkOut,
    LseekIn,
    LseekOut,
    MkdirIn,
    MknodIn,
    OpenIn,
    OpenOut,
    OutHeader,
    PollIn,
    ReadIn,
    ReleaseIn,
    Rename2In,
    RenameIn,
    SetattrIn,
    SetxattrIn,
    StatfsOut,
    StatxIn,
    StatxOut,
    SyncfsIn,
    WriteIn,
    WriteOut,
)

LINUX_7_2_FLAGS = InitFlags.joined(0x7BFFFFFB, 0x5FF)
"""What Linux 7.2 offers over virtio-fs."""

LINUX_6_1_FLAGS = InitFlags.joined(0x7BFFFFFB, 0x0B)
"""What Linux 6.1 offers over virtio-fs."""

MAX_WRITE = 1 << 20


class MalformedReplyError(AssertionError):
    """Raised when a reply breaks the rules that Linux holds replies to."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, as the guest's kernel reports it."""

    uid: int = 0
    gid: int = 0
    pid: int = 1


ROOT = Caller()


class Pending:
    """A request under way: buffers in guest memory, and the token of its chain."""

    def __init__(self, client: FuseClient, unique: int, readable: bytes, out_size: int) -> None:
        memory = client.frontend.memory
        self._client = client
        self._queue = client.queue
        self._unique = unique
        self._writable_size = OutHeader.SIZE + out_size if out_size >= 0 else 0
        self._in = (memory.allocate(len(readable)), len(readable))
        self._out = (memory.allocate(max(1, self._writable_size)), max(1, self._writable_size))
        memory.write(self._in[0], readable)
        chain = client.pieces(*self._in, first=InHeader.SIZE, writable=False)
        if self._writable_size:
            chain += client.pieces(self._out[0], self._writable_size, first=OutHeader.SIZE, writable=True)
        self._token = self._queue.submit(chain)

    def done(self) -> bool:
        """Tell whether the reply has come."""
        return self._queue.completed(self._token)

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Wait for the reply and return what follows its header; OSError where it is an error."""
        used = self._queue.wait(self._token, timeout)
        reply = self._client.frontend.memory.read(self._out[0], self._writable_size)
        self.free()
        if not self._writable_size:
            if used:
                raise MalformedReplyError(f"a request without a reply used {used} bytes")
            return b""
        header = OutHeader.unpack_from(reply)
        if used != header.len:
            raise MalformedReplyError(f"used length {used} differs from the reply's length {header.len}")
        if header.unique != self._unique:
            raise MalformedReplyError(f"the reply to {self._unique} calls itself {header.unique}")
        if header.error:
            if header.len != OutHeader.SIZE or not -512 < header.error < 0:
                raise MalformedReplyError(f"an error reply is {header}")
            raise OSError(-header.error, os.strerror(-header.error))
        return reply[OutHeader.SIZE : header.len]

    def free(self) -> None:
        """Give the buffers back."""
        for piece in (self._in, self._out):
            self._client.frontend.memory.release(*piece)


class FuseClient:
    """Sends requests over one queue. piece, if set, cuts all buffers into descriptors of that many bytes."""

    def __init__(
        self, frontend: Frontend, *, queue: int = 1, caller: Caller = ROOT, piece: int | None = None
    ) -> None:
        self.frontend = frontend
        self.queue: Queue = frontend.queues[queue]
        self.caller = caller
        self.piece = piece
        self._uniques = count(2 + (queue << 32), 2)

    def on_queue(self, queue: int) -> FuseClient:
        """Return a client of the same session on another queue."""
        return FuseClient(self.frontend, queue=queue, caller=self.caller, piece=self.piece)

    def as_caller(self, caller: Caller) -> FuseClient:
        """Return a client of the same session whose requests another caller makes."""
        client = FuseClient(self.frontend, queue=self.queue.index, caller=caller, piece=self.piece)
        client._uniques = self._uniques
        return client

    def pieces(self, gpa: int, size: int, *, first: int, writable: bool) -> list[Buffer]:
        """Cut a buffer into descriptors: a header and the rest, or equal pieces."""
        cut = self.piece
        if cut is None:
            sizes = [min(first, size), size - first] if size > first else [size]
        else:
            sizes = [cut] * (size // cut) + ([size % cut] if size % cut else [])
        buffers = []
        for each in sizes:
            buffers.append(Buffer(gpa, each, writable))
            gpa += each
        return buffers

    # Any request.

    def start(
        self,
        opcode: int,
        nodeid: int,
        *parts: bytes | Structure,
        out_size: int = 0,
        extensions: Extensions | None = None,
        length: int | None = None,
    ) -> Pending:
        """Send a request and return at once.

        out_size counts the writable bytes behind the out header; -1 sends a chain with nothing writable.
        length overrides in_header.len.
        """
        body = b"".join(part.pack() if isinstance(part, Structure) else part for part in parts)
        extra = extensions.pack() if extensions is not None else b""
        if extra:
            body = body.ljust(-(-len(body) // 8) * 8, b"\0")
        size = InHeader.SIZE + len(body) + len(extra)
        unique = next(self._uniques)
        header = InHeader(
            size if length is None else length,
            opcode,
            unique,
            nodeid,
            self.caller.uid,
            self.caller.gid,
            self.caller.pid,
            len(extra) // 8,
        )
        return Pending(self, unique, header.pack() + body + extra, out_size)

    def request(
        self,
        opcode: int,
        nodeid: int,
        *parts: bytes | Structure,
        out_size: int = 0,
        extensions: Extensions | None = None,
    ) -> bytes:
        """Send a request and return what its reply holds behind the header; OSError where it is an error."""
        return self.start(opcode, nodeid, *parts, out_size=out_size, extensions=extensions).result()

    def fixed[R: Structure](
        self,
        kind: type[R],
        opcode: int,
        nodeid: int,
        *parts: bytes | Structure,
        extensions: Extensions | None = None,
    ) -> R:
        """Send a request whose reply is one structure."""
        reply = self.request(opcode, nodeid, *parts, out_size=kind.SIZE, extensions=extensions)
        if len(reply) != kind.SIZE:
            raise MalformedReplyError(f"{Opcode(opcode).name} was answered by {len(reply)} bytes")
        return kind.unpack_from(reply)

    def _empty(self, opcode: int, nodeid: int, *parts: bytes | Structure) -> None:
        reply = self.request(opcode, nodeid, *parts)
        if reply:
            raise MalformedReplyError(f"{Opcode(opcode).name} was answered by {len(reply)} bytes")

    # The session.

    def init(
        self,
        flags: InitFlags = LINUX_7_2_FLAGS,
        *,
        major: int = KERNEL_VERSION,
        minor: int = KERNEL_MINOR_VERSION,
        max_readahead: int = 0x20000,
    ) -> InitOut:
        """Begin a session; the reply may be of any size that a kernel accepts."""
        low, high = flags.split
        message = InitIn(major, minor, max_readahead, low, high)
        return InitOut.unpack_prefix(self.request(Opcode.INIT, 0, message, out_size=InitOut.SIZE))

    def destroy(self) -> None:
        """End the session."""
        self._empty(Opcode.DESTROY, 0)

    # Names.

    def lookup(self, parent: int, name: bytes) -> EntryOut:
        """Look a name up."""
        return self.fixed(EntryOut, Opcode.LOOKUP, parent, name + b"\0")

    def walk(self, path: bytes, start: int = ROOT_ID) -> EntryOut:
        """Look up one name after another and return the last one's entry; ENOENT also for a cached miss."""
        entry = EntryOut(nodeid=start)
        for name in path.split(b"/"):
            entry = self.lookup(entry.nodeid, name)
            if entry.nodeid == 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return entry

    def forget(self, nodeid: int, lookups: int = 1) -> None:
        """Forget a node on the hiprio queue; done when the daemon has taken the request."""
        hiprio = self.on_queue(0)
        hiprio.start(Opcode.FORGET, nodeid, ForgetIn(lookups), out_size=-1).result()

    def batch_forget(self, nodes: list[tuple[int, int]]) -> None:
        """Forget many nodes at once, each (nodeid, lookups)."""
        hiprio = self.on_queue(0)
        parts = [ForgetOne(nodeid, lookups) for nodeid, lookups in nodes]
        hiprio.start(Opcode.BATCH_FORGET, 0, BatchForgetIn(len(nodes)), *parts, out_size=-1).result()

    def interrupt(self, unique: int) -> None:
        """Interrupt a request."""
        self.on_queue(0).start(Opcode.INTERRUPT, 0, InterruptIn(unique), out_size=-1).result()

    def readlink(self, nodeid: int) -> bytes:
        """Read where a symbolic link leads."""
        return self.request(Opcode.READLINK, nodeid, out_size=4096)

    def symlink(
        self, parent: int, name: bytes, target: bytes, extensions: Extensions | None = None
    ) -> EntryOut:
        """Make a symbolic link."""
        names = name + b"\0" + target + b"\0"
        return self.fixed(EntryOut, Opcode.SYMLINK, parent, names, extensions=extensions)

    def mknod(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int = 0,
        *,
        umask: int = 0,
        extensions: Extensions | None = None,
    ) -> EntryOut:
        """Make a file of any type but a directory."""
        message = MknodIn(mode, rdev, umask)
        return self.fixed(EntryOut, Opcode.MKNOD, parent, message, name + b"\0", extensions=extensions)

    def mkdir(
        self,
        parent: int,
        name: bytes,
        mode: int = 0o755,
        umask: int = 0,
        extensions: Extensions | None = None,
    ) -> EntryOut:
        """Make a directory."""
        message = MkdirIn(mode, umask)
        return self.fixed(EntryOut, Opcode.MKDIR, parent, message, name + b"\0", extensions=extensions)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        self._empty(Opcode.UNLINK, parent, name + b"\0")

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._empty(Opcode.RMDIR, parent, name + b"\0")

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Rename, replacing what is there."""
        self._empty(Opcode.RENAME, parent, RenameIn(new_parent), name + b"\0" + new_name + b"\0")

    def rename2(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Rename with flags."""
        self._empty(Opcode.RENAME2, parent, Rename2In(new_parent, flags), name + b"\0" + new_name + b"\0")

    def link(self, nodeid: int, new_parent: int, new_name: bytes) -> EntryOut:
        """Give a node one name more."""
        return self.fixed(EntryOut, Opcode.LINK, new_parent, LinkIn(nodeid), new_name + b"\0")

    # Attributes.

    def getattr(self, nodeid: int, fh: int | None = None) -> AttrOut:
        """Read attributes, by node or by handle."""
        message = GetattrIn() if fh is None else GetattrIn(GetattrFlags.FH, 0, fh)
        return self.fixed(AttrOut, Opcode.GETATTR, nodeid, message)

    def setattr(self, nodeid: int, message: SetattrIn) -> AttrOut:
        """Change attributes; message.valid says which."""
        return self.fixed(AttrOut, Opcode.SETATTR, nodeid, message)

    def chmod(self, nodeid: int, mode: int) -> AttrOut:
        """Change the mode."""
        return self.setattr(nodeid, SetattrIn(valid=SetattrValid.MODE, mode=mode))

    def truncate(self, nodeid: int, size: int, fh: int | None = None, *, kill: bool = False) -> AttrOut:
        """Change the size, by node or by handle."""
        valid = SetattrValid.SIZE
        if fh is not None:
            valid |= SetattrValid.FH
        if kill:
            valid |= SetattrValid.KILL_SUIDGID
        return self.setattr(nodeid, SetattrIn(valid=valid, size=size, fh=fh or 0))

    def statx(self, nodeid: int, mask: int, fh: int | None = None, flags: int = 0) -> StatxOut:
        """Read attributes as statx(2) has them."""
        message = StatxIn(GetattrFlags.FH if fh is not None else 0, 0, fh or 0, flags, mask)
        return self.fixed(StatxOut, Opcode.STATX, nodeid, message)

    def access(self, nodeid: int, mask: int) -> None:
        """Ask whether the caller may do something."""
        self._empty(Opcode.ACCESS, nodeid, AccessIn(mask))

    def statfs(self, nodeid: int = ROOT_ID) -> Kstatfs:
        """Read the figures of the file system."""
        return self.fixed(StatfsOut, Opcode.STATFS, nodeid).st

    # Files.

    def open(self, nodeid: int, flags: int = os.O_RDONLY, open_flags: int = 0) -> OpenOut:
        """Open a file."""
        return self.fixed(OpenOut, Opcode.OPEN, nodeid, OpenIn(flags, open_flags))

    def create(
        self,
        parent: int,
        name: bytes,
        flags: int = os.O_RDWR | os.O_CREAT,
        mode: int = 0o644,
        *,
        umask: int = 0,
        open_flags: int = 0,
        extensions: Extensions | None = None,
        opcode: Opcode = Opcode.CREATE,
    ) -> tuple[EntryOut, OpenOut]:
        """Make a file and open it."""
        reply = self.request(
            opcode,
            parent,
            CreateIn(flags, mode | 0o100000, umask, open_flags),
            name + b"\0",
            out_size=EntryOut.SIZE + OpenOut.SIZE,
            extensions=extensions,
        )
        if len(reply) != EntryOut.SIZE + OpenOut.SIZE:
            raise MalformedReplyError(f"{opcode.name} was answered by {len(reply)} bytes")
        return EntryOut.unpack_from(reply), OpenOut.unpack_from(reply, EntryOut.SIZE)

    def tmpfile(self, parent: int, flags: int = os.O_RDWR, mode: int = 0o600) -> tuple[EntryOut, OpenOut]:
        """Make a file without a name and open it."""
        return self.create(parent, b"/", flags, mode, opcode=Opcode.TMPFILE)

    def read(self, nodeid: int, fh: int, size: int, offset: int = 0, flags: int = 0) -> bytes:
        """Read up to size bytes; fewer mean the end of the file."""
        return self.request(Opcode.READ, nodeid, ReadIn(fh, offset, size, 0, 0, flags), out_size=size)

    def write(
        self, nodeid: int, fh: int, data: bytes, offset: int = 0, *, write_flags: int = 0, flags: int = 0
    ) -> int:
        """Write and return how many bytes were written."""
        message = WriteIn(fh, offset, len(data), write_flags, 0, flags)
        return self.fixed(WriteOut, Opcode.WRITE, nodeid, message, data).size

    def flush(self, nodeid: int, fh: int, lock_owner: int = 0) -> None:
        """Tell that a descriptor was closed."""
        self._empty(Opcode.FLUSH, nodeid, FlushIn(fh=fh, lock_owner=lock_owner))

    def release(
        self, nodeid: int, fh: int, flags: int = 0, release_flags: int = 0, lock_owner: int = 0
    ) -> None:
        """Give a handle back."""
        self._empty(Opcode.RELEASE, nodeid, ReleaseIn(fh, flags, release_flags, lock_owner))

    def fsync(self, nodeid: int, fh: int, fsync_flags: int = 0) -> None:
        """Write a file out to the disk."""
        self._empty(Opcode.FSYNC, nodeid, FsyncIn(fh, fsync_flags))

    def fallocate(self, nodeid: int, fh: int, mode: int, offset: int, length: int) -> None:
        """Reserve or free space."""
        self._empty(Opcode.FALLOCATE, nodeid, FallocateIn(fh, offset, length, mode))

    def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int:
        """Find data or a hole."""
        return self.fixed(LseekOut, Opcode.LSEEK, nodeid, LseekIn(fh, offset, whence)).offset

    def copy_file_range(self, source: tuple[int, int, int], target: tuple[int, int, int], size: int) -> int:
        """Copy between two open files, each (nodeid, fh, offset); the reply counts in 32 bits."""
        message = CopyFileRangeIn(source[1], source[2], target[0], target[1], target[2], size)
        return self.fixed(WriteOut, Opcode.COPY_FILE_RANGE, source[0], message).size

    def copy_file_range_64(
        self, source: tuple[int, int, int], target: tuple[int, int, int], size: int
    ) -> int:
        """Copy between two open files, each (nodeid, fh, offset); the reply counts in 64 bits."""
        message = CopyFileRangeIn(source[1], source[2], target[0], target[1], target[2], size)
        return self.fixed(CopyFileRangeOut, Opcode.COPY_FILE_RANGE_64, source[0], message).bytes_copied

    def syncfs(self, nodeid: int = ROOT_ID) -> None:
        """Write a whole file system out to the disk."""
        self._empty(Opcode.SYNCFS, nodeid, SyncfsIn())

    def bmap(self, nodeid: int, block: int) -> None:
        """Ask for a block's number."""
        self._empty(Opcode.BMAP, nodeid, BmapIn(block, 4096))

    def poll(self, nodeid: int, fh: int) -> None:
        """Ask what a file is ready for."""
        self._empty(Opcode.POLL, nodeid, PollIn(fh))

    def ioctl(
        self, nodeid: int, fh: int, command: int, data: bytes = b"", *, out_size: int = 0, flags: int = 0
    ) -> tuple[IoctlOut, bytes]:
        """Control a file; return what the ioctl returned, and its data."""
        message = IoctlIn(fh, flags, command, 0, len(data), out_size)
        reply = self.request(Opcode.IOCTL, nodeid, message, data, out_size=IoctlOut.SIZE + out_size)
        return IoctlOut.unpack_from(reply), reply[IoctlOut.SIZE :]

    # Directories.

    def opendir(self, nodeid: int, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> OpenOut:
        """Open a directory."""
        return self.fixed(OpenOut, Opcode.OPENDIR, nodeid, OpenIn(flags))

    def readdir(self, nodeid: int, fh: int, size: int = 4096, offset: int = 0) -> list[DirectoryEntry]:
        """List some entries from a cookie on."""
        reply = self.request(Opcode.READDIR, nodeid, ReadIn(fh, offset, size), out_size=size)
        return list(unpack_entries(reply, plus=False))

    def readdirplus(self, nodeid: int, fh: int, size: int = 4096, offset: int = 0) -> list[DirectoryEntry]:
        """List some entries with their attributes from a cookie on."""
        reply = self.request(Opcode.READDIRPLUS, nodeid, ReadIn(fh, offset, size), out_size=size)
        return list(unpack_entries(reply, plus=True))

    def list_directory(self, nodeid: int, *, plus: bool = False, size: int = 4096) -> list[DirectoryEntry]:
        """Open, list and release a directory."""
        fh = self.opendir(nodeid).fh
        entries: list[DirectoryEntry] = []
        read = self.readdirplus if plus else self.readdir
        while batch := read(nodeid, fh, size, entries[-1].off if entries else 0):
            entries += batch
        self.releasedir(nodeid, fh)
        return entries

    def releasedir(self, nodeid: int, fh: int) -> None:
        """Give a directory handle back."""
        self._empty(Opcode.RELEASEDIR, nodeid, ReleaseIn(fh))

    def fsyncdir(self, nodeid: int, fh: int, fsync_flags: int = 0) -> None:
        """Write a directory out to the disk."""
        self._empty(Opcode.FSYNCDIR, nodeid, FsyncIn(fh, fsync_flags))

    # Extended attributes.

    def setxattr(
        self, nodeid: int, name: bytes, value: bytes, flags: int = 0, setxattr_flags: int | None = 0
    ) -> None:
        """Set an attribute; setxattr_flags None sends the short form that goes without SETXATTR_EXT."""
        message = SetxattrIn(len(value), flags, setxattr_flags or 0).pack()
        self._empty(
            Opcode.SETXATTR, nodeid, message[: 8 if setxattr_flags is None else 16], name + b"\0", value
        )

    def getxattr(self, nodeid: int, name: bytes, size: int = 65536) -> bytes:
        """Read an attribute into a buffer of size bytes."""
        return self.request(Opcode.GETXATTR, nodeid, GetxattrIn(size), name + b"\0", out_size=size)

    def getxattr_size(self, nodeid: int, name: bytes) -> int:
        """Ask how large an attribute is."""
        return self.fixed(GetxattrOut, Opcode.GETXATTR, nodeid, GetxattrIn(0), name + b"\0").size

    def listxattr(self, nodeid: int, size: int = 65536) -> list[bytes]:
        """List the names of all attributes through a buffer of size bytes."""
        reply = self.request(Opcode.LISTXATTR, nodeid, GetxattrIn(size), out_size=size)
        return reply.split(b"\0")[:-1]

    def listxattr_size(self, nodeid: int) -> int:
        """Ask how large the list of names is."""
        return self.fixed(GetxattrOut, Opcode.LISTXATTR, nodeid, GetxattrIn(0)).size

    def removexattr(self, nodeid: int, name: bytes) -> None:
        """Remove an attribute."""
        self._empty(Opcode.REMOVEXATTR, nodeid, name + b"\0")

    # Locks.

    def getlk(self, nodeid: int, fh: int, owner: int, lock: FileLock) -> FileLock:
        """Ask which lock is in the way of another."""
        return self.fixed(LkOut, Opcode.GETLK, nodeid, LkIn(fh, owner, lock)).lk

    def setlk(self, nodeid: int, fh: int, owner: int, lock: FileLock, lk_flags: int = 0) -> None:
        """Take or give back a lock, or fail at once."""
        self._empty(Opcode.SETLK, nodeid, LkIn(fh, owner, lock, lk_flags))

    def start_setlkw(self, nodeid: int, fh: int, owner: int, lock: FileLock, lk_flags: int = 0) -> Pending:
        """Begin to wait for a lock."""
        return self.start(Opcode.SETLKW, nodeid, LkIn(fh, owner, lock, lk_flags))

    def flock(self, nodeid: int, fh: int, owner: int, kind: int) -> None:
        """Take or give back a lock on a whole file, or fail at once."""
        self.setlk(nodeid, fh, owner, FileLock(0, (1 << 63) - 1, kind), LockFlags.FLOCK)
