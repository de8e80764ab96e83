"""The replies of READDIR and READDIRPLUS: records of varying length, each padded to 8 bytes."""

from __future__ import annotations

from collections.abc import Buffer, Iterator
from dataclasses import dataclass
from typing import Final

from vhostfs.fuse_abi.layout import U32, U64, Structure, structure
from vhostfs.fuse_abi.structures import EntryOut

ALIGNMENT: Final = 8
"""Every record begins at a multiple of this many bytes (FUSE_REC_ALIGN)."""


@structure("fuse_dirent")
class Dirent(Structure):
    """Begin an entry of READDIR; namelen bytes of name follow. type is a DT_* value.

    off is the cookie that resumes the listing behind this entry, not its own place.
    """

    ino: U64 = 0
    off: U64 = 0
    namelen: U32 = 0
    type: U32 = 0


@structure("fuse_direntplus")
class Direntplus(Structure):
    """Begin an entry of READDIRPLUS; dirent.namelen bytes of name follow.

    entry_out.nodeid 0 says nothing of the node; any other counts one lookup, save for '.' and '..'.
    """

    entry_out: EntryOut = EntryOut()
    dirent: Dirent = Dirent()


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One entry of a listing, of either request: entry is None where READDIR was asked."""

    name: bytes
    ino: int
    off: int
    type: int
    entry: EntryOut | None = None

    def pack(self) -> bytes:
        """Return the whole record, its padding included."""
        dirent = Dirent(self.ino, self.off, len(self.name), self.type)
        head = dirent if self.entry is None else Direntplus(self.entry, dirent)
        record = head.pack() + self.name
        return record.ljust(padded(len(record)), b"\0")


def padded(size: int) -> int:
    """Return size rounded up to the alignment of records."""
    return (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


def pack_entries(entries: list[DirectoryEntry], size: int) -> bytes:
    """Return as many whole records as size bytes hold, in order."""
    records: list[bytes] = []
    room = size
    for entry in entries:
        record = entry.pack()
        if len(record) > room:
            break
        records.append(record)
        room -= len(record)
    return b"".join(records)


def unpack_entries(reply: Buffer, *, plus: bool) -> Iterator[DirectoryEntry]:
    """Yield the entries of a READDIR reply, or with plus of a READDIRPLUS reply.

    A record that the reply cuts short ends the listing, as it does in Linux.
    """
    view = memoryview(reply)
    kind: type[Dirent | Direntplus] = Direntplus if plus else Dirent
    offset = 0
    while offset + kind.SIZE <= len(view):
        head = kind.unpack_from(view, offset)
        dirent = head.dirent if isinstance(head, Direntplus) else head
        entry = head.entry_out if isinstance(head, Direntplus) else None
        begin = offset + kind.SIZE
        end = begin + dirent.namelen
        if end > len(view):
            return
        yield DirectoryEntry(bytes(view[begin:end]), dirent.ino, dirent.off, dirent.type, entry)
        offset += padded(kind.SIZE + dirent.namelen)
