"""FileHandle: a file of any file system as an asynchronous file, without a mount."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Buffer, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, overload

import anyio

from vhostfs.files.buffered import BUFFER_SIZE, ByteStream
from vhostfs.files.open_file import OpenFile
from vhostfs.files.places import Path, Tree
from vhostfs.files.text import TextStream
from vhostfs.filesystem import Attr, Caller, Filesystem

if TYPE_CHECKING:
    from _typeshed import OpenBinaryMode, OpenTextMode

_ACTIONS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_CREAT | os.O_TRUNC,
    "x": os.O_CREAT | os.O_EXCL,
    "a": os.O_CREAT | os.O_APPEND,
}


def _flags(mode: str) -> int:
    """Return the flags of open(2) that a mode of open() stands for; ValueError for what is no mode."""
    actions = [character for character in mode if character in _ACTIONS]
    others = [character for character in mode if character not in _ACTIONS]
    if len(actions) != 1 or len(set(others)) != len(others) or not set(others) <= set("+bt"):
        raise ValueError(f"invalid mode: {mode!r}")
    if "b" in mode and "t" in mode:
        raise ValueError("can't have text and binary mode at once")
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    return access | _ACTIONS[actions[0]]


class FileHandle[Data: (str, bytes)]:
    """A file that was opened by path: read, written and sought as anyio.open_file's are.

        async with await FileHandle.open(filesystem, "/notes", "a") as file:
            await file.write("one more line\n")
        async with await FileHandle.open(filesystem, "/notes") as file:
            async for line in file:
                ...

    Binary files yield bytes, text files str. Calls that come while one is under way wait for it. After
    `aclose` every call raises ValueError. To be used on the file system's event loop; one that no session
    serves has to be begun where it wants that (`begun`). What the file system raises is raised here.
    """

    def __init__(
        self, file: OpenFile, stream: ByteStream | TextStream, flags: int, name: str, mode: str
    ) -> None:
        """`open` makes them."""
        self._file = file
        self._stream: Any = stream
        self._flags = flags
        self._lock = anyio.Lock()
        self._closed = False
        self.name = name
        """The path that was opened."""
        self.mode = mode

    @overload
    @classmethod
    async def open(
        cls,
        filesystem: Filesystem[Any],
        path: Path,
        mode: OpenBinaryMode,
        *,
        buffering: int = ...,
        permissions: int = ...,
        caller: Caller | None = ...,
        follow_symlinks: bool = ...,
    ) -> FileHandle[bytes]: ...

    @overload
    @classmethod
    async def open(
        cls,
        filesystem: Filesystem[Any],
        path: Path,
        mode: OpenTextMode = ...,
        *,
        buffering: int = ...,
        encoding: str = ...,
        errors: str = ...,
        newline: str | None = ...,
        permissions: int = ...,
        caller: Caller | None = ...,
        follow_symlinks: bool = ...,
    ) -> FileHandle[str]: ...

    @overload
    @classmethod
    async def open(
        cls,
        filesystem: Filesystem[Any],
        path: Path,
        mode: str,
        *,
        buffering: int = ...,
        encoding: str = ...,
        errors: str = ...,
        newline: str | None = ...,
        permissions: int = ...,
        caller: Caller | None = ...,
        follow_symlinks: bool = ...,
    ) -> FileHandle[Any]: ...

    @classmethod
    async def open(
        cls,
        filesystem: Filesystem[Any],
        path: Path,
        mode: str = "r",
        *,
        buffering: int = BUFFER_SIZE,
        encoding: str = "utf-8",
        errors: str = "strict",
        newline: str | None = None,
        permissions: int = 0o644,
        caller: Caller | None = None,
        follow_symlinks: bool = True,
    ) -> FileHandle[Any]:
        """Open a path, which begins at the root with or without a slash.

        `mode`, `errors` and `newline` are those of open(). `buffering`: how many bytes are read ahead, and
        collected before they are written; 0 for none, in binary mode alone. A file that is made gets
        `permissions`, and belongs to `caller` (root). Permissions are not checked, as that is what the
        guest's kernel does.

        Raises OSError as open(2): ENOENT, EEXIST, EISDIR, ENOTDIR, ELOOP (more than 40 links on the way, or
        one at its end without `follow_symlinks`), ENXIO for what is no regular file.
        """
        flags = _flags(mode)
        text = "b" not in mode
        if buffering < 0 or (text and buffering == 0):
            raise ValueError("can't have unbuffered text I/O" if text else "invalid buffering size")
        # What cannot be is refused before the file is made or cut off.
        TextStream.check(encoding, errors, newline)
        file = await OpenFile.open(Tree(filesystem, caller), path, flags, permissions, follow=follow_symlinks)
        stream = ByteStream(file, buffering, append="a" in mode)
        if "a" in mode:
            stream.position = (await file.attr()).size
        return cls(
            file,
            TextStream(stream, encoding, errors, newline) if text else stream,
            flags,
            os.fspath(path),
            mode,
        )

    # ---- Whether and how it is open ----

    @property
    def closed(self) -> bool:
        """Tell whether it was closed."""
        return self._closed

    def readable(self) -> bool:
        """Tell whether it may be read."""
        return self._flags & os.O_ACCMODE != os.O_WRONLY

    def writable(self) -> bool:
        """Tell whether it may be written."""
        return self._flags & os.O_ACCMODE != os.O_RDONLY

    def seekable(self) -> bool:
        """Tell whether it may be sought: always."""
        return True

    def _check(self, *, read: bool = False, write: bool = False) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")
        if read and not self.readable():
            raise io.UnsupportedOperation("not readable")
        if write and not self.writable():
            raise io.UnsupportedOperation("not writable")

    async def stat(self) -> Attr:
        """Return its attributes, with all that was written in them."""
        async with self._lock:
            self._check()
            await self._stream.flush()
            return await self._file.attr()

    # ---- Reading ----

    async def read(self, size: int = -1) -> Data:
        """Return up to `size` bytes or characters, fewer at the end alone; all that is left by default."""
        async with self._lock:
            self._check(read=True)
            data: Data = await self._stream.read(-1 if size is None else size)
            return data

    async def readinto(self: FileHandle[bytes], memory: Buffer) -> int:
        """Fill writable memory; return how many bytes, fewer than there is room for at the end alone."""
        async with self._lock:
            self._check(read=True)
            count: int = await self._stream.read_into(memoryview(memory).cast("B"))
            return count

    async def readline(self, limit: int = -1) -> Data:
        """Return one line with its end, or the first `limit` of it; nothing at the end of the file."""
        async with self._lock:
            self._check(read=True)
            line: Data = await self._stream.readline(limit)
            return line

    async def readlines(self) -> list[Data]:
        """Return all lines that are left."""
        return [line async for line in self]

    async def __aiter__(self) -> AsyncIterator[Data]:
        """Yield the lines that are left."""
        while line := await self.readline():
            yield line

    # ---- Writing ----

    @overload
    async def write(self: FileHandle[bytes], data: Buffer) -> int: ...

    @overload
    async def write(self: FileHandle[str], data: str) -> int: ...

    async def write(self, data: Any) -> int:
        """Write all of it, now or when `flush` is next called for; return how many bytes or characters."""
        async with self._lock:
            self._check(write=True)
            count: int = await self._stream.write(data)
            return count

    async def writelines(self, lines: Iterable[Data]) -> None:
        """Write one after the other, without adding anything between."""
        for line in lines:
            await self.write(line)

    async def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, or end at the position; return how long it is. Both stay else."""
        async with self._lock:
            self._check(write=True)
            done: int = await self._stream.truncate(size)
            return done

    async def flush(self) -> None:
        """Hand what was written to the file system."""
        async with self._lock:
            self._check()
            await self._stream.flush()

    async def fsync(self, *, datasync: bool = False) -> None:
        """Hand what was written to the file system, and have it made durable."""
        async with self._lock:
            self._check()
            await self._stream.flush()
            await self._file.fsync(datasync=datasync)

    # ---- Positions ----

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere; return where that is. SEEK_DATA and SEEK_HOLE too, for bytes.

        In text an offset is one that `tell` returned, or 0 from any of the three ends.
        """
        async with self._lock:
            self._check()
            position: int = await self._stream.seek(offset, whence)
            return position

    async def tell(self) -> int:
        """Return the position."""
        async with self._lock:
            self._check()
            position: int = await self._stream.tell()
            return position

    # ---- The end ----

    async def aclose(self) -> None:
        """Write what was collected, and close; raises what either raises, and is closed all the same."""
        with anyio.CancelScope(shield=True):
            async with self._lock:
                if self._closed:
                    return
                self._closed = True
                try:
                    await self._stream.flush()
                finally:
                    await self._file.close()

    async def __aenter__(self) -> Self:
        """Return itself, to be closed at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()
