"""A store that has too much to do is asked for less at once, and for more again when it has recovered."""

from __future__ import annotations

import asyncio

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from vhostfs.backends.s3.client.admission import Admission
from vhostfs.backends.s3.client.client import S3Client

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


async def _settled() -> None:
    """Let those go on that may."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_half_as_many_may_begin_once_the_store_is_overloaded() -> None:
    """However many are told at the same time; and one after the other comes back."""
    admission = Admission(16)
    for _ in range(16):
        await admission.enter()
    for _ in range(16):
        admission.throttled(0)
        admission.leave()
    assert admission.allowed == 8
    admission.throttled(0)
    assert admission.allowed == 8
    for _ in range(8):
        await admission.enter()
    admission.throttled(admission.epoch)
    assert admission.allowed == 4
    for _ in range(1000):
        admission.answered()
    assert admission.allowed == 16


async def test_who_waits_begins_in_turn_and_who_gives_up_takes_nobodys_place() -> None:
    """Neither before nor after it was admitted."""
    admission = Admission(1)
    await admission.enter()
    waiting = [asyncio.ensure_future(admission.enter()) for _ in range(4)]
    await _settled()
    waiting[0].cancel()
    await _settled()
    admission.leave()  # the second is admitted
    waiting[1].cancel()
    await _settled()
    assert [each.done() for each in waiting] == [True, True, True, False]
    assert not waiting[2].cancelled()
    admission.leave()
    await waiting[3]


async def test_a_store_that_throttles_is_asked_for_less_at_once(client: S3Client, server: FakeS3) -> None:
    """And all is done in the end."""
    server.bucket.put("key", b"x", {})
    server.fail(Kind.STATUS, "HeadObject", status=503, code="SlowDown", times=3)
    server.latency = 0.001
    await asyncio.gather(*(client.head("key") for _ in range(100)))
    server.latency, server.busiest = 0.01, 0
    await asyncio.gather(*(client.head("key") for _ in range(100)))
    assert server.busiest < 100
    assert server.requests["HeadObject"] == 203
