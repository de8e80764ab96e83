"""The life of a file system that no session serves."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Buffer
from contextlib import asynccontextmanager

import anyio

from vhostfs.filesystem import Filesystem, settled
from vhostfs.filesystem.refusals import refused
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION


class _NoKernel:
    """vhostfs.filesystem.Session where nobody caches anything."""

    minor = KERNEL_MINOR_VERSION

    def invalidate_node(self, node: int, offset: int = 0, length: int = -1) -> None:
        """Raise ENOSYS, as over virtio-fs."""
        raise refused(errno.ENOSYS)

    def invalidate_entry(self, parent: int, name: str) -> None:
        """Raise ENOSYS."""
        raise refused(errno.ENOSYS)

    def entry_deleted(self, parent: int, node: int, name: str) -> None:
        """Raise ENOSYS."""
        raise refused(errno.ENOSYS)

    def store(self, node: int, offset: int, data: Buffer) -> None:
        """Raise ENOSYS."""
        raise refused(errno.ENOSYS)


@asynccontextmanager
async def begun[H](filesystem: Filesystem[H]) -> AsyncIterator[Filesystem[H]]:
    """Begin a file system that no session serves (`init`), and finish with it at the end (`destroy`).

    Files are to be closed by then.
    """
    await settled(filesystem.init(_NoKernel()))
    try:
        yield filesystem
    finally:
        with anyio.CancelScope(shield=True):
            await settled(filesystem.destroy())
