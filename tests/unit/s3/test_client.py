"""What the client of S3 asks of a server, beside what tests/stores promises of every store."""

from __future__ import annotations

import asyncio

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.options import Encryption
from vhostfs.backends.s3.store import (
    ArchivedError,
    Headers,
    MissingError,
    UnsupportedError,
)

pytestmark = pytest.mark.anyio


async def _read(client: S3Client, key: str, offset: int, room: int) -> bytes:
    memory = bytearray(room)
    count, _ = await client.get(key, offset, [memoryview(memory)])
    return bytes(memory[:count])


async def test_a_key_may_hold_what_no_document_can(client: S3Client, server: FakeS3) -> None:
    """Such as the characters that XML has not."""
    key = "a\x01b"
    await client.put(key, [b"data"])
    assert list(server.bucket.objects) == [key]
    assert [item.key for item in (await client.list()).objects] == [key]
    assert await _read(client, key, 0, 10) == b"data"
    assert (await client.copy(key, "copy")).etag == (await client.head(key)).etag
    await client.delete(key)
    assert list(server.bucket.objects) == ["copy"]


async def test_what_http_cannot_carry_is_refused_before_it_is_sent(client: S3Client, server: FakeS3) -> None:
    """A header never holds a line's end."""
    for value in ("a\r\nx-evil: 1", "ü", "\0"):
        with pytest.raises(UnsupportedError):
            await client.put("key", [b"x"], Headers({"name": value}))
    assert not server.requests


async def test_a_version_that_is_demanded_where_there_is_none_is_missing(client: S3Client) -> None:
    """And no condition that was not met."""
    written = await client.put("key", [b"1"])
    with pytest.raises(MissingError):
        await client.put("other", [b"2"], if_match=written.etag)
    await client.delete("key", if_match=written.etag)
    with pytest.raises(MissingError):
        await client.delete("key", if_match=written.etag)


async def test_a_batch_is_deleted(client: S3Client, server: FakeS3) -> None:
    """One request for all, whatever they are called."""
    keys = ["plain", "with space", "ünï/çødé", "a//b", "d/", "+&=?#%", "..", "😀"]
    await asyncio.gather(*(client.put(key, [b""]) for key in keys))
    server.requests.clear()
    assert await client.delete_many(keys) == {}
    assert server.requests == {"DeleteObjects": 1}
    assert not server.bucket.objects


async def test_what_lies_in_an_archive_is_told(client: S3Client, server: FakeS3) -> None:
    """HEAD says so, and a read is refused with a word of its own."""
    server.bucket.put("key", b"x", {"x-amz-storage-class": "GLACIER"})
    assert (await client.head("key")).archived
    server.fail_with(403, "InvalidObjectState", "GetObject")
    with pytest.raises(ArchivedError):
        await _read(client, "key", 0, 1)


async def test_settings_of_the_bucket_go_with_every_write(make_client: MakeClient, server: FakeS3) -> None:
    """Encryption, storage class, who pays."""
    client = make_client(
        encryption=Encryption.KMS, kms_key="arn:key", storage_class="STANDARD_IA", requester_pays=True
    )
    await client.put("key", [b"x"])
    headers = server.asked[-1].headers
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:key"
    assert headers["x-amz-storage-class"] == "STANDARD_IA"
    assert headers["x-amz-request-payer"] == "requester"


async def test_a_customers_key_goes_with_every_request_about_the_object(
    make_client: MakeClient, server: FakeS3
) -> None:
    """And with what is copied."""
    client = make_client(encryption=Encryption.CUSTOMER, customer_key=b"k" * 32)
    await client.put("key", [b"x"])
    await client.head("key")
    await _read(client, "key", 0, 1)
    await client.copy("key", "copy")
    name = "x-amz-server-side-encryption-customer-algorithm"
    assert all(asked.headers[name] == "AES256" for asked in server.asked)
    assert "x-amz-copy-source-server-side-encryption-customer-key" in server.asked[-1].headers


async def test_a_store_without_renaming_is_not_asked_for_it(client: S3Client, server: FakeS3) -> None:
    """The capability says so."""
    with pytest.raises(UnsupportedError):
        await client.rename("a", "b")
    assert not server.requests


async def test_connections_are_used_again(client: S3Client, server: FakeS3) -> None:
    """One after another needs one; at once, no more than are allowed."""
    for _ in range(10):
        await client.put("key", [b"x"])
    assert server.connections == 1


async def test_no_more_connections_than_allowed_are_open(make_client: MakeClient, server: FakeS3) -> None:
    """The others wait."""
    client = make_client(limit=4)
    server.latency = 0.001
    await asyncio.gather(*(client.put(f"{number}", [b"x"]) for number in range(40)))
    assert server.connections == 4
    assert server.busiest <= 4


async def test_a_large_body_waits_for_the_servers_word(client: S3Client, server: FakeS3) -> None:
    """And arrives whole, whatever pieces it has."""
    pieces = [bytes([number]) * 700_000 for number in range(5)]
    await client.put("key", pieces)
    assert server.asked[-1].headers["expect"] == "100-continue"
    assert server.bucket.objects["key"].data == b"".join(pieces)
