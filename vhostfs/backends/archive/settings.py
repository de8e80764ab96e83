"""The settings of a mount of type `archive`."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath, PurePosixPath
from typing import Final

from vhostfs.backends.archive.compression import compression
from vhostfs.backends.archive.filesystem import ArchiveFilesystem
from vhostfs.backends.archive.index import Index
from vhostfs.backends.archive.reader import BoundedReader
from vhostfs.backends.archive.spool import Spool
from vhostfs.backends.archive.squashfs import MAGIC
from vhostfs.backends.archive.squashfs_filesystem import SquashfsFilesystem
from vhostfs.backends.archive.tar import TarSource
from vhostfs.backends.archive.zip import ZipSource
from vhostfs.backends.contract import Backend
from vhostfs.backends.opening import open_path
from vhostfs.backends.values import Size
from vhostfs.errors import ConfigurationError

MEMBERS: Final = 1_000_000
SPOOL_SIZE: Final = 8 << 30
SPOOL_DIRECTORY: Final = PurePosixPath("/var/tmp")


class ArchiveFormat(StrEnum):
    """What an archive is."""

    AUTO = "auto"
    """What it begins with says."""
    TAR = "tar"
    """tar, compressed or not."""
    ZIP = "zip"
    SQUASHFS = "squashfs"


@dataclass(frozen=True, slots=True)
class ArchiveSettings(Backend):
    """An archive of the host, read-only. It must not be changed while it is served."""

    path: PurePosixPath
    format: ArchiveFormat = ArchiveFormat.AUTO
    members: int = MEMBERS
    """The most members, directories that are only mentioned in names included."""
    spool_dir: PurePosixPath = SPOOL_DIRECTORY
    """Where temporary files are made, without names."""
    spool_size: Size = SPOOL_SIZE
    """The most bytes of these."""
    uid: int = 0
    """Who owns what the archive names no owner for."""
    gid: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.members < 1:
            raise ValueError("members should be 1 or more")
        if not (0 <= self.uid < 2**32 - 1 and 0 <= self.gid < 2**32 - 1):
            raise ValueError("uid or gid of an archive is out of range")

    def open(self) -> ArchiveFilesystem | SquashfsFilesystem:
        """Find all members; decompress a tar archive that is compressed."""
        return open_archive(
            self.path,
            format=self.format,
            members=self.members,
            spool_dir=self.spool_dir,
            spool_size=self.spool_size,
            uid=self.uid,
            gid=self.gid,
        )


def open_archive(
    path: str | PurePath,
    *,
    format: ArchiveFormat | str = ArchiveFormat.AUTO,  # noqa: A002 - the key's name
    members: int = MEMBERS,
    spool_dir: str | PurePath = SPOOL_DIRECTORY,
    spool_size: int = SPOOL_SIZE,
    uid: int = 0,
    gid: int = 0,
) -> ArchiveFilesystem | SquashfsFilesystem:
    """Return an archive of the host as a file system; the parameters are the keys of ArchiveSettings.

    Reads all of a tar archive once. Raises OSError, and ConfigurationError where it cannot be served: it is
    none, or has more members, or more data when it is decompressed, than are allowed.
    """
    descriptor = open_path(path, os.O_RDONLY)
    spool: Spool | None = None
    try:
        begin = os.pread(descriptor, 512, 0)
        packed = compression(begin)
        kind = ArchiveFormat(format)
        if kind is ArchiveFormat.AUTO:
            kind = _format_of(descriptor, begin)
        if kind is ArchiveFormat.SQUASHFS:
            return SquashfsFilesystem(descriptor, members)
        spool = Spool(PurePath(spool_dir), spool_size)
        index = Index(members, uid=uid, gid=gid)
        if kind is ArchiveFormat.ZIP:
            return ArchiveFilesystem(ZipSource(descriptor, spool, index, members, (uid, gid)))
        return ArchiveFilesystem(TarSource(descriptor, packed, spool, index))
    except BaseException as error:
        os.close(descriptor)
        if spool is not None:
            spool.close()
        if isinstance(error, ConfigurationError):
            raise ConfigurationError(f"{os.fspath(path)}: {error}") from None
        raise


def _format_of(descriptor: int, begin: bytes) -> ArchiveFormat:
    """Tell what an archive is by how it begins; a zip archive may begin with a program."""
    if begin.startswith(MAGIC):
        return ArchiveFormat.SQUASHFS
    if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ArchiveFormat.ZIP
    if begin[257:262] == b"ustar" or compression(begin) is not None:
        return ArchiveFormat.TAR
    reader = BoundedReader(descriptor, os.fstat(descriptor).st_size)
    reader.allow(1 << 20)
    return ArchiveFormat.ZIP if zipfile.is_zipfile(reader) else ArchiveFormat.TAR
