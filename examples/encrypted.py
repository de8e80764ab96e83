"""A layer under which the contents of files are encrypted: AES-GCM, by blocks. Names and sizes are not.

    [project.entry-points."vhostfs.layers"]                              # a package's pyproject.toml
    encrypt = "examples.encrypted:EncryptSettings"
    /: {type: memory, layers: [{type: encrypt, key_file: /etc/key}]}     # a mount of a configuration

Shown here: a file system before another one; settings for a configuration; keeping apart what waits half-way.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MethodType
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import vhostfs.filesystem as fs
from vhostfs.backends.contract import Layer
from vhostfs.files.buffers import LentReadBuffer, LentWriteBuffer
from vhostfs.filesystem import settled

BLOCK, EXTRA, LARGEST = 4096, 28, 1 << 60  # EXTRA are the nonce before a block and the tag behind it.
STORED = BLOCK + EXTRA
REFUSED = ("fallocate", "lseek", "copy_file_range", "bmap", "statx", "ioctl", "tmpfile", "create", "link")
"""What would tell of the bytes below, or needs more lines than it teaches: `create` is mknod and open."""


@dataclass(frozen=True, slots=True)
class EncryptSettings(Layer):
    """`key_file` holds 16, 24 or 32 bytes, and is read before the sandbox is entered."""

    key_file: PurePosixPath

    def wrap(self, inner: fs.Filesystem[Any]) -> fs.Filesystem[Any]:
        """Return the encrypting file system before another one."""
        return Encrypted(inner, Path(self.key_file).read_bytes())


class Encrypted(fs.Wrapper[Any]):
    """Blocks of zeros stand for zeros, so that files may have holes: who can write below can make some."""

    inner: Any

    def __init__(self, inner: fs.Filesystem[Any], key: bytes) -> None:
        super().__init__(inner)
        for operation in REFUSED:
            setattr(self, operation, MethodType(getattr(fs.Filesystem, operation), self))
        self._cipher = AESGCM(key)
        self._changing = asyncio.Lock()

    def _attr(self, attr: fs.Attr) -> fs.Attr:
        """Return attributes with the size that the guest wrote."""
        blocks, rest = divmod(attr.size, STORED)
        size = blocks * BLOCK + max(0, rest - EXTRA)
        return replace(attr, size=size, blocks=None) if stat.S_ISREG(attr.mode) else attr

    async def lookup(self, *request: Any) -> fs.Entry | None:
        """Find a name."""
        entry: fs.Entry | None = await settled(self.inner.lookup(*request))
        return entry and replace(entry, attr=self._attr(entry.attr))

    async def getattr(self, *request: Any) -> fs.Attr:
        """Return attributes."""
        return self._attr(await settled(self.inner.getattr(*request)))

    async def readdir(self, *request: Any) -> AsyncIterator[fs.DirEntry]:
        """List names without attributes, for which the kernel asks."""
        found: Any = await settled(self.inner.readdir(*request))
        for entry in [each async for each in found] if hasattr(found, "__aiter__") else found:
            yield replace(entry, entry=None)

    def open(self, caller: Any, node: int, flags: int) -> Any:
        """Open for reading in any case: who writes half a block needs the other half."""
        access = os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY
        return self.inner.open(caller, node, flags & ~(os.O_ACCMODE | os.O_APPEND) | access)

    async def read(self, caller: Any, node: int, handle: Any, offset: int, buffer: Any) -> bytes:
        """Decrypt the blocks that a piece lies in."""
        first, start = divmod(min(offset, LARGEST), BLOCK)
        async with self._changing:
            plain = await self._load((caller, node, handle), first, start + buffer.size)
        return plain[start : start + buffer.size]

    async def write(self, caller: Any, node: int, handle: Any, offset: int, data: Any, flags: Any) -> int:
        """Encrypt a piece, with what else is in its first and last block."""
        (first, start), at = divmod(offset, BLOCK), (caller, node, handle)
        async with self._changing:
            await self._fit(at, offset, grow_only=True)
            plain = (await self._load(at, first, start + data.size)).ljust(start, b"\0")
            await self._store(at, first, plain[:start] + bytes(data) + plain[start + data.size :])
        return int(data.size)

    async def setattr(self, caller: Any, node: int, handle: Any, changes: fs.SetAttr) -> fs.Attr:
        """Change attributes; a new size cuts the last block, or fills it up."""
        own = None
        if changes.size is not None and handle is None:
            own = handle = (await settled(self.inner.open(caller, node, os.O_RDWR))).handle
        async with self._changing:
            if changes.size is not None:
                changes = replace(changes, size=await self._fit((caller, node, handle), changes.size))
            attr = await settled(self.inner.setattr(caller, node, handle, changes))
        if own is not None:
            await settled(self.inner.release(caller, node, own, 0))
        return self._attr(attr)

    async def _fit(self, at: Any, size: int, *, grow_only: bool = False) -> int:
        """Cut or fill up the last block for a new size; return what that is below."""
        if size > LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        old = (await self.getattr(*at)).size
        last = min(old, size) // BLOCK
        length = min(BLOCK, size - last * BLOCK)
        if length and not (grow_only and size <= old) and (plain := await self._load(at, last, 1)):
            await self._store(at, last, plain[:length].ljust(length, b"\0"))
        return size // BLOCK * STORED + (size % BLOCK + EXTRA if size % BLOCK else 0)

    async def _load(self, at: Any, first: int, size: int) -> bytes:
        """Return whole blocks, as many as the size takes, or as there are."""
        memory = bytearray(-(-size // BLOCK) * STORED)
        got = await settled(self.inner.read(*at, first * STORED, LentReadBuffer(memoryview(memory))))
        raw = memory[:got] if isinstance(got, int) else bytearray(got)
        blocks = (raw[start : start + STORED] for start in range(0, len(raw), STORED))
        return b"".join(self._opened(number, bytes(block)) for number, block in enumerate(blocks, first))

    def _opened(self, number: int, block: bytes) -> bytes:
        if not any(block):
            return block[EXTRA:]
        try:
            return self._cipher.decrypt(block[:12], block[12:], number.to_bytes(8))
        except InvalidTag:
            raise OSError(errno.EIO, "a block was not written with this key, or not here") from None

    async def _store(self, at: Any, first: int, plain: bytes) -> None:
        """Replace blocks, each under a nonce of its own."""
        raw = bytearray()
        for number, start in enumerate(range(0, len(plain), BLOCK), first):
            nonce = os.urandom(12)
            raw += nonce + self._cipher.encrypt(nonce, plain[start : start + BLOCK], number.to_bytes(8))
        buffer = LentWriteBuffer(memoryview(raw))
        await settled(self.inner.write(*at, first * STORED, buffer, fs.WriteFlags(0)))
