"""The operations of a squashfs image, which has an index of its own: what is not asked for is not read."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final

from vhostfs.backends.archive.contents import damaged
from vhostfs.backends.archive.squashfs import Block, Image, Inode
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
    Session,
    StatFs,
)
from vhostfs.filesystem.refusals import refused

_FOREVER: Final = 86_400.0
_THREADS: Final = 4
_DATA_CACHED: Final = 32 << 20
_ENTRIES_CACHED: Final = 100_000
_INODES_CACHED: Final = 4096
_BLOCKS_OPEN: Final = 1 << 24
"""Of how many blocks the places are kept of all files that are open."""

_CACHED: Final = OpenReplyFlags.KEEP_CACHE | OpenReplyFlags.NOFLUSH
_CACHED_DIRECTORY: Final = OpenReplyFlags.KEEP_CACHE | OpenReplyFlags.CACHE_DIR

type Listing = dict[str, tuple[int, int]]
"""References of inodes and types, by name."""


class OpenImageFile:
    """A file that is open: where its blocks are, for all who have it open."""

    __slots__ = ("fragment", "inode", "lengths", "positions", "users")

    def __init__(self, image: Image, inode: Inode) -> None:
        self.inode = inode
        self.lengths: array[int]
        self.positions: array[int]
        self.fragment: Block | None
        self.lengths, self.positions, self.fragment = image.layout(inode)
        self.users = 0


class SquashfsFilesystem(Filesystem[OpenImageFile | None]):
    """A squashfs image, which stays as it is. The number of a node is where its inode is."""

    options = Options(
        entry_seconds=_FOREVER, attr_seconds=_FOREVER, negative_seconds=_FOREVER, cache_symlinks=True
    )

    def __init__(self, descriptor: int, members: int) -> None:
        """Serve an image, whose descriptor is this one's once it is made; `members` bounds a directory.

        ConfigurationError where it is none, or one that cannot be read.
        """
        self._image = Image(descriptor)
        self._descriptor = descriptor
        self._members = members
        self._inode = lru_cache(_INODES_CACHED)(self._image.inode)
        self._listings: OrderedDict[int, Listing] = OrderedDict()
        self._entries = 0
        self._open: dict[int, OpenImageFile] = {}
        self._blocks_open = 0
        self._data: OrderedDict[int, bytes] = OrderedDict()
        self._data_size = 0
        self._under_way: dict[int, asyncio.Future[bytes]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Let the image go, for good."""
        os.close(self._descriptor)

    async def destroy(self) -> None:
        """Wait for what is being decompressed."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)

    def init(self, session: Session) -> None:
        """Be ready to decompress."""
        self._threads = ThreadPoolExecutor(_THREADS, "vhostfs-squashfs")

    # ---- Names and attributes ----

    def _node(self, number: int) -> Inode:
        return self._inode(self._image.root if number == ROOT else number - ROOT - 1)

    def _entry(self, inode: Inode) -> Entry:
        attr = Attr(
            ino=inode.number or 1,
            mode=inode.mode,
            size=inode.size,
            nlink=inode.nlink,
            uid=inode.uid,
            gid=inode.gid,
            atime_ns=inode.mtime * 1_000_000_000,
            mtime_ns=inode.mtime * 1_000_000_000,
            ctime_ns=inode.mtime * 1_000_000_000,
            rdev=inode.rdev,
        )
        return Entry(attr, ROOT if inode.reference == self._image.root else inode.reference + ROOT + 1)

    def _listing(self, directory: Inode) -> Listing:
        """Return what is in a directory; that of the last ones asked for is kept."""
        if not stat.S_ISDIR(directory.mode):
            raise refused(errno.ENOTDIR)
        listing = self._listings.get(directory.reference)
        if listing is not None:
            self._listings.move_to_end(directory.reference)
            return listing
        listing = {}
        for name, reference, kind in self._image.entries(directory):
            listing[name] = reference, kind
            if len(listing) > self._members:
                raise damaged()
        self._listings[directory.reference] = listing
        self._entries += len(listing)
        while self._entries > _ENTRIES_CACHED and len(self._listings) > 1:
            self._entries -= len(self._listings.popitem(last=False)[1])
        return listing

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name. EIO where the image is damaged, here and elsewhere."""
        found = self._listing(self._node(parent)).get(name)
        return None if found is None else self._entry(self._inode(found[0]))

    def getattr(self, caller: Caller, node: int, handle: OpenImageFile | None) -> Attr:
        """Return what the image says of a file."""
        return self._entry(self._node(node)).attr

    def readlink(self, caller: Caller, node: int) -> str:
        """Return a link's target, whatever it is: the kernel follows it, in the guest."""
        target = self._node(node).target
        if target is None:
            raise refused(errno.EINVAL)
        return target

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened[OpenImageFile | None]:
        """Let the kernel keep the listing."""
        return Opened(None, _CACHED_DIRECTORY)

    def readdir(
        self, caller: Caller, node: int, handle: OpenImageFile | None, offset: int
    ) -> Iterable[DirEntry]:
        """Yield what is in a directory, with its attributes."""
        for name, (reference, kind) in self._listing(self._node(node)).items():
            try:
                yield DirEntry.of(name, self._entry(self._inode(reference)))
            except OSError:
                # What is damaged has a name, still.
                yield DirEntry(name, (reference & (1 << 62) - 1) + 1, FileType(kind >> 12))

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell how large the image is; nothing is free."""
        return StatFs(blocks=(self._image.size + 4095) // 4096, files=self._image.inodes)

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return an extended attribute."""
        value = self._image.xattrs(self._node(node)).get(name)
        if value is None:
            raise refused(errno.ENODATA)
        return value

    def listxattr(self, caller: Caller, node: int) -> Iterable[str]:
        """Return the names of the extended attributes."""
        return self._image.xattrs(self._node(node))

    # ---- Data ----

    def open(self, caller: Caller, node: int, flags: int) -> Opened[OpenImageFile | None]:
        """Open a file. EROFS for writing; ENFILE where all that are open have too many blocks."""
        inode = self._node(node)
        if not stat.S_ISREG(inode.mode):
            raise refused(errno.EISDIR if stat.S_ISDIR(inode.mode) else errno.ENXIO)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise refused(errno.EROFS)
        opened = self._open.get(inode.reference)
        if opened is None:
            if self._blocks_open + inode.size // self._image.block_size > _BLOCKS_OPEN:
                raise refused(errno.ENFILE)
            opened = self._open[inode.reference] = OpenImageFile(self._image, inode)
            self._blocks_open += len(opened.lengths)
        opened.users += 1
        return Opened(opened, _CACHED)

    def release(self, caller: Caller, node: int, handle: OpenImageFile | None, flags: int) -> None:
        """Close a file."""
        if handle is not None:
            handle.users -= 1
            if not handle.users:
                self._blocks_open -= len(handle.lengths)
                del self._open[handle.inode.reference]

    def read(
        self, caller: Caller, node: int, handle: OpenImageFile | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[bytes]:
        """Read: what was decompressed lately at once, all else in threads."""
        if handle is None:
            raise refused(errno.EBADF)
        end = min(offset + buffer.size, handle.inode.size)
        if offset >= end:
            return b""
        size = self._image.block_size
        numbers = range(offset // size, (end - 1) // size + 1)
        wanted = [self._block(handle, number) for number in numbers]
        parts = [self._kept(block) for block in wanted]
        if any(part is None for part in parts):
            return self._read_later(handle, wanted, offset, end)
        return self._joined(handle, [part for part in parts if part is not None], offset, end)

    def _block(self, handle: OpenImageFile, number: int) -> Block:
        if number < len(handle.lengths):
            return self._image.block(handle.positions[number], handle.lengths[number])
        if handle.fragment is None:
            raise damaged()
        return handle.fragment

    def _kept(self, block: Block) -> bytes | None:
        """Return a block if it is here; nothing at all for a hole."""
        if not block.length:
            return b""
        data = self._data.get(block.position)
        if data is not None:
            self._data.move_to_end(block.position)
        return data

    def _joined(self, handle: OpenImageFile, blocks: list[bytes], offset: int, end: int) -> bytes:
        """Return a part of a file from its blocks. EIO where one is shorter than it has to be."""
        size, file = self._image.block_size, handle.inode
        first = offset // size
        parts: list[bytes] = []
        for number, data in enumerate(blocks, first):
            begin, until = (
                max(offset, number * size) - number * size,
                min(end, (number + 1) * size) - number * size,
            )
            if number >= len(handle.lengths):
                begin, until = begin + file.offset, until + file.offset
            elif not handle.lengths[number]:
                parts.append(bytes(until - begin))
                continue
            if len(data) < until:
                raise damaged()
            parts.append(data[begin:until])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_later(self, handle: OpenImageFile, wanted: list[Block], offset: int, end: int) -> bytes:
        blocks = await asyncio.gather(*(self._fetch(block) for block in wanted))
        return self._joined(handle, blocks, offset, end)

    async def _fetch(self, block: Block) -> bytes:
        """Return a block, decompressed once for all who wait for it."""
        data = self._kept(block)
        if data is not None:
            return data
        future = self._under_way.get(block.position)
        if future is None:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, "vhostfs-squashfs")
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._image.data, block)
            self._under_way[block.position] = future
            future.add_done_callback(lambda done: self._keep(block, done))
        return await asyncio.shield(future)

    def _keep(self, block: Block, done: asyncio.Future[bytes]) -> None:
        del self._under_way[block.position]
        if done.cancelled() or done.exception() is not None:
            return
        data = done.result()
        self._data[block.position] = data
        self._data_size += len(data)
        while self._data_size > _DATA_CACHED:
            self._data_size -= len(self._data.popitem(last=False)[1])

    def lseek(self, caller: Caller, node: int, handle: OpenImageFile | None, offset: int, whence: int) -> int:
        """Find data or a hole, by blocks."""
        if handle is None:
            raise refused(errno.EBADF)
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise refused(errno.EINVAL)
        size, block_size = handle.inode.size, self._image.block_size
        if not 0 <= offset < size:
            raise refused(errno.ENXIO)
        for number in range(offset // block_size, len(handle.lengths)):
            if (handle.lengths[number] == 0) == (whence == os.SEEK_HOLE):
                found: int = max(offset, number * block_size)
                return found
        if whence == os.SEEK_HOLE:
            return size
        if handle.fragment is None:
            raise refused(errno.ENXIO)
        tail: int = max(offset, len(handle.lengths) * block_size)
        return tail
