"""The operations of an archive: all that reads, and EROFS for what does not."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vhostfs.backends.archive.contents import Content, damaged
from vhostfs.backends.archive.index import Node
from vhostfs.backends.archive.tar import TarSource
from vhostfs.backends.archive.zip import ZipSource
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
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
_CACHED: Final = OpenReplyFlags.KEEP_CACHE | OpenReplyFlags.NOFLUSH
_CACHED_DIRECTORY: Final = OpenReplyFlags.KEEP_CACHE | OpenReplyFlags.CACHE_DIR


class ArchiveFilesystem(Filesystem[Content | None]):
    """The members of an archive, which stays as it is: guests may trust all they were told for a day."""

    options = Options(
        entry_seconds=_FOREVER, attr_seconds=_FOREVER, negative_seconds=_FOREVER, cache_symlinks=True
    )

    def __init__(self, source: TarSource | ZipSource) -> None:
        """Serve what a source has found."""
        self._source = source
        self._nodes = source.index.nodes
        self._threads: ThreadPoolExecutor | None = None
        blocks = sum((node.size + 4095) // 4096 for node in self._nodes)
        self._statistics = StatFs(blocks=blocks, files=len(self._nodes))

    def close(self) -> None:
        """Let the archive go, for good."""
        self._source.close()

    # ---- Life ----

    def init(self, session: Session) -> None:
        """Be ready to decompress."""
        self._threads = ThreadPoolExecutor(_THREADS, "vhostfs-archive")

    async def destroy(self) -> None:
        """Wait for what is being decompressed."""
        threads, self._threads = self._threads, None
        if threads is not None:
            if isinstance(self._source, ZipSource):
                await self._source.settle()
            await asyncio.to_thread(threads.shutdown)

    def _ready_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "vhostfs-archive")
        return self._threads

    # ---- Names and attributes ----

    def _node(self, number: int) -> Node:
        if not ROOT <= number < ROOT + len(self._nodes):
            raise refused(errno.ESTALE)
        return self._nodes[number - ROOT]

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a member."""
        children = self._node(parent).children
        if children is None:
            raise refused(errno.ENOTDIR)
        found = children.get(name)
        return None if found is None else found.describe()

    def forget(self, node: int) -> None:
        """Keep of a member only what the archive says."""
        self._node(node).entry = None

    def getattr(self, caller: Caller, node: int, handle: Content | None) -> Attr:
        """Return what the archive says of a member."""
        return self._node(node).describe().attr

    def readlink(self, caller: Caller, node: int) -> str:
        """Return a link's target, whatever it is: the kernel follows it, in the guest."""
        target = self._node(node).target
        if target is None:
            raise refused(errno.EINVAL)
        return target

    def readdir(self, caller: Caller, node: int, handle: Content | None, offset: int) -> Iterable[DirEntry]:
        """Yield the members of a directory in the order in which they came."""
        children = self._node(node).children
        if children is None:
            raise refused(errno.ENOTDIR)
        return (DirEntry.of(name, child.describe()) for name, child in children.items())

    def opendir(self, caller: Caller, node: int, flags: int) -> Opened[Content | None]:
        """Let the kernel keep the listing."""
        return Opened(None, _CACHED_DIRECTORY)

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell how much there is; nothing is free."""
        return self._statistics

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        """Return an extended attribute."""
        value = (self._node(node).xattrs or {}).get(name)
        if value is None:
            raise refused(errno.ENODATA)
        return value

    def listxattr(self, caller: Caller, node: int) -> Iterable[str]:
        """Return the names of the extended attributes."""
        return self._node(node).xattrs or ()

    # ---- Data ----

    def open(self, caller: Caller, node: int, flags: int) -> MaybeAwaitable[Opened[Content | None]]:
        """Open a member: of a zip archive, decompress and check it. EROFS for writing; EIO as `read`."""
        found = self._node(node)
        if not stat.S_ISREG(found.mode):
            raise refused(errno.EISDIR if found.children is not None else errno.ENXIO)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise refused(errno.EROFS)
        if isinstance(self._source, TarSource):
            return Opened(self._source.open(found), _CACHED)
        return self._open_later(found, self._source)

    async def _open_later(self, node: Node, source: ZipSource) -> Opened[Content | None]:
        return Opened(await source.open(node, self._ready_threads()), _CACHED)

    def release(self, caller: Caller, node: int, handle: Content | None, flags: int) -> None:
        """Close a member."""
        if handle is not None:
            handle.leave()

    def read(
        self, caller: Caller, node: int, handle: Content | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[bytearray | bytes | int]:
        """Read what the host has cached at once, all else in a thread. EIO where the archive lacks it."""
        if handle is None:
            raise refused(errno.EBADF)
        content = handle
        size = min(buffer.size, content.size - offset)
        if size <= 0:
            return b""
        stored = content.whole(offset, size)
        if stored is not None:
            try:
                if size == buffer.size:
                    if os.preadv(content.descriptor, buffer.segments, stored, os.RWF_NOWAIT) == size:
                        return size
                else:
                    memory = bytearray(size)
                    if os.preadv(content.descriptor, [memory], stored, os.RWF_NOWAIT) == size:
                        return memory
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
                    raise damaged() from error
        return self._in_thread(content, lambda: content.read(offset, size, buffer))

    def lseek(self, caller: Caller, node: int, handle: Content | None, offset: int, whence: int) -> int:
        """Find data or a hole, where the archive knows of holes."""
        if handle is None:
            raise refused(errno.EBADF)
        return handle.seek(offset, whence)

    async def _in_thread(self, content: Content, work: Callable[[], int]) -> int:
        """Run what waits for the host while the member stays open, also if nobody waits for the answer."""
        content.enter()
        future = asyncio.get_running_loop().run_in_executor(self._ready_threads(), work)
        future.add_done_callback(lambda _: content.leave())
        return await asyncio.shield(future)
