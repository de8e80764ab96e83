"""What a file system needs of an object store, whichever it is: operations, conditions, errors.

`S3Client` (vhostfs.backends.s3.client) is the one that the S3 back-end brings; another store stands in by
having these methods, and by saying in its `capabilities` what it cannot do.

Keys are str, UTF-8 on the wire, up to 1,024 bytes. ETags are opaque, quotes included. Sizes and offsets are
bytes, times nanoseconds since 1970. Buffers are only read, or only written, until the call returns.
"""

from __future__ import annotations

import errno
from collections.abc import Buffer, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

if TYPE_CHECKING:
    from vhostfs.backends.s3.operating.counters import Counters
    from vhostfs.backends.s3.operating.standing import Standing

PART_MINIMUM: Final = 5 << 20
"""The smallest part of a multipart upload, its last excepted."""

PARTS_MAXIMUM: Final = 10_000
"""The most parts of a multipart upload; they are numbered from 1."""

COPY_MAXIMUM: Final = 5 << 30
"""The largest object that one copy copies, and the largest part."""

REWRITE_MAXIMUM: Final = 8 << 20
"""The largest object that is written again for its metadata, by a store that cannot replace that alone."""

PAGE_MAXIMUM: Final = 1000
"""The most entries of a page of a listing, and the most keys of one batch of deletions."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond reading, writing, listing and deleting whole objects."""

    conditional_put: bool = True
    """PUT heeds If-Match and If-None-Match."""
    conditional_complete: bool = True
    """So does the completion of an upload in parts."""
    conditional_source: bool = True
    """A copy heeds x-amz-copy-source-if-match."""
    conditional_copy: bool = True
    """A copy heeds If-Match and If-None-Match on its target."""
    conditional_delete: bool = True
    """DELETE heeds If-Match."""
    multipart: bool = True
    copy_part: bool = True
    """A part may be a range of an object that is there."""
    conditional_copy_part: bool = True
    """Such a part heeds If-Match on its source."""
    replace_metadata: bool = True
    """A copy may replace the metadata; else it is the object written again, up to REWRITE_MAXIMUM."""
    list_from_key: bool = True
    """A listing is in the keys' order, and one that begins behind a key costs no more than its own pages."""
    rename: bool = False
    """One request renames an object (S3 Express)."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What is stored with an object beside its bytes, and must survive when these are rewritten."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    """User metadata: names in lower case, without the prefix that they have on the wire."""
    standard: Mapping[str, str] = field(default_factory=dict)
    """Headers of HTTP's own, in lower case: content-type, cache-control and so on."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as HEAD or GET tells of it."""

    key: str
    size: int
    etag: str
    modified: int
    headers: Headers
    storage_class: str = "STANDARD"
    version: str | None = None
    archived: bool = False
    """It lies in an archive, and cannot be read before it was restored."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells of it."""

    key: str
    size: int
    etag: str
    modified: int
    storage_class: str = "STANDARD"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a listing, both parts sorted by the bytes of the keys."""

    objects: Sequence[Listed]
    prefixes: Sequence[str]
    """What is common, up to the delimiter, of keys that lie deeper."""
    next: str | None
    """Where the next page begins, as `list` takes it; None after the last."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    etag: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload."""

    number: int
    etag: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload: str
    begun: int


class StoreError(OSError):
    """Base of what a store refuses; its errno is what a guest is answered.

    `code` is the store's own word for it. `doubtful` says that an earlier attempt of the same request may
    have been carried out although its answer was lost: the one who wrote must look.
    """

    number: ClassVar[int] = errno.EIO

    def __init__(self, message: str, *, code: str = "", status: int = 0, doubtful: bool = False) -> None:
        super().__init__(self.number, message)
        self.code = code
        self.status = status
        self.doubtful = doubtful


class BucketError(StoreError):
    """There is no such bucket."""


class MissingError(StoreError):
    """There is no such object or upload."""

    number = errno.ENOENT


class DeniedError(StoreError):
    """The credentials do not suffice, or are not known."""

    number = errno.EACCES


class ConditionError(StoreError):
    """The object is not what If-Match or If-None-Match demanded."""

    number = errno.ESTALE


class ConflictError(StoreError):
    """Another writer was at the same key at the same time; the request may be made again."""

    number = errno.EAGAIN


class RangeError(StoreError):
    """The range lies beyond the object's end."""

    number = errno.EINVAL


class ArchivedError(StoreError):
    """The object lies in an archive: it is to be restored first."""


class UnsupportedError(StoreError):
    """The store does not know the request, or one of its conditions."""

    number = errno.EOPNOTSUPP


class UnavailableError(StoreError):
    """The store does not answer, or has too much to do, also after the last attempt."""


class BrokenAnswerError(StoreError):
    """The store's answer is not what it should be: length, range, checksum or document are wrong."""


class ObjectStore(Protocol):
    """A bucket. All methods may run at once, also on the same key; all raise StoreError, or TimeoutError."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what this store can do."""

    @property
    def counters(self) -> Counters:
        """Return what was asked of it so far."""

    @property
    def standing(self) -> Standing:
        """Return whether it answers."""

    async def get(
        self, key: str, offset: int, target: Sequence[memoryview], *, if_match: str | None = None
    ) -> tuple[int, ObjectInfo]:
        """Read from an offset on into writable memory; return how many bytes, and of what.

        Fewer than there is room for at the end of the object; RangeError at or beyond it. With if_match the
        bytes are of that version, or ConditionError. Nothing is stored in the target after an error or
        return.
        """

    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object; MissingError."""

    async def list(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        page: str | None = None,
        limit: int = PAGE_MAXIMUM,
    ) -> Page:
        """Return a page of the keys with a prefix: behind `start_after`, or as another page named it."""

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: Headers | None = None,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Write a whole object. ConditionError, ConflictError."""

    async def copy(
        self,
        source: str,
        key: str,
        headers: Headers | None = None,
        *,
        source_match: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Copy an object of up to COPY_MAXIMUM; with headers these replace what the source has.

        if_match and if_absent are of what is there already; without `conditional_copy` they are not heeded.
        """

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete an object; one that is not there is no error, unless if_match is given."""

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, StoreError]:
        """Delete up to PAGE_MAXIMUM objects; return those that could not be, each with the reason."""

    async def rename(self, source: str, key: str, *, source_match: str | None = None) -> None:
        """Rename an object in one step, replacing none; UnsupportedError without the capability."""

    async def upload_begin(self, key: str, headers: Headers | None = None) -> str:
        """Begin a multipart upload, and return its name."""

    async def upload_part(self, key: str, upload: str, number: int, body: Sequence[Buffer]) -> Part:
        """Write a part, or write it again."""

    async def upload_copy(
        self, key: str, upload: str, number: int, source: str, offset: int, size: int, *, source_match: str
    ) -> Part:
        """Let a range of an object that is there be a part."""

    async def upload_complete(
        self,
        key: str,
        upload: str,
        parts: Sequence[Part],
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Make the parts, in order, the object."""

    async def upload_abort(self, key: str, upload: str) -> None:
        """Give an upload up, with its parts; one that is not there is no error."""

    async def upload_parts(self, key: str, upload: str) -> Sequence[Part]:
        """Return the parts that were written so far; MissingError."""

    async def uploads(self, prefix: str = "") -> Sequence[Upload]:
        """Return all uploads that are under way."""

    def close(self) -> None:
        """Give up all connections; requests under way fail. Does not wait."""
