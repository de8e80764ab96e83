"""What is to become of an object: a change that is not in the bucket yet, as the journal keeps it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vhostfs.backends.s3.store import Headers

_RANGE: Final = struct.Struct("<QQ")
_SIZE_MAXIMUM: Final = 5 << 40

type Stretch = tuple[int, int]


@dataclass(slots=True)
class Intent:
    """A file, directory or link that the bucket does not have as it shall be."""

    number: str
    """Its own, in hexadecimal; a file's data lies in the file of this name."""
    key: str
    kind: int
    """The type: S_IFREG and so on."""
    etag: str | None = None
    """Of the object that it is to replace; None where there shall be none."""
    size: int = 0
    base_size: int = 0
    """How much of the object below is still seen."""
    headers: Headers | None = None
    body: bytes = b""
    """A link's target."""
    has_data: bool = False
    """Its bytes change, and not its metadata alone."""
    extents: Sequence[Stretch] = ()
    """What is in the file of data and not in the bucket."""
    since: float = 0.0
    """When it was first promised, in seconds since 1970."""
    sequence: int = 0
    """The later of two states has the greater one; what a commit writes says which state it knew."""
    deleting: bool = False
    """The object is being deleted: if it has gone, so has this."""
    conflict: str = ""
    """Why it cannot be brought to the bucket any more: somebody else has written there."""
    entered: object = field(default=None, compare=False)
    """The metadata that was entered last, to see whether it is still the same."""
    recovered: bool = field(default=False, compare=False)
    """It was found in a journal: its commit may have happened already."""


@dataclass(frozen=True, slots=True)
class Entered:
    """An intent as a record says it, and where bytes of it lie."""

    intent: Intent
    inline: Sequence[tuple[int, int, int]]
    """From where to where in the file, and at which offset of the log."""
    filed: Sequence[Stretch]
    """What was in the file of data when the record was written."""


def said(intent: Intent, inline: Sequence[Stretch], filed: Sequence[Stretch]) -> tuple[dict[str, Any], bytes]:
    """Return an intent as a record's text and the beginning of its data, which the inline bytes follow."""
    headers = intent.headers
    text: dict[str, Any] = {
        "is": "intent",
        "number": intent.number,
        "key": intent.key,
        "kind": intent.kind,
        "etag": intent.etag,
        "data": intent.has_data,
        "size": intent.size,
        "base": intent.base_size,
        "since": intent.since,
        "sequence": intent.sequence,
        "counts": [len(intent.extents), len(filed), len(inline), len(intent.body)],
    }
    if headers is not None:
        text["headers"] = [dict(headers.metadata), dict(headers.standard)]
    if intent.deleting:
        text["deleting"] = True
    if intent.conflict:
        text["conflict"] = intent.conflict
    return text, _packed((*intent.extents, *filed, *inline)) + intent.body


def understood(text: Mapping[str, Any], data: bytes | memoryview, at: int) -> Entered:
    """Return what a record says, with its data and where that begins; ValueError for what makes no sense."""
    try:
        counts = [int(count) for count in text["counts"]]
        extent_count, filed_count, inline_count, body_size = counts
        ranges = list(_unpacked(data, extent_count + filed_count + inline_count))
        begin = len(ranges) * _RANGE.size
        headers = text.get("headers")
        intent = Intent(
            number=str(text["number"]),
            key=str(text["key"]),
            kind=int(text["kind"]),
            etag=None if text["etag"] is None else str(text["etag"]),
            has_data=bool(text["data"]),
            size=_size(text["size"]),
            base_size=_size(text["base"]),
            headers=None if headers is None else Headers(_texts(headers[0]), _texts(headers[1])),
            body=bytes(data[begin : begin + body_size]),
            extents=ranges[:extent_count],
            since=float(text["since"]),
            sequence=int(text["sequence"]),
            deleting=bool(text.get("deleting")),
            conflict=str(text.get("conflict", "")),
            recovered=True,
        )
        int(intent.number, 16)
    except (KeyError, TypeError, AttributeError, IndexError, struct.error, OverflowError) as error:
        raise ValueError(str(error)) from None
    if min(counts) < 0 or len(intent.number) != 16 or len(intent.body) != body_size:
        raise ValueError("counts do not fit")
    offset = begin + body_size
    inline = []
    for here, there in ranges[extent_count + filed_count :]:
        inline.append((here, there, at + offset))
        offset += there - here
    if offset > len(data):
        raise ValueError("data is missing")
    return Entered(intent, inline, ranges[extent_count : extent_count + filed_count])


def _packed(ranges: Iterable[Stretch]) -> bytes:
    return b"".join(_RANGE.pack(*each) for each in ranges)


def _unpacked(data: bytes | memoryview, count: int) -> Iterator[Stretch]:
    if not 0 <= count <= len(data) // _RANGE.size:
        raise ValueError("ranges are missing")
    for begin, end in _RANGE.iter_unpack(data[: count * _RANGE.size]):
        if not begin < end <= _SIZE_MAXIMUM:
            raise ValueError("a range has no size")
        yield begin, end


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _SIZE_MAXIMUM:
        raise ValueError("a size is none")
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}
