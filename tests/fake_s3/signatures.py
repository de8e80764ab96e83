"""Whether a request was signed by who knows the secret, as the S3 API reference has it."""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from typing import Final

from tests.fake_s3.bucket import RefusedError
from tests.fake_s3.requests import Asked

AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$"
)
SKEW: Final = 15 * 60


def check(asked: Asked, access_key: str, secret: str, region: str, skew: float) -> None:
    """Check a request's signature, region, time and payload; RefusedError."""
    match = AUTHORIZATION.match(asked.headers.get("authorization", ""))
    if match is None:
        raise RefusedError(403, "AccessDenied")
    key, day, signed_region, names, signature = match.groups()
    if key != access_key:
        raise RefusedError(403, "InvalidAccessKeyId")
    if signed_region != region:
        raise RefusedError(400, "AuthorizationHeaderMalformed", x_amz_bucket_region=region)
    stamp = asked.headers.get("x-amz-date", "")
    sent = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    if abs(sent - time.time() - skew) > SKEW:
        raise RefusedError(403, "RequestTimeTooSkewed")
    payload = asked.headers["x-amz-content-sha256"]
    if payload not in {"UNSIGNED-PAYLOAD", hashlib.sha256(asked.body).hexdigest()}:
        raise RefusedError(400, "XAmzContentSHA256Mismatch")
    missing = [name for name in asked.headers if name.startswith("x-amz-") and name not in names.split(";")]
    if missing or "host" not in names.split(";"):
        raise RefusedError(403, "AccessDenied")
    query = "&".join(sorted(asked.raw_query.split("&"))) if asked.raw_query else ""
    headers = "".join(f"{name}:{asked.headers[name].strip()}\n" for name in names.split(";"))
    canonical = "\n".join((asked.method, asked.raw_path, query, headers, names, payload))
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    derived = b"AWS4" + secret.encode()
    for step in (day, region, "s3", "aws4_request"):
        derived = hmac.digest(derived, step.encode(), "sha256")
    if hmac.digest(derived, text.encode(), "sha256").hex() != signature:
        raise RefusedError(403, "SignatureDoesNotMatch")
