"""What a server lacks is found out beside the mount's work, told once, and done without."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.requests import Asked
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3
from tests.unit.s3.conftest import MakeClient
from vhostfs.backends.s3 import S3Settings
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.endpoint import is_aws
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.operating.probing import Probe, lacking
from vhostfs.backends.s3.store import Capabilities, ConditionError, Headers, UnsupportedError
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = b"data" * 100


def _probe(make_client: MakeClient, store: S3Client, *, writes: bool = True, known: bool = False) -> Probe:
    return Probe(make_client(), store.learn, "below/", writes=writes, known=known)


async def _done(probe: Probe) -> None:
    """Wait until a probe has come to its end."""
    assert probe._task is not None
    async with asyncio.timeout(30):
        await asyncio.wait([probe._task])
    assert probe.findings is not None


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_server_that_heeds_all_is_asked_a_few_things_and_keeps_nothing(
    make_client: MakeClient, client: S3Client, server: FakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it below the prefix, and nothing is told."""
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    assert probe.findings is not None
    assert probe.findings.capabilities == Capabilities() == client.server
    assert not server.bucket.objects
    assert not server.bucket.uploads
    assert all(asked.key.startswith("below/.vhostfs-probe-") or not asked.key for asked in server.asked)
    assert sum(probe.requests.values()) == server.requests.total() <= 17
    assert not client.counters.requests
    assert not _warnings(caplog)


@pytest.mark.parametrize(
    ("unheeded", "lacks"),
    [
        ({("PutObject", "if-match")}, {"conditional_put"}),
        ({("PutObject", "if-none-match")}, {"conditional_put"}),
        ({("CompleteMultipartUpload", "if-match")}, {"conditional_complete"}),
        ({("CopyObject", "x-amz-copy-source-if-match")}, {"conditional_source"}),
        ({("CopyObject", "if-none-match")}, {"conditional_copy"}),
        ({("UploadPartCopy", "x-amz-copy-source-if-match")}, {"conditional_copy_part"}),
        ({("CopyObject", "x-amz-metadata-directive")}, {"replace_metadata"}),
        ({("DeleteObject", "if-match")}, {"conditional_delete"}),
    ],
)
async def test_what_is_not_heeded_is_found_and_told_once(
    make_client: MakeClient,
    client: S3Client,
    server: FakeS3,
    caplog: pytest.LogCaptureFixture,
    unheeded: set[tuple[str, str]],
    lacks: set[str],
) -> None:
    """With what is done instead, in one line."""
    server.unheeded = unheeded
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    found = {name for name in Capabilities.__slots__ if not getattr(client.server, name)} - {"rename"}
    assert found == lacks
    [sentence] = lacking(client.server)
    [warning] = _warnings(caplog)
    assert sentence in warning
    assert not server.bucket.objects


async def test_requests_that_a_server_does_not_know_are_done_without(
    make_client: MakeClient, client: S3Client, server: FakeS3
) -> None:
    """Uploads in parts, and parts that are copies."""
    server.fail(Kind.STATUS, "UploadPartCopy", status=501, code="NotImplemented", times=100)
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    assert client.server == Capabilities(copy_part=False)
    server.fail(Kind.STATUS, "CreateMultipartUpload", status=501, code="NotImplemented", times=100)
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    assert client.server == Capabilities(copy_part=False, multipart=False, conditional_complete=False)


@pytest.mark.parametrize("how", [{"writes": False}, {"known": True}])
async def test_where_nothing_is_to_be_written_the_bucket_is_looked_at(
    make_client: MakeClient, client: S3Client, server: FakeS3, how: dict[str, bool]
) -> None:
    """By one request: of a mount that is read-only, and of AWS."""
    probe = _probe(make_client, client, **how)
    probe.begin()
    await _done(probe)
    assert server.requests == {"ListObjectsV2": 1}


def test_aws_is_known_by_its_host() -> None:
    """And nothing else is."""
    assert is_aws(None)
    assert is_aws("https://s3.eu-west-1.amazonaws.com")
    assert not is_aws("http://127.0.0.1:9000")
    assert not is_aws("https://amazonaws.com.example.org")


