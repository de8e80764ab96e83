"""A store that is away, or lets nobody in, is told of once; and all goes on by itself when it is back."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, fake_s3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import GivenSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.operating.standing import QUIET_SECONDS, Standing
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import BucketError, DeniedError, MissingError, UnavailableError
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio


async def _refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        await call


def _told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name.startswith("vhostfs.backends.s3")
    ]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "vhostfs.backends.s3")


async def test_a_store_that_is_away_is_told_of_once_and_again_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From the start on; the guest is answered EIO meanwhile."""
    away = FakeS3()
    async with fake_s3(away):
        pass  # it has a port now, which nobody listens at
    away.bucket.put("file", b"data", {})
    options = ClientOptions(BUCKET, url=away.url, retry=RetryOptions(base_seconds=0.0))
    store = S3Client(options, Keychain([GivenSource(Credentials(ACCESS_KEY, SECRET))]))
    filesystem = S3Filesystem(store, S3Options(), Memory(1 << 20), Spool(tmp_path))
    async with mount(filesystem) as client:
        for _ in range(5):
            await _refused(errno.EIO, client.listdir("/"))
            await _refused(errno.EIO, client.stat("/file"))
        # All attempts of the first one, and then one each: nobody waits for what is known.
        assert store.counters.retried <= options.retry.attempts
        [warning] = _told(caplog, logging.WARNING)
        assert f"bucket {BUCKET} at 127.0.0.1:{away.port}: the store does not answer" in warning
        assert "Connect call failed" in warning or "refused" in warning
        async with fake_s3(away):
            assert await client.listdir("/") == ["file"]
            assert await client.read_bytes("/file") == b"data"
            assert _told(caplog, logging.INFO) == [
                f"bucket {BUCKET} at 127.0.0.1:{away.port}: the store answers again"
            ]
            assert len(_told(caplog, logging.WARNING)) == 1
    filesystem.close()


@pytest.mark.parametrize(
    ("status", "code", "number", "said"),
    [
        (404, "NoSuchBucket", errno.EIO, "there is no such bucket: listing /: NoSuchBucket"),
        (403, "InvalidAccessKeyId", errno.EACCES, "the store denies access: listing /: InvalidAccessKeyId"),
        (403, "AccessDenied", errno.EACCES, "the store denies access: listing /: AccessDenied"),
        (503, "SlowDown", errno.EIO, "the store is not able to answer: listing /: SlowDown"),
    ],
)
async def test_a_store_that_refuses_is_told_of_once(
    make_filesystem: MakeFilesystem,
    server: FakeS3,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str,
    number: int,
    said: str,
) -> None:
    """And the guest is answered what it is."""
    server.bucket.put("file", b"data", {})
    server.fail(Kind.STATUS, "ListObjectsV2", status=status, code=code, times=1000)
    async with mount(make_filesystem()) as client:
        for _ in range(5):
            await _refused(number, client.listdir("/"))
        [warning] = _told(caplog, logging.WARNING)
        assert said in warning
        server.faults.clear()
        assert await client.listdir("/") == ["file"]
        assert len(_told(caplog, logging.INFO)) == 1


async def test_a_wrong_secret_is_an_error_of_access_until_it_is_right(
    make_filesystem: MakeFilesystem, server: FakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for the lookup of a name, of which HEAD says nothing but its status."""
    server.bucket.put("file", b"data", {})
    server.region = "elsewhere"  # learnt in one request
    server.fail(Kind.STATUS, status=403, code="SignatureDoesNotMatch", times=12)
    async with mount(make_filesystem()) as client:
        for _ in range(6):
            await _refused(errno.EACCES, client.stat("/file"))
        server.faults.clear()
        assert await client.read_bytes("/file") == b"data"
    [warning] = _told(caplog, logging.WARNING)
    assert "SignatureDoesNotMatch" in warning


def test_a_store_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each trouble is told once a minute, with its end."""
    now = 0.0
    standing = Standing("bucket b", lambda: now)
    for _ in range(100):
        standing.failed("GetObject", UnavailableError("nobody is there"))
        assert standing.unreachable
        standing.answered()
        assert not standing.unreachable
    assert len(_told(caplog, logging.WARNING)) == len(_told(caplog, logging.INFO)) == 1
    standing.failed("ListObjectsV2", BucketError("listing /"))
    assert len(_told(caplog, logging.WARNING)) == 2
    standing.answered()
    now = QUIET_SECONDS
    standing.failed("GetObject", UnavailableError("nobody is there"))
    assert len(_told(caplog, logging.WARNING)) == 3


def test_what_is_wrong_with_one_object_says_nothing_of_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """Neither that it is missing nor that it may not be read."""
    standing = Standing("bucket b")
    standing.failed("GetObject", MissingError("reading a", status=404))
    standing.failed("GetObject", DeniedError("reading a", status=403, code="AccessDenied"))
    assert standing.trouble is None
    assert not caplog.records
