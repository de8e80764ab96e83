"""A directory with one file: the smallest file system that can be listed and read.

    vhostfs serve examples.hello:Hello --socket-path /tmp/hello.sock --tag hello

In the guest: `mount -t virtiofs hello /mnt && cat /mnt/hello`.
"""

from __future__ import annotations

from collections.abc import Iterator

from vhostfs.filesystem import ROOT, Attr, Caller, DirEntry, Entry, Filesystem, ReadBuffer

FILE = 2


class Hello(Filesystem[None]):
    """`hello`, with a greeting in it."""

    def __init__(self, greeting: str = "Hello, guest\n") -> None:
        """Say this."""
        self.content = greeting.encode()
        self.attrs = {ROOT: Attr.directory(ROOT), FILE: Attr.file(FILE, len(self.content))}

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find the one file."""
        return Entry(self.attrs[FILE]) if (parent, name) == (ROOT, "hello") else None

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        """Return what was put down at the beginning."""
        return self.attrs[node]

    def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> Iterator[DirEntry]:
        """List the one file."""
        yield DirEntry.of("hello", Entry(self.attrs[FILE]))

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        """Return a piece of the greeting."""
        return self.content[offset : offset + buffer.size]
