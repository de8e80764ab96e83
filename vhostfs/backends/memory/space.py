"""How much a memory file system may hold, in pages of data and in inodes, as tmpfs counts them."""

from __future__ import annotations

import errno
from typing import Final

from vhostfs.filesystem import StatFs
from vhostfs.filesystem.refusals import refused

PAGE: Final = 4096
"""Bytes of data that are charged at once."""

INODE: Final = 1024
"""Bytes of bookkeeping that one inode, or one more name of it, is charged (tmpfs: BOGO_INODE_SIZE)."""


def out_of_space() -> OSError:
    """Return ENOSPC."""
    return refused(errno.ENOSPC)


class Space:
    """What is left of a file system's size and inodes. Belongs to the event loop's thread."""

    __slots__ = ("_bookkeeping", "_inodes", "_pages", "pages_left")

    def __init__(self, size: int, inodes: int) -> None:
        """Allow `size` bytes of data, rounded up to pages, and `inodes` inodes."""
        self._pages = -(-size // PAGE)
        self._inodes = inodes
        self.pages_left = self._pages
        self._bookkeeping = inodes * INODE

    def take_pages(self, count: int) -> None:
        """Charge pages; ENOSPC, and nothing is charged, where there are too few."""
        if count > self.pages_left:
            raise out_of_space()
        self.pages_left -= count

    def give_pages(self, count: int) -> None:
        """Take back what was charged."""
        self.pages_left += count

    def take_bookkeeping(self, size: int) -> None:
        """Charge bytes of inodes, names or extended attributes; ENOSPC where there are too few."""
        if size > self._bookkeeping:
            raise out_of_space()
        self._bookkeeping -= size

    def give_bookkeeping(self, size: int) -> None:
        """Take back what was charged."""
        self._bookkeeping += size

    def statfs(self) -> StatFs:
        """Return the limits and what is left of them."""
        return StatFs(
            blocks=self._pages,
            bfree=self.pages_left,
            bavail=self.pages_left,
            files=self._inodes,
            ffree=self._bookkeeping // INODE,
            bsize=PAGE,
            frsize=PAGE,
        )
