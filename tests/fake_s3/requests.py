"""S3's requests: what a method, a path, a query and headers ask of a bucket, and the answer."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_plus, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.fake_s3.bucket import Bucket, RefusedError, StoredObject

STORED: Final = re.compile(
    r"x-amz-meta-|content-type$|content-encoding$|content-language$|content-disposition$|cache-control$|expires$"
    r"|x-amz-storage-class$"
)
RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. Path and query are as they were sent, and decoded."""

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: bytes
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """An answer; a HEAD has the body's length and not the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None


def operation(asked: Asked) -> str:
    """Return the request's name in the S3 API."""
    query, method = asked.query, asked.method
    if not asked.key:
        named = {
            "GET": "ListMultipartUploads" if "uploads" in query else "ListObjectsV2",
            "HEAD": "HeadBucket",
        }
        return "DeleteObjects" if method == "POST" and "delete" in query else named.get(method, "Unknown")
    copies = "x-amz-copy-source" in asked.headers
    match method:
        case "GET":
            return "ListParts" if "uploadId" in query else "GetObject"
        case "HEAD":
            return "HeadObject"
        case "PUT" if "partNumber" in query:
            return "UploadPartCopy" if copies else "UploadPart"
        case "PUT":
            return "RenameObject" if "renameObject" in query else "CopyObject" if copies else "PutObject"
        case "POST":
            return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
    return "Unknown"


def answer(bucket: Bucket, asked: Asked) -> Answer:
    """Do what is asked, and return the answer; raise RefusedError."""
    handler = HANDLERS.get(operation(asked))
    if handler is None:
        raise RefusedError(501, "NotImplemented")
    return handler(bucket, asked)


def refused(error: RefusedError, method: str) -> Answer:
    """Return the answer that a refusal is."""
    body = f"<Error><Code>{error.code}</Code><Message>told by a test</Message></Error>"
    headers = {name.replace("_", "-"): value for name, value in error.headers.items()}
    return Answer(error.status, headers, b"" if method == "HEAD" else _document(body))


