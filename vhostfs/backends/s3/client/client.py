"""The S3 client: each operation of ObjectStore as one signed request, tried again where that may help.

What an operation sends stands in its method here; what all have in common, in performing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Buffer, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from vhostfs.backends.s3.client import answers, documents
from vhostfs.backends.s3.client.connection import Response
from vhostfs.backends.s3.client.credentials import Keychain
from vhostfs.backends.s3.client.headers import (
    condition,
    customer_headers,
    matches,
    stored,
    written_headers,
)
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.performing import Operation, Performer
from vhostfs.backends.s3.client.signing import encoded_query
from vhostfs.backends.s3.operating.counters import Counters
from vhostfs.backends.s3.operating.standing import Standing
from vhostfs.backends.s3.store import (
    PAGE_MAXIMUM,
    BrokenAnswerError,
    Capabilities,
    ConditionError,
    Headers,
    MissingError,
    ObjectInfo,
    Page,
    Part,
    StoreError,
    UnsupportedError,
    Upload,
    Written,
)

REWRITE_MAXIMUM: Final = 8 << 20
"""The largest object that is written anew where only its headers change."""


PAGES_MAXIMUM: Final = 100
"""The most pages of a listing of parts, or of uploads."""


class S3Client:
    """An ObjectStore on a bucket of S3. For one event loop, on which it is first used."""

    def __init__(self, options: ClientOptions, keychain: Keychain, standing: Standing | None = None) -> None:
        """A client without connections; raise ConfigurationError for what cannot be meant.

        `standing` is that of another client of the same bucket, where what they learn is to be told once.
        """
        self._performer = Performer(options, keychain, standing)
        self._server = options.capabilities
        """What the server heeds by itself."""
        self._customer = customer_headers(options.customer_key, "")
        self._customer_source = customer_headers(options.customer_key, "copy-source-")
        self._written = written_headers(options)

    @property
    def capabilities(self) -> Capabilities:
        """Return what can be asked for: what the server does not heed is compared here before."""
        return replace(
            self._server,
            conditional_put=True,
            conditional_complete=True,
            conditional_source=True,
            conditional_copy=True,
            conditional_delete=True,
            replace_metadata=True,
        )

    @property
    def server(self) -> Capabilities:
        """Return what the server can do by itself, as far as it is known."""
        return self._server

    def learn(self, server: Capabilities) -> None:
        """Take note of what the server can do by itself."""
        self._server = server

    @property
    def counters(self) -> Counters:
        """Return what was done so far."""
        return self._performer.counters

    @property
    def standing(self) -> Standing:
        """Return whether the server answers."""
        return self._performer.standing

    def close(self) -> None:
        """Give up all connections; requests under way fail."""
        self._performer.close()

    # ---- objects ----

    async def get(
        self, key: str, offset: int, target: Sequence[memoryview], *, if_match: str | None = None
    ) -> tuple[int, ObjectInfo]:
        """Read from an offset on into writable memory (GetObject); as ObjectStore.get."""
        room = sum(map(len, target))
        headers = {
            "range": f"bytes={offset}-{offset + room - 1}",
            "x-amz-checksum-mode": "ENABLED",
            **self._customer,
        }
        if if_match is not None:
            headers["if-match"] = if_match
        size = 0

        def place(status: int, found: Mapping[str, str]) -> Sequence[memoryview] | None:
            nonlocal size
            if status not in {200, 206}:
                return None
            size = answers.total_of_range(status, found, offset, room)
            return target

        operation = Operation("GetObject", f"reading {key}", "GET", key, headers=headers, place=place)
        for attempt in (1, 2):
            response = await self._performer.hedged(operation)
            if response.received != max(0, min(room, size - offset)):
                raise BrokenAnswerError(f"reading {key}: the server's answer is not as long as its range")
            if offset or response.received != size or matches(response, target):
                break
            if attempt == 2:
                raise BrokenAnswerError(
                    f"reading {key}: what was received does not have the object's checksum"
                )
        self._performer.counters.received += response.received
        return response.received, answers.info(key, response.headers, size)

    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object (HeadObject); MissingError."""
        response = await self._performer.perform(
            Operation("HeadObject", f"looking at {key}", "HEAD", key, headers=self._customer)
        )
        return answers.info(key, response.headers, answers.length(response.headers))

    async def list(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        page: str | None = None,
        limit: int = PAGE_MAXIMUM,
    ) -> Page:
        """Return a page of the keys with a prefix (ListObjectsV2); as ObjectStore.list."""
        parameters = [
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", str(limit)),
            ("prefix", prefix),
        ]
        optional = (
            ("delimiter", delimiter),
            ("start-after", start_after),
            ("continuation-token", page or ""),
        )
        parameters += [(name, value) for name, value in optional if value]
        query = encoded_query(parameters)
        response = await self._performer.perform(
            Operation("ListObjectsV2", f"listing {prefix or '/'}", "GET", "", query)
        )
        return documents.page(bytes(response.body))

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: Headers | None = None,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Write a whole object (PutObject); as ObjectStore.put."""
        conditions = await self._condition(key, if_match, if_absent, self._server.conditional_put)
        sent = {**stored(headers), **self._written, **self._customer, **conditions}
        operation = Operation(
            "PutObject", f"writing {key}", "PUT", key, headers=sent, body=body, changes=True
        )
        response = await self._performer.perform(operation)
        return _written(response)

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
        """Copy an object (CopyObject); as ObjectStore.copy."""
        if source == key and headers is not None and not self._server.replace_metadata:
            return await self._rewrite(key, headers, source_match)
        conditions = await self._condition(key, if_match, if_absent, self._server.conditional_copy)
        if not self._server.conditional_source:
            await self._condition(source, source_match, False, False)
        sent = {
            "x-amz-copy-source": self._performer.endpoint.source(source),
            "x-amz-metadata-directive": "COPY" if headers is None else "REPLACE",
            **stored(headers),
            **self._written,
            **self._customer,
            **self._customer_source,
            **conditions,
        }
        if source_match is not None:
            sent["x-amz-copy-source-if-match"] = source_match
        operation = Operation(
            "CopyObject",
            f"copying {source} to {key}",
            "PUT",
            key,
            headers=sent,
            changes=True,
            tells_errors_late=True,
        )
        response = await self._performer.perform(operation)
        etag = documents.result_etag(bytes(response.body))
        return Written(etag, response.headers.get("x-amz-version-id"))

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete an object (DeleteObject); as ObjectStore.delete."""
        operation = Operation(
            "DeleteObject",
            f"deleting {key}",
            "DELETE",
            key,
            headers=await self._condition(key, if_match, False, self._server.conditional_delete),
            changes=True,
        )
        try:
            await self._performer.perform(operation)
        except MissingError:
            if if_match is not None:
                raise

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, StoreError]:
        """Delete a batch (DeleteObjects); as ObjectStore.delete_many."""
        body = documents.deletion(keys)
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        what = f"deleting {len(keys)} objects"
        operation = Operation(
            "DeleteObjects",
            what,
            "POST",
            "",
            "delete=",
            {"content-md5": digest},
            (body,),
            changes=True,
            tells_errors_late=True,
        )
        response = await self._performer.perform(operation)
        failed = documents.undeleted(bytes(response.body))
        return {key: answers.error(200, refusal, f"deleting {key}") for key, refusal in failed.items()}

    async def rename(self, source: str, key: str, *, source_match: str | None = None) -> None:
        """Rename an object (RenameObject, of directory buckets); as ObjectStore.rename."""
        if not self._server.rename:
            raise UnsupportedError(f"renaming {source}: the store has no such request")
        headers = {"x-amz-rename-source": self._performer.endpoint.source(source), **condition(None, True)}
        if source_match is not None:
            headers["x-amz-rename-source-if-match"] = source_match
        await self._performer.perform(
            Operation(
                "RenameObject",
                f"renaming {source} to {key}",
                "PUT",
                key,
                "renameObject=",
                headers,
                changes=True,
            )
        )

    # ---- uploads in parts ----

    async def upload_begin(self, key: str, headers: Headers | None = None) -> str:
        """Begin an upload (CreateMultipartUpload)."""
        sent = {**stored(headers), **self._written, **self._customer}
        operation = Operation(
            "CreateMultipartUpload", f"writing {key}", "POST", key, "uploads=", sent, changes=True
        )
        return documents.upload_name(bytes((await self._performer.perform(operation)).body))

    async def upload_part(self, key: str, upload: str, number: int, body: Sequence[Buffer]) -> Part:
        """Write a part (UploadPart)."""
        operation = Operation(
            "UploadPart",
            f"writing part {number} of {key}",
            "PUT",
            key,
            _part_query(upload, number),
            self._customer,
            body,
            changes=True,
        )
        response = await self._performer.perform(operation)
        size = sum(memoryview(piece).nbytes for piece in body)
        return Part(number, _written(response).etag, size)

    async def upload_copy(
        self, key: str, upload: str, number: int, source: str, offset: int, size: int, *, source_match: str
    ) -> Part:
        """Let a range of an object be a part (UploadPartCopy)."""
        if not self._server.conditional_source:
            await self._condition(source, source_match, False, False)
        headers = {
            "x-amz-copy-source": self._performer.endpoint.source(source),
            "x-amz-copy-source-range": f"bytes={offset}-{offset + size - 1}",
            "x-amz-copy-source-if-match": source_match,
            **self._customer,
            **self._customer_source,
        }
        operation = Operation(
            "UploadPartCopy",
            f"copying part {number} of {key}",
            "PUT",
            key,
            _part_query(upload, number),
            headers,
            changes=True,
            tells_errors_late=True,
        )
        response = await self._performer.perform(operation)
        return Part(number, documents.result_etag(bytes(response.body)), size)

    async def upload_complete(
        self,
        key: str,
        upload: str,
        parts: Sequence[Part],
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Make the parts the object (CompleteMultipartUpload)."""
        operation = Operation(
            "CompleteMultipartUpload",
            f"completing {key}",
            "POST",
            key,
            encoded_query((("uploadId", upload),)),
            await self._condition(key, if_match, if_absent, self._server.conditional_complete),
            (documents.completion(parts),),
            changes=True,
            tells_errors_late=True,
        )
        response = await self._performer.perform(operation)
        etag = documents.result_etag(bytes(response.body))
        return Written(etag, response.headers.get("x-amz-version-id"))

    async def upload_abort(self, key: str, upload: str) -> None:
        """Give an upload up (AbortMultipartUpload)."""
        query = encoded_query((("uploadId", upload),))
        operation = Operation("AbortMultipartUpload", f"aborting {key}", "DELETE", key, query, changes=True)
        with suppress(MissingError):
            await self._performer.perform(operation)

    async def upload_parts(self, key: str, upload: str) -> Sequence[Part]:
        """Return the parts that were written so far (ListParts)."""
        found: list[Part] = []
        marker: str | None = ""
        pages = 0
        while marker is not None:
            parameters = [("uploadId", upload), *([("part-number-marker", marker)] if marker else [])]
            operation = Operation(
                "ListParts", f"listing parts of {key}", "GET", key, encoded_query(parameters)
            )
            parts, following = documents.parts(bytes((await self._performer.perform(operation)).body))
            found += parts
            pages += 1
            marker = _onward(marker, following, pages)
        return found

    async def uploads(self, prefix: str = "") -> Sequence[Upload]:
        """Return all uploads under way (ListMultipartUploads)."""
        try:
            return await self._uploads(prefix, encoded=True)
        except documents.UntoldEncodingError:  # Ceph encodes keys without a word
            return await self._uploads(prefix, encoded=False)

    async def _uploads(self, prefix: str, *, encoded: bool) -> Sequence[Upload]:
        found: list[Upload] = []
        marker: tuple[str, str] | None = ("", "")
        pages = 0
        while marker is not None:
            parameters = [("uploads", ""), ("prefix", prefix)]
            if encoded:
                parameters.append(("encoding-type", "url"))
            if marker[0]:
                parameters += [("key-marker", marker[0]), ("upload-id-marker", marker[1])]
            operation = Operation(
                "ListMultipartUploads", "listing uploads", "GET", "", encoded_query(parameters)
            )
            response = await self._performer.perform(operation)
            uploads, following = documents.uploads(bytes(response.body), wants_encoding=encoded)
            found += uploads
            pages += 1
            marker = _onward(marker, following, pages)
        return found

    # ---- what a server may not heed ----

    async def _condition(
        self, key: str, if_match: str | None, if_absent: bool, is_heeded: bool
    ) -> dict[str, str]:
        """Return the headers of a condition; none for one that is not heeded, but holds now, as HEAD tells.

        Raise ConditionError where that does not hold.
        """
        if is_heeded or (if_match is None and not if_absent):
            return condition(if_match, if_absent)
        try:
            etag = (await self.head(key)).etag
        except MissingError:
            etag = None
        if etag != if_match:
            raise ConditionError(f"{key}: somebody else has written")
        return {}

    async def _rewrite(self, key: str, headers: Headers, source_match: str | None) -> Written:
        """Write an object anew for its headers alone; UnsupportedError for one that is too large for that."""
        found = await self.head(key)
        if source_match not in {None, found.etag}:
            raise ConditionError(f"{key}: somebody else has written")
        if found.size > REWRITE_MAXIMUM:
            raise UnsupportedError(f"{key}: the server does not replace the metadata of an object")
        body = memoryview(bytearray(found.size))
        if found.size:
            await self.get(key, 0, [body], if_match=found.etag)
        return await self.put(key, [body], headers, if_match=found.etag)


def _onward[Marker](marker: Marker, following: Marker | None, pages: int) -> Marker | None:
    """Return the marker of the next page, which a broken server might give again and again."""
    if following == marker:
        raise BrokenAnswerError("a listing goes on where it was")
    if following is not None and pages == PAGES_MAXIMUM:
        raise BrokenAnswerError("a listing has no end")
    return following


def _part_query(upload: str, number: int) -> str:
    return encoded_query((("partNumber", str(number)), ("uploadId", upload)))


def _written(response: Response) -> Written:
    etag = response.headers.get("etag")
    if not etag:
        raise BrokenAnswerError("the server does not say what it has written")
    return Written(etag, response.headers.get("x-amz-version-id"))
