"""The file system that is measured, on mfusepy: on_mfusepy.py DIRECTORY MOUNTPOINT."""

from __future__ import annotations

import errno
import stat
import sys
from pathlib import Path

import mfusepy
from content import Node, load


def attributes(node: Node) -> dict[str, int]:
    """Return what stat(2) says of a node."""
    return {
        "st_ino": node.number,
        "st_mode": stat.S_IFDIR | 0o755 if node.data is None else stat.S_IFREG | 0o644,
        "st_nlink": 2 if node.data is None else 1,
        "st_size": node.size,
    }


class InMemory(mfusepy.Operations):
    """Every operation answers from dictionaries and lists, with objects that were made before."""

    use_ns = True

    def __init__(self, directory: str) -> None:
        nodes = load(Path(directory))
        self._data = {node.number: node.data for node in nodes}
        self._nodes: dict[str, int] = {}
        self._attributes: dict[str, dict[str, int]] = {}
        self._listings: dict[str, list[tuple[str, dict[str, int], int]]] = {}
        self._add(nodes[0], "/")

    def _add(self, node: Node, path: str) -> None:
        self._nodes[path] = node.number
        self._attributes[path] = attributes(node)
        for name, child in node.children.items():
            self._add(child, f"{path.rstrip('/')}/{name}")
        self._listings[path] = [(name, attributes(child), 0) for name, child in node.children.items()]

    def getattr(self, path, fh=None):
        found = self._attributes.get(path)
        if found is None:
            raise OSError(errno.ENOENT, "")
        return found

    def open(self, path, flags):
        return self._nodes[path]

    def read(self, path, size, offset, fh):
        # What it takes is bytes.
        return bytes(self._data[fh][offset : offset + size])

    def write(self, path, data, offset, fh):
        self._data[fh][offset : offset + len(data)] = data
        return len(data)

    def opendir(self, path):
        return self._nodes[path]

    def readdir(self, path, fh):
        return self._listings[path]


if __name__ == "__main__":
    # One thread is its fastest: several wait for each other's Python.
    mfusepy.FUSE(
        InMemory(sys.argv[1]),
        sys.argv[2],
        foreground=True,
        nothreads=True,
        direct_io=True,
        default_permissions=True,
        entry_timeout=3600,
        attr_timeout=3600,
        negative_timeout=0,
        max_read=1 << 20,
    )
