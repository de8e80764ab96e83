"""Listings: sorted by the bytes of the keys, page by page, from any place on."""

from __future__ import annotations

import asyncio

import pytest

from vhostfs.backends.s3.store import ObjectStore, Page

pytestmark = pytest.mark.anyio

KEYS = sorted([f"d/{number:03}" for number in range(30)] + ["a", "b/x", "b/y/z", "e/f/g", "z"])


async def fill(store: ObjectStore, keys: list[str]) -> None:
    """Write an object of each key, as long as the key."""
    await asyncio.gather(*(store.put(key, [key.encode()]) for key in keys))


async def pages(store: ObjectStore, limit: int, prefix: str = "", delimiter: str = "") -> list[Page]:
    """Return all pages of a listing."""
    found = [await store.list(prefix, delimiter=delimiter, limit=limit)]
    while found[-1].next is not None:
        found.append(await store.list(prefix, delimiter=delimiter, page=found[-1].next, limit=limit))
    return found


def names(page: Page) -> list[str]:
    """Return the keys and common prefixes of a page."""
    return sorted([each.key for each in page.objects] + list(page.prefixes))


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_pages_have_each_key_once(store: ObjectStore, limit: int) -> None:
    await fill(store, KEYS)
    found = await pages(store, limit)
    assert [each.key for page in found for each in page.objects] == KEYS
    assert all(each.size == len(each.key) for page in found for each in page.objects)
    assert all(len(page.objects) <= limit for page in found)


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_have_each_common_prefix_once(store: ObjectStore, limit: int) -> None:
    await fill(store, KEYS)
    found = await pages(store, limit, delimiter="/")
    assert [name for page in found for name in names(page)] == ["a", "b/", "d/", "e/", "z"]
    assert all(len(names(page)) <= limit for page in found)
    assert [name for page in await pages(store, limit, "b/", "/") for name in names(page)] == ["b/x", "b/y/"]


async def test_a_listing_begins_behind_a_key(store: ObjectStore) -> None:
    await fill(store, KEYS)
    for after in ("d/027", "d/027x"):
        assert names(await store.list("d/", start_after=after)) == ["d/028", "d/029"]
    assert names(await store.list("d/", start_after="d/020", limit=2)) == ["d/021", "d/022"]
    assert names(await store.list(start_after="d0", delimiter="/")) == ["e/", "z"]
    assert names(await store.list("d/", start_after="e")) == []


async def test_keys_are_sorted_by_their_bytes(store: ObjectStore) -> None:
    keys = ["B", "a", "a!", "a/", "a0", "ä", "\uff5a", "😀"]
    await fill(store, keys)
    assert [each.key for each in (await store.list()).objects] == sorted(keys, key=str.encode)


async def test_a_prefix_is_any_text(store: ObjectStore) -> None:
    keys = ["a b/c", "a+b/c", "a%20b/c", "ä/ö", "a/"]
    await fill(store, keys)
    for prefix in ("a b", "a+b", "a%20b", "ä/"):
        assert [each.key for each in (await store.list(prefix)).objects] == [
            key for key in keys if key.startswith(prefix)
        ]
    assert sorted((await store.list(delimiter="/")).prefixes) == sorted(
        ["a b/", "a+b/", "a%20b/", "ä/", "a/"]
    )
    assert names(await store.list("a/", delimiter="/")) == ["a/"]


async def test_a_listing_of_nothing_is_empty(store: ObjectStore) -> None:
    assert await store.list() == Page([], [], None)
    await store.put("key", [b""])
    assert await store.list("other", delimiter="/") == Page([], [], None)


async def test_more_than_a_page_of_keys_is_listed(store: ObjectStore) -> None:
    keys = [f"{number:04}" for number in range(1005)]
    await fill(store, keys)
    first = await store.list()
    assert len(first.objects) == 1000
    assert [each.key for page in await pages(store, 1000) for each in page.objects] == keys