def _document(body: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def _stored(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if STORED.match(name)}


def _told(found: StoredObject) -> dict[str, str]:
    modified = email.utils.formatdate(found.modified, usegmt=True)
    return {"etag": found.etag, "last-modified": modified, "accept-ranges": "bytes", **found.headers}


def _check_payload(asked: Asked) -> None:
    expected = asked.headers.get("x-amz-checksum-crc32")
    if expected and base64.b64encode(zlib.crc32(asked.body).to_bytes(4, "big")).decode() != expected:
        raise RefusedError(400, "BadDigest")


def _get(bucket: Bucket, asked: Asked) -> Answer:
    found = bucket.get(asked.key)
    if asked.headers.get("if-match", found.etag) != found.etag:
        raise RefusedError(412, "PreconditionFailed")
    headers = _told(found)
    size = len(found.data)
    if asked.headers.get("x-amz-checksum-mode") == "ENABLED" and "-" not in found.etag:
        headers["x-amz-checksum-crc32"] = found.checksum
    match = RANGE.match(asked.headers.get("range", ""))
    if match is None:
        body, status = found.data, 200
    else:
        first = int(match[1])
        last = min(int(match[2]) if match[2] else size - 1, size - 1)
        if first >= size:
            raise RefusedError(416, "InvalidRange")
        body, status = found.data[first : last + 1], 206
        headers["content-range"] = f"bytes {first}-{last}/{size}"
    if asked.method == "HEAD":
        return Answer(200, headers, length=size)
    return Answer(status, headers, body)


def _put(bucket: Bucket, asked: Asked) -> Answer:
    _check_payload(asked)
    bucket.check_write(asked.key, asked.headers)
    found = bucket.put(asked.key, asked.body, _stored(asked.headers))
    return Answer(200, {"etag": found.etag})


def _source(bucket: Bucket, asked: Asked) -> StoredObject:
    source = unquote(asked.headers["x-amz-copy-source"]).lstrip("/").partition("/")[2]
    found = bucket.get(source)
    if asked.headers.get("x-amz-copy-source-if-match", found.etag) != found.etag:
        raise RefusedError(412, "PreconditionFailed")
    return found


def _copy(bucket: Bucket, asked: Asked) -> Answer:
    found = _source(bucket, asked)
    bucket.check_write(asked.key, asked.headers)
    replaces = asked.headers.get("x-amz-metadata-directive") == "REPLACE"
    made = bucket.put(asked.key, found.data, _stored(asked.headers) if replaces else found.headers)
    modified = _time(made.modified)
    body = f"<ETag>{escape(made.etag)}</ETag><LastModified>{modified}</LastModified>"
    return Answer(200, {}, _document(f"<CopyObjectResult>{body}</CopyObjectResult>"))


def _delete(bucket: Bucket, asked: Asked) -> Answer:
    match = asked.headers.get("if-match")
    if match is not None and bucket.get(asked.key).etag != match:
        raise RefusedError(412, "PreconditionFailed")
    bucket.delete(asked.key)
    return Answer(204)


def _delete_many(bucket: Bucket, asked: Asked) -> Answer:
    digest = base64.b64encode(hashlib.md5(asked.body, usedforsecurity=False).digest()).decode()
    if asked.headers.get("content-md5") != digest:
        raise RefusedError(400, "InvalidDigest")
    for element in ElementTree.fromstring(asked.body).iter("Key"):
        bucket.delete(element.text or "")
    return Answer(200, {}, _document("<DeleteResult></DeleteResult>"))


def _encoded(key: str) -> str:
    """Return a key as S3 encodes it in documents: a space as a plus sign."""
    return quote_plus(key, safe="/")


def _list(bucket: Bucket, asked: Asked) -> Answer:
    query = asked.query
    token = query.get("continuation-token")
    after = bytes.fromhex(token).decode() if token else query.get("start-after", "")
    most = min(int(query.get("max-keys", "1000")), 1000)
    found, prefixes, following = bucket.page(
        query.get("prefix", ""), query.get("delimiter", ""), after, most, goes_on=bool(token)
    )
    coded: Callable[[str], str] = _encoded if query.get("encoding-type") == "url" else escape
    parts = ['<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">']
    parts.append("<EncodingType>url</EncodingType>" if coded is _encoded else "")
    parts.append(f"<IsTruncated>{'true' if following is not None else 'false'}</IsTruncated>")
    if following is not None:
        parts.append(f"<NextContinuationToken>{following.encode().hex()}</NextContinuationToken>")
    for key, item in found:
        parts.append(
            f"<Contents><Key>{coded(key)}</Key><LastModified>{_time(item.modified)}</LastModified>"
            f"<ETag>{escape(item.etag)}</ETag><Size>{len(item.data)}</Size>"
            f"<StorageClass>{item.headers.get('x-amz-storage-class', 'STANDARD')}</StorageClass></Contents>"
        )
    parts += [f"<CommonPrefixes><Prefix>{coded(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes]
    parts.append("</ListBucketResult>")
    return Answer(200, {}, _document("".join(parts)))


def _head_bucket(_bucket: Bucket, _asked: Asked) -> Answer:
    return Answer(200, {"x-amz-bucket-region": "us-east-1"}, length=0)


def _begin(bucket: Bucket, asked: Asked) -> Answer:
    name = bucket.begin_upload(asked.key, _stored(asked.headers))
    body = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
    return Answer(200, {}, _document(body))


def _part(bucket: Bucket, asked: Asked) -> Answer:
    _check_payload(asked)
    upload = bucket.upload(asked.key, asked.query["uploadId"])
    etag = f'"{hashlib.md5(asked.body, usedforsecurity=False).hexdigest()}"'
    upload.parts[int(asked.query["partNumber"])] = (etag, asked.body)
    return Answer(200, {"etag": etag})


def _part_copy(bucket: Bucket, asked: Asked) -> Answer:
    upload = bucket.upload(asked.key, asked.query["uploadId"])
    data = _source(bucket, asked).data
    match = RANGE.match(asked.headers.get("x-amz-copy-source-range", ""))
    if match is not None:
        if not match[2] or int(match[2]) >= len(data):
            raise RefusedError(400, "InvalidArgument")
        data = data[int(match[1]) : int(match[2]) + 1]
    etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    upload.parts[int(asked.query["partNumber"])] = (etag, data)
    body = f"<CopyPartResult><ETag>{escape(etag)}</ETag></CopyPartResult>"
    return Answer(200, {}, _document(body))


def _complete(bucket: Bucket, asked: Asked) -> Answer:
    name = asked.query["uploadId"]
    bucket.upload(asked.key, name)
    bucket.check_write(asked.key, asked.headers)
    listed = [
        (int(part.findtext("PartNumber") or "0"), part.findtext("ETag") or "")
        for part in ElementTree.fromstring(asked.body).iter("Part")
    ]
    made = bucket.complete(asked.key, name, listed)
    body = f"<CompleteMultipartUploadResult><ETag>{escape(made.etag)}</ETag></CompleteMultipartUploadResult>"
    return Answer(200, {}, b"   \n" + _document(body))  # S3 keeps the connection alive with spaces


def _abort(bucket: Bucket, asked: Asked) -> Answer:
    bucket.upload(asked.key, asked.query["uploadId"])
    del bucket.uploads[asked.query["uploadId"]]
    return Answer(204)


def _list_parts(bucket: Bucket, asked: Asked) -> Answer:
    upload = bucket.upload(asked.key, asked.query["uploadId"])
    marker = int(asked.query.get("part-number-marker", "0"))
    numbers = sorted(number for number in upload.parts if number > marker)
    shown, more = numbers[:1000], len(numbers) > 1000
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(upload.parts[number][0])}</ETag>"
        f"<Size>{len(upload.parts[number][1])}</Size></Part>"
        for number in shown
    )
    onward = f"<NextPartNumberMarker>{shown[-1]}</NextPartNumberMarker>" if more else ""
    truncated = "true" if more else "false"
    body = f"<ListPartsResult><IsTruncated>{truncated}</IsTruncated>{onward}{listed}</ListPartsResult>"
    return Answer(200, {}, _document(body))


def _list_uploads(bucket: Bucket, asked: Asked) -> Answer:
    prefix = asked.query.get("prefix", "")
    listed = "".join(
        f"<Upload><Key>{_encoded(upload.key)}</Key><UploadId>{name}</UploadId>"
        f"<Initiated>{_time(upload.begun)}</Initiated></Upload>"
        for name, upload in bucket.uploads.items()
        if upload.key.startswith(prefix)
    )
    body = f"<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{listed}"
    return Answer(200, {}, _document(f"<ListMultipartUploadsResult>{body}</ListMultipartUploadsResult>"))


HANDLERS: Final[Mapping[str, Callable[[Bucket, Asked], Answer]]] = {
    "GetObject": _get,
    "HeadObject": _get,
    "PutObject": _put,
    "CopyObject": _copy,
    "DeleteObject": _delete,
    "DeleteObjects": _delete_many,
    "ListObjectsV2": _list,
    "HeadBucket": _head_bucket,
    "CreateMultipartUpload": _begin,
    "UploadPart": _part,
    "UploadPartCopy": _part_copy,
    "CompleteMultipartUpload": _complete,
    "AbortMultipartUpload": _abort,
    "ListParts": _list_parts,
    "ListMultipartUploads": _list_uploads,
}
