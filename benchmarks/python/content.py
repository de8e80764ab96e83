"""A share in memory, from which each of the file systems that are compared answers. Needs Python alone."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Node:
    """A file or a directory. The data are a mapping of the share's file, for the host to look at."""

    number: int
    """1 for the root, and so on."""
    data: memoryview | None = None
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return how many bytes a file has."""
        return 0 if self.data is None else len(self.data)


def load(directory: Path) -> list[Node]:
    """Take a directory into memory; return all nodes, the root first, each at its number less one."""
    nodes: list[Node] = []

    def add(path: Path) -> Node:
        node = Node(len(nodes) + 1)
        nodes.append(node)
        if path.is_dir():
            node.children = {each.name: add(each) for each in sorted(path.iterdir())}
        else:
            with path.open("r+b") as file:
                node.data = memoryview(mmap.mmap(file.fileno(), 0))
        return node

    add(directory)
    return nodes
