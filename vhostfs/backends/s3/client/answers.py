"""What S3's status codes and headers mean: objects, and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from vhostfs.backends.s3.client import documents
from vhostfs.backends.s3.client.documents import Refusal
from vhostfs.backends.s3.store import (
    ArchivedError,
    BrokenAnswerError,
    BucketError,
    ConditionError,
    ConflictError,
    DeniedError,
    Headers,
    MissingError,
    ObjectInfo,
    RangeError,
    StoreError,
    UnavailableError,
    UnsupportedError,
)

METADATA: Final = "x-amz-meta-"
STANDARD: Final = frozenset(
    (
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
    )
)
"""Headers that are stored with an object."""

_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})$")
_ARCHIVES: Final = frozenset(("GLACIER", "DEEP_ARCHIVE"))

_CODES: Final[Mapping[str, type[StoreError]]] = {
    "NoSuchKey": MissingError,
    "NoSuchBucket": BucketError,
    "NoSuchUpload": MissingError,
    "NotFound": MissingError,
    "AccessDenied": DeniedError,
    "InvalidAccessKeyId": DeniedError,
    "SignatureDoesNotMatch": DeniedError,
    "ExpiredToken": DeniedError,
    "InvalidToken": DeniedError,
    "PreconditionFailed": ConditionError,
    "ConditionalRequestConflict": ConflictError,
    "OperationAborted": ConflictError,
    "InvalidRange": RangeError,
    "InvalidObjectState": ArchivedError,
    "NotImplemented": UnsupportedError,
    "MethodNotAllowed": UnsupportedError,
    "SlowDown": UnavailableError,
    "InternalError": UnavailableError,
    "ServiceUnavailable": UnavailableError,
    "RequestTimeout": UnavailableError,
}
_STATUSES: Final[Mapping[int, type[StoreError]]] = {
    401: DeniedError,
    403: DeniedError,
    404: MissingError,
    405: UnsupportedError,
    409: ConflictError,
    412: ConditionError,
    416: RangeError,
    429: UnavailableError,
    501: UnsupportedError,
}


def error(status: int, refusal: Refusal, what: str) -> StoreError:
    """Return the error that an answer is, for an operation that is named as `what`."""
    kind = _CODES.get(refusal.code) or _STATUSES.get(status)
    if kind is None:
        kind = UnavailableError if status >= 500 else StoreError
    said = ": ".join(filter(None, (refusal.code, refusal.message[:300])))
    return kind(f"{what}: {said or f'HTTP status {status}'}", code=refusal.code, status=status)


def info(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Return what headers tell of an object of a size."""
    metadata = {
        name.removeprefix(METADATA): value for name, value in headers.items() if name.startswith(METADATA)
    }
    standard = {name: value for name, value in headers.items() if name in STANDARD}
    storage_class = headers.get("x-amz-storage-class", "STANDARD")
    restored = 'ongoing-request="false"' in headers.get("x-amz-restore", "")
    return ObjectInfo(
        key,
        size,
        headers.get("etag", ""),
        modified(headers.get("last-modified")),
        Headers(metadata, standard),
        storage_class,
        headers.get("x-amz-version-id"),
        archived=storage_class in _ARCHIVES and not restored,
    )


@lru_cache(maxsize=1024)
def modified(text: str | None) -> int:
    """Return a Last-Modified header as nanoseconds since 1970; 0 without one."""
    if text is None:
        return 0
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        raise BrokenAnswerError(
            f"the server's answer has no time where one should be: {text[:40]!r}"
        ) from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * 1_000_000_000


def length(headers: Mapping[str, str]) -> int:
    """Return the Content-Length; BrokenAnswerError without one."""
    text = headers.get("content-length", "")
    if not text.isdecimal():
        raise BrokenAnswerError("the server's answer does not say how long the object is")
    return documents.sensible_size(text)


def total_of_range(status: int, headers: Mapping[str, str], offset: int, room: int) -> int:
    """Check that an answer is the range that was asked for, and return the size of the whole object."""
    if status == 200:
        size = length(headers)
        if offset or size > room:
            raise BrokenAnswerError("the server does not heed ranges")
        return size
    match = _RANGE.match(headers.get("content-range", ""))
    if match is None:
        raise BrokenAnswerError("the server's answer does not say which range it is")
    first, last, size = (documents.sensible_size(number) for number in match.groups())
    if first != offset or last != min(offset + room, size) - 1:
        raise BrokenAnswerError(
            f"the server answers bytes {first} to {last} of {size}, others than were asked for"
        )
    if "content-length" in headers and length(headers) != last - first + 1:
        raise BrokenAnswerError("the server's answer is not as long as its range")
    return size
