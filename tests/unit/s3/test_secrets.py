"""Keys, tokens and signatures are in requests, and nowhere else: no log, no error, no status has them."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.requests import Answer
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, fake_s3
from vhostfs.backends.s3 import S3Settings
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import EnvironmentSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions, Encryption
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.store import StoreError
from vhostfs.filesystem import Order
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

TOKEN = "session-token-that-only-the-tests-know"  # noqa: S105
CUSTOMER_KEY = b"0123456789abcdefghijklmnopqrstuv"
SECRETS = (SECRET, TOKEN, CUSTOMER_KEY.decode(), base64.b64encode(CUSTOMER_KEY).decode(), "AWS4-HMAC-SHA256")


@pytest.fixture
async def telling() -> AsyncIterator[FakeS3]:
    """A server that refuses all, and tells in its refusals what it was sent."""
    async with fake_s3() as server:

        def rewrite(_name: str, found: Answer) -> None:
            headers = server.asked[-1].headers
            said = " ".join(f"{name}: {value}" for name, value in headers.items())
            found.status, found.length = 403, None
            found.body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()

        server.rewrite = rewrite
        yield server


def _assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


async def test_a_server_that_tells_our_secrets_is_not_quoted(
    telling: FakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in an error nor in a log, at any level."""
    caplog.set_level(logging.DEBUG)
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
    }
    source = EnvironmentSource(MappingProxyType(environment))
    options = ClientOptions(
        BUCKET,
        url=telling.url,
        retry=RetryOptions(base_seconds=0.0, attempts=2),
        encryption=Encryption.CUSTOMER,
        customer_key=CUSTOMER_KEY,
    )
    client = S3Client(options, Keychain([source]))
    said = []
    for request in (
        client.list(),
        client.put("key", [b"data"]),
        client.get("key", 0, [memoryview(bytearray(10))]),
        client.copy("key", "other"),
        client.upload_begin("key"),
    ):
        with pytest.raises(StoreError) as raised:
            await request
        said += [str(raised.value), repr(raised.value)]
    assert telling.asked[0].headers["x-amz-security-token"] == TOKEN
    said += [
        repr(options),
        repr(client),
        repr(Keychain([source])),
        repr(source),
        repr(await source.fetch()),
        str(client.standing.trouble),
    ]
    _assert_no_secret("\n".join([*said, caplog.text]))
    client.close()


async def test_nothing_that_a_mount_tells_holds_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Through its life, with requests that fail and some that do not, in its log and its status."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "key").write_bytes(CUSTOMER_KEY)
    async with fake_s3() as server:
        settings = S3Settings(
            BUCKET,
            endpoint=server.url,
            access_key=ACCESS_KEY,
            secret_key_file=PurePosixPath(tmp_path / "secret"),
            encryption=Encryption.CUSTOMER,
            customer_key_file=PurePosixPath(tmp_path / "key"),
            state_dir=PurePosixPath(tmp_path),
        )
        filesystem = settings.open()
        async with mount(filesystem) as client:
            await client.write_bytes("/file", b"data")
            server.fail(Kind.STATUS, status=403, code="SignatureDoesNotMatch", times=3)
            with pytest.raises(OSError, match="Errno"):
                await client.listdir("/")
            status = await filesystem.commands()["s3-status"](Order({}, (), lambda _: None))
        filesystem.close()
    assert any("authorization" in asked.headers for asked in server.asked)
    assert caplog.records
    _assert_no_secret("\n".join([json.dumps(status), repr(settings), repr(filesystem), caplog.text]))
