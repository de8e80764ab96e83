"""Members of a zip archive, found and decompressed by the standard library.

A member that is stored as it is, is read from the archive; one that is compressed from a temporary file, made
when it is first opened and kept while there is room. Either is checked against its checksum before its first
byte is given out.
"""

from __future__ import annotations

import asyncio
import calendar
import codecs
import errno
import logging
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vhostfs.backends.archive.contents import Content, Stretch, damaged
from vhostfs.backends.archive.index import Index, Node
from vhostfs.backends.archive.reader import BoundedReader
from vhostfs.backends.archive.spool import SparseWriter, Spool
from vhostfs.errors import ConfigurationError

logger = logging.getLogger(__name__)

# zipfile finds the codec of names when it meets the first one, which may be where no file is in sight.
codecs.lookup("cp437")

_ENTRY_SIZE: Final = 256
"""How many bytes the directory of an archive may have for each member that is allowed."""

_FILE_LIMIT: Final = 256
"""The most temporary files that are kept of members that nobody has open."""

_CHUNK: Final = 1 << 20
_UNIX: Final = 3
_ENCRYPTED: Final = 1
_LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")
_EXTRA: Final = struct.Struct("<HH")
_TIMES, _OWNERS = 0x5455, 0x7875
_COMPRESSIONS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_WRONG: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, LookupError),
    *(struct.error, NotImplementedError, RuntimeError, MemoryError),
)
"""What the reader raises of archives that are wrong, besides OSError."""


class _Kept:
    """A member's content in a temporary file."""

    __slots__ = ("descriptor", "size", "users")

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self.users = 0


