"""A kernel in the same process: asks a session by real FUSE requests, and counts what it was told."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from vhostfs.filesystem import ROOT, Caller, Filesystem, Lock, LockType
from vhostfs.fuse_abi.directory import DirectoryEntry, unpack_entries
from vhostfs.fuse_abi.extensions import Extensions
from vhostfs.fuse_abi.flags import (
    FsyncFlags,
    GetattrFlags,
    InitFlags,
    LockFlags,
    SetxattrFlags,
)
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION, Opcode
from vhostfs.fuse_abi.structures import (
    AccessIn,
    AttrOut,
    BmapIn,
    BmapOut,
    CopyFileRangeIn,
    CopyFileRangeOut,
    CreateIn,
    EntryOut,
    FallocateIn,
    FileLock,
    FlushIn,
    ForgetIn,
    FsyncIn,
    GetattrIn,
    GetxattrIn,
    GetxattrOut,
    InHeader,
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
    PollIn,
    PollOut,
    ReadIn,
    ReleaseIn,
    Rename2In,
    SetattrIn,
    SetxattrIn,
    StatfsOut,
    StatxIn,
    StatxOut,
    SyncfsIn,
    WriteIn,
    WriteOut,
)
from vhostfs.session import RecordKind, Session
from vhostfs.testing.memory_channel import MemoryChannel, Request

PAGE: Final = 4096
LIST_SIZE: Final = 32 * PAGE
"""What Linux asks for in one READDIR at most."""

OFFERED: Final = ~InitFlags(0) & ~(InitFlags.INIT_RESERVED | InitFlags.FILE_OPS)
"""All INIT flags that a kernel of 7.45 may offer."""

ROOT_CALLER: Final = Caller()

type Name = str | bytes


def name_bytes(name: Name) -> bytes:
    """Return a name as it stands in a request."""
    return os.fsencode(name) + b"\0"


class KernelClient:
    """Asks as Linux does: by node, each method one request. Errors are OSError with the errno of the reply.

    Nodes are nodeids as the replies have them. `lookups` counts what the session was not told to forget yet.
    What the session does not want (Session.opcodes) is ENOSYS, as it is in the data plane.
    """

    def __init__(
        self, filesystem: Filesystem[Any], *, mount: int = 0, name: str = "test", offered: InitFlags = OFFERED
    ) -> None:
        """Make a session for a file system, whose kernel offers these INIT flags."""
        self.channel: Final = MemoryChannel()
        self.session: Final = Session(filesystem, self.channel, mount=mount, name=name)
        self.channel.connect(self.session.receive)
        self.root: Final = mount << 48 | ROOT
        self.offered = offered
        self.flags = InitFlags(0)
        """What was negotiated."""
        self.lookups: dict[int, int] = {}
        self.caller = ROOT_CALLER
        """Who asks from now on."""
        self._unique = 0
        self._asked = 0

    # ---- Requests ----

    def begin(self, minor: int = KERNEL_MINOR_VERSION) -> None:
        """Mount: negotiate, and let the session begin."""
        self.flags = self.offered & self.session.init_flags
        self.channel.record(int(self.flags), RecordKind.BEGIN, room=minor)

    def end(self) -> None:
        """Unmount: the session ends, and with it all lookups."""
        self.lookups.clear()
        self.channel.record(0, RecordKind.END)

    def start(
        self,
        opcode: int,
        node: int,
        arguments: bytes = b"",
        *,
        room: int = PAGE,
        data: bytes = b"",
        extensions: bytes = b"",
        answered: bool = True,
    ) -> Request:
        """Send a request and return it; `finish` waits for its answer."""
        self._unique += 2
        if answered:
            self._asked = self._unique
        caller = self.caller
        header = InHeader(
            InHeader.SIZE + len(arguments) + len(extensions) + len(data),
            opcode,
            self._unique,
            node,
            caller.uid,
            caller.gid,
            caller.pid,
            len(extensions) // 8,
        )
        message = header.pack() + arguments + extensions
        return self.channel.request(message, room=room, data=data, answered=answered)

    @staticmethod
    async def finish(request: Request) -> bytes:
        """Wait for a request's answer; return its payload, or raise what it says."""
        error, payload = await request.answer
        if error:
            raise OSError(error, os.strerror(error))
        return payload

    async def request(
        self,
        opcode: int,
        node: int,
        arguments: bytes = b"",
        *,
        room: int = PAGE,
        data: bytes = b"",
        extensions: bytes = b"",
    ) -> bytes:
        """Ask, and return the payload of the reply."""
        if opcode not in self.session.opcodes:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return await self.finish(
            self.start(opcode, node, arguments, room=room, data=data, extensions=extensions)
        )

    def interrupt(self, unique: int | None = None) -> None:
        """Interrupt a request by its number, the last one's if none is given (INTERRUPT)."""
        body = InterruptIn(self._asked if unique is None else unique).pack()
        self.start(Opcode.INTERRUPT, 0, body, room=0, answered=False)

    def cancel(self, request: Request) -> None:
        """Tell that a request's ring stops."""
        self.channel.record(request.token, RecordKind.CANCEL)

    def forget(self, node: int, count: int | None = None) -> None:
        """Give lookups of a node back, all of them if no count is given (FORGET)."""
        held = self.lookups.pop(node, 0)
        given = held if count is None else count
        if held > given:
            self.lookups[node] = held - given
        self.start(Opcode.FORGET, node, ForgetIn(given).pack(), room=0, answered=False)

    def _count(self, entry: EntryOut) -> EntryOut:
        if entry.nodeid not in {0, self.root}:
            self.lookups[entry.nodeid] = self.lookups.get(entry.nodeid, 0) + 1
        return entry

    def _extensions(self) -> bytes:
        groups = tuple(self.caller.groups)
        return Extensions(groups=groups).pack() if groups else b""

    async def _entry(self, opcode: Opcode, node: int, arguments: bytes, extensions: bytes = b"") -> EntryOut:
        payload = await self.request(opcode, node, arguments, room=EntryOut.SIZE, extensions=extensions)
        return self._count(EntryOut.unpack_from(payload))

    async def _empty(self, opcode: Opcode, node: int, arguments: bytes = b"") -> None:
        payload = await self.request(opcode, node, arguments, room=0)
        assert not payload, "a reply without arguments brought some"

    # ---- Names and attributes ----

    async def lookup(self, parent: int, name: Name) -> EntryOut:
        """Find a name; ENOENT where it is missing, also where the answer was a negative entry."""
        entry = await self._entry(Opcode.LOOKUP, parent, name_bytes(name))
        if entry.nodeid == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(name))
        return entry

    async def getattr(self, node: int, fh: int | None = None) -> AttrOut:
        """Ask for attributes, of an open file if fh is given."""
        arguments = GetattrIn(GetattrFlags.FH if fh is not None else 0, 0, fh or 0).pack()
        return AttrOut.unpack_from(await self.request(Opcode.GETATTR, node, arguments, room=AttrOut.SIZE))

    async def setattr(self, node: int, changes: SetattrIn) -> AttrOut:
        """Change what `changes.valid` says."""
        payload = await self.request(Opcode.SETATTR, node, changes.pack(), room=AttrOut.SIZE)
        return AttrOut.unpack_from(payload)

    async def statx(self, node: int, fh: int | None = None, mask: int = 0xFFF) -> StatxOut:
        """Ask as statx(2) does."""
        arguments = StatxIn(GetattrFlags.FH if fh is not None else 0, 0, fh or 0, 0, mask).pack()
        return StatxOut.unpack_from(await self.request(Opcode.STATX, node, arguments, room=StatxOut.SIZE))

    async def access(self, node: int, mask: int) -> None:
        """Check access."""
        await self._empty(Opcode.ACCESS, node, AccessIn(mask).pack())

    async def readlink_node(self, node: int) -> str:
        """Return a symbolic link's target."""
        return os.fsdecode(await self.request(Opcode.READLINK, node))

    async def mknod_at(self, parent: int, name: Name, mode: int, rdev: int = 0, umask: int = 0) -> EntryOut:
        """Make a file."""
        arguments = MknodIn(mode, rdev, umask).pack() + name_bytes(name)
        return await self._entry(Opcode.MKNOD, parent, arguments, self._extensions())

    async def mkdir_at(self, parent: int, name: Name, mode: int = 0o755, umask: int = 0) -> EntryOut:
        """Make a directory."""
        arguments = MkdirIn(mode, umask).pack() + name_bytes(name)
        return await self._entry(Opcode.MKDIR, parent, arguments, self._extensions())

    async def symlink_at(self, parent: int, name: Name, target: Name) -> EntryOut:
        """Make a symbolic link."""
        return await self._entry(
            Opcode.SYMLINK, parent, name_bytes(name) + name_bytes(target), self._extensions()
        )

    async def link_at(self, node: int, parent: int, name: Name) -> EntryOut:
        """Give a node another name."""
        return await self._entry(Opcode.LINK, parent, LinkIn(node).pack() + name_bytes(name))

    async def unlink_at(self, parent: int, name: Name) -> None:
        """Remove a file's name."""
        await self._empty(Opcode.UNLINK, parent, name_bytes(name))

    async def rmdir_at(self, parent: int, name: Name) -> None:
        """Remove a directory."""
        await self._empty(Opcode.RMDIR, parent, name_bytes(name))

    async def rename_at(
        self, parent: int, name: Name, new_parent: int, new_name: Name, flags: int = 0
    ) -> None:
        """Rename, by RENAME2."""
        arguments = Rename2In(new_parent, flags).pack() + name_bytes(name) + name_bytes(new_name)
        await self._empty(Opcode.RENAME2, parent, arguments)

    # ---- Files ----

    async def open_node(self, node: int, flags: int = os.O_RDONLY) -> OpenOut:
        """Open a file; where the session does not answer OPEN, without a handle, as Linux does."""
        return await self._opened(Opcode.OPEN, node, flags)

    async def _opened(self, opcode: Opcode, node: int, flags: int) -> OpenOut:
        try:
            payload = await self.request(opcode, node, OpenIn(flags).pack(), room=OpenOut.SIZE)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return OpenOut()
        return OpenOut.unpack_from(payload)

    async def create_at(
        self, parent: int, name: Name, mode: int = 0o644, flags: int = os.O_RDWR, umask: int = 0
    ) -> tuple[EntryOut, OpenOut]:
        """Make and open a file; by MKNOD and OPEN where the session does not answer CREATE."""
        arguments = CreateIn(flags | os.O_CREAT, mode, umask).pack() + name_bytes(name)
        if Opcode.CREATE not in self.session.opcodes:
            entry = await self.mknod_at(parent, name, mode | 0o100000, umask=umask)
            return entry, await self.open_node(entry.nodeid, flags)
        return await self._created(Opcode.CREATE, parent, arguments)

    async def tmpfile(
        self, parent: int, mode: int = 0o600, flags: int = os.O_RDWR
    ) -> tuple[EntryOut, OpenOut]:
        """Make and open a file without a name."""
        return await self._created(Opcode.TMPFILE, parent, CreateIn(flags, mode).pack() + b"/\0")

    async def _created(self, opcode: Opcode, parent: int, arguments: bytes) -> tuple[EntryOut, OpenOut]:
        payload = await self.request(
            opcode, parent, arguments, room=EntryOut.SIZE + OpenOut.SIZE, extensions=self._extensions()
        )
        return self._count(EntryOut.unpack_from(payload)), OpenOut.unpack_from(payload, EntryOut.SIZE)

    async def read(self, node: int, fh: int, offset: int, size: int) -> bytes:
        """Read up to `size` bytes."""
        return await self.request(Opcode.READ, node, ReadIn(fh, offset, size).pack(), room=size)

    async def write(self, node: int, fh: int, offset: int, data: bytes, flags: int = 0) -> int:
        """Write data; return how much was taken."""
        arguments = WriteIn(fh, offset, len(data), flags).pack()
        payload = await self.request(Opcode.WRITE, node, arguments, room=WriteOut.SIZE, data=data)
        return WriteOut.unpack_from(payload).size

    async def flush(self, node: int, fh: int, lock_owner: int = 0) -> None:
        """Tell that a descriptor was closed; nothing where the session does not answer FLUSH."""
        if Opcode.FLUSH in self.session.opcodes:
            await self._empty(Opcode.FLUSH, node, FlushIn(fh, 0, 0, lock_owner).pack())

    async def release(self, node: int, fh: int, flags: int = 0) -> None:
        """Give up a file's handle; nothing where none was given out."""
        if fh:
            await self._empty(Opcode.RELEASE, node, ReleaseIn(fh, flags).pack())

    async def fsync(self, node: int, fh: int, *, datasync: bool = False) -> None:
        """Make a file durable."""
        await self._empty(Opcode.FSYNC, node, FsyncIn(fh, FsyncFlags.FDATASYNC if datasync else 0).pack())

    async def fallocate(self, node: int, fh: int, offset: int, length: int, mode: int = 0) -> None:
        """Reserve, punch or zero a range."""
        await self._empty(Opcode.FALLOCATE, node, FallocateIn(fh, offset, length, mode).pack())

    async def lseek(self, node: int, fh: int, offset: int, whence: int) -> int:
        """Find data or a hole."""
        payload = await self.request(
            Opcode.LSEEK, node, LseekIn(fh, offset, whence).pack(), room=LseekOut.SIZE
        )
        return LseekOut.unpack_from(payload).offset

    async def copy_file_range(
        self, source: int, source_fh: int, offset: int, target: int, target_fh: int, to: int, length: int
    ) -> int:
        """Copy between files."""
        arguments = CopyFileRangeIn(source_fh, offset, target, target_fh, to, length).pack()
        payload = await self.request(Opcode.COPY_FILE_RANGE_64, source, arguments, room=CopyFileRangeOut.SIZE)
        return CopyFileRangeOut.unpack_from(payload).bytes_copied

    async def ioctl(
        self, node: int, fh: int, command: int, argument: int = 0, data: bytes = b"", room: int = 0
    ) -> tuple[int, bytes]:
        """Do an ioctl; return its result and what it gave."""
        arguments = IoctlIn(fh, 0, command, argument, len(data), room).pack() + data
        payload = await self.request(Opcode.IOCTL, node, arguments, room=IoctlOut.SIZE + room)
        return IoctlOut.unpack_from(payload).result, payload[IoctlOut.SIZE :]

    async def poll(self, node: int, fh: int, events: int) -> int:
        """Ask which events are ready."""
        payload = await self.request(Opcode.POLL, node, PollIn(fh, 0, 0, events).pack(), room=PollOut.SIZE)
        return PollOut.unpack_from(payload).revents

    async def bmap(self, node: int, block: int, block_size: int = 512) -> int:
        """Ask where a block lies."""
        payload = await self.request(Opcode.BMAP, node, BmapIn(block, block_size).pack(), room=BmapOut.SIZE)
        return BmapOut.unpack_from(payload).block

    # ---- Directories ----

    async def opendir(self, node: int, flags: int = os.O_DIRECTORY) -> OpenOut:
        """Open a directory; without a handle where the session does not answer OPENDIR."""
        return await self._opened(Opcode.OPENDIR, node, flags)

    async def readdir(
        self, node: int, fh: int, offset: int = 0, *, size: int = LIST_SIZE, plus: bool = False
    ) -> list[DirectoryEntry]:
        """Return the entries of one reply; none at the end."""
        opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
        payload = await self.request(opcode, node, ReadIn(fh, offset, size).pack(), room=size)
        entries = list(unpack_entries(payload, plus=plus))
        for entry in entries:
            if entry.entry is not None:
                self._count(entry.entry)
        return entries

    async def releasedir(self, node: int, fh: int) -> None:
        """Give up a directory's handle."""
        if fh:
            await self._empty(Opcode.RELEASEDIR, node, ReleaseIn(fh).pack())

    async def fsyncdir(self, node: int, fh: int, *, datasync: bool = False) -> None:
        """Make a directory durable."""
        await self._empty(Opcode.FSYNCDIR, node, FsyncIn(fh, FsyncFlags.FDATASYNC if datasync else 0).pack())

    async def list_node(
        self, node: int, *, size: int = LIST_SIZE, plus: bool = False
    ) -> list[DirectoryEntry]:
        """Return a whole listing, page by page; lookups that came with it stay counted."""
        opened = await self.opendir(node)
        entries: list[DirectoryEntry] = []
        try:
            while page := await self.readdir(
                node, opened.fh, entries[-1].off if entries else 0, size=size, plus=plus
            ):
                entries += page
        finally:
            await self.releasedir(node, opened.fh)
        return entries

    # ---- The whole; extended attributes; locks ----

    async def statfs_node(self, node: int) -> Kstatfs:
        """Ask for sizes of the file system."""
        return StatfsOut.unpack_from(await self.request(Opcode.STATFS, node, room=StatfsOut.SIZE)).st

    async def syncfs(self) -> None:
        """Make everything durable."""
        await self._empty(Opcode.SYNCFS, self.root, SyncfsIn().pack())

    async def getxattr_node(self, node: int, name: Name, size: int = 65536) -> bytes | int:
        """Return an attribute's value; with size 0 how long it is."""
        arguments = GetxattrIn(size).pack() + name_bytes(name)
        payload = await self.request(Opcode.GETXATTR, node, arguments, room=size or GetxattrOut.SIZE)
        return payload if size else GetxattrOut.unpack_from(payload).size

    async def listxattr_node(self, node: int, size: int = 65536) -> list[str] | int:
        """Return the names of the attributes; with size 0 how long the list is."""
        payload = await self.request(
            Opcode.LISTXATTR, node, GetxattrIn(size).pack(), room=size or GetxattrOut.SIZE
        )
        if not size:
            return GetxattrOut.unpack_from(payload).size
        return [os.fsdecode(name) for name in payload.split(b"\0")[:-1]]

    async def setxattr_node(
        self, node: int, name: Name, value: bytes, flags: int = 0, *, kill_sgid: bool = False
    ) -> None:
        """Set an attribute."""
        fixed = SetxattrIn(len(value), flags, SetxattrFlags.ACL_KILL_SGID if kill_sgid else 0).pack()
        if InitFlags.SETXATTR_EXT not in self.flags:
            fixed = fixed[:8]
        await self._empty(Opcode.SETXATTR, node, fixed + name_bytes(name) + value)

    async def removexattr_node(self, node: int, name: Name) -> None:
        """Remove an attribute."""
        await self._empty(Opcode.REMOVEXATTR, node, name_bytes(name))

    async def getlk(self, node: int, fh: int, owner: int, lock: Lock) -> Lock | None:
        """Ask which lock is in the way."""
        payload = await self.request(Opcode.GETLK, node, _lock(fh, owner, lock).pack(), room=LkOut.SIZE)
        found = LkOut.unpack_from(payload).lk
        if found.type == LockType.UNLOCK:
            return None
        return Lock(LockType(found.type), found.start, found.end, found.pid)

    async def setlk(self, node: int, fh: int, owner: int, lock: Lock, *, wait: bool = False) -> None:
        """Set or drop a POSIX lock."""
        opcode = Opcode.SETLKW if wait else Opcode.SETLK
        await self._empty(opcode, node, _lock(fh, owner, lock).pack())

    async def flock(self, node: int, fh: int, owner: int, kind: LockType, *, wait: bool = False) -> None:
        """Set or drop a lock of flock(2)."""
        opcode = Opcode.SETLKW if wait else Opcode.SETLK
        await self._empty(opcode, node, _lock(fh, owner, Lock(kind), LockFlags.FLOCK).pack())


def _lock(fh: int, owner: int, lock: Lock, flags: int = 0) -> LkIn:
    return LkIn(fh, owner, FileLock(lock.start, lock.end, lock.type, lock.pid), flags)
