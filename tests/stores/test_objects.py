"""Whole objects: what is written is read, conditions are heeded, of many writers one succeeds."""

from __future__ import annotations

import asyncio

import pytest

from tests.stores.servers import Place
from vhostfs.backends.s3.store import (
    BucketError,
    ConditionError,
    ConflictError,
    DeniedError,
    Headers,
    MissingError,
    ObjectStore,
    RangeError,
    StoreError,
    UnsupportedError,
)

pytestmark = pytest.mark.anyio

ODD_KEYS = [
    "plain",
    "a/b/c",
    "with space",
    " lead and trail ",
    "ünï/çødé",
    "e\u0301",  # not composed, and kept so
    "a//b",
    "d/",
    "+&=?#%",
    "%2F%41",
    "..",
    "./x",
    "*'()!~",
    "😀",
    'a\\b|c<d>"e`f^{g}',
    "x" * 1024,
]
WRITERS = 12


async def read(store: ObjectStore, key: str, offset: int, *rooms: int, if_match: str | None = None) -> bytes:
    """Return what comes into pieces of memory of some sizes."""
    pieces = [bytearray(room) for room in rooms]
    count, _ = await store.get(key, offset, [memoryview(piece) for piece in pieces], if_match=if_match)
    return b"".join(pieces)[:count]


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
async def test_any_key_is_written_listed_read_copied_and_deleted(
    place: Place, store: ObjectStore, key: str
) -> None:
    if place.differs("no-odd-keys") and not {"", ".", ".."}.isdisjoint(key.removesuffix("/").split("/")):
        with pytest.raises(UnsupportedError):
            await store.put(key, [b"data"])
        return
    await store.put(key, [b"data"])
    assert [each.key for each in (await store.list()).objects] == [key]
    assert (await store.head(key)).size == 4
    assert await read(store, key, 0, 10) == b"data"
    await store.copy(key, "copy")
    await store.delete(key)
    assert [each.key for each in (await store.list()).objects] == ["copy"]
    await store.copy("copy", key)
    assert await store.delete_many([key, "copy", "never there"]) == {}
    assert not (await store.list()).objects


async def test_a_range_comes_into_the_pieces_of_memory_that_were_given(store: ObjectStore) -> None:
    data = bytes(range(256)) * 1000
    await store.put("key", [data[:1000], data[1000:]])
    assert await read(store, "key", 0, len(data)) == data
    assert await read(store, "key", 1000, 1, 2, 4096, 100_000) == data[1000 : 1000 + 104_099]
    assert await read(store, "key", len(data) - 5, 3, 100) == data[-5:]
    for offset in (len(data), len(data) + 1000):
        with pytest.raises(RangeError):
            await read(store, "key", offset, 10)


async def test_an_empty_object_is_one(store: ObjectStore) -> None:
    written = await store.put("key", [])
    found = await store.head("key")
    assert (found.size, found.etag) == (0, written.etag)
    assert [(each.key, each.size) for each in (await store.list()).objects] == [("key", 0)]
    with pytest.raises(RangeError):
        await read(store, "key", 0, 10)


async def test_a_large_body_arrives_whole(store: ObjectStore) -> None:
    pieces = [bytes([number]) * 1_000_003 for number in range(9)]
    await store.put("key", pieces)
    assert await read(store, "key", 0, 10_000_000) == b"".join(pieces)


