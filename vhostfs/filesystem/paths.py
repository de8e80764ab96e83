"""File systems whose operations are asked by path: for simple cases, where names are all there is.

class Hello(PathFilesystem[None]):
    def getattr(self, caller, path, handle):
        if path == "/":
            return Attr.directory(ino=0)
        if path == "/hello":
            return Attr.file(ino=0, size=6)
        raise FileNotFoundError

    def readdir(self, caller, path, handle, offset):
        return ["hello"]

    def read(self, caller, path, handle, offset, buffer):
        return b"hello\\n"[offset : offset + buffer.size]

vhostfs.mount(Hello(), "/mnt")
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterable, Buffer, Iterable
from typing import NoReturn

from vhostfs.filesystem.buffers import ReadBuffer, WriteBuffer
from vhostfs.filesystem.interface import MaybeAwaitable, Options, Session
from vhostfs.filesystem.refusals import refused
from vhostfs.filesystem.types import Attr, Caller, DirEntry, Opened, SetAttr, StatFs
from vhostfs.fuse_abi.flags import RenameFlags, WriteFlags


def _missing() -> NoReturn:
    raise refused(errno.ENOSYS)


class PathFilesystem[H]:
    """What vhostfs.filesystem.Filesystem is, asked by path: "/" is the root, "/a/b" a file in it.

    What is said there holds here too, but for this. An Attr with ino 0 gets a number for as long as the
    kernel knows the file. A file that was removed, or replaced, and is still open is asked for by the path
    that it had, with a handle: it is the handle that says which file is meant. `lookup` and `forget` are no
    operations here: what is there is what `getattr` finds. Each name of a file with several is a file to the
    kernel, with pages and attributes of its own in its cache.
    """

    options: Options = Options()

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Prepare, before anything is asked for. The session itself knows nodes, and no paths."""

    def destroy(self) -> MaybeAwaitable[None]:
        """Finish: handles were released."""

    # ---- Names ----

    def getattr(self, caller: Caller, path: str, handle: H | None) -> MaybeAwaitable[Attr]:
        """Return the attributes of what is at a path; ENOENT where nothing is."""
        _missing()

    def setattr(self, caller: Caller, path: str, handle: H | None, changes: SetAttr) -> MaybeAwaitable[Attr]:
        """Change attributes, and return all as they are then."""
        _missing()

    def access(self, caller: Caller, path: str, mask: int) -> MaybeAwaitable[None]:
        """Check access(2): EACCES where not granted."""
        _missing()

    def readlink(self, caller: Caller, path: str) -> MaybeAwaitable[str]:
        """Return the target of a symbolic link."""
        _missing()

    def mknod(self, caller: Caller, path: str, mode: int, rdev: int) -> MaybeAwaitable[Attr]:
        """Make a file that is no directory and no link. EEXIST."""
        _missing()

    def mkdir(self, caller: Caller, path: str, mode: int) -> MaybeAwaitable[Attr]:
        """Make a directory. EEXIST."""
        _missing()

    def symlink(self, caller: Caller, path: str, target: str) -> MaybeAwaitable[Attr]:
        """Make a symbolic link at a path. EEXIST."""
        _missing()

    def link(self, caller: Caller, path: str, new_path: str) -> MaybeAwaitable[Attr]:
        """Give a file another name, and return its attributes. EEXIST."""
        _missing()

    def unlink(self, caller: Caller, path: str) -> MaybeAwaitable[None]:
        """Remove the name of what is no directory. ENOENT, EISDIR."""
        _missing()

    def rmdir(self, caller: Caller, path: str) -> MaybeAwaitable[None]:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        _missing()

    def rename(self, caller: Caller, path: str, new_path: str, flags: RenameFlags) -> MaybeAwaitable[None]:
        """Rename a file, or a directory with all that is in it, replacing what is at the new path."""
        _missing()

    # ---- Files ----

    def open(self, caller: Caller, path: str, flags: int) -> MaybeAwaitable[Opened[H]]:
        """Open a file. Not overridden, there are no handles: a removed file ends with its name (ESTALE)."""
        _missing()

    def create(
        self, caller: Caller, path: str, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Attr, Opened[H]]]:
        """Make a regular file and open it. EEXIST where it exists and flags hold O_EXCL."""
        _missing()

    def read(
        self, caller: Caller, path: str, handle: H | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[Buffer | int]:
        """Return buffer.size bytes from an offset on, or how many were put into the buffer."""
        _missing()

    def write(
        self, caller: Caller, path: str, handle: H | None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> MaybeAwaitable[int]:
        """Write data at an offset; return how many bytes were taken."""
        _missing()

    def flush(self, caller: Caller, path: str, handle: H | None, lock_owner: int) -> MaybeAwaitable[None]:
        """Note that a descriptor of the file was closed."""
        _missing()

    def release(self, caller: Caller, path: str, handle: H, flags: int) -> MaybeAwaitable[None]:
        """Give up a handle, once for each that was given out."""
        _missing()

    def fsync(self, caller: Caller, path: str, handle: H | None, datasync: bool) -> MaybeAwaitable[None]:
        """Make a file durable."""
        _missing()

    def fallocate(
        self, caller: Caller, path: str, handle: H | None, mode: int, offset: int, length: int
    ) -> MaybeAwaitable[None]:
        """Reserve, free or zero a range."""
        _missing()

    def lseek(
        self, caller: Caller, path: str, handle: H | None, offset: int, whence: int
    ) -> MaybeAwaitable[int]:
        """Find data or a hole from an offset on."""
        _missing()

    # ---- Directories, the whole, extended attributes ----

    def readdir(
        self, caller: Caller, path: str, handle: None, offset: int
    ) -> MaybeAwaitable[Iterable[DirEntry | str] | AsyncIterable[DirEntry | str]]:
        """Yield the entries of a directory, or their names alone. An `entry` in them does not count here."""
        _missing()

    def fsyncdir(self, caller: Caller, path: str, handle: None, datasync: bool) -> MaybeAwaitable[None]:
        """Make a directory's entries durable."""
        _missing()

    def statfs(self, caller: Caller, path: str) -> MaybeAwaitable[StatFs]:
        """Tell size and free space."""
        _missing()

    def getxattr(self, caller: Caller, path: str, name: str) -> MaybeAwaitable[bytes]:
        """Return an extended attribute. ENODATA."""
        _missing()

    def listxattr(self, caller: Caller, path: str) -> MaybeAwaitable[Iterable[str]]:
        """Return the names of the extended attributes."""
        _missing()

    def setxattr(
        self, caller: Caller, path: str, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> MaybeAwaitable[None]:
        """Set an extended attribute."""
        _missing()

    def removexattr(self, caller: Caller, path: str, name: str) -> MaybeAwaitable[None]:
        """Remove an extended attribute. ENODATA."""
        _missing()
