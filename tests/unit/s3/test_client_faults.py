"""What goes wrong is tried again where that may help, told where not, and never taken for data."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3
from tests.unit.s3.conftest import MakeClient
from vhostfs.backends.s3.client import connection
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.store import (
    BrokenAnswerError,
    ConditionError,
    DeniedError,
    StoreError,
    UnavailableError,
)

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 800


async def _read(client: S3Client, offset: int = 0, room: int = len(DATA)) -> bytes:
    target = bytearray(room)
    count, _ = await client.get("key", offset, [memoryview(target)])
    return bytes(target[:count])


@pytest.fixture
async def stored(client: S3Client, server: FakeS3) -> S3Client:
    """Return a client with an object."""
    await client.put("key", [DATA])
    server.requests.clear()
    return client


@pytest.mark.parametrize(
    "kind",
    [
        Kind.STATUS,
        Kind.DROP,
        Kind.LATE_DROP,
        Kind.CUT,
        Kind.WRONG_BYTES,
        Kind.ENDLESS_HEAD,
        Kind.NO_LENGTH,
    ],
)
async def test_a_read_that_goes_wrong_is_made_again(stored: S3Client, server: FakeS3, kind: Kind) -> None:
    """And brings the object's own bytes."""
    server.fail(kind, "GetObject")
    assert await _read(stored) == DATA
    assert server.requests["GetObject"] == 2


@pytest.mark.parametrize("kind", [Kind.CHUNKED, Kind.SLOW])
async def test_what_is_only_rare_is_no_fault(stored: S3Client, server: FakeS3, kind: Kind) -> None:
    """It takes one request."""
    server.fail(kind, "GetObject")
    assert await _read(stored) == DATA
    assert server.requests["GetObject"] == 1


@pytest.mark.parametrize("room", [10, len(DATA)])
async def test_bytes_that_nobody_asked_for_are_nobodys(stored: S3Client, server: FakeS3, room: int) -> None:
    """They are no part of this answer nor of the next."""
    server.fail(Kind.LONGER, "GetObject")
    assert await _read(stored, 0, room) == DATA[:room]
    assert await _read(stored, 5, room) == DATA[5:][:room]
    assert server.connections >= 2


async def test_a_server_that_closes_every_connection_serves_too(stored: S3Client, server: FakeS3) -> None:
    """With a connection each."""
    server.keep_alive = False
    for _ in range(3):
        assert await _read(stored) == DATA
    assert server.requests["GetObject"] == 3


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(stored: S3Client, server: FakeS3) -> None:
    """Neither an error nor an attempt."""
    for _ in range(20):
        server.drop_connections()
        assert await _read(stored) == DATA
    assert stored.counters.retried == 0


async def test_a_server_that_heeds_no_ranges_is_no_source_of_data(stored: S3Client, server: FakeS3) -> None:
    """Bytes from elsewhere are worse than none."""
    server.fail(Kind.WHOLE, "GetObject", times=100)
    with pytest.raises(BrokenAnswerError):
        await _read(stored, 100, 50)
    assert await _read(stored) == DATA  # the whole is the range that was asked for


@pytest.mark.parametrize("kind", [Kind.ENDLESS_BODY, Kind.NOT_XML, Kind.CUT])
async def test_a_broken_listing_is_an_error_and_not_an_empty_directory(
    make_client: MakeClient, server: FakeS3, kind: Kind
) -> None:
    """However it is broken."""
    client = make_client(attempts=2)
    await client.put("key", [b""])
    server.fail(kind, "ListObjectsV2", times=100)
    with pytest.raises(StoreError):
        await client.list()


async def test_silence_ends(make_client: MakeClient, server: FakeS3) -> None:
    """After the time that was set, as an error of the store's."""
    client = make_client(stall_seconds=0.05, attempts=2)
    server.fail(Kind.SILENT, times=100)
    with pytest.raises(UnavailableError):
        await client.head("key")
    assert server.requests["HeadObject"] == 2


async def test_silence_ends_on_a_connection_that_has_served_before(
    make_client: MakeClient, server: FakeS3
) -> None:
    """One timer watches one exchange after another."""
    client = make_client(stall_seconds=0.05, attempts=1)
    for _ in range(3):
        await client.put("key", [b"data"])
    assert server.connections == 1
    server.fail(Kind.SILENT, times=100)
    with pytest.raises(UnavailableError, match="said nothing"):
        await client.head("key")


async def test_refusals_that_may_pass_are_met_with_patience(stored: S3Client, server: FakeS3) -> None:
    """Up to a number of attempts."""
    for status, code in (
        (500, "InternalError"),
        (503, "SlowDown"),
        (429, ""),
        (502, ""),
        (400, "RequestTimeout"),
    ):
        server.fail(Kind.STATUS, "GetObject", status=status, code=code)
        assert await _read(stored) == DATA
    assert stored.counters.retried == 5
    server.fail(Kind.STATUS, "GetObject", times=100)
    with pytest.raises(UnavailableError):
        await _read(stored)


async def test_refusals_that_will_not_pass_are_told_at_once(stored: S3Client, server: FakeS3) -> None:
    """With the server's own words."""
    server.fail(Kind.STATUS, "GetObject", status=403, code="AccessDenied")
    with pytest.raises(DeniedError, match="AccessDenied"):
        await _read(stored)
    assert server.requests["GetObject"] == 1


