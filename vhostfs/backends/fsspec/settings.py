"""The settings of a mount of type `fsspec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from vhostfs.backends.contract import Backend
from vhostfs.backends.fsspec.filesystem import FsspecFilesystem, Limits
from vhostfs.backends.fsspec.remote import Remote
from vhostfs.backends.values import Permissions, Size

_CONCURRENCY: Final = 16


@dataclass(frozen=True, slots=True)
class FsspecSettings(Backend):
    """A place that fsspec can open."""

    network: ClassVar[bool] = True

    url: str
    """Such as s3://bucket/prefix, https://host/directory or zip://::https://host/archive.zip."""
    options: dict[str, Any] = field(default_factory=dict)
    """What fsspec's implementation takes."""
    writable: bool = False
    uid: int = 0
    gid: int = 0
    file_mode: Permissions = 0o644
    """Permissions of files, where the implementation tells none."""
    dir_mode: Permissions = 0o755
    cache_seconds: float = 10.0
    """How long names, attributes and listings are trusted."""
    block_size: Size = 1 << 20
    """How much is fetched at once."""
    cache_size: Size = 64 << 20
    """The most bytes of blocks that are kept."""
    write_size: Size = 256 << 20
    """The most bytes of all files that are open for writing, which are kept in memory."""
    concurrency: int = _CONCURRENCY
    """The most requests, or threads, at once."""
    timeout_seconds: float = 120.0
    """After which a guest's program gets ETIMEDOUT."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not 4096 <= self.block_size <= 64 << 20:
            raise ValueError("block_size should be 4KiB to 64MiB")
        if self.concurrency < 1:
            raise ValueError("concurrency should be 1 or more")
        if self.cache_seconds < 0 or self.timeout_seconds <= 0:
            raise ValueError("cache_seconds or timeout_seconds of an fsspec mount is out of range")
        if not (0 <= self.uid < 2**32 - 1 and 0 <= self.gid < 2**32 - 1):
            raise ValueError("uid or gid of an fsspec mount is out of range")

    def open(self) -> FsspecFilesystem:
        """Import the implementation."""
        limits = Limits(
            uid=self.uid,
            gid=self.gid,
            file_mode=self.file_mode,
            dir_mode=self.dir_mode,
            cache_seconds=self.cache_seconds,
            block_size=self.block_size,
            cache_size=self.cache_size,
            write_size=self.write_size,
            timeout_seconds=self.timeout_seconds,
        )
        remote = Remote(self.url, self.options, self.concurrency)
        return FsspecFilesystem(remote, limits, writable=self.writable)


def open_url(url: str, options: Mapping[str, Any] | None = None, **keys: Any) -> FsspecFilesystem:
    """Return a place that fsspec can open as a file system; `keys` are those of FsspecSettings."""
    return FsspecSettings(url=url, options=dict(options or {}), **keys).open()
