"""Faults happen where the rules say, and the same ones each time."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AbstractAsyncContextManager

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.layers.fault import FaultRule, FaultSettings
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


def faulty(*rules: FaultRule, seed: int = 0) -> AbstractAsyncContextManager[Client]:
    inner = MemoryFilesystem(size=1 << 20, inodes=100, mode=0o755, uid=0, gid=0)
    return mount(FaultSettings(rules, seed).wrap(inner))


async def test_an_operation_fails_where_a_rule_says_and_does_nothing() -> None:
    rule = FaultRule(("mkdir", "create"), ("/broken/**",), "EIO")
    async with faulty(rule) as client:
        await client.mkdir("/whole")
        with refused(errno.EIO):
            await client.mkdir("/broken")
        assert await client.listdir("/") == ["whole"]


async def test_the_nth_fails_and_no_other() -> None:
    async with faulty(FaultRule(("mkdir",), nth=3, error="ENOSPC")) as client:
        results: list[int | None] = []
        for number in range(5):
            try:
                await client.mkdir(f"/{number}")
                results.append(0)
            except OSError as error:
                results.append(error.errno)
        assert results == [0, 0, errno.ENOSPC, 0, 0]


async def test_so_many_fail_at_most() -> None:
    async with faulty(FaultRule(("mkdir",), times=2, error="EINTR")) as client:
        for _ in range(2):
            with refused(errno.EINTR):
                await client.mkdir("/d")
        await client.mkdir("/d")


async def pattern_of(seed: int) -> list[bool]:
    rule = FaultRule(("getattr",), probability=0.5, error="EIO")
    async with faulty(rule, seed=seed) as client:
        found = []
        for _ in range(60):
            try:
                await client.getattr(client.root)
                found.append(False)
            except OSError:
                found.append(True)
        return found


async def test_chance_repeats_itself_with_its_seed() -> None:
    first = await pattern_of(7)
    assert await pattern_of(7) == first
    assert await pattern_of(8) != first
    assert 10 < sum(first) < 50


async def test_a_delay_lets_others_go_first() -> None:
    async with faulty(FaultRule(("getattr",), ("/",), delay=0.01)) as client:
        await client.mkdir("/d")
        order: list[str] = []

        async def slow() -> None:
            await client.getattr(client.root)
            order.append("slow")

        async def quick() -> None:
            await client.statfs("/")
            order.append("quick")

        await asyncio.gather(slow(), quick())
        assert order == ["quick", "slow"]


async def test_a_delayed_operation_may_fail_then() -> None:
    rule = FaultRule(("getattr",), delay=0.001, error="ETIMEDOUT")
    async with faulty(rule) as client:
        with refused(errno.ETIMEDOUT):
            await client.getattr(client.root)


async def test_the_first_rule_that_strikes_counts() -> None:
    rules = FaultRule(("mkdir",), nth=1, error="EIO"), FaultRule(("any",), error="ENXIO")
    async with faulty(*rules) as client:
        with refused(errno.EIO):
            await client.mkdir("/d")
        with refused(errno.ENXIO):
            await client.mkdir("/d")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (FaultRule(error="EWRONG"), "'EWRONG' is no errno"),
        (FaultRule(), "needs an error, a delay, or both"),
        (FaultRule(("reed",), error="EIO"), "'reed' is no operation; did you mean read?"),
        (FaultRule(paths=("a",), error="EIO"), "should begin with /"),
    ],
)
def test_rules_that_are_none_are_told(rule: FaultRule, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FaultSettings((rule,))
