"""The XML that S3 speaks: listings, uploads, batches of deletions, and errors.

What a server sends is not trusted: documents are bounded by who receives them, a document type (and with it
entities) is refused, and what is missing or no number is a BrokenAnswerError. Namespaces are ignored, as
servers differ in them.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from vhostfs.backends.s3.store import BrokenAnswerError, Listed, Page, Part, Upload

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\d*Z?$")


TAGS_MAXIMUM: Final = 100_000
"""The most tags of a document; a page of 1,000 objects has some 20,000."""

SIZE_MAXIMUM: Final = 1 << 53
"""The most bytes that an object may be said to have."""

TOKEN_MAXIMUM: Final = 8192
"""The longest mark of a listing's next page: it becomes part of a request."""


class UntoldEncodingError(BrokenAnswerError):
    """Keys are perhaps encoded, and perhaps not: the server does not say."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error document."""

    code: str
    message: str
    region: str = ""
    """Where the bucket is, when the request went elsewhere."""


def parse(document: bytes) -> ElementTree.Element:
    """Return the root of a document; BrokenAnswerError for what is none."""
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise BrokenAnswerError("the server's answer declares a document type")
    if document.count(b"<") > TAGS_MAXIMUM:
        raise BrokenAnswerError("the server's answer has more elements than any could need")
    try:
        # As text, so that it declares no other encoding, in which a document type would look otherwise.
        # Spaces come first while the server is busy.
        return ElementTree.fromstring(document.decode().lstrip())
    except UnicodeDecodeError:
        raise BrokenAnswerError("the server's answer is not in UTF-8") from None
    except ElementTree.ParseError as error:
        raise BrokenAnswerError(f"the server's answer is no XML: {error}") from None


def refusal(document: bytes) -> Refusal:
    """Return what an error document says; an empty one where there is none, as after HEAD."""
    try:
        root = parse(document)
    except BrokenAnswerError:
        return Refusal("", "")
    return Refusal(_text(root, "Code"), _text(root, "Message"), _text(root, "Region"))


def page(document: bytes) -> Page:
    """Return a page of a listing that was asked for with encoding-type=url (ListObjectsV2)."""
    objects: list[Listed] = []
    prefixes: list[str] = []
    more = False
    token = ""
    encoded = False
    root = parse(document)
    _expect(root, "ListBucketResult")
    for element in root:
        match _local(element):
            case "EncodingType":
                encoded = element.text == "url"
            case "IsTruncated":
                more = element.text == "true"
            case "NextContinuationToken":
                token = element.text or ""
    space = root.tag.removesuffix(_local(root))
    for element in root.iterfind(f"{space}Contents"):
        objects.append(_listed(element, space, encoded))
    for element in root.iterfind(f"{space}CommonPrefixes"):
        prefixes.append(_key(element.findtext(f"{space}Prefix") or "", encoded))
    if more and not token:
        raise BrokenAnswerError("a listing goes on, but does not say where")
    if len(token) > TOKEN_MAXIMUM:
        raise BrokenAnswerError("a listing goes on at a mark that is too long")
    return Page(objects, prefixes, token if more else None)


def upload_name(document: bytes) -> str:
    """Return the name of an upload that has begun (InitiateMultipartUploadResult)."""
    root = parse(document)
    _expect(root, "InitiateMultipartUploadResult")
    name = _text(root, "UploadId")
    if not name:
        raise BrokenAnswerError("an upload has begun that has no name")
    return name


def result_etag(document: bytes) -> str:
    """Return the ETag of a copy or of a completed upload; an error may come with status 200, too."""
    root = parse(document)
    _expect(root, "CopyObjectResult", "CopyPartResult", "CompleteMultipartUploadResult")
    etag = _text(root, "ETag")
    if not etag:
        raise BrokenAnswerError("what was written has no ETag")
    return etag


def parts(document: bytes) -> tuple[list[Part], str | None]:
    """Return the parts of an upload, and the marker of the next page (ListPartsResult)."""
    root = parse(document)
    _expect(root, "ListPartsResult")
    found = [
        Part(_number(element, "PartNumber"), _text(element, "ETag"), _number(element, "Size"))
        for element in _each(root, "Part")
    ]
    more = _text(root, "IsTruncated") == "true"
    return found, _marker(root, "NextPartNumberMarker") if more else None


