"""A bucket in memory: objects, uploads, and every condition that S3 knows on them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field


class RefusedError(Exception):
    """Raised for what S3 refuses: a status and a code."""

    def __init__(self, status: int, code: str, **headers: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.headers = headers


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object, with the headers that were stored with it."""

    data: bytes
    etag: str
    modified: float
    headers: Mapping[str, str]

    @property
    def checksum(self) -> str:
        """Return the CRC32 of all, as headers carry it."""
        return base64.b64encode(zlib.crc32(self.data).to_bytes(4, "big")).decode()


@dataclass(slots=True)
class PartedUpload:
    """An upload under way."""

    key: str
    headers: Mapping[str, str]
    begun: float
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class Bucket:
    """All that the server knows."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, PartedUpload] = field(default_factory=dict)
    part_minimum: int = 5 << 20
    _names: itertools.count[int] = field(default_factory=itertools.count)
    _sorted: list[str] | None = None

    def get(self, key: str) -> StoredObject:
        """Return an object; 404."""
        if key not in self.objects:
            raise RefusedError(404, "NoSuchKey")
        return self.objects[key]

    def put(self, key: str, data: bytes, headers: Mapping[str, str], etag: str | None = None) -> StoredObject:
        """Store an object."""
        etag = etag or f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        if key not in self.objects:
            self._sorted = None
        self.objects[key] = found = StoredObject(data, etag, time.time(), dict(headers))
        return found

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        if self.objects.pop(key, None) is not None:
            self._sorted = None

    def check_write(self, key: str, headers: Mapping[str, str]) -> None:
        """Check If-Match and If-None-Match of a write; 412, or 404 where If-Match finds nothing."""
        match = headers.get("if-match")
        if match is not None:
            if key not in self.objects:
                raise RefusedError(404, "NoSuchKey")
            if self.objects[key].etag != match:
                raise RefusedError(412, "PreconditionFailed")
        if headers.get("if-none-match") == "*" and key in self.objects:
            raise RefusedError(412, "PreconditionFailed")

    def page(
        self, prefix: str, delimiter: str, after: str, most: int, *, goes_on: bool = True
    ) -> tuple[list[tuple[str, StoredObject]], list[str], str | None]:
        """Return keys behind `after` and common prefixes, and where the next page begins.

        A page that goes on where another ended does not give its last prefix again; one that begins anywhere
        gives the prefix that it begins in.
        """
        if self._sorted is None:
            self._sorted = sorted(self.objects, key=str.encode)
        names = self._sorted
        encoded = str.encode
        at = max(
            bisect_left(names, encoded(prefix), key=encoded), bisect_right(names, encoded(after), key=encoded)
        )
        found: list[tuple[str, StoredObject]] = []
        prefixes: list[str] = []
        last = after
        while at < len(names) and names[at].startswith(prefix):
            name = names[at]
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            if goes_on and end >= 0 and after.startswith(name[: end + 1]):
                at += 1  # a prefix that an earlier page has given
                continue
            if len(found) + len(prefixes) == most:
                return found, prefixes, last
            if end >= 0:
                last = name[: end + 1]
                prefixes.append(last)
                at = bisect_left(names, encoded(last) + b"\xff" * 8, key=encoded)
            else:
                last = name
                found.append((name, self.objects[name]))
                at += 1
        return found, prefixes, None

    def begin_upload(self, key: str, headers: Mapping[str, str]) -> str:
        """Begin an upload."""
        name = f"upload-{next(self._names)}"
        self.uploads[name] = PartedUpload(key, dict(headers), time.time())
        return name

    def upload(self, key: str, name: str) -> PartedUpload:
        """Return an upload; 404."""
        found = self.uploads.get(name)
        if found is None or found.key != key:
            raise RefusedError(404, "NoSuchUpload")
        return found

    def complete(self, key: str, name: str, parts: list[tuple[int, str]]) -> StoredObject:
        """Make parts an object; 400 for parts that are not there, out of order or too small."""
        upload = self.upload(key, name)
        if parts != sorted(parts) or not parts:
            raise RefusedError(400, "InvalidPartOrder")
        pieces = []
        for number, etag in parts:
            if number not in upload.parts or upload.parts[number][0] != etag:
                raise RefusedError(400, "InvalidPart")
            pieces.append(upload.parts[number][1])
        if any(len(piece) < self.part_minimum for piece in pieces[:-1]):
            raise RefusedError(400, "EntityTooSmall")
        digests = b"".join(hashlib.md5(piece, usedforsecurity=False).digest() for piece in pieces)
        etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(pieces)}"'
        del self.uploads[name]
        return self.put(key, b"".join(pieces), upload.headers, etag)
