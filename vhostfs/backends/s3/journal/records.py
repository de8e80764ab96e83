"""The format of the journal's log: records one after another, each with its checksum.

    magic "vhj1" | length of the text | length of the data | CRC32 of all but itself | text (JSON) | data

Numbers are 32 bits, little-endian; lengths are bytes. The first record says which format it is. A record
that was not written to its end is the last one; one that was damaged is left out, and the next is looked for
by its magic.
"""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = 1
MAGIC: Final = b"vhj1"
TEXT_MAXIMUM: Final = 1 << 20
TRIES_MAXIMUM: Final = 1000
"""How often the next record is looked for: what a record holds may look like one, too."""

HEAD: Final = struct.Struct("<4sIII")


@dataclass(frozen=True, slots=True)
class Record:
    """A record, and where its data lies in the log."""

    said: Mapping[str, Any]
    at: int
    size: int


def encoded_record(said: Mapping[str, Any], data: bytes = b"") -> bytes:
    """Return a record as the log has it; OSError ENOSPC for what is too long."""
    text = json.dumps(said, separators=(",", ":")).encode()
    if len(text) > TEXT_MAXIMUM:
        raise OSError(errno.ENOSPC, "a record of the journal takes a mebibyte of text")
    return b"".join((_head(text, data), text, data))


def _head(text: bytes, data: bytes) -> bytes:
    lengths = HEAD.pack(MAGIC, len(text), len(data), 0)[:12]
    return lengths + zlib.crc32(data, zlib.crc32(text, zlib.crc32(lengths))).to_bytes(4, "little")


class Scan:
    """A walk over a log."""

    def __init__(self, log: memoryview) -> None:
        """A walk over all bytes of a log."""
        self._log = log
        self.damaged = 0
        """How many stretches were left out that are neither a record nor the torn end of one."""

    def records(self) -> Iterator[Record]:
        """Yield the records that are whole, in order."""
        log, at = self._log, 0
        while at + HEAD.size <= len(log):
            record, end = self._record_at(at)
            if record is not None:
                yield record
                at = end
                continue
            following = self._next_record(at + 1)
            if following is None:
                # A torn end says how long it would be; anything else was damaged.
                self.damaged += not self._is_torn(at)
                return
            self.damaged += 1
            at = following

    def _record_at(self, at: int) -> tuple[Record | None, int]:
        log = self._log
        magic, text_size, data_size, checksum = HEAD.unpack_from(log, at)
        begin = at + HEAD.size
        end = begin + text_size + data_size
        if magic != MAGIC or text_size > TEXT_MAXIMUM or end > len(log):
            return None, at
        if zlib.crc32(log[begin:end], zlib.crc32(log[at : at + 12])) != checksum:
            return None, at
        try:
            said = json.loads(bytes(log[begin : begin + text_size]))
        except (ValueError, RecursionError):
            return None, at
        if not isinstance(said, dict):
            return None, at
        return Record(said, begin + text_size, data_size), end

    def _next_record(self, at: int) -> int | None:
        """Return where the next whole record begins."""
        for _ in range(TRIES_MAXIMUM):
            found = _find(self._log, MAGIC, at)
            if found < 0 or found + HEAD.size > len(self._log):
                break
            if self._record_at(found)[0] is not None:
                return found
            at = found + 1
        return None

    def _is_torn(self, at: int) -> bool:
        magic, text_size, data_size, _ = HEAD.unpack_from(self._log, at)
        if bytes(self._log[at : at + HEAD.size]).count(0) == HEAD.size:
            return True  # the file was made longer, and the bytes did not come
        end = at + HEAD.size + text_size + data_size
        return bool(magic == MAGIC) and (end >= len(self._log) or text_size <= TEXT_MAXIMUM)


def _find(log: memoryview, what: bytes, at: int) -> int:
    """Return where bytes are found from an offset on, else -1."""
    step = 1 << 20
    while at < len(log):
        found = bytes(log[at : at + step + len(what) - 1]).find(what)
        if found >= 0:
            return at + found
        at += step
    return -1
