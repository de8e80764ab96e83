"""AWS Signature Version 4, as S3 wants it: the path is encoded once, and the payload's hash is a header.

The algorithm is that of "Authenticating Requests: Using the Authorization Header" in the S3 API reference.
The key that signs is derived anew a day, a region and a secret, and kept.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Buffer, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import quote

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""Stands for the payload's hash where TLS protects the payload."""

EMPTY: Final = hashlib.sha256(b"").hexdigest()
"""The hash of no payload."""

ALGORITHM: Final = "AWS4-HMAC-SHA256"

# What connections are about, and what proxies may change, is not signed.
_UNSIGNED_HEADERS: Final = frozenset(
    ("expect", "user-agent", "connection", "transfer-encoding", "content-length")
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. `expires` is a time as time.time() counts it; None: never."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires: float | None = None


@lru_cache(maxsize=1024)
def encoded_path(path: str) -> str:
    """Return a path as it is sent and signed: all but unreserved characters and '/' encoded."""
    return quote(path, safe="/-_.~")


def encoded_query(parameters: Iterable[tuple[str, str]]) -> str:
    """Return a query in its canonical order and encoding, in which it is also sent."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


def payload_hash(body: Iterable[Buffer]) -> str:
    """Return what a payload is signed as."""
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    return digest.hexdigest()


class Signer:
    """Signs requests to one region. No method waits; one event loop at a time."""

    __slots__ = ("_key", "_key_of", "_second", "_stamp", "region", "service")

    def __init__(self, region: str, service: str = "s3") -> None:
        """A signer for a region, and for a service whose name goes into the signature."""
        self.region = region
        self.service = service
        self._key_of: tuple[str, str, str] = ("", "", "")
        self._key = b""
        self._second = -1
        self._stamp = ""

    def sign(
        self,
        credentials: Credentials,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        payload: str,
        now: float,
    ) -> None:
        """Add to the headers of a request what proves who sends it.

        Path and query are encoded already, by encoded_path and encoded_query. Headers are named in lower
        case; `host` is among them. `payload` is a payload_hash, EMPTY or UNSIGNED; `now` the time that the
        server has.
        """
        stamp = self._timestamp(now)
        headers["x-amz-date"] = stamp
        headers["x-amz-content-sha256"] = payload
        if credentials.session_token is not None:
            headers["x-amz-security-token"] = credentials.session_token
        names = sorted(name for name in headers if name not in _UNSIGNED_HEADERS)
        canonical = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
        signed = ";".join(names)
        request = f"{method}\n{path}\n{query}\n{canonical}\n{signed}\n{payload}"
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(
            self._signing_key(credentials.secret_key, stamp[:8]), text.encode(), "sha256"
        ).hex()
        headers["authorization"] = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )

    def _timestamp(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._stamp

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key_of != (secret, day, self.region):
            key = f"AWS4{secret}".encode()
            for step in (day, self.region, self.service, "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._key, self._key_of = key, (secret, day, self.region)
        return self._key
