"""A bucket is found where its URL says, at AWS and elsewhere."""

from __future__ import annotations

import pytest

from vhostfs.backends.s3.client.endpoint import Addressing, endpoint
from vhostfs.errors import ConfigurationError


@pytest.mark.parametrize(
    ("bucket", "region", "url", "addressing", "expected"),
    [
        ("data", "eu-west-1", None, "auto", ("data.s3.eu-west-1.amazonaws.com", "/a%20b", 443)),
        ("with.dots", "eu-west-1", None, "auto", ("s3.eu-west-1.amazonaws.com", "/with.dots/a%20b", 443)),
        ("data", "cn-north-1", None, "auto", ("data.s3.cn-north-1.amazonaws.com.cn", "/a%20b", 443)),
        ("data", "eu-west-1", None, "path", ("s3.eu-west-1.amazonaws.com", "/data/a%20b", 443)),
        ("data", "x", "http://127.0.0.1:9000", "auto", ("127.0.0.1:9000", "/data/a%20b", 9000)),
        ("data", "x", "https://store.example/s3/", "auto", ("store.example", "/s3/data/a%20b", 443)),
        ("data", "x", "https://store.example:443", "virtual", ("data.store.example", "/a%20b", 443)),
        ("data", "x", "http://[::1]:8080", "auto", ("[::1]:8080", "/data/a%20b", 8080)),
    ],
)
def test_a_bucket_has_a_host_and_a_path(
    bucket: str, region: str, url: str | None, addressing: str, expected: tuple[str, str, int]
) -> None:
    """In path style or as the first label of the host."""
    found = endpoint(bucket, region, url=url, addressing=Addressing(addressing))
    assert (found.host, found.path("a b"), found.port) == expected
    assert found.source("a b") == f"/{bucket}/a%20b"


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("a", None),
        ("../etc", None),
        ("a/b", None),
        ("data", "ftp://host"),
        ("data", "host"),
        ("data", "https://user:secret@host"),
        ("data", "https://host/?x=1"),
        ("data", "https://host:port"),
    ],
)
def test_what_is_no_bucket_or_no_server_is_refused(bucket: str, url: str | None) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigurationError):
        endpoint(bucket, "us-east-1", url=url)
