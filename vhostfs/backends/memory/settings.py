"""The settings of a mount of type `memory`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vhostfs.backends.contract import Backend
from vhostfs.backends.memory.filesystem import Handle, MemoryFilesystem
from vhostfs.backends.memory.space import PAGE
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Filesystem


@dataclass(frozen=True, slots=True)
class MemorySettings(Backend):
    """A file system in the daemon's memory: empty at first, gone with the daemon. The keys are tmpfs's."""

    size: int | None = None
    """The most bytes of data, rounded up to pages; None: half of the machine's memory."""
    inodes: int | None = None
    """The most files, directories and further names; None: one for each page of half the memory."""
    mode: int = 0o1777
    """The permissions of the root directory."""
    uid: int = 0
    gid: int = 0

    def open(self) -> Filesystem[Handle]:
        """Return the file system, with nothing but its root."""
        half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        size = half if self.size is None else self.size
        inodes = half // PAGE if self.inodes is None else self.inodes
        if size < 0 or inodes < 1:
            raise ConfigurationError("a memory file system needs a size of 0 or more and an inode at least")
        if not (0 <= self.mode <= 0o7777 and 0 <= self.uid < 2**32 and 0 <= self.gid < 2**32):
            raise ConfigurationError("mode, uid or gid of a memory file system is out of range")
        return MemoryFilesystem(size=size, inodes=inodes, mode=self.mode, uid=self.uid, gid=self.gid)
