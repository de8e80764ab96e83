"""Compressed streams, decompressed part by part: gzip, bzip2, xz, lzma and zstd.

Archives may be hostile: a part is never larger than a megabyte, whatever it was compressed to, and what a
decompressor remembers is bounded.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from vhostfs.errors import ConfigurationError

PART: Final = 1 << 20
_MEMORY_LIMIT: Final = 256 << 20
"""What an xz or lzma stream may have its decompressor keep."""


class TruncatedError(Exception):
    """Raised where a compressed stream ends before its end."""


class DamagedError(Exception):
    """Raised where a compressed stream is wrong, or does not have its checksum."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """One member of a gzip stream, as the other decompressors have it."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.eof and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _lzma() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_MEMORY_LIMIT)


def _zstd_module() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigurationError("archives compressed by zstd need the extra vhostfs[archive]") from None


def _zstd() -> _Decompressor:
    decompressor: _Decompressor = _zstd_module().ZstdDecompressor()
    return decompressor


_FORMATS: Final[tuple[tuple[bytes, str, Callable[[], _Decompressor]], ...]] = (
    (b"\x1f\x8b", "gzip", _Gzip),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", "xz", _lzma),
    (b"]\0\0", "lzma", _lzma),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)


def compression(begin: bytes) -> str | None:
    """Return what a stream that begins so is compressed by; None where by nothing known."""
    return next((name for magic, name, _ in _FORMATS if begin.startswith(magic)), None)


def decompressed(name: str, read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield the content of a stream in parts; `read` returns its next bytes, and none at its end.

    Several streams in a row are one; what follows them and is none is ignored, as their own programs do.
    Raises TruncatedError and DamagedError.
    """
    magic, make = next((magic, make) for magic, known, make in _FORMATS if known == name)
    errors: tuple[type[Exception], ...] = (OSError, zlib.error, lzma.LZMAError, EOFError)
    if name == "zstd":
        errors = (*errors, _zstd_module().ZstdError)
    decompressor, data = make(), b""
    while True:
        try:
            if not data and decompressor.needs_input:
                data = read()
                if not data:
                    raise TruncatedError
            part = decompressor.decompress(data, PART)
        except errors as error:
            raise DamagedError(str(error)) from None
        data = b""
        if part:
            yield part
        if decompressor.eof:
            data = decompressor.unused_data
            while len(data) < len(magic) and (more := read()):
                data += more
            if name == "xz":
                # Streams are padded by zeroes.
                while not (data := data.lstrip(b"\0")) and (more := read()):
                    data = more
            if not data.startswith(magic):
                return
            decompressor = make()
