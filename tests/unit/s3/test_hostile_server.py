"""Whatever a server answers, the guest gets an error or the truth, and the daemon neither crashes nor hangs.

Each answer here is one that no server gives. The operation that meets it fails, and the mount lives on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from xml.sax.saxutils import escape

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.requests import Answer
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient, MakeFilesystem
from vhostfs.backends.s3.client.retrying import RetryBudget, RetryOptions, wanted_delay
from vhostfs.backends.s3.naming import namespace
from vhostfs.backends.s3.options import Metadata
from vhostfs.backends.s3.store import BrokenAnswerError
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 400
MIB = 1 << 20

type Act = Callable[[Client], Awaitable[object]]

LIST = "ListObjectsV2"
HEAD = "HeadObject"
GET = "GetObject"
PUT = "PutObject"


async def _list(client: Client) -> object:
    return await client.listdir("/")


async def _stat(client: Client) -> object:
    return await client.stat("/file")


async def _read(client: Client) -> object:
    return await client.read_bytes("/file")


async def _write(client: Client) -> object:
    await client.write_bytes("/new", DATA)
    return None


@pytest.fixture
async def client(
    make_filesystem: MakeFilesystem, server: FakeS3, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Client]:
    """Return a guest of a bucket with a file and a directory, which is whole when the server is."""
    server.bucket.put("file", DATA, {})
    server.bucket.put("directory/other", DATA, {})
    async with mount(make_filesystem(seconds=0.0)) as client:
        yield client
        server.faults.clear()
        server.rewrite = None
        assert await client.listdir("/") == ["directory", "file"]
        assert await client.read_bytes("/file") == DATA
    faults = [record.getMessage() for record in caplog.records if record.exc_info]
    assert not faults
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1


def _rewriting(server: FakeS3, operation: str, change: Callable[[Answer], None]) -> None:
    def rewrite(name: str, found: Answer) -> None:
        if name == operation and found.status < 300:
            change(found)

    server.rewrite = rewrite


async def _refused(call: Awaitable[object], *numbers: int) -> None:
    with pytest.raises(OSError, match=r"Errno") as raised:
        await call
    assert raised.value.errno in (numbers or {errno.EIO})


async def _answer_or_error(call: Awaitable[Any], *numbers: int) -> Any:
    """Return an answer, or None where it is one of these errors, EIO if nothing is said."""
    try:
        return await call
    except OSError as error:
        if error.errno not in (numbers or {errno.EIO}):
            raise
        return None


# ---- Bodies and heads ----


@pytest.mark.parametrize(
    ("operation", "act"),
    [(LIST, _list), (HEAD, _stat), (GET, _read), (PUT, _write)],
    ids=str,
)
@pytest.mark.parametrize(
    "kind", [Kind.ENDLESS_HEAD, Kind.ENDLESS_BODY, Kind.LONGER, Kind.CUT, Kind.NOT_XML, Kind.NO_LENGTH]
)
async def test_a_broken_answer_is_an_error_or_the_truth(
    client: Client, server: FakeS3, kind: Kind, operation: str, act: Act
) -> None:
    """However often it is asked, and within memory of a bound."""
    server.fail(kind, operation, times=1000)
    tracemalloc.start()
    try:
        async with asyncio.timeout(60):
            answer = await _answer_or_error(act(client))
        if operation == GET:
            assert answer in (None, DATA)
        if operation == LIST:
            assert answer in (None, ["directory", "file"])
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()
    server.bucket.delete("new")


# ---- Headers ----


def _header(name: str, value: str | None) -> Callable[[Answer], None]:
    def change(found: Answer) -> None:
        found.headers.pop(name, None)
        if value is not None:
            found.headers[name] = value

    return change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-range", None),
        ("content-range", "bytes 0-99/1000"),
        ("content-range", f"bytes 1-{len(DATA)}/{len(DATA) + 1}"),
        ("content-range", f"bytes 0-{len(DATA) - 1}/{1 << 70}"),
        ("content-range", "bytes nonsense"),
        ("last-modified", "yesterday"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
    ],
)
async def test_a_read_with_wrong_headers_is_an_error(
    client: Client, server: FakeS3, name: str, value: str | None
) -> None:
    """Wrong ranges, checksums and times; nothing of the body reaches the guest."""
    _rewriting(server, GET, _header(name, value))
    await _refused(client.read_bytes("/file"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last-modified", "yesterday"),
        ("last-modified", "Mon, 01 Jan 99999 00:00:00 GMT"),
        ("x-amz-meta-mode", "9" * 400),
        ("x-amz-meta-mode", "٣٣٢٧٦"),
        ("x-amz-meta-uid", "-1"),
        ("x-amz-meta-mtime", "9" * 400),
        ("x-amz-meta-mtime", "-" + "9" * 30),
        ("x-amz-meta-rdev", "9" * 30),
        ("x-amz-meta-xattr", "%7B%22" + "[" * 5000),
        ("x-amz-meta-xattr", "%7B%22user.a%5Cu0000%22%3A%22AAAA%22%7D"),
        ("x-amz-storage-class", "GLACIER"),
        ("etag", ""),
        ("last-modified", "Mon, 01 Jan 0001 00:00:00 GMT"),
    ],
)
async def test_attributes_that_make_no_sense_are_an_error_or_nothing(
    client: Client, server: FakeS3, name: str, value: str
) -> None:
    """They do not reach the guest as they are."""
    _rewriting(server, HEAD, _header(name, value))
    found = await _answer_or_error(client.stat("/file"))
    if found is not None:
        assert found.size == len(DATA)
        assert found.mode & 0o170000 == 0o100000
    await _answer_or_error(client.listxattr("/file"))


@pytest.mark.parametrize("length", [1 << 62, 1 << 63, (1 << 64) - 1])
async def test_an_object_of_impossible_size_is_an_error(client: Client, server: FakeS3, length: int) -> None:
    """Not a size that a kernel would reckon with."""

    def change(found: Answer) -> None:
        found.length = length

    _rewriting(server, HEAD, change)
    await _refused(client.stat("/file"))


async def test_an_object_that_changes_its_version_in_every_answer_is_never_mixed(
    client: Client, server: FakeS3
) -> None:
    """A read that had begun fails."""
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node)).fh
    assert await client.read(node, handle, 0, 100) == DATA[:100]
    server.bucket.put("file", DATA[::-1], {})
    found = await _answer_or_error(client.read(node, handle, len(DATA) // 2, 100), errno.ESTALE)
    assert found in (None, DATA[len(DATA) // 2 :][:100])
    await client.release(node, handle)
    server.bucket.put("file", DATA, {})


# ---- Documents ----


def _document(text: str | bytes) -> Callable[[Answer], None]:
    def change(found: Answer) -> None:
        found.body = text.encode() if isinstance(text, str) else text

    return change


def _listing(inner: str) -> str:
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{inner}</ListBucketResult>"


def _contents(key: str = "a", size: str = "1", etag: str = '"e"', when: str = "2026-01-01T00:00:00Z") -> str:
    return (
        f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{escape(etag)}</ETag>"
        f"<LastModified>{when}</LastModified></Contents>"
    )


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMB = f'<!DOCTYPE b [<!ENTITY l0 "lol">{LAUGHS}]><ListBucketResult><a>&l9;</a></ListBucketResult>'


@pytest.mark.parametrize(
    "document",
    [
        "",
        "no XML at all",
        "<ListBucketResult>",
        "<Other></Other>",
        "\0" * 100,
        b"\xff\xfe\xfd" * 100,
        BOMB,
        '<?xml version="1.0" encoding="UTF-16"?>'.encode("utf-16") + BOMB.encode("utf-16-le"),
        b'<?xml version="1.0" encoding="cp037"?>' + BOMB.encode("cp037"),
        "<a>" * 200_000,
        _listing("<a/>" * 2_000_000),
        _listing("<Contents></Contents>"),
        _listing(_contents(size="many")),
        _listing(_contents(size="9" * 5000)),
        _listing(_contents(size=str(1 << 63))),
        _listing(_contents(size="-1")),
        _listing(_contents(when="2026-13-45T99:99:99Z")),
        _listing(_contents(when="never")),
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ],
    ids=range(19),
)
async def test_a_listing_that_is_none_is_an_error(
    client: Client, server: FakeS3, document: str | bytes
) -> None:
    """Entities are not expanded, and nothing is taken for a number that is none."""
    _rewriting(server, LIST, _document(document))
    tracemalloc.start()
    try:
        await _refused(client.listdir("/"))
        assert tracemalloc.get_traced_memory()[1] < 128 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "key",
    [
        *("..", ".", "../../etc/passwd", "a/../../b", "/", "//", "a//b", "%00", "a%00b"),
        *("x" * 256, "é" * 128, "%2E%2E", "%ff%fe", "x" * 1024, "%0A", "%1b%5b2J"),
    ],
)
async def test_no_key_leads_out_of_its_directory(client: Client, server: FakeS3, key: str) -> None:
    """What cannot be a name is not shown; what is shown is a name."""
    _rewriting(
        server,
        LIST,
        _document(_listing("<EncodingType>url</EncodingType>" + _contents(key) + _contents("good"))),
    )
    names = await client.listdir("/")
    assert "good" in names
    for name in names:
        assert name not in {"", ".", ".."}
        assert "/" not in name
        assert "\0" not in name
        assert len(os.fsencode(name)) <= 255


async def test_a_listing_of_elsewhere_is_not_shown(client: Client, server: FakeS3) -> None:
    """Of what was asked for, keys begin with what was asked for."""
    elsewhere = "".join(
        _contents(key)
        for key in ("elsewhere/file", "direct", "/etc/passwd-and-more", "x" * 30, "directory/good")
    )
    _rewriting(
        server,
        LIST,
        _document(_listing(f"{elsewhere}<CommonPrefixes><Prefix>some/where/else/</Prefix></CommonPrefixes>")),
    )
    assert await client.listdir("/directory") == ["good"]


@pytest.mark.parametrize("names", ["same", "new"])
@pytest.mark.parametrize("grows", [False, True])
async def test_a_listing_that_never_ends_is_an_error(
    client: Client, server: FakeS3, grows: bool, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same mark of the next page each time, or another one; to the same names, or to ever more."""
    monkeypatch.setattr(namespace, "NAMES_MAXIMUM", 100)
    count = asked = 0

    def change(found: Answer) -> None:
        nonlocal count, asked
        count += grows
        asked += 1
        mark = f"<NextContinuationToken>{str(count).encode().hex()}</NextContinuationToken>"
        contents = _contents(f"file-{asked:09}") if names == "new" else _contents()
        inner = f"<IsTruncated>true</IsTruncated>{mark}{contents}"
        found.body = f"<ListBucketResult>{inner}</ListBucketResult>".encode()

    _rewriting(server, LIST, change)
    async with asyncio.timeout(60):
        await _refused(client.listdir("/"))
    assert server.requests[LIST] <= 250


