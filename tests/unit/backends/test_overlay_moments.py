"""What becomes of an overlay's changes when many come at once, are given up, or fail at any moment."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.unit.backends.overlays import (
    Content,
    Failing,
    Slow,
    Watched,
    layer,
    memory,
    node_of,
    overlaid,
    tree,
)
from tests.unit.refusals import refused
from vhostfs.filesystem import Filesystem, RenameFlags
from vhostfs.testing import Client

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


async def test_a_file_is_copied_up_once_however_many_want_it() -> None:
    content = bytes(range(256)) * 10_000
    lower, upper = Watched(await layer({"dir": {"file": content}})), Watched(memory())
    async with overlaid(Slow(upper), Slow(lower)) as client:
        node = await node_of(client, "dir/file")
        opened = await asyncio.gather(*(client.open_node(node, os.O_RDWR) for _ in range(8)))
        assert (lower.asked["read"], upper.asked["create"], upper.asked["rename"]) == (3, 1, 2)
        assert await client.read_bytes("dir/file") == content
        for each in opened:
            await client.release(node, each.fh)


BEFORE: Content = {
    "dir": {"file": b"x" * 5000, "sub": {"a": b""}, "hollow": {}},
    "gone": None,
    "own": {"b": b""},
}


async def before() -> tuple[Filesystem[Any], Filesystem[Any]]:
    """Return an upper and a lower layer."""
    lower = await layer({"dir": BEFORE["dir"], "gone": {"old": b""}, "other": b""})
    return await layer({"gone": None, "own": {"b": b""}, "other": None}), lower


CHANGES: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "chmod": lambda client: client.chmod("dir/file", 0o600),
    "write": lambda client: client.write_bytes("dir/file", b"new"),
    "create": lambda client: client.write_bytes("gone", b""),
    "mkdir": lambda client: client.mkdir("gone"),
    "unlink": lambda client: client.unlink("dir/file"),
    "rmdir": lambda client: client.rmdir("dir/hollow"),
    "link": lambda client: client.link("dir/file", "other"),
    "rename a file": lambda client: client.rename("dir/file", "other"),
    "rename a directory": lambda client: client.rename("dir", "gone"),
    "replace a directory": lambda client: client.rename("own", "dir/hollow"),
    "exchange": lambda client: client.rename("dir/file", "own", RenameFlags.EXCHANGE),
}


async def after(change: Callable[[Client], Awaitable[Any]]) -> Content:
    """Return what is seen when a change is done."""
    upper, lower = await before()
    async with overlaid(upper, lower) as client:
        await change(client)
        return await tree(client)


def is_either(seen: Content, one: Content, other: Content, change: str) -> bool:
    """Tell whether a change was made, or not; truncating and writing are two."""
    emptied = {**one, "dir": {**one["dir"], "file": b""}} if change == "write" else one  # type: ignore[dict-item]
    return seen in (one, other, emptied)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_that_is_interrupted_is_made_or_not_and_nothing_is_kept(change: str) -> None:
    wanted = await after(CHANGES[change])
    old = await after(lambda client: client.statfs())
    for turns in range(len(change) % 7, 90, 7):
        layers = [Watched(each) for each in await before()]
        async with overlaid(*map(Slow, layers)) as client:
            making = asyncio.ensure_future(CHANGES[change](client))
            for _ in range(turns):
                await asyncio.sleep(0)
            client.interrupt()
            with suppress(InterruptedError):
                await making
            seen = await tree(client)
            for node in list(client.lookups):
                client.forget(node)
            assert is_either(seen, old, wanted, change), turns
            assert [each.handles for each in layers] == [0, 0]
            assert len(layers[0].held) <= 1, "the work directory is all that may be held"
            assert layers[1].held == set()
        async with overlaid(*(each.inner for each in layers)) as client:
            assert await tree(client) == seen


@pytest.mark.parametrize("bad", [1, 1 << 40], ids=["an error", "a crash"])
@pytest.mark.parametrize("change", CHANGES)
async def test_after_a_failure_at_any_moment_a_change_was_made_or_not(change: str, bad: int) -> None:
    wanted = await after(CHANGES[change])
    old = await after(lambda client: client.statfs())
    for moments in range(0, 1000, 2 if bad == 1 else 1):
        upper, lower = await before()
        failing = Failing(upper, bad)
        seen = None
        async with overlaid(failing, lower) as client:
            failing.left = moments
            with suppress(OSError):
                await CHANGES[change](client)
            ended = failing.left >= 0
            if bad == 1:
                failing.left = None
                seen = await tree(client)
        async with overlaid(upper, lower) as client:
            left = await tree(client)
        assert is_either(left, old, wanted, change), moments
        assert seen in (None, left), moments
        if ended:
            break
    assert left == wanted
    assert moments > 5


async def test_names_that_many_change_at_once_stay_whole() -> None:
    upper, lower = memory(), await layer({"a": {f"{index}": b"" for index in range(20)}, "b": {}})
    async with overlaid(Slow(upper), Slow(lower)) as client:
        a, b = [await node_of(client, path) for path in ("a", "b")]
        moves = [client.rename_at(a, f"{index}", b, f"{index}") for index in range(10)]
        removals = [client.unlink_at(a, f"{index}") for index in range(10, 20)]
        looks = [client.exists(f"a/{index}") for index in range(20)]
        links = [client.mkdir_at(b, f"new{index}") for index in range(5)]
        await asyncio.gather(*moves, *removals, *looks, *links)
        assert await client.listdir("a") == []
        names = {*(f"{index}" for index in range(10)), *(f"new{index}" for index in range(5))}
        assert set(await client.listdir("b")) == names
        assert not any([await client.exists(f"a/{index}") for index in range(20)])


async def test_layers_are_given_back_all_that_they_gave() -> None:
    upper, lower = Watched(memory()), Watched(await layer({"dir": {"a": b"a", "sub": {"c": b""}}, "b": b"b"}))
    async with overlaid(upper, lower) as client:
        await client.write_bytes("dir/a", b"new")
        await client.unlink("b")
        await client.write_bytes("b", b"")
        await client.rename("dir", "elsewhere")
        await client.link("elsewhere/a", "again")
        await client.rename("again", "b")
        await client.rename("b", "elsewhere/sub/c", RenameFlags.EXCHANGE)
        await client.unlink("elsewhere/sub/c")
        await client.rmdir("elsewhere/sub")
        await client.mkdir("elsewhere/sub")
        with refused(errno.EEXIST):
            await client.mkdir("elsewhere/sub")
        with refused(errno.ENOTEMPTY):
            await client.rmdir("elsewhere")
        assert set(await tree(client)) == {"b", "elsewhere"}
        assert lower.held == set()
        assert len(upper.held) == 1, "the work directory is all that may be held"
        assert (upper.handles, lower.handles) == (0, 0)
    assert upper.held == set()