def uploads(document: bytes, *, wants_encoding: bool = True) -> tuple[list[Upload], tuple[str, str] | None]:
    """Return uploads under way, and the markers of the next page (ListMultipartUploadsResult).

    UntoldEncodingError where encoding was asked for, and a key can be read both ways.
    """
    root = parse(document)
    _expect(root, "ListMultipartUploadsResult")
    encoded = _text(root, "EncodingType") == "url"
    if wants_encoding and not encoded and any("%" in _text(each, "Key") for each in _each(root, "Upload")):
        raise UntoldEncodingError("a listing of uploads does not say how its keys are encoded")
    found = [
        Upload(
            _key(_text(element, "Key"), encoded),
            _text(element, "UploadId"),
            instant(_text(element, "Initiated")),
        )
        for element in _each(root, "Upload")
    ]
    if _text(root, "IsTruncated") != "true":
        return found, None
    return found, (_key(_marker(root, "NextKeyMarker"), encoded), _marker(root, "NextUploadIdMarker"))


def completion(parts: Iterable[Part]) -> bytes:
    """Return the document that completes an upload."""
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>"
        for part in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def deletion(keys: Sequence[str]) -> bytes:
    """Return the document that deletes a batch of keys, and asks only for what fails."""
    listed = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
    return f"<Delete><Quiet>true</Quiet>{listed}</Delete>".encode()


def undeleted(document: bytes) -> dict[str, Refusal]:
    """Return the keys that were not deleted, and why (DeleteResult)."""
    root = parse(document)
    _expect(root, "DeleteResult")
    return {
        _text(element, "Key"): Refusal(_text(element, "Code"), _text(element, "Message"))
        for element in _each(root, "Error")
    }


def session(document: bytes) -> dict[str, str]:
    """Return the credentials of an answer of the Security Token Service, by their names there."""
    return {
        _local(element): element.text or ""
        for found in parse(document).iter()
        if _local(found) == "Credentials"
        for element in found
    }


def sensible_size(digits: str) -> int:
    """Return a size; BrokenAnswerError for one that no file has."""
    if len(digits) > len(str(SIZE_MAXIMUM)) or int(digits) > SIZE_MAXIMUM:
        raise BrokenAnswerError(f"the server's answer has an object of {digits[:20]} bytes")
    return int(digits)


def instant(text: str) -> int:
    """Return a time of ISO 8601 as nanoseconds since 1970."""
    match = _TIME.match(text)
    if match is None:
        raise BrokenAnswerError(f"the server's answer has no time where one should be: {text[:40]!r}")
    day, hour, minute, second, fraction = match.groups("0")
    try:
        seconds = _day(day) + int(hour) * 3600 + int(minute) * 60 + int(second)
    except ValueError:
        raise BrokenAnswerError(f"the server's answer has a day that never was: {day}") from None
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))


@lru_cache(maxsize=64)
def _day(text: str) -> int:
    year, month, day = text.split("-")
    return calendar.timegm((int(year), int(month), int(day), 0, 0, 0))


def _listed(element: ElementTree.Element, space: str, encoded: bool) -> Listed:
    key = element.findtext(f"{space}Key")
    size = element.findtext(f"{space}Size")
    if not key or not size or not size.isdecimal():
        raise BrokenAnswerError("a listing has an object without key or size")
    etag = element.findtext(f"{space}ETag") or ""
    if not etag.isascii() or not etag.isprintable():
        raise BrokenAnswerError("a listing has an ETag that no header can carry")
    return Listed(
        _key(key, encoded),
        sensible_size(size),
        etag,
        instant(element.findtext(f"{space}LastModified") or ""),
        element.findtext(f"{space}StorageClass") or "STANDARD",
    )


def _key(text: str, encoded: bool) -> str:
    # As in forms, a space is a plus sign, and a plus sign is encoded.
    return unquote_plus(text, errors="surrogateescape") if encoded and ("%" in text or "+" in text) else text


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _each(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (element for element in root if _local(element) == name)


def _text(root: ElementTree.Element, name: str) -> str:
    return next((element.text or "" for element in _each(root, name)), "")


def _number(root: ElementTree.Element, name: str) -> int:
    text = _text(root, name)
    if not text.isdecimal():
        raise BrokenAnswerError(f"the server's answer has no number as {name}")
    return sensible_size(text)


def _marker(root: ElementTree.Element, name: str) -> str:
    text = _text(root, name)
    if len(text) > TOKEN_MAXIMUM:
        raise BrokenAnswerError("a listing goes on at a mark that is too long")
    return text


def _expect(root: ElementTree.Element, *names: str) -> None:
    if _local(root) not in names:
        raise BrokenAnswerError(f"the server's answer is a {_local(root)[:40]}, not a {names[0]}")