@pytest.mark.parametrize("marker", ["{count}", "7", "7" * 10_000], ids=["ever-new", "same", "long"])
@pytest.mark.parametrize(
    ("operation", "inner"),
    [
        (
            "ListParts",
            "<NextPartNumberMarker>{marker}</NextPartNumberMarker>"
            "<Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>1</Size></Part>",
        ),
        ("ListParts", "<Part><PartNumber>" + "9" * 5000 + "</PartNumber><ETag>e</ETag><Size>1</Size></Part>"),
        (
            "ListMultipartUploads",
            "<NextKeyMarker>{marker}</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>",
        ),
    ],
    ids=["parts", "numbers", "uploads"],
)
async def test_what_is_told_of_uploads_is_bounded(
    make_client: MakeClient, server: FakeS3, operation: str, inner: str, marker: str
) -> None:
    """A listing that never ends is an error, and so is a number that none is."""
    store = make_client(attempts=1)
    upload = await store.upload_begin("file")
    count = 0

    def change(found: Answer) -> None:
        nonlocal count
        count += 1
        told = inner.format(marker=marker.format(count=count))
        found.body = f"<{operation}Result><IsTruncated>true</IsTruncated>{told}</{operation}Result>".encode()

    _rewriting(server, operation, change)
    with pytest.raises(BrokenAnswerError):
        await (store.upload_parts("file", upload) if operation == "ListParts" else store.uploads())
    assert server.requests[operation] <= 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rdev", "9999999999"),
        ("mode", "9999999999"),
        ("uid", "9999999999"),
        ("mtime", "999999999999.999999999"),
        ("mtime", "-999999999999"),
        ("atime", "9" * 400),
        ("xattr", "%7B%22%22%3A%20%22%22%7D"),
        ("file-permissions", "7777777"),
    ],
)
async def test_metadata_that_no_file_has_is_no_obstacle(
    make_filesystem: MakeFilesystem, server: FakeS3, name: str, value: str
) -> None:
    """Neither to look at the file, nor to list its directory."""
    server.bucket.put("file", DATA, {f"x-amz-meta-{name}": value})
    for metadata in Metadata:
        async with mount(make_filesystem(metadata=metadata)) as client:
            assert len(await client.entries("/", plus=True)) >= 1
            assert (await client.stat("/file")).size == len(DATA)


