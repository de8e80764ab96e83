"""The processes of the host as directories: /PID/name, /PID/command, /PID/state and so on.

    vhostfs serve examples.processes:Processes --socket-path /tmp/processes.sock --tag processes

Shown here: a tree that is made up as it is asked for; opening what is needed of the host before the sandbox
hides it; node numbers that say themselves what they are of, so that there is nothing to remember or forget.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from vhostfs.filesystem import ROOT, Attr, Caller, DirEntry, Entry, Filesystem, Opened, Options, ReadBuffer
from vhostfs.filesystem import OpenReplyFlags as Reply


def _status(key: str) -> Callable[[bytes], bytes]:
    """Return a function that finds a line of /proc/PID/status."""

    def find(content: bytes) -> bytes:
        for line in content.splitlines():
            name, _, value = line.partition(b":")
            if name.decode() == key:
                return value.strip() + b"\n"
        return b""

    return find


FILES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "name": ("comm", bytes),
    "command": ("cmdline", lambda content: content.rstrip(b"\0").replace(b"\0", b" ") + b"\n"),
    "state": ("status", _status("State")),
    "parent": ("status", _status("PPid")),
    "memory": ("status", _status("VmRSS")),
    "threads": ("status", _status("Threads")),
}
"""The files of each process: where in its /proc directory the content comes from, and what is made of it."""

NAMES = tuple(FILES)
BITS = 8
"""A node is PID << 8: the directory; PID << 8 | 1 and so on are its files. No process has the number 0."""


class Processes(Filesystem[bytes]):
    """All processes that the daemon's user may see. A handle is what a file held when it was opened."""

    options = Options(entry_seconds=0, attr_seconds=0, negative_seconds=0)
    """Processes come and go, and nobody could tell the guest's kernel."""

    def __init__(self) -> None:
        """Open /proc, which stays in reach by its descriptor."""
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a process by its number, or one of its files."""
        if parent == ROOT:
            # "07", and digits of other scripts, are no names here, though int() would take them.
            if not (name.isascii() and name.isdecimal() and str(int(name)) == name and len(name) < 10):
                return None
            node = int(name) << BITS
        elif name in FILES:
            node = parent | 1 + NAMES.index(name)
        else:
            return None
        try:
            return Entry(self.getattr(caller, node, None))
        except FileNotFoundError:
            return None

    def getattr(self, caller: Caller, node: int, handle: bytes | None) -> Attr:
        """Return attributes: owner and time are those of the process."""
        if node == ROOT:
            return Attr.directory(ROOT, 0o555)
        process = os.stat(str(node >> BITS), dir_fd=self._proc)
        is_file = node & (1 << BITS) - 1
        return Attr(
            ino=node,
            mode=stat.S_IFREG | 0o444 if is_file else stat.S_IFDIR | 0o555,
            # Made up when it is opened, so that nobody knows the size before; as in /proc itself.
            size=len(handle or b"") if is_file else 0,
            uid=process.st_uid,
            gid=process.st_gid,
            mtime_ns=process.st_mtime_ns,
        )

    def readdir(self, caller: Caller, node: int, handle: bytes | None, offset: int) -> Iterator[DirEntry]:
        """List processes, by number, or the files of one.

        Each entry has an offset of its own, its node: a listing that the kernel interrupts goes on behind it,
        whatever came and went meanwhile.
        """
        if node == ROOT:
            found = os.listdir(self._proc)  # noqa: PTH208 - of a descriptor
            names = sorted((name for name in found if name.isdecimal()), key=int)
            nodes = [int(name) << BITS for name in names]
        else:
            names, nodes = list(NAMES), [node | 1 + index for index in range(len(NAMES))]
        for name, each in zip(names, nodes, strict=True):
            if each > offset:
                try:
                    yield DirEntry.of(name, Entry(self.getattr(caller, each, None)), each)
                except FileNotFoundError:
                    continue

    def open(self, caller: Caller, node: int, flags: int) -> Opened[bytes]:
        """Read everything now, so that one who reads it in pieces sees one state."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        index = node & (1 << BITS) - 1
        if index == 0 or node == ROOT:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        source, made = FILES[NAMES[index - 1]]
        with open(f"{node >> BITS}/{source}", "rb", opener=self._opener) as file:
            # DIRECT_IO: the kernel reads until nothing comes, instead of believing the size.
            return Opened(made(file.read()), Reply.DIRECT_IO)

    def _opener(self, path: str, flags: int) -> int:
        return os.open(path, flags, dir_fd=self._proc)

    def read(self, caller: Caller, node: int, handle: bytes | None, offset: int, buffer: ReadBuffer) -> bytes:
        """Return a piece of what was read at the opening."""
        assert handle is not None
        return handle[offset : offset + buffer.size]
