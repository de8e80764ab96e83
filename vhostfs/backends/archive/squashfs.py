"""The format of squashfs 4.0 images: inodes, directories, tables, extended attributes and blocks.

Read by ourselves, as the libraries that there are neither bound what a block is decompressed to nor know
extended attributes. The image may be hostile: every size is bounded before anything is read, and what is
wrong is OSError EIO. Source: Linux, fs/squashfs/squashfs_fs.h, and Documentation/filesystems/squashfs.rst.
"""

from __future__ import annotations

import importlib
import lzma
import os
import stat
import sys
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError  # noqa: N812 - its own name says nothing
from typing import Any, Final

from vhostfs.backends.archive.contents import damaged
from vhostfs.errors import ConfigurationError

MAGIC: Final = b"hsqs"

_SUPERBLOCK: Final = Struct("<4s4I6H8Q")
_INODE: Final = Struct("<4H2I")
_DIRECTORY: Final = Struct("<2I2HI")
_LONG_DIRECTORY: Final = Struct("<4I2HI")
_FILE: Final = Struct("<4I")
_LONG_FILE: Final = Struct("<3Q4I")
_SYMLINK: Final = Struct("<2I")
_DEVICE: Final = Struct("<2I")
_NUMBER: Final = Struct("<I")
_POINTER: Final = Struct("<Q")
_ENTRY_HEADER: Final = Struct("<3I")
_ENTRY: Final = Struct("<HhHH")
_FRAGMENT: Final = Struct("<Q2I")
_XATTR_TABLE: Final = Struct("<Q2I")
_XATTR_LIST: Final = Struct("<Q2I")
_XATTR_KEY: Final = Struct("<2H")

_METADATA_SIZE: Final = 8192
_METADATA_CACHED: Final = 512
_STORED_METADATA: Final = 0x8000
_STORED_BLOCK: Final = 1 << 24
_NONE: Final = 0xFFFFFFFF
_NO_TABLE: Final = 0xFFFFFFFFFFFFFFFF
_ELSEWHERE: Final = 0x100
_PREFIXES: Final = {0: "user.", 1: "trusted.", 2: "security."}
_NAME_LIMIT: Final = 256
_TARGET_LIMIT: Final = 4096
_VALUE_LIMIT: Final = 65536
_XATTR_COUNT_LIMIT: Final = 4096
_BLOCK_COUNT_LIMIT: Final = 1 << 22
_LZMA_MEMORY: Final = 64 << 20

_TYPES: Final = {
    1: stat.S_IFDIR,
    2: stat.S_IFREG,
    3: stat.S_IFLNK,
    4: stat.S_IFBLK,
    5: stat.S_IFCHR,
    6: stat.S_IFIFO,
    7: stat.S_IFSOCK,
}
_LONG: Final = 7
"""How much larger the number of a type's longer form is."""

type Decompress = Callable[[bytes, int], bytes]
"""From compressed bytes and the most that they may become to what they are."""


def _zlib(data: bytes, limit: int) -> bytes:
    return zlib.decompressobj().decompress(data, limit + 1)


def _lzma(data: bytes, limit: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_MEMORY).decompress(data, limit + 1)


def _zstd() -> tuple[Decompress, type[Exception]]:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        zstd: Any = importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigurationError("images compressed by zstd need the extra vhostfs[archive]") from None

    def decompress(data: bytes, limit: int) -> bytes:
        decompressed: bytes = zstd.ZstdDecompressor().decompress(data, limit + 1)
        return decompressed

    return decompress, zstd.ZstdError


_COMPRESSIONS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