async def test_an_index_that_is_none_is_done_without(make_filesystem: MakeFilesystem, server: FakeS3) -> None:
    """Whatever the object of its name holds."""
    server.bucket.put("file", DATA, {"x-amz-meta-mode": str(0o100600)})
    for index in (
        b"",
        b"nonsense",
        b"[" * 10_000,
        b'{"file": 1}',
        b'{"version": 1, "entries": {"file": []}}',
    ):
        server.bucket.put(".vhostfs-meta", index, {})
        async with mount(make_filesystem(metadata=Metadata.FULL)) as client:
            assert await client.listdir("/") == ["file"]
            assert (await client.stat("/file")).mode == 0o100600


@pytest.mark.parametrize(
    "document",
    ["", "<CopyObjectResult/>", "<Other/>", "<Error><Code>InternalError</Code></Error>", "\0", BOMB],
)
async def test_a_copy_that_says_nothing_sensible_is_an_error(
    client: Client, server: FakeS3, document: str
) -> None:
    """The object is there under one of the names, or under both; nothing is lost."""
    _rewriting(server, "CopyObject", _document(document))
    await _answer_or_error(client.rename("/file", "/renamed"), errno.EIO, errno.ESTALE)
    where = {key for key in ("file", "renamed") if key in server.bucket.objects}
    assert where
    assert all(server.bucket.objects[key].data == DATA for key in where)
    server.rewrite = None
    if "file" not in where:
        await client.rename("/renamed", "/file")
    server.bucket.delete("renamed")