async def test_a_store_that_is_down_is_not_asked_ever_more(make_client: MakeClient, server: FakeS3) -> None:
    """Retries have a budget, which successes fill."""
    client = make_client()
    server.fail(Kind.STATUS, times=100_000)
    for _ in range(60):
        with pytest.raises(UnavailableError):
            await client.head("key")
    assert server.requests["HeadObject"] <= 60 + 100


async def test_a_doubtful_write_is_told_as_one(client: S3Client, server: FakeS3) -> None:
    """The condition that a second attempt breaks may have been met by the first."""
    server.fail(Kind.LATE_DROP, "PutObject")
    with pytest.raises(ConditionError) as caught:
        await client.put("key", [b"x"], if_absent=True)
    assert caught.value.doubtful
    assert server.bucket.objects["key"].data == b"x"
    with pytest.raises(ConditionError) as caught:
        await client.put("key", [b"x"], if_absent=True)
    assert not caught.value.doubtful


async def test_writers_at_the_same_time_try_again(client: S3Client, server: FakeS3) -> None:
    """409 says that nothing was decided."""
    server.fail(Kind.STATUS, "PutObject", status=409, code="ConditionalRequestConflict")
    await client.put("key", [b"x"], if_absent=True)


async def test_an_error_within_success_is_an_error(stored: S3Client, server: FakeS3) -> None:
    """A copy may fail after its status was sent."""
    server.fail(Kind.STATUS, "CopyObject", status=200, code="InternalError")
    assert (await stored.copy("key", "copy")).etag
    assert server.requests["CopyObject"] == 2


async def test_the_region_is_learnt(make_client: MakeClient, server: FakeS3) -> None:
    """Once, and then signed for."""
    server.region = "eu-west-3"
    client = make_client()
    await client.put("key", [b"x"])
    await client.put("key", [b"x"])
    assert server.requests["PutObject"] == 3


async def test_a_wrong_clock_is_no_obstacle(make_client: MakeClient, server: FakeS3) -> None:
    """The server's is what counts."""
    server.skew = 4 * 3600.0
    client = make_client()
    await client.put("key", [b"x"])
    await client.put("key", [b"x"])
    assert server.requests["PutObject"] == 3


async def test_a_wrong_secret_is_told_once(server: FakeS3) -> None:
    """As what it is."""

    class Wrong:
        async def fetch(self) -> Credentials:
            return Credentials(ACCESS_KEY, "wrong")

    client = S3Client(ClientOptions(BUCKET, url=server.url), Keychain([Wrong()]))
    with pytest.raises(DeniedError, match="SignatureDoesNotMatch"):
        await client.put("key", [b"x"])
    with pytest.raises(DeniedError):
        await client.head("key")
    assert server.requests.total() == 2
    client.close()


async def test_expired_credentials_are_fetched_again(server: FakeS3) -> None:
    """When the store says so, also where they did not."""

    class Rotating:
        fetched = 0

        async def fetch(self) -> Credentials:
            self.fetched += 1
            return Credentials(ACCESS_KEY, SECRET, f"token-{self.fetched}", time.time() + 3600)

    source = Rotating()
    client = S3Client(ClientOptions(BUCKET, url=server.url), Keychain([source]))
    await client.put("key", [b"x"])
    server.fail(Kind.STATUS, "PutObject", status=400, code="ExpiredToken")
    await client.put("key", [b"x"])
    assert source.fetched == 2
    client.close()


async def test_a_request_that_is_slow_to_begin_gets_a_second_one(stored: S3Client, server: FakeS3) -> None:
    """The first answer counts, and its bytes alone are stored."""
    await asyncio.gather(*(_read(stored, 0, 10) for _ in range(100)))
    server.requests.clear()
    server.fail(Kind.SILENT, "GetObject")
    assert await _read(stored, 5, 100) == DATA[5:105]
    assert server.requests["GetObject"] == 2
    assert stored.counters.hedged == 1


async def test_a_store_that_is_slow_as_a_whole_is_not_asked_twice(stored: S3Client, server: FakeS3) -> None:
    """Second requests are few, whatever happens."""
    await asyncio.gather(*(_read(stored, 0, 10) for _ in range(100)))
    server.latency = 0.03
    await asyncio.gather(*(_read(stored, 0, 10) for _ in range(200)))
    assert stored.counters.hedged <= 0.05 * 300 + 1


async def test_a_cancelled_read_stores_nothing_more(stored: S3Client, server: FakeS3) -> None:
    """Its memory may be used for other things at once."""
    server.bandwidth = 1e6
    target = bytearray(len(DATA))
    task = asyncio.create_task(stored.get("key", 0, [memoryview(target)]))
    await server.began_body.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.bandwidth = None
    target[:] = b"\xaa" * len(target)
    assert await _read(stored) == DATA
    assert set(target) == {0xAA}


async def test_no_server_is_a_sentence() -> None:
    """That names it."""

    class Given:
        async def fetch(self) -> Credentials:
            return Credentials("a", "b")

    options = ClientOptions(BUCKET, url="http://127.0.0.1:1")
    client = S3Client(options, Keychain([Given()]))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 cannot be reached"):
        await asyncio.wait_for(client.head("key"), 30)
    client.close()


async def test_an_answer_that_drips_for_ever_comes_to_an_end(
    make_client: MakeClient, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the server is never silent."""
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.1)
    server.fail(Kind.DRIP, "ListObjectsV2")
    client = make_client(stall_seconds=0.05, attempts=1)
    with pytest.raises(UnavailableError, match="not at its end"):
        await client.list()
