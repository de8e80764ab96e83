"""The headers of requests: conditions, what is stored with an object, encryption, checksums."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Buffer, Sequence

from vhostfs.backends.s3.client import answers
from vhostfs.backends.s3.client.connection import Response
from vhostfs.backends.s3.client.options import ClientOptions, Encryption
from vhostfs.backends.s3.store import Headers, UnsupportedError


def condition(if_match: str | None, if_absent: bool) -> dict[str, str]:
    if if_match is not None:
        return {"if-match": if_match}
    return {"if-none-match": "*"} if if_absent else {}


def stored(headers: Headers | None) -> dict[str, str]:
    """Return the headers that store an object's headers; UnsupportedError for what HTTP cannot carry."""
    if headers is None:
        return {}
    stored = {
        **headers.standard,
        **{f"{answers.METADATA}{name}": value for name, value in headers.metadata.items()},
    }
    for name, value in stored.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise UnsupportedError(f"the header {name!r} has characters that HTTP cannot carry")
    return stored


def written_headers(options: ClientOptions) -> dict[str, str]:
    """Return the headers of every request that makes an object."""
    headers = {}
    if options.storage_class is not None:
        headers["x-amz-storage-class"] = options.storage_class
    if options.encryption is Encryption.S3:
        headers["x-amz-server-side-encryption"] = "AES256"
    elif options.encryption is Encryption.KMS:
        headers["x-amz-server-side-encryption"] = "aws:kms"
        if options.kms_key is not None:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = options.kms_key
    return headers


def customer_headers(key: bytes | None, prefix: str) -> dict[str, str]:
    """Return the headers that bring the customer's key; the prefix says for what: "" or "copy-source-"."""
    if key is None:
        return {}
    name = f"x-amz-{prefix}server-side-encryption-customer"
    digest = hashlib.md5(key, usedforsecurity=False).digest()
    return {
        f"{name}-algorithm": "AES256",
        f"{name}-key": base64.b64encode(key).decode(),
        f"{name}-key-md5": base64.b64encode(digest).decode(),
    }


def crc32(body: Sequence[Buffer]) -> str:
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def matches(response: Response, target: Sequence[memoryview]) -> bool:
    """Tell whether a whole object has the checksum that the server knows of it, if it knows one."""
    known = response.headers.get("x-amz-checksum-crc32")
    if known is None or "-" in known or response.headers.get("x-amz-checksum-type") == "COMPOSITE":
        return True
    left = response.received
    pieces = []
    for segment in target:
        pieces.append(segment[:left])
        left -= len(pieces[-1])
    return crc32(pieces) == known
