"""The files of the disk cache: blocks of objects, each file with a header that tells what it holds.

A file has up to BLOCKS blocks of one version of one object. Its first page tells of which, and of each block
whether it is there and its checksum; the blocks follow, each at its own place, with holes where there is
none. Nothing is ever brought to the disk by fsync: what a crash has torn does not have its checksum.

Everything here may wait for the disk. Files are reached by a descriptor of their directory alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 32 << 10
"""What is fetched and kept at least, but for the end of an object."""

BLOCKS: Final = 256
"""How many of them a file has at most."""

PAGE: Final = 4096

FILE_COST: Final = 2 * PAGE
"""What a file takes beside its blocks: its header, and what the file system knows of it."""

MAGIC: Final = b"vhostfs\0"
FORMAT: Final = 1
_HEADER: Final = struct.Struct("<8sIIQQHI")
"""Magic, format, BLOCK, size of the object, which of its files, length of the text, checksum of all that."""

_ENTRY: Final = struct.Struct("<II")
"""Of a block: 1 if it is there, its checksum."""

_TABLE: Final = PAGE // 2
_TEXT_MOST: Final = _TABLE - _HEADER.size
_NAME: Final = re.compile(r"[0-9a-f]{48}-[0-9a-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Label:
    """Which version of which object a file belongs to."""

    store: str
    """The endpoint and the bucket."""
    key: str
    etag: str
    size: int

    @property
    def text(self) -> bytes:
        """Return all but the size, as it stands in headers."""
        return "\0".join((self.store, self.key, self.etag)).encode("utf-8", "surrogateescape")

    @property
    def name(self) -> str | None:
        """Return what the names of its files begin with; None where a header has no room for it."""
        text = self.text
        if len(text) > _TEXT_MOST:
            return None
        return hashlib.sha256(text + b"\0" + str(self.size).encode()).hexdigest()[:48]


class CacheFile:
    """A file of the cache, as far as it is known. Only the event loop changes it."""

    __slots__ = ("charge", "descriptor", "gone", "name", "table", "touched", "users")

    def __init__(self, name: str, table: bytearray, charge: int) -> None:
        """A file with a table of its blocks, which takes so much of the disk."""
        self.name, self.table, self.charge = name, table, charge
        self.descriptor = -1
        self.users = 0
        self.gone = False
        self.touched = 0.0

    def has(self, block: int) -> bool:
        """Tell whether a block is there."""
        present, _ = _ENTRY.unpack_from(self.table, block * _ENTRY.size)
        return bool(present == 1)

    def checksum(self, block: int) -> int:
        """Return the checksum of a block."""
        _, checksum = _ENTRY.unpack_from(self.table, block * _ENTRY.size)
        return int(checksum)

    def note(self, block: int, checksum: int) -> None:
        """Take note of a block that is there now."""
        _ENTRY.pack_into(self.table, block * _ENTRY.size, 1, checksum)


def new_table(size: int, number: int) -> bytearray:
    """Return the empty table of one of the files of an object."""
    blocks = min(BLOCKS, -(-size // BLOCK) - number * BLOCKS)
    return bytearray(blocks * _ENTRY.size)


def cost(size: int) -> int:
    """Return what so many bytes at the beginning of a block take of the disk."""
    return -(-size // PAGE) * PAGE


def checksum(name: str, block: int, data: Sequence[memoryview]) -> int:
    """Return the checksum of a block, which no other place has for the same bytes."""
    found = zlib.crc32(f"{name}/{block}".encode())
    for piece in data:
        found = zlib.crc32(piece, found)
    return found


def is_ours(name: str) -> bool:
    """Tell whether a name is one of a file of the cache."""
    return _NAME.fullmatch(name) is not None


def scan(directory: int) -> tuple[list[tuple[float, CacheFile]], int]:
    """Return the files of a directory with the times of their last use; how many damaged ones were removed.

    What has another name than the cache gives is left alone. Raise OSError.
    """
    found = []
    damaged = 0
    for name in os.listdir(directory):
        if not is_ours(name):
            continue
        try:
            file = _known(directory, name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, struct.error):
            with suppress(OSError):  # a directory that somebody made
                os.unlink(name, dir_fd=directory)
            damaged += 1
        else:
            found.append(file)
    return sorted(found, key=lambda each: each[0]), damaged


def _known(directory: int, name: str) -> tuple[float, CacheFile]:
    descriptor = open_file(directory, name)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        page = os.pread(descriptor, PAGE, 0)
    finally:
        os.close(descriptor)
    magic, version, block, size, number, length, _ = _HEADER.unpack_from(page)
    text = page[_HEADER.size : _HEADER.size + length]
    if (magic, version, block) != (MAGIC, FORMAT, BLOCK) or length > _TEXT_MOST:
        raise ValueError("of another program or format")
    if page[:_TABLE] != header(text, size, number).ljust(_TABLE, b"\0") or len(page) != PAGE:
        raise ValueError("damaged")
    prefix = hashlib.sha256(text + b"\0" + str(size).encode()).hexdigest()[:48]
    if name != f"{prefix}-{number:x}" or number * BLOCKS * BLOCK >= max(size, 1):
        raise ValueError("under another's name")
    table = bytearray(page[_TABLE : _TABLE + len(new_table(size, number))])
    file = CacheFile(name, table, 0)
    begin = number * BLOCKS * BLOCK
    blocks = range(len(table) // _ENTRY.size)
    known = sum(cost(min(BLOCK, size - begin - at * BLOCK)) for at in blocks if file.has(at))
    file.charge = max(FILE_COST + known, PAGE + status.st_blocks * 512)
    return status.st_mtime, file


def header(text: bytes, size: int, number: int) -> bytes:
    """Return the header of one of the files of an object."""
    fields = (MAGIC, FORMAT, BLOCK, size, number, len(text))
    bare = _HEADER.pack(*fields, 0)
    return _HEADER.pack(*fields, zlib.crc32(bare + text)) + text


def open_file(directory: int, name: str, *, writable: bool = False) -> int:
    """Return a descriptor of a file; raise OSError."""
    flags = (os.O_RDWR | os.O_CREAT) if writable else os.O_RDONLY
    return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=directory)


def offset(block: int) -> int:
    """Return where a block is in its file."""
    return PAGE + block * BLOCK


def write(
    directory: int, file: CacheFile, head: bytes, block: int, pieces: Sequence[memoryview]
) -> list[int]:
    """Write blocks one behind the other, and return their checksums; raise OSError.

    The pieces are whole blocks, but for the last one of an object.
    """
    checksums = [checksum(file.name, block + at, [piece]) for at, piece in enumerate(pieces)]
    entries = b"".join(_ENTRY.pack(1, each) for each in checksums)
    descriptor = open_file(directory, file.name, writable=True)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.pwrite(descriptor, head.ljust(PAGE, b"\0"), 0)
        wanted = sum(map(len, pieces))
        if os.pwritev(descriptor, pieces, offset(block)) != wanted:
            raise OSError("it was not written as a whole")
        os.pwrite(descriptor, entries, _TABLE + block * _ENTRY.size)
    finally:
        os.close(descriptor)
    return checksums


def read(descriptor: int, file: CacheFile, block: int, target: Sequence[memoryview], flags: int = 0) -> bool:
    """Read blocks one behind the other; return whether they are what was written. Raise OSError."""
    wanted = sum(map(len, target))
    if os.preadv(descriptor, target, offset(block), flags) != wanted:
        return False
    at = 0
    pieces: list[memoryview] = []
    room = BLOCK
    for piece in target:
        left = piece
        while len(left):
            pieces.append(left[:room])
            left = left[room:]
            room -= len(pieces[-1])
            if not room:
                if checksum(file.name, block + at, pieces) != file.checksum(block + at):
                    return False
                at, room = at + 1, BLOCK
                pieces = []
    return not pieces or checksum(file.name, block + at, pieces) == file.checksum(block + at)
