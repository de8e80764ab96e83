"""Requests beyond a limit wait for their turn, and are answered."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Attr, Caller, Filesystem
from vhostfs.layers.rate_limit import RateLimited, RateLimitSettings
from vhostfs.testing import Client, mount
from vhostfs.virtqueue.rate_limit import RateLimit, Rates

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


class Spent:
    """A limit that lets a number of requests through, and then none until it is told."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.asked: list[int] = []
        self.met = asyncio.Event()
        """Somebody had to wait."""

    def take(self, size: int = 0) -> float:
        self.asked.append(size)
        if self.left == 0:
            self.met.set()
            return 0.001
        self.left -= 1
        return 0


def limited(spent: Spent) -> RateLimited[Any]:
    limit: Any = spent
    return RateLimited(MemoryFilesystem(size=1 << 20, inodes=100, mode=0o755, uid=0, gid=0), limit)


@pytest.fixture
def spent() -> Spent:
    return Spent(1000)


@pytest.fixture
async def client(spent: Spent) -> AsyncIterator[Client]:
    async with mount(limited(spent)) as client:
        yield client


async def test_data_counts_by_the_bytes_that_are_asked_for(client: Client, spent: Spent) -> None:
    await client.write_bytes("/file", bytes(5000))
    assert 5000 in spent.asked
    node = (await client.lookup(client.root, "file")).nodeid
    fh = (await client.open_node(node)).fh
    spent.asked.clear()
    assert await client.read(node, fh, 0, 3000) == bytes(3000)
    assert spent.asked == [3000]


async def test_who_waits_is_answered_in_the_order_of_asking(client: Client, spent: Spent) -> None:
    spent.left = 0
    order: list[int] = []

    async def ask(number: int) -> None:
        await client.getattr(client.root)
        order.append(number)

    tasks = [asyncio.ensure_future(ask(number)) for number in range(5)]
    await spent.met.wait()
    assert not order
    spent.left = 5
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_what_gives_something_up_never_waits(client: Client, spent: Spent) -> None:
    await client.write_bytes("/file", b"")
    node = (await client.lookup(client.root, "file")).nodeid
    fh = (await client.open_node(node)).fh
    spent.left = 0
    await client.release(node, fh)
    client.forget(node)


async def test_a_session_that_ends_hangs_on_nobody_who_waits() -> None:
    spent = Spent(0)
    async with mount(limited(spent)) as client:
        task = asyncio.ensure_future(client.getattr(client.root))
        await spent.met.wait()
    with pytest.raises(OSError, match=r".*"):
        await task


async def test_a_limit_of_the_data_plane_tells_how_long_to_wait() -> None:
    limit = RateLimit(Rates(requests=10, requests_burst=2, bytes=1000, bytes_burst=1000))
    assert limit.take(10) == 0
    assert limit.take(10_000) == 0
    assert 0 < limit.take() < 10
    with pytest.raises(ValueError, match="rates and bursts are numbers"):
        RateLimit(Rates(requests=-1))


async def test_a_def_that_need_not_wait_stays_one() -> None:
    class Inner(Filesystem[None]):
        def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
            return Attr.directory(1)

    layer = RateLimitSettings(requests=1000).wrap(Inner())
    assert layer.getattr(Caller(), 1, None) == Attr.directory(1)


def test_a_group_has_one_limit_for_as_long_as_anybody_keeps_to_it() -> None:
    settings = RateLimitSettings(requests=5, group="test-group")
    limit = settings.limit()
    assert RateLimitSettings(requests=5, group="test-group").limit() is limit
    assert RateLimitSettings(requests=5).limit() is not limit
    with pytest.raises(ConfigurationError, match="the group test-group has another limit"):
        RateLimitSettings(requests=6, group="test-group").limit()
    del limit
    gc.collect()
    RateLimitSettings(requests=6, group="test-group").limit()
