"""The file system that is measured, on pyfuse3: on_pyfuse3.py DIRECTORY MOUNTPOINT."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio
from content import Node, load

FOREVER = 3600


def attributes(node: Node) -> pyfuse3.EntryAttributes:
    """Return what stat(2) says of a node."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node.number
    entry.st_mode = stat.S_IFDIR | 0o755 if node.data is None else stat.S_IFREG | 0o644
    entry.st_nlink = 2 if node.data is None else 1
    entry.st_size = node.size
    entry.entry_timeout = entry.attr_timeout = FOREVER
    return entry


class InMemory(pyfuse3.Operations):
    """Every operation answers from dictionaries and lists, with objects that were made before."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        nodes = load(Path(directory))
        self._attributes = {node.number: attributes(node) for node in nodes}
        self._data = {node.number: node.data for node in nodes}
        self._children = {
            node.number: {
                os.fsencode(name): self._attributes[child.number] for name, child in node.children.items()
            }
            for node in nodes
        }
        self._listings = {number: list(children.items()) for number, children in self._children.items()}

    async def lookup(self, parent_inode, name, ctx):
        entry = self._children[parent_inode].get(name)
        if entry is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return entry

    async def getattr(self, inode, ctx):
        return self._attributes[inode]

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def read(self, fh, off, size):
        return self._data[fh][off : off + size]

    async def write(self, fh, off, buf):
        self._data[fh][off : off + len(buf)] = buf
        return len(buf)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        listing = self._listings[fh]
        for at in range(start_id, len(listing)):
            name, entry = listing[at]
            if not pyfuse3.readdir_reply(token, name, entry, at + 1):
                break


def main(directory: str, mountpoint: str) -> None:
    """Mount, and serve until unmounted."""
    options = set(pyfuse3.default_options)
    options.add("fsname=pyfuse3")
    pyfuse3.init(InMemory(directory), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
