"""Signatures are those that botocore makes."""

from __future__ import annotations

import calendar
import time
from datetime import UTC, datetime

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from vhostfs.backends.s3.client.signing import (
    EMPTY,
    UNSIGNED,
    Credentials,
    Signer,
    encoded_path,
    encoded_query,
    payload_hash,
)

NOW = calendar.timegm((2026, 11, 21, 9, 8, 7, 0, 0, 0))
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20).filter(
    str.strip
)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)


def _by_botocore(
    method: str, path: str, query: str, headers: dict[str, str], payload: str, token: str | None
) -> str:
    request = AWSRequest(
        method=method, url=f"https://bucket.s3.amazonaws.com{path}", headers=headers, data=b""
    )
    if query:
        request.url += f"?{query}"
    auth = botocore.auth.S3SigV4Auth(BotocoreCredentials("AKID", "secret", token), "s3", "eu-central-1")
    auth.payload = lambda _request: payload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC))
        request.headers["X-Amz-Content-SHA256"] = payload
        auth.add_auth(request)
    return str(request.headers["Authorization"])


@given(
    path=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
    query=st.lists(st.tuples(NAMES, TEXT), max_size=4, unique_by=lambda pair: pair[0]),
    metadata=st.dictionaries(NAMES.map("x-amz-meta-{}".format), VALUE, max_size=4),
    token=st.none() | st.just("a/token+="),
    payload=st.sampled_from((UNSIGNED, EMPTY)),
)
def test_a_signature_is_the_one_that_botocore_makes(
    path: str, query: list[tuple[str, str]], metadata: dict[str, str], token: str | None, payload: str
) -> None:
    """Whatever keys, parameters and metadata there are."""
    target, asked = encoded_path(f"/{path.lstrip('/')}"), encoded_query(query)
    headers = {"host": "bucket.s3.amazonaws.com", **metadata}
    signed = dict(headers)
    Signer("eu-central-1").sign(
        Credentials("AKID", "secret", token), "GET", target, asked, signed, payload, float(NOW)
    )
    assert signed["authorization"] == _by_botocore("GET", target, asked, headers, payload, token)


def test_a_key_is_derived_anew_for_another_day_region_or_secret() -> None:
    """The key that signs is kept no longer than it holds."""
    signer = Signer("us-east-1")

    def signature(secret: str, now: float) -> str:
        headers = {"host": "h"}
        signer.sign(Credentials("AKID", secret), "GET", "/", "", headers, EMPTY, now)
        fresh = {"host": "h"}
        Signer("us-east-1").sign(Credentials("AKID", secret), "GET", "/", "", fresh, EMPTY, now)
        assert headers == fresh
        return headers["authorization"]

    found = {signature(secret, now) for secret in ("one", "two") for now in (NOW, NOW + 86_400.0)}
    assert len(found) == 4


def test_a_payload_is_hashed_over_all_its_pieces() -> None:
    """However it is cut."""
    assert payload_hash([b"hello ", memoryview(b"world")]) == payload_hash([b"hello world"])
    assert payload_hash([]) == EMPTY


def test_secrets_do_not_show() -> None:
    """Neither in logs nor in tracebacks."""
    shown = repr(Credentials("AKID", "the-secret", "the-token", time.time()))
    assert "AKID" in shown
    assert "the-secret" not in shown
    assert "the-token" not in shown