async def test_credentials_that_may_not_write_are_told_of_once(
    make_client: MakeClient, client: S3Client, server: FakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing is left to be deleted."""
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied", times=100)
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    [warning] = _warnings(caplog)
    assert "may read and not write" in warning
    assert server.requests == {"ListObjectsV2": 1, "PutObject": 1}


class Seen(list[Asked]):
    """The requests that a server has seen, and an event of when there were so many."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.wanted, self.event = count, asyncio.Event()

    def append(self, asked: Asked) -> None:
        """Take note of a request."""
        super().append(asked)
        if len(self) == self.wanted:
            self.event.set()


async def test_a_probe_that_is_ended_leaves_nothing_behind(
    make_client: MakeClient, client: S3Client, server: FakeS3
) -> None:
    """Wherever it was."""
    for count in range(1, 14):
        server.asked = seen = Seen(count)
        probe = _probe(make_client, client)
        probe.begin()
        await seen.event.wait()
        await probe.end()
        assert not server.bucket.objects
        assert not server.bucket.uploads


async def test_what_an_earlier_probe_has_left_is_deleted_when_it_is_old(
    make_client: MakeClient, client: S3Client, server: FakeS3
) -> None:
    """Another one may be under way."""
    old = server.bucket.put("below/.vhostfs-probe-1", DATA, {})
    server.bucket.objects["below/.vhostfs-probe-1"] = replace(old, modified=old.modified - 7200)
    server.bucket.put("below/.vhostfs-probe-2", DATA, {})
    probe = _probe(make_client, client)
    probe.begin()
    await _done(probe)
    assert list(server.bucket.objects) == ["below/.vhostfs-probe-2"]


# ---- Doing without ----


async def test_what_a_server_does_not_heed_is_compared_before(client: S3Client, server: FakeS3) -> None:
    """So that all but a writer at the very same moment is noticed."""
    nothing = Capabilities(
        conditional_put=False,
        conditional_complete=False,
        conditional_source=False,
        conditional_copy=False,
        conditional_delete=False,
    )
    client.learn(nothing)
    assert client.capabilities == Capabilities()
    server.bucket.put("there", DATA, {})
    etag = server.bucket.objects["there"].etag
    part = [await client.upload_part("new", upload := await client.upload_begin("new"), 1, [DATA])]
    for refused in (
        client.put("there", [b"other"], if_absent=True),
        client.put("there", [b"other"], if_match='"other"'),
        client.put("new", [b"other"], if_match='"other"'),
        client.copy("there", "new", source_match='"other"'),
        client.copy("there", "there", Headers(), if_absent=True),
        client.upload_copy("new", upload, 1, "there", 0, 5, source_match='"other"'),
        client.upload_complete("new", upload, part, if_match='"other"'),
        client.delete("there", if_match='"other"'),
    ):
        with pytest.raises(ConditionError):
            await refused
    assert server.bucket.objects["there"].data == DATA
    assert list(server.bucket.objects) == ["there"]
    await client.upload_complete("new", upload, part, if_absent=True)
    await client.put("there", [b"other"], if_match=etag)
    await client.delete("there", if_match=server.bucket.objects["there"].etag)
    assert list(server.bucket.objects) == ["new"]
    sent = {name for asked in server.asked for name in asked.headers}
    assert not {"if-match", "if-none-match"} & sent


async def test_metadata_that_a_copy_does_not_replace_comes_with_the_data(
    client: S3Client, server: FakeS3
) -> None:
    """As long as that is not too much."""
    client.learn(Capabilities(replace_metadata=False))
    server.bucket.put("there", DATA, {})
    etag = server.bucket.objects["there"].etag
    await client.copy("there", "there", Headers({"mode": "1"}), source_match=etag)
    assert server.bucket.objects["there"].data == DATA
    assert server.bucket.objects["there"].headers["x-amz-meta-mode"] == "1"
    with pytest.raises(ConditionError):
        await client.copy("there", "there", Headers({"mode": "2"}), source_match='"other"')
    server.bucket.put("large", bytes(9 << 20), {})
    with pytest.raises(UnsupportedError, match="does not replace the metadata"):
        await client.copy("large", "large", Headers({"mode": "1"}))


# ---- A mount ----


type MakeSettings = Callable[..., S3Settings]


@pytest.fixture
def settings(server: FakeS3, tmp_path: Path) -> MakeSettings:
    """Return what makes settings of a mount on the server."""
    (tmp_path / "secret").write_text(SECRET)

    def make(**more: object) -> S3Settings:
        return S3Settings(
            BUCKET,
            endpoint=server.url,
            access_key=ACCESS_KEY,
            secret_key_file=PurePosixPath(tmp_path / "secret"),
            state_dir=PurePosixPath(tmp_path),
            **more,  # type: ignore[arg-type]
        )

    return make


@asynccontextmanager
async def _mounted(settings: S3Settings) -> AsyncIterator[tuple[Client, S3Filesystem]]:
    filesystem = settings.open()
    assert isinstance(filesystem, S3Filesystem)
    async with mount(filesystem) as client:
        yield client, filesystem
    filesystem.close()


async def test_a_mount_probes_by_itself_and_a_new_file_still_costs_one_request(
    settings: MakeSettings, server: FakeS3
) -> None:
    """The probe's requests are counted apart."""
    server.unheeded = {("CopyObject", "if-none-match")}
    async with _mounted(settings()) as (client, filesystem):
        reporter = filesystem.commands()
        assert await client.listdir("/") == []
        assert reporter
        assert filesystem._probe is not None
        await _done(filesystem._probe)
        await client.write_bytes("/new", DATA)
        counters = filesystem._store.counters
        assert counters.requests == {"ListObjectsV2": 1, "PutObject": 1}
        assert list(server.bucket.objects) == ["new"]


async def test_a_mount_that_is_read_only_writes_nothing(settings: MakeSettings, server: FakeS3) -> None:
    """Neither does its probe."""
    server.bucket.put("there", DATA, {})
    server.bucket.put(".vhostfs-probe-of-another-mount", DATA, {})
    async with _mounted(settings(read_only=True)) as (client, filesystem):
        assert filesystem._probe is not None
        await _done(filesystem._probe)
        assert await client.listdir("/") == ["there"]
        with pytest.raises(OSError, match=rf"^\[Errno {errno.EROFS}\]"):
            await client.write_bytes("/new", DATA)
    assert set(server.requests) == {"ListObjectsV2"}