class ZipSource:
    """The members of one archive; owns its descriptor and the spool once it is made."""

    def __init__(
        self, descriptor: int, spool: Spool, index: Index, limit: int, owner: tuple[int, int]
    ) -> None:
        """Find the members. ConfigurationError where it is no zip archive; OSError."""
        self.index: Final = index
        self._descriptor = descriptor
        self._spool = spool
        self._owner = owner
        self._size = os.fstat(descriptor).st_size
        self._reader = BoundedReader(descriptor, self._size)
        self._reader.allow(limit * _ENTRY_SIZE + (1 << 20))
        try:
            self._archive = zipfile.ZipFile(self._reader)
        except (*_WRONG, OSError) as error:
            raise ConfigurationError(f"this is no zip archive that can be read: {error}") from None
        for info in self._archive.filelist:
            self._reader.allow(1 << 20)
            self._add(info)
        self._archive.filelist.clear()
        self._archive.NameToInfo.clear()
        # From now on it reads what members say that they have, and their sizes are checked.
        self._reader.allow(1 << 63)
        index.finish()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._used = 0
        self._checked: set[int] = set()
        self._under_way: dict[int, asyncio.Task[None]] = {}

    def _add(self, info: zipfile.ZipInfo) -> None:
        mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
        kind = stat.S_IFMT(mode)
        if info.filename.endswith("/"):
            kind = stat.S_IFDIR
        elif kind in {0, stat.S_IFDIR}:
            kind = stat.S_IFREG
        if kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
            self.index.leave_out("no file, directory or link")
            return
        permissions = mode & 0o7777 if mode else 0o755 if kind == stat.S_IFDIR else 0o644
        target = None
        if kind == stat.S_IFLNK:
            target = self._read_target(info)
            if target is None:
                self.index.leave_out("a symbolic link that no file system has")
                return
        seconds, (uid, gid) = _facts(info, self._owner)
        info.extra = info.comment = b""
        self.index.add(
            info.filename,
            Node(
                kind | permissions,
                uid=uid,
                gid=gid,
                size=info.file_size if kind == stat.S_IFREG else 0,
                mtime_ns=seconds * 1_000_000_000,
                target=target,
                data=info if kind == stat.S_IFREG else None,
            ),
        )

    def _read_target(self, info: zipfile.ZipInfo) -> str | None:
        if not 0 < info.file_size < 4096 or info.flag_bits & _ENCRYPTED:
            return None
        try:
            with self._archive.open(info) as file:
                target = file.read(4096)
        except (*_WRONG, OSError):
            return None
        return None if b"\0" in target else os.fsdecode(target)

    # ---- Data ----

    async def open(self, node: Node, threads: ThreadPoolExecutor) -> Content:
        """Return a file's content, decompressed and checked.

        EIO where it is wrong, EACCES where it is encrypted, EOPNOTSUPP where it is compressed in a way that
        is not known, EFBIG where it is larger than all that may be kept, ENOSPC where others fill that.
        """
        info: zipfile.ZipInfo = node.data
        if info.flag_bits & _ENCRYPTED:
            raise OSError(errno.EACCES, "the member is encrypted")
        if info.compress_type not in _COMPRESSIONS:
            raise OSError(errno.EOPNOTSUPP, "the member is compressed in a way that is not known")
        number = node.number
        if info.compress_type == zipfile.ZIP_STORED:
            while number not in self._checked:
                await self._once(node, threads)
            stretch = Stretch(0, node.size, self._data_offset(info))
            return Content(self._descriptor, node.size, (stretch,))
        while (kept := self._kept.get(number)) is None:
            await self._once(node, threads)
        self._kept.move_to_end(number)
        kept.users += 1

        def done() -> None:
            kept.users -= 1
            self._shrink(0)

        return Content(kept.descriptor, node.size, (Stretch(0, node.size, 0),), done)

    async def _once(self, node: Node, threads: ThreadPoolExecutor) -> None:
        """Prepare a member, in a task that all wait for who want it, and that none of them ends."""
        task = self._under_way.get(node.number)
        if task is None:
            task = self._under_way[node.number] = asyncio.create_task(self._prepare(node, threads))
            # Whoever waits gets its error; there may be nobody any more.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _prepare(self, node: Node, threads: ThreadPoolExecutor) -> None:
        """Check a member that is stored, or decompress it into a file."""
        loop, info, size = asyncio.get_running_loop(), node.data, node.size
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                await loop.run_in_executor(threads, self._extract, info, -1)
                self._checked.add(node.number)
                return
            if size > self._spool.limit:
                raise OSError(errno.EFBIG, "the member is larger than what may be kept decompressed")
            self._shrink(size)
            if self._used + size > self._spool.limit:
                raise OSError(errno.ENOSPC, "members that are open fill what may be kept decompressed")
            kept = _Kept(self._spool.make(), size)
            self._used += size
            try:
                await loop.run_in_executor(threads, self._extract, info, kept.descriptor)
            except BaseException:
                self._drop(kept)
                raise
            self._kept[node.number] = kept
        finally:
            del self._under_way[node.number]

    async def settle(self) -> None:
        """Wait for what is under way."""
        if self._under_way:
            await asyncio.wait(list(self._under_way.values()))

    def _extract(self, info: zipfile.ZipInfo, target: int) -> int:
        """Decompress a member into a file, or nowhere (-1), checking it; return its size."""
        writer = SparseWriter(target) if target >= 0 else None
        size = 0
        try:
            with self._archive.open(info) as file:
                while part := file.read(_CHUNK):
                    size += len(part)
                    if writer is not None:
                        writer.write(part)
        except _WRONG as error:
            logger.warning("%r in the archive is damaged: %s", info.filename, error)
            raise damaged() from None
        if size != info.file_size:
            logger.warning("%r in the archive is damaged: it is not as long as it says", info.filename)
            raise damaged()
        if writer is not None:
            writer.finish()
        return size

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        """Return where a stored member's data begins, behind its local header."""
        header = os.pread(self._descriptor, _LOCAL_HEADER.size, info.header_offset)
        if len(header) < _LOCAL_HEADER.size:
            raise damaged()
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        return info.header_offset + len(header) + int(name_length) + int(extra_length)

    def _shrink(self, wanted: int) -> None:
        """Drop what nobody has open, longest unused first, until there is room."""
        for number, kept in list(self._kept.items()):
            if self._used + wanted <= self._spool.limit and len(self._kept) <= _FILE_LIMIT:
                return
            if not kept.users:
                del self._kept[number]
                self._drop(kept)

    def _drop(self, kept: _Kept) -> None:
        self._used -= kept.size
        os.close(kept.descriptor)

    def close(self) -> None:
        """Let the archive go, and all that was decompressed."""
        while self._kept:
            self._drop(self._kept.popitem()[1])
        os.close(self._descriptor)
        self._spool.close()


def _facts(info: zipfile.ZipInfo, owner: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return the time of modification, in seconds, and the owner, by Info-ZIP's fields if there are any."""
    try:
        # The other time is local, nobody knows where; UTC is as good as any.
        seconds = calendar.timegm((*info.date_time, 0, 0, 0))
    except (ValueError, OverflowError):
        seconds = 0
    extra = info.extra
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, at)
        field = extra[at + _EXTRA.size : at + _EXTRA.size + size]
        at += _EXTRA.size + size
        if kind == _TIMES and len(field) >= 5 and field[0] & 1:
            seconds = int.from_bytes(field[1:5], "little", signed=True)
        elif kind == _OWNERS and len(field) >= 3:
            length = field[1]
            uid, rest = field[2 : 2 + length], field[2 + length :]
            gid = rest[1 : 1 + rest[0]] if rest else b""
            owner = int.from_bytes(uid, "little"), int.from_bytes(gid, "little")
    return seconds, owner