async def test_a_write_that_is_not_confirmed_is_an_error(client: Client, server: FakeS3) -> None:
    """Without the new object's ETag nobody knows what is there."""
    _rewriting(server, PUT, _header("etag", None))
    await _refused(client.write_bytes("/new", DATA))
    server.bucket.delete("new")


# ---- Refusals ----


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-bucket-region": "evil.example/#\u00e9 x"},
        {"x-amz-bucket-region": "r" * 10_000},
        {"date": "nonsense"},
    ],
)
@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "SlowDown"])
async def test_a_refusal_that_teaches_nonsense_is_an_error(
    client: Client, server: FakeS3, headers: dict[str, str], code: str
) -> None:
    """Neither region nor clock nor patience become what a server would have them."""

    def rewrite(_name: str, found: Answer) -> None:
        found.status, found.body = 400, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        found.headers |= headers
        found.length = None

    server.rewrite = rewrite
    async with asyncio.timeout(60):
        await _refused(client.listdir("/"), errno.EIO, errno.EACCES)


def test_no_server_makes_us_wait_for_long() -> None:
    """Whatever it asks for."""
    options = RetryOptions()
    delay = RetryBudget(options).delay(1, wanted_delay("9" * 400))
    assert delay is not None
    assert delay <= 2 * options.longest_seconds