async def test_what_is_stored_with_an_object_comes_back(store: ObjectStore) -> None:
    headers = Headers(
        {"mode": "33188", "xattr": "%7B%22user.n%C3%A4me%22%3A%22eA%3D%3D%22%7D", "dash-ed": 'a, b; c="d"'},
        {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"},
    )
    written = await store.put("key", [b"x"], headers)
    found = await store.head("key")
    assert found.headers == headers
    assert (found.size, found.etag) == (1, written.etag)
    [listed] = (await store.list()).objects
    assert (listed.size, listed.etag) == (1, written.etag)
    assert abs(listed.modified - found.modified) < 1_000_000_000
    _, got = await store.get("key", 0, [memoryview(bytearray(1))])
    assert (got.headers, got.etag) == (headers, written.etag)


async def test_a_copy_has_the_headers_of_its_source_or_others(store: ObjectStore) -> None:
    headers = Headers({"mode": "33188", "uid": "7"}, {"content-type": "text/plain"})
    first = await store.put("key", [b"data"], headers)
    await store.copy("key", "same")
    assert (await store.head("same")).headers == headers
    others = Headers({"mode": "33261"}, {"content-type": "image/png"})
    await store.copy("key", "other", others, source_match=first.etag)
    assert (await store.head("other")).headers == others
    changed = await store.copy("key", "key", others, source_match=first.etag)
    found = await store.head("key")
    assert (found.headers, found.etag) == (others, changed.etag)
    assert await read(store, "key", 0, 10, if_match=changed.etag) == b"data"


async def test_conditions_of_writes_are_heeded(store: ObjectStore) -> None:
    first = await store.put("key", [b"1"], if_absent=True)
    with pytest.raises(ConditionError):
        await store.put("key", [b"2"], if_absent=True)
    second = await store.put("key", [b"2"], if_match=first.etag)
    with pytest.raises(ConditionError):
        await store.put("key", [b"3"], if_match=first.etag)
    with pytest.raises((MissingError, ConditionError)):
        await store.put("other", [b"3"], if_match=first.etag)
    assert await read(store, "key", 0, 10, if_match=second.etag) == b"2"


async def test_conditions_of_reads_are_heeded(store: ObjectStore) -> None:
    first = await store.put("key", [b"1"])
    second = await store.put("key", [b"2"])
    with pytest.raises(ConditionError):
        await read(store, "key", 0, 1, if_match=first.etag)
    assert await read(store, "key", 0, 1, if_match=second.etag) == b"2"


async def test_conditions_of_copies_are_heeded(place: Place, store: ObjectStore) -> None:
    first = await store.put("key", [b"1"])
    second = await store.put("key", [b"2"])
    with pytest.raises(ConditionError):
        await store.copy("key", "copy", source_match=first.etag)
    await store.copy("key", "copy", source_match=second.etag, if_absent=True)
    await store.put("key", [b"3"])
    if place.differs("no-conditional-copy"):
        assert not store.capabilities.conditional_copy
        return
    with pytest.raises(ConditionError):
        await store.copy("key", "copy", if_absent=True)
    assert await read(store, "copy", 0, 10) == b"2"


async def test_conditions_of_deletions_are_heeded(place: Place, store: ObjectStore) -> None:
    first = await store.put("key", [b"1"])
    second = await store.put("key", [b"2"])
    with pytest.raises(ConditionError):
        await store.delete("key", if_match=first.etag)
    await store.delete("key", if_match=second.etag)
    if place.differs("deletes-nothing-gladly"):
        await store.delete("key", if_match=second.etag)
    else:
        with pytest.raises((MissingError, ConditionError)):
            await store.delete("key", if_match=second.etag)
    await store.delete("key")


async def test_of_many_who_make_an_object_one_succeeds(place: Place, store: ObjectStore) -> None:
    async def make(number: int) -> int | None:
        try:
            await place.make().put("key", [b"%d" % number], if_absent=True)
        except (ConditionError, ConflictError):
            return None
        return number

    made = [each for each in await asyncio.gather(*map(make, range(WRITERS))) if each is not None]
    assert len(made) == 1
    assert await read(store, "key", 0, 10) == b"%d" % made[0]


async def test_of_many_who_change_an_object_one_succeeds(place: Place, store: ObjectStore) -> None:
    first = await store.put("key", [b"first"])

    async def change(number: int) -> int | None:
        try:
            await place.make().put("key", [b"%d" % number], if_match=first.etag)
        except (ConditionError, ConflictError):
            return None
        return number

    changed = [each for each in await asyncio.gather(*map(change, range(WRITERS))) if each is not None]
    assert len(changed) == 1
    assert await read(store, "key", 0, 10) == b"%d" % changed[0]


async def test_what_is_not_there_is_told(place: Place, store: ObjectStore) -> None:
    with pytest.raises(MissingError):
        await store.head("key")
    with pytest.raises(MissingError):
        await read(store, "key", 0, 10)
    with pytest.raises(MissingError):
        await store.copy("key", "copy")
    if place.differs("no-lost-buckets"):
        return
    lost = place.make_lost()
    for call in (lost.list(), lost.put("key", [b"x"]), read(lost, "key", 0, 1)):
        with pytest.raises(BucketError):
            await call


async def test_who_has_no_right_is_denied(place: Place, store: ObjectStore) -> None:
    await store.put("key", [b"x"])
    denied = place.make_denied()
    calls = (denied.list(), denied.head("key"), read(denied, "key", 0, 1), denied.put("key", [b"y"]))
    if place.differs("no-signatures"):
        assert not [each for each in await asyncio.gather(*calls) if isinstance(each, StoreError)]
        return
    for call in calls:
        with pytest.raises(DeniedError):
            await call
    assert await read(store, "key", 0, 10) == b"x"
