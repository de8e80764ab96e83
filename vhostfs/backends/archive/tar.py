"""Members of a tar archive, found by the standard library's reader.

A compressed archive has to be decompressed once to find its members, so that is where its data is read from,
too: a temporary file, in which every member can be read anywhere at once.
"""

from __future__ import annotations

import logging
import os
import stat
import tarfile
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from vhostfs.backends.archive.compression import DamagedError, TruncatedError, decompressed
from vhostfs.backends.archive.contents import Content, Stretch, damaged
from vhostfs.backends.archive.index import SIZE_LIMIT, Index, Node
from vhostfs.backends.archive.reader import BoundedReader
from vhostfs.backends.archive.spool import SparseWriter, Spool
from vhostfs.errors import ConfigurationError

logger = logging.getLogger(__name__)

_HEADER_LIMIT: Final = 8 << 20
"""The most bytes of headers of one member: extended attributes, maps of sparse files."""

_CHUNK: Final = 1 << 20
_XATTR: Final = "SCHILY.xattr."
_NANOSECONDS: Final = Decimal(1_000_000_000)
_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_WRONG: Final = (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What the reader raises of headers that are wrong."""


class TarSource:
    """The members of one archive; owns the descriptor of its content once it is made."""

    def __init__(self, descriptor: int, compression: str | None, spool: Spool, index: Index) -> None:
        """Find the members. ConfigurationError where it is no tar archive, or too large; OSError."""
        self.index: Final = index
        self._trusted = True
        self._descriptor = descriptor
        if compression is not None:
            self._descriptor = spool.make()
        try:
            if compression is not None:
                self._decompress(descriptor, compression, spool.limit)
            self._find_members()
            index.finish()
        except BaseException:
            if compression is not None:
                os.close(self._descriptor)
            raise
        if compression is not None:
            os.close(descriptor)
        spool.close()

    def _decompress(self, descriptor: int, compression: str, limit: int) -> None:
        offset = 0

        def read() -> bytes:
            nonlocal offset
            data = os.pread(descriptor, _CHUNK, offset)
            offset += len(data)
            return data

        writer = SparseWriter(self._descriptor)
        try:
            for part in decompressed(compression, read):
                if writer.size + len(part) > limit:
                    raise ConfigurationError(f"the archive is larger than {limit} bytes when decompressed")
                writer.write(part)
        except TruncatedError:
            logger.warning("the archive is cut off after %d bytes of its content", writer.size)
        except DamagedError as error:
            # Its checksums come behind the data, so none of it is known to be right.
            self._trusted = False
            logger.warning("the archive is damaged, and its files cannot be read: %s", error)
        writer.finish()

    def _find_members(self) -> None:
        size = os.fstat(self._descriptor).st_size
        reader = BoundedReader(self._descriptor, size)
        reader.allow(_HEADER_LIMIT)
        try:
            archive = tarfile.TarFile(fileobj=reader, encoding="utf-8", errors="surrogateescape")
        except _WRONG as error:
            if size == 0 and isinstance(error, tarfile.ReadError):
                return
            raise ConfigurationError(f"this is no tar archive: {error}") from None
        offset = -1
        try:
            while (info := archive.next()) is not None:
                # The reader keeps all that it has read.
                vars(archive)["members"].clear()
                reader.allow(_HEADER_LIMIT)
                if archive.offset <= offset:
                    raise tarfile.ReadError("a member of negative size")
                offset = archive.offset
                self._add(info)
            if any(os.pread(self._descriptor, 512, archive.offset)):
                raise tarfile.ReadError("a header that is none")
        except _WRONG as error:
            logger.warning("the archive is damaged near offset %d: %s", archive.offset, error)

    def _add(self, info: tarfile.TarInfo) -> None:
        if info.islnk():
            self.index.link(info.name, info.linkname)
            return
        target = info.linkname if info.issym() else None
        if target is not None and (not target or "\0" in target or len(os.fsencode(target)) >= 4096):
            self.index.leave_out("a symbolic link that no file system has")
            return
        data = None
        kind = _KINDS.get(info.type, stat.S_IFREG)
        if kind == stat.S_IFREG:
            data = _stretches(info)
            if data is None:
                self.index.leave_out("a size or a map of holes that no file has")
                return
        rdev = 0
        if kind in {stat.S_IFCHR, stat.S_IFBLK}:
            if not (0 <= info.devmajor < 1 << 12 and 0 <= info.devminor < 1 << 20):
                self.index.leave_out("a device that there cannot be")
                return
            rdev = os.makedev(info.devmajor, info.devminor)
        headers = info.pax_headers
        self.index.add(
            info.name,
            Node(
                kind | (info.mode & 0o7777),
                uid=info.uid,
                gid=info.gid,
                size=info.size if kind == stat.S_IFREG else 0,
                mtime_ns=_time(headers.get("mtime"), info.mtime) or 0,
                atime_ns=_time(headers.get("atime")),
                ctime_ns=_time(headers.get("ctime")),
                rdev=rdev,
                target=target,
                data=data,
                xattrs=_xattrs(headers),
            ),
        )

    # ---- Data ----

    def open(self, node: Node) -> Content:
        """Return a file's content. EIO where the archive's checksum is wrong."""
        if not self._trusted:
            raise damaged()
        stored = node.data
        stretches = (Stretch(0, node.size, stored),) if isinstance(stored, int) else stored
        return Content(self._descriptor, node.size, stretches)

    def close(self) -> None:
        """Let the archive go."""
        os.close(self._descriptor)


def _stretches(info: tarfile.TarInfo) -> int | tuple[Stretch, ...] | None:
    """Return where a file's content is stored, None where it cannot be what its headers say."""
    if not 0 <= info.size <= SIZE_LIMIT:
        return None
    if not info.issparse():
        return info.offset_data
    stored, end = info.offset_data, 0
    stretches: list[Stretch] = []
    # typeshed does not know that a sparse member has its map here.
    for begin, size in getattr(info, "sparse", None) or ():
        if size == 0 and end <= begin <= info.size:
            continue
        if begin < end or size < 0 or begin + size > info.size:
            return None
        stretches.append(Stretch(begin, size, stored))
        stored += size
        end = begin + size
    return tuple(stretches)


def _time(text: str | None, otherwise: float | None = None) -> int | None:
    """Return a time in nanoseconds, exactly as a PAX header has it."""
    try:
        if text is not None:
            return int(Decimal(text) * _NANOSECONDS)
        if otherwise is not None:
            return int(otherwise) * 1_000_000_000
    except (InvalidOperation, ValueError, OverflowError):
        pass
    return None


def _xattrs(headers: Mapping[str, str]) -> dict[str, bytes] | None:
    """Return the extended attributes, as star, GNU tar and bsdtar write them."""
    found = {
        name[len(_XATTR) :]: value.encode("utf-8", "surrogateescape")
        for name, value in headers.items()
        if name.startswith(_XATTR) and len(_XATTR) < len(name) <= len(_XATTR) + 255 and "\0" not in name
    }
    return {name: value for name, value in found.items() if len(value) <= 65536} or None
