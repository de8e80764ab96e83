"""The settings of a mount of type `memory`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from vhostfs.backends.contract import Backend
from vhostfs.backends.memory.filesystem import Handle, MemoryFilesystem
from vhostfs.backends.memory.space import PAGE
from vhostfs.backends.values import Permissions, Size
from vhostfs.filesystem import Filesystem

Id = Annotated[int, Field(ge=0, lt=2**32 - 1)]
"""A user or group; the last number means none."""


@dataclass(frozen=True, slots=True)
class MemorySettings(Backend):
    """A file system in the daemon's memory: empty at first, gone with the daemon. The keys are tmpfs's."""

    size: Size | None = None
    """The most bytes of data, rounded up to pages; None: half of the machine's memory."""
    inodes: Annotated[int, Field(ge=1, lt=2**48)] | None = None
    """The most files, directories and further names; None: one for each page of half the memory."""
    mode: Permissions = 0o1777
    """The permissions of the root directory."""
    uid: Id = 0
    gid: Id = 0

    def open(self) -> Filesystem[Handle]:
        """Return the file system, with nothing but its root."""
        half = os.sysconf("SC_PHYS_PAGES") // 2 * os.sysconf("SC_PAGE_SIZE")
        size = half if self.size is None else self.size
        inodes = half // PAGE if self.inodes is None else self.inodes
        return MemoryFilesystem(size=size, inodes=inodes, mode=self.mode, uid=self.uid, gid=self.gid)
