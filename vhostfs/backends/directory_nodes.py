"""The nodes of a directory of the host: by number, by identity on the host, and with descriptors in a budget.

A node is a file of the host, by device and inode, so that hard links are one. It holds an O_PATH descriptor,
which pins the file whatever becomes of its names. Beyond the budget, the descriptors that were not used of
late are given up; such a node is opened again by file handle, where the process may, or by parent and name,
and is the same only with the same device, inode and time of birth.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from vhostfs.backends import directory_calls as calls
from vhostfs.filesystem import ROOT
from vhostfs.filesystem.refusals import refused

_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Node:
    """One file of the host. `fd` is -1 where its descriptor was given up; `parent` is None without a name."""

    __slots__ = ("birth", "device", "fd", "handle", "inode", "kind", "name", "number", "parent", "used")

    def __init__(self, number: int, fd: int, status: os.stat_result) -> None:
        """Know a file by a descriptor, which belongs to the node from now on."""
        self.number = number
        self.fd = fd
        self.device = status.st_dev
        self.inode = status.st_ino
        self.kind = stat.S_IFMT(status.st_mode)
        self.parent: int | None = None
        self.name = ""
        self.used = True
        self.birth: int | None = None
        self.handle: tuple[int, bytes] | None = None


class NodeTable:
    """All nodes that the kernel knows. Takes the root's descriptor."""

    def __init__(self, root: int, budget: int) -> None:
        status = os.fstat(root)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self.root: Final = Node(ROOT, root, status)
        self._nodes: dict[int, Node] = {ROOT: self.root}
        self._identities: dict[tuple[int, int], Node] = {(status.st_dev, status.st_ino): self.root}
        self._open: dict[int, Node] = {}
        """Those whose descriptor could be given up, in the order of a clock."""
        self._budget = budget
        self._last = ROOT
        self._mount = _mount_for_handles(root)

    def close(self) -> None:
        """Close all descriptors; the table is of no use any more."""
        for node in self._nodes.values():
            if node.fd >= 0:
                os.close(node.fd)
                node.fd = -1
        self._nodes.clear()
        if self._mount >= 0:
            os.close(self._mount)
            self._mount = -1

    def clear(self) -> None:
        """Forget every node but the root."""
        for number in [number for number in self._nodes if number != ROOT]:
            self.forget(number)

    def find(self, number: int) -> Node:
        """Return a node; ESTALE where there is none of this number."""
        node = self._nodes.get(number)
        if node is None:
            raise refused(errno.ESTALE)
        return node

    def fd(self, number: int) -> int:
        """Return the descriptor of a node, good until another node is asked for."""
        node = self._nodes.get(number)
        if node is None:
            raise refused(errno.ESTALE)
        node.used = True
        return node.fd if node.fd >= 0 else self._reopen(node)

    def fds(self, number: int, other: int) -> tuple[int, int]:
        """Return the descriptors of two nodes, both good."""
        for _ in range(3):
            pair = self.fd(number), self.fd(other)
            if self.find(number).fd == pair[0]:
                return pair
        raise refused(errno.ENFILE)

    def forget(self, number: int) -> None:
        """Drop a node that the kernel does not know any more."""
        node = self._nodes.pop(number, None)
        if node is None:
            return
        identity = node.device, node.inode
        if self._identities.get(identity) is node:
            del self._identities[identity]
        self._open.pop(number, None)
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1

    # ---- Coming to know ----

    def enter(
        self, parent: int, directory: int, name: str, status: os.stat_result
    ) -> tuple[Node, os.stat_result]:
        """Return the node and the status of a name, which was just seen to be a file with this status."""
        node = self._identities.get((status.st_dev, status.st_ino))
        if node is not None and node.fd >= 0:
            node.parent, node.name = parent, name
            node.used = True
            return node, status
        return self.enter_name(parent, directory, name)

    def enter_name(self, parent: int, directory: int, name: str) -> tuple[Node, os.stat_result]:
        """Return the node and the status of what a name leads to."""
        fd = os.open(name, _PATH, dir_fd=directory)
        return self.enter_open(fd, parent, name)

    def enter_open(self, fd: int, parent: int | None, name: str) -> tuple[Node, os.stat_result]:
        """Return the node and the status of an O_PATH descriptor, which is taken."""
        try:
            status = os.fstat(fd)
            node = self._identities.get((status.st_dev, status.st_ino))
            if node is not None and node.fd < 0 and not _is_same(node, fd, status):
                node = None
        except BaseException:
            os.close(fd)
            raise
        if node is None:
            self._last += 1
            node = Node(self._last, fd, status)
            self._nodes[node.number] = node
            self._identities[status.st_dev, status.st_ino] = node
        elif node.fd < 0:
            node.fd = fd
        else:
            os.close(fd)
        node.used = True
        if node is not self.root:
            node.parent, node.name = parent, name
            self._open[node.number] = node
            self._trim()
        return node, status

    # ---- Names that change ----

    def at(self, directory: int, name: str) -> Node | None:
        """Return the node that a name leads to, if it is known."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None
        return self._identities.get((status.st_dev, status.st_ino))

    def hold(self, node: Node | None) -> None:
        """Open a node whose name is about to go, while that still leads to it."""
        if node is not None and node.fd < 0:
            with suppress(OSError):
                self._reopen(node)

    def lose(self, node: Node | None, parent: int, name: str) -> None:
        """Take note that a node's name is gone."""
        if node is not None and node.parent == parent and node.name == name:
            node.parent = None

    # ---- Descriptors ----

    def _reopen(self, node: Node) -> int:
        """Open a node again, and those of its ancestors that it takes."""
        chain = [node]
        while True:
            last = chain[-1]
            fd = self._by_handle(last)
            if fd is not None:
                self._reopened(last, fd)
                chain.pop()
                break
            parent = self._nodes.get(last.parent) if last.parent is not None else None
            if parent is None or len(chain) > len(self._nodes):
                raise refused(errno.ESTALE)
            if parent.fd >= 0:
                break
            chain.append(parent)
        for child in reversed(chain):
            parent = self._nodes[child.parent] if child.parent is not None else self.root
            try:
                fd = os.open(child.name, _PATH, dir_fd=parent.fd)
            except (FileNotFoundError, NotADirectoryError):
                raise refused(errno.ESTALE) from None
            if not _is_same(child, fd, os.fstat(fd)):
                os.close(fd)
                raise refused(errno.ESTALE)
            self._reopened(child, fd)
        self._trim()
        return node.fd

    def _by_handle(self, node: Node) -> int | None:
        if node.handle is None or self._mount < 0:
            return None
        try:
            return calls.open_handle(self._mount, node.handle, _PATH)
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise
            return None

    def _reopened(self, node: Node, fd: int) -> None:
        node.fd = fd
        node.used = True
        self._open[node.number] = node

    def _trim(self) -> None:
        """Give up descriptors beyond the budget, those first that were not used since the clock came by."""
        turns = 2 * len(self._open)
        while len(self._open) > self._budget and turns > 0:
            turns -= 1
            number = next(iter(self._open))
            node = self._open.pop(number)
            if node.used:
                node.used = False
                self._open[number] = node
            else:
                self._give_up(node)

    def _give_up(self, node: Node) -> None:
        """Close a node's descriptor; one that could not be found again keeps it for good."""
        on_root = node.device == self.root.device
        node.handle = calls.name_handle(node.fd) if on_root and self._mount >= 0 else None
        if node.parent is None and (node.handle is None or os.fstat(node.fd).st_nlink == 0):
            return
        with suppress(OSError):
            node.birth = calls.birth(node.fd).btime_ns
            os.close(node.fd)
            node.fd = -1


def _mount_for_handles(root: int) -> int:
    """Return a descriptor by which this process may open by file handle, or -1: asked by doing it."""
    try:
        mount = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return -1
    handle = calls.name_handle(mount)
    try:
        if handle is not None:
            os.close(calls.open_handle(mount, handle, _PATH))
            return mount
    except OSError:
        pass
    os.close(mount)
    return -1


def _is_same(node: Node, fd: int, status: os.stat_result) -> bool:
    """Tell whether a descriptor leads to a node that had given up its own."""
    if (status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)) != (node.device, node.inode, node.kind):
        return False
    return calls.birth(fd).btime_ns == node.birth
