"""What the client asks for is what the server does; requests are counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.options import Encryption
from vhostfs.backends.s3.store import (
    ArchivedError,
    ConditionError,
    Headers,
    MissingError,
    RangeError,
    UnsupportedError,
)

pytestmark = pytest.mark.anyio

ODD_KEYS = [
    "plain",
    "a/b/c",
    "with space",
    "ünï/çødé",
    "a//b",
    "d/",
    "+&=?#%",
    "..",
    "./x",
    "*'()!~",
    "😀",
    "a\x01b",
]


async def _read(client: S3Client, key: str, offset: int, *rooms: int, if_match: str | None = None) -> bytes:
    pieces = [bytearray(room) for room in rooms]
    count, _ = await client.get(key, offset, [memoryview(piece) for piece in pieces], if_match=if_match)
    return b"".join(pieces)[:count]


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_any_key_can_be_written_listed_read_and_deleted(
    client: S3Client, server: FakeS3, key: str
) -> None:
    """Keys are any text."""
    await client.put(key, [b"data"])
    assert list(server.bucket.objects) == [key]
    assert [item.key for item in (await client.list()).objects] == [key]
    assert await _read(client, key, 0, 10) == b"data"
    assert (await client.copy(key, "copy")).etag == (await client.head(key)).etag
    await client.delete(key)
    assert list(server.bucket.objects) == ["copy"]


async def test_a_range_comes_into_the_pieces_of_memory_that_were_given(client: S3Client) -> None:
    """However many pieces, and no more than the object has."""
    data = bytes(range(256)) * 1000
    await client.put("key", [data])
    assert await _read(client, "key", 0, len(data)) == data
    assert await _read(client, "key", 1000, 1, 2, 4096, 100_000) == data[1000 : 1000 + 104_099]
    assert await _read(client, "key", len(data) - 5, 3, 100) == data[-5:]
    with pytest.raises(RangeError):
        await _read(client, "key", len(data), 1)


async def test_what_is_stored_with_an_object_comes_back(client: S3Client) -> None:
    """User metadata and the headers of HTTP's own."""
    headers = Headers(
        {"mode": "33188", "xattr": "%7B%7D"}, {"content-type": "text/plain", "cache-control": "no-store"}
    )
    written = await client.put("key", [b"x"], headers)
    found = await client.head("key")
    assert found.headers == headers
    assert (found.size, found.etag) == (1, written.etag)
    assert found.modified > 0
    changed = Headers({"mode": "33261"})
    await client.copy("key", "key", changed, source_match=found.etag)
    assert (await client.head("key")).headers == changed


async def test_what_http_cannot_carry_is_refused_before_it_is_sent(client: S3Client, server: FakeS3) -> None:
    """A header never holds a line's end."""
    for value in ("a\r\nx-evil: 1", "ü", "\0"):
        with pytest.raises(UnsupportedError):
            await client.put("key", [b"x"], Headers({"name": value}))
    assert not server.requests


async def test_conditions_are_heeded(client: S3Client) -> None:
    """By writes, copies, reads and deletions."""
    first = await client.put("key", [b"1"], if_absent=True)
    with pytest.raises(ConditionError):
        await client.put("key", [b"2"], if_absent=True)
    second = await client.put("key", [b"2"], if_match=first.etag)
    with pytest.raises(ConditionError):
        await client.put("key", [b"3"], if_match=first.etag)
    with pytest.raises(MissingError):
        await client.put("other", [b"3"], if_match=first.etag)
    with pytest.raises(ConditionError):
        await _read(client, "key", 0, 1, if_match=first.etag)
    assert await _read(client, "key", 0, 1, if_match=second.etag) == b"2"
    with pytest.raises(ConditionError):
        await client.copy("key", "copy", source_match=first.etag)
    with pytest.raises(ConditionError):
        await client.copy("key", "key", if_absent=True)
    with pytest.raises(ConditionError):
        await client.delete("key", if_match=first.etag)
    await client.delete("key", if_match=second.etag)
    with pytest.raises(MissingError):
        await client.delete("key", if_match=second.etag)
    await client.delete("key")


async def test_a_listing_has_pages_prefixes_and_a_place_to_begin(client: S3Client) -> None:
    """Each key and each prefix once."""
    keys = sorted([f"d/{number:03}" for number in range(50)] + ["a", "b/x", "b/y", "e/f/g", "z"])
    await asyncio.gather(*(client.put(key, [b""]) for key in keys))
    found: list[str] = []
    page: str | None = None
    pages = 0
    while True:
        got = await client.list(delimiter="/", page=page, limit=2)
        found += sorted([item.key for item in got.objects] + list(got.prefixes))
        page, pages = got.next, pages + 1
        if page is None:
            break
    assert found == ["a", "b/", "d/", "e/", "z"]
    assert pages == 3
    assert [item.key for item in (await client.list("d/", start_after="d/047")).objects] == ["d/048", "d/049"]


async def test_an_upload_in_parts_becomes_an_object(client: S3Client, server: FakeS3) -> None:
    """From parts that were sent, and parts that were there."""
    server.bucket.part_minimum = 10
    old = await client.put("old", [b"0123456789" * 10])
    upload = await client.upload_begin("new", Headers({"mode": "1"}))
    second = await client.upload_copy("new", upload, 2, "old", 10, 20, source_match=old.etag)
    first = await client.upload_part("new", upload, 1, [b"a" * 5, b"b" * 5])
    assert list(await client.upload_parts("new", upload)) == [first, second]
    assert [(item.key, item.upload) for item in await client.uploads()] == [("new", upload)]
    written = await client.upload_complete("new", upload, [first, second], if_absent=True)
    assert server.bucket.objects["new"].data == b"aaaaabbbbb" + b"0123456789" * 2
    assert (await client.head("new")).headers.metadata == {"mode": "1"}
    upload = await client.upload_begin("new")
    part = await client.upload_part("new", upload, 1, [b"x"])
    with pytest.raises(ConditionError):
        await client.upload_complete("new", upload, [part], if_absent=True)
    await client.upload_complete("new", upload, [part], if_match=written.etag)
    with pytest.raises(ConditionError):
        await client.upload_copy(
            "new", await client.upload_begin("new"), 1, "old", 0, 5, source_match='"other"'
        )


async def test_an_upload_can_be_given_up(client: S3Client, server: FakeS3) -> None:
    """Also one that is not there."""
    upload = await client.upload_begin("new")
    await client.upload_abort("new", upload)
    await client.upload_abort("new", upload)
    assert not server.bucket.uploads
    with pytest.raises(MissingError):
        await client.upload_parts("new", upload)


async def test_many_parts_are_listed(client: S3Client) -> None:
    """A listing of parts has pages, too."""
    upload = await client.upload_begin("new")
    await asyncio.gather(*(client.upload_part("new", upload, number + 1, [b"x"]) for number in range(1005)))
    assert [part.number for part in await client.upload_parts("new", upload)] == list(range(1, 1006))


async def test_a_batch_is_deleted(client: S3Client, server: FakeS3) -> None:
    """One request for all, whatever they are called."""
    keys = [key for key in ODD_KEYS if key.isprintable()]
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