@dataclass(frozen=True, slots=True)
class Inode:
    """What an inode says. `reference` is where it is, which is its number in this program."""

    reference: int
    number: int
    mode: int
    uid: int
    gid: int
    mtime: int
    nlink: int
    size: int = 0
    rdev: int = 0
    xattrs: int = _NONE
    start: int = 0
    """Of a directory: its block in the table of directories; of a file: where its blocks begin."""
    offset: int = 0
    """Within that block, or within the fragment."""
    fragment: int = _NONE
    blocks: tuple[int, int] = (0, 0)
    """Where the list of a file's blocks is in the metadata."""
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block of data is, and to what size it is decompressed; a `length` of 0 is a hole."""

    position: int
    length: int
    stored: bool
    limit: int


class Image:
    """An image by its descriptor, which is the caller's. Its methods raise OSError EIO for what is wrong."""

    def __init__(self, descriptor: int) -> None:
        """Read the superblock and the ids. ConfigurationError where there is no image that can be read."""
        self._descriptor = descriptor
        self._metadata: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        header = os.pread(descriptor, _SUPERBLOCK.size, 0)
        if len(header) < _SUPERBLOCK.size or not header.startswith(MAGIC):
            raise ConfigurationError("this is no squashfs image")
        (_, self.inodes, _, self.block_size, self._fragments, *rest) = _SUPERBLOCK.unpack(header)
        compression, block_log, _, ids, major, minor, self.root, self.size, *tables = rest
        id_table, self._xattr_table, self._inode_table, self._directory_table, self._fragment_table, _ = (
            tables
        )
        if (major, minor) != (4, 0) or not 12 <= block_log <= 20 or self.block_size != 1 << block_log:
            raise ConfigurationError("this is no squashfs image of version 4.0")
        errors: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, EOFError, ValueError, StructError)
        if compression == 1:
            self._decompress: Decompress = _zlib
        elif compression in {2, 4}:
            self._decompress = _lzma
        elif compression == 6:
            self._decompress, error = _zstd()
            errors = (*errors, error)
        else:
            name = _COMPRESSIONS.get(compression, str(compression))
            raise ConfigurationError(f"images compressed by {name} cannot be read")
        self._errors = errors
        if os.fstat(descriptor).st_size < self.size:
            raise ConfigurationError("the squashfs image is cut off")
        try:
            table = b"".join(self._table(id_table, number, 4) for number in range(ids))
            self._ids = [number for (number,) in _NUMBER.iter_unpack(table)]
            self._xattr_lists = self._xattr_start = 0
            if self._xattr_table != _NO_TABLE:
                data = self._read(self._xattr_table, _XATTR_TABLE.size)
                self._xattr_start, self._xattr_lists, _ = _XATTR_TABLE.unpack(data)
            if not stat.S_ISDIR(self.inode(self.root).mode):
                raise damaged()
        except OSError:
            raise ConfigurationError("the squashfs image is damaged") from None

    # ---- Bytes ----

    def _read(self, position: int, size: int) -> bytes:
        if not 0 <= position < 1 << 62:
            raise damaged()
        data = os.pread(self._descriptor, size, position)
        if len(data) < size:
            raise damaged()
        return data

    def _expand(self, data: bytes, limit: int) -> bytes:
        try:
            data = self._decompress(data, limit)
        except self._errors:
            raise damaged() from None
        if len(data) > limit:
            raise damaged()
        return data

    def _metadata_block(self, position: int) -> tuple[bytes, int]:
        """Return what a block of metadata holds, and where the next one begins."""
        found = self._metadata.get(position)
        if found is not None:
            self._metadata.move_to_end(position)
            return found
        length = int.from_bytes(self._read(position, 2), "little")
        stored = length & _STORED_METADATA
        length &= _STORED_METADATA - 1
        if not 0 < length <= _METADATA_SIZE:
            raise damaged()
        data = self._read(position + 2, length)
        if not stored:
            data = self._expand(data, _METADATA_SIZE)
        if not data:
            raise damaged()
        found = self._metadata[position] = data, position + 2 + length
        if len(self._metadata) > _METADATA_CACHED:
            self._metadata.popitem(last=False)
        return found

    def _cursor(self, table: int, block: int, offset: int) -> _Cursor:
        return _Cursor(self._metadata_block, table + block, offset)

    def _table(self, table: int, index: int, size: int) -> bytes:
        """Return an entry of a table whose blocks a list of pointers tells."""
        block, offset = divmod(index * size, _METADATA_SIZE)
        (position,) = _POINTER.unpack(self._read(table + block * _POINTER.size, _POINTER.size))
        return self._cursor(position, 0, offset).take(size)

    # ---- Inodes ----

    def inode(self, reference: int) -> Inode:
        """Return an inode by where it is: its block << 16 | the offset within."""
        cursor = self._cursor(self._inode_table, reference >> 16, reference & 0xFFFF)
        form, permissions, uid, gid, mtime, number = cursor.unpack(_INODE)
        kind = _TYPES.get(form if form <= _LONG else form - _LONG)
        if kind is None or max(uid, gid) >= len(self._ids):
            raise damaged()
        common = (
            *(reference, number, kind | (permissions & 0o7777)),
            *(self._ids[uid], self._ids[gid], mtime),
        )
        long = form > _LONG
        if kind == stat.S_IFDIR:
            if long:
                nlink, size, start, _, _, offset, xattrs = cursor.unpack(_LONG_DIRECTORY)
            else:
                (start, nlink, size, offset, _), xattrs = cursor.unpack(_DIRECTORY), _NONE
            return Inode(*common, nlink, size, xattrs=xattrs, start=start, offset=offset)
        if kind == stat.S_IFREG:
            if long:
                start, size, _, nlink, fragment, offset, xattrs = cursor.unpack(_LONG_FILE)
            else:
                (start, fragment, offset, size), nlink, xattrs = cursor.unpack(_FILE), 1, _NONE
            if size >> 63:
                raise damaged()
            return Inode(
                *(*common, nlink, size, 0, xattrs, start, offset, fragment),
                blocks=(cursor.position, cursor.offset),
            )
        if kind == stat.S_IFLNK:
            nlink, size = cursor.unpack(_SYMLINK)
            if not 0 < size < _TARGET_LIMIT:
                raise damaged()
            target = os.fsdecode(cursor.take(size))
            if "\0" in target:
                raise damaged()
            xattrs = cursor.unpack(_NUMBER)[0] if long else _NONE
            return Inode(*common, nlink, size, xattrs=xattrs, target=target)
        rdev = 0
        if kind in {stat.S_IFBLK, stat.S_IFCHR}:
            nlink, device = cursor.unpack(_DEVICE)
            # As the kernel's new_decode_dev has it.
            rdev = os.makedev(device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)
        else:
            (nlink,) = cursor.unpack(_NUMBER)
        xattrs = cursor.unpack(_NUMBER)[0] if long else _NONE
        return Inode(*common, nlink, rdev=rdev, xattrs=xattrs)

    def entries(self, directory: Inode) -> Iterator[tuple[str, int, int]]:
        """Yield names, references of their inodes, and file types of what is in a directory."""
        left = directory.size - 3
        if left <= 0:
            return
        cursor = self._cursor(self._directory_table, directory.start, directory.offset)
        while left > 0:
            count, block, _ = cursor.unpack(_ENTRY_HEADER)
            left -= _ENTRY_HEADER.size
            if count >= 256:
                raise damaged()
            for _ in range(count + 1):
                offset, _, form, size = cursor.unpack(_ENTRY)
                if size >= _NAME_LIMIT:
                    raise damaged()
                name = cursor.take(size + 1)
                left -= _ENTRY.size + size + 1
                if left < 0 or form not in _TYPES:
                    raise damaged()
                if name not in {b".", b".."} and not set(name) & {0, 47} and size < _NAME_LIMIT - 1:
                    yield os.fsdecode(name), block << 16 | offset, _TYPES[form]

    # ---- Extended attributes ----

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """Return the extended attributes of an inode."""
        if inode.xattrs == _NONE:
            return {}
        if inode.xattrs >= self._xattr_lists:
            raise damaged()
        entry = self._table(self._xattr_table + _XATTR_TABLE.size, inode.xattrs, _XATTR_LIST.size)
        reference, count, _ = _XATTR_LIST.unpack(entry)
        if count > _XATTR_COUNT_LIMIT:
            raise damaged()
        cursor = self._cursor(self._xattr_start, reference >> 16, reference & 0xFFFF)
        found: dict[str, bytes] = {}
        for _ in range(count):
            kind, size = cursor.unpack(_XATTR_KEY)
            if size > _NAME_LIMIT:
                raise damaged()
            name = cursor.take(size)
            value = self._value(cursor)
            if kind & _ELSEWHERE:
                (reference,) = _POINTER.unpack(value.ljust(_POINTER.size, b"\0")[: _POINTER.size])
                value = self._value(self._cursor(self._xattr_start, reference >> 16, reference & 0xFFFF))
            prefix = _PREFIXES.get(kind & 0xFF)
            if prefix is not None and b"\0" not in name:
                found[prefix + os.fsdecode(name)] = value
        return found

    @staticmethod
    def _value(cursor: _Cursor) -> bytes:
        (size,) = cursor.unpack(_NUMBER)
        if size > _VALUE_LIMIT:
            raise damaged()
        return cursor.take(size)

    # ---- Data ----

    def layout(self, inode: Inode) -> tuple[array[int], array[int], Block | None]:
        """Return the blocks of a file: their lengths as stored, where each begins, and its fragment."""
        count, tail = divmod(inode.size, self.block_size)
        if tail and inode.fragment == _NONE:
            count += 1
        if count > _BLOCK_COUNT_LIMIT:
            raise damaged()
        lengths = array("I", _Cursor(self._metadata_block, *inode.blocks).take(4 * count))
        if sys.byteorder == "big":
            lengths.byteswap()
        position = inode.start
        positions = array("Q")
        for length in lengths:
            positions.append(position)
            position += length & (_STORED_BLOCK - 1)
        fragment = None
        if tail and inode.fragment != _NONE:
            if inode.fragment >= self._fragments or inode.offset + tail > self.block_size:
                raise damaged()
            start, length, _ = _FRAGMENT.unpack(
                self._table(self._fragment_table, inode.fragment, _FRAGMENT.size)
            )
            fragment = self.block(start, length)
        return lengths, positions, fragment

    def block(self, position: int, length: int) -> Block:
        """Return where a block is, from the length that is stored of it."""
        return Block(position, length & (_STORED_BLOCK - 1), bool(length & _STORED_BLOCK), self.block_size)

    def data(self, block: Block) -> bytes:
        """Read and decompress a block. May be called from any thread."""
        if block.length > block.limit:
            raise damaged()
        data = self._read(block.position, block.length)
        return data if block.stored else self._expand(data, block.limit)


class _Cursor:
    """Reads metadata from a place on, from block to block."""

    __slots__ = ("_block", "offset", "position")

    def __init__(self, block: Callable[[int], tuple[bytes, int]], position: int, offset: int) -> None:
        self._block = block
        self.position = position
        self.offset = offset

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        parts: list[bytes] = []
        while size:
            data, following = self._block(self.position)
            part = data[self.offset : self.offset + size]
            if not part and self.offset > len(data):
                raise damaged()
            parts.append(part)
            size -= len(part)
            self.offset += len(part)
            if self.offset == len(data):
                self.position, self.offset = following, 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the next structure."""
        return layout.unpack(self.take(layout.size))
