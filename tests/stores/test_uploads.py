"""Uploads in parts: sent or copied, in any order, completed on conditions, listed and given up."""

from __future__ import annotations

import asyncio

import pytest

from tests.stores.servers import Place
from tests.stores.test_objects import read
from vhostfs.backends.s3.store import (
    PART_MINIMUM,
    ConditionError,
    Headers,
    MissingError,
    ObjectStore,
    Part,
    StoreError,
    UnavailableError,
    UnsupportedError,
)

pytestmark = pytest.mark.anyio

has_parts = pytest.mark.parametrize(
    "name", ["fake", "ministack", pytest.param("ceph", marks=pytest.mark.ceph)]
)
has_none = pytest.mark.parametrize("name", ["obstore in memory", "obstore on ministack"])
FIRST = bytes(range(256)) * (PART_MINIMUM // 256)


@has_parts
async def test_parts_that_were_sent_in_any_order_become_an_object(store: ObjectStore) -> None:
    headers = Headers({"mode": "33188"}, {"content-type": "text/plain"})
    upload = await store.upload_begin("new/ü key", headers)
    last = await store.upload_part("new/ü key", upload, 7, [b"the ", b"end"])
    first = await store.upload_part("new/ü key", upload, 2, [FIRST])
    assert list(await store.upload_parts("new/ü key", upload)) == [first, last]
    assert (first.number, first.size, last.size) == (2, len(FIRST), 7)
    with pytest.raises(MissingError):
        await store.head("new/ü key")
    written = await store.upload_complete("new/ü key", upload, [first, last])
    found = await store.head("new/ü key")
    assert (found.size, found.etag, found.headers) == (len(FIRST) + 7, written.etag, headers)
    assert await read(store, "new/ü key", len(FIRST) - 3, 100, if_match=found.etag) == FIRST[-3:] + b"the end"
    assert not await store.uploads()


@has_parts
async def test_a_part_may_be_a_range_of_an_object(place: Place, store: ObjectStore) -> None:
    old = await store.put("old ü", [FIRST, b"and more"])
    upload = await store.upload_begin("new")
    first = await store.upload_copy("new", upload, 1, "old ü", 5, PART_MINIMUM, source_match=old.etag)
    other = '"0123456789abcdef"'
    if place.differs("no-conditional-copy-part"):
        assert not store.capabilities.conditional_copy_part
        await store.upload_copy("new", upload, 2, "old ü", 0, 10, source_match=other)
    else:
        with pytest.raises(ConditionError):
            await store.upload_copy("new", upload, 2, "old ü", 0, 10, source_match=other)
    with pytest.raises(MissingError):
        await store.upload_copy("new", upload, 2, "never there", 0, 10, source_match=old.etag)
    last = await store.upload_part("new", upload, 2, [b"end"])
    await store.upload_complete("new", upload, [first, last])
    assert await read(store, "new", 0, 6_000_000) == FIRST[5:] + b"and m" + b"end"


@has_parts
async def test_a_part_that_is_written_again_is_the_later_one(store: ObjectStore) -> None:
    upload = await store.upload_begin("key")
    await store.upload_part("key", upload, 1, [b"wrong"])
    part = await store.upload_part("key", upload, 1, [b"right"])
    assert [each.etag for each in await store.upload_parts("key", upload)] == [part.etag]
    await store.upload_complete("key", upload, [part])
    assert await read(store, "key", 0, 100) == b"right"


@has_parts
async def test_conditions_of_completions_are_heeded(store: ObjectStore) -> None:
    async def complete(body: bytes, **condition: str | bool) -> str:
        upload = await store.upload_begin("key")
        part = await store.upload_part("key", upload, 1, [body])
        try:
            written = await store.upload_complete("key", upload, [part], **condition)  # type: ignore[arg-type]
        except ConditionError:
            await store.upload_abort("key", upload)
            raise
        return written.etag

    first = await complete(b"1", if_absent=True)
    with pytest.raises(ConditionError):
        await complete(b"2", if_absent=True)
    second = await complete(b"2", if_match=first)
    with pytest.raises(ConditionError):
        await complete(b"3", if_match=first)
    assert await read(store, "key", 0, 10, if_match=second) == b"2"
    assert not await store.uploads()


@has_parts
async def test_of_many_who_complete_uploads_of_a_key_one_succeeds(place: Place, store: ObjectStore) -> None:
    async def make(number: int) -> bytes | None:
        client, body = place.make(), b"%d" % number
        upload = await client.upload_begin("key")
        part = await client.upload_part("key", upload, 1, [body])
        try:
            await client.upload_complete("key", upload, [part], if_absent=True)
        except StoreError:
            await client.upload_abort("key", upload)
            return None
        return body

    made = [each for each in await asyncio.gather(*map(make, range(8))) if each is not None]
    assert len(made) == 1
    assert await read(store, "key", 0, 10) == made[0]


@has_parts
async def test_an_upload_can_be_given_up(place: Place, store: ObjectStore) -> None:
    upload = await store.upload_begin("key")
    part = await store.upload_part("key", upload, 1, [b"x"])
    await store.upload_abort("key", upload)
    await store.upload_abort("key", upload)
    with pytest.raises(MissingError):
        await store.upload_parts("key", upload)
    with pytest.raises(MissingError):
        await store.upload_part("key", upload, 1, [b"x"])
    late = place.differs("completes-what-is-gone-late")
    with pytest.raises(UnavailableError if late else MissingError):
        await store.upload_complete("key", upload, [part])
    with pytest.raises(MissingError):
        await store.head("key")


@has_parts
async def test_a_part_that_was_not_written_completes_nothing(store: ObjectStore) -> None:
    upload = await store.upload_begin("key")
    await store.upload_part("key", upload, 1, [b"x"])
    with pytest.raises(StoreError):
        await store.upload_complete("key", upload, [Part(2, '"0123456789abcdef0123456789abcdef"')])
    with pytest.raises(MissingError):
        await store.head("key")


@has_parts
async def test_uploads_under_way_are_listed_by_prefix(store: ObjectStore) -> None:
    begun = {key: await store.upload_begin(key) for key in ("a/ü 1", "a/2", "b/+%3")}
    found = await store.uploads()
    assert {each.key: each.upload for each in found} == begun
    assert all(each.begun > 1_600_000_000_000_000_000 for each in found)
    assert sorted(each.key for each in await store.uploads("a/")) == ["a/2", "a/ü 1"]
    for key, upload in begun.items():
        await store.upload_abort(key, upload)
    assert not await store.uploads()


@has_parts
async def test_more_than_a_page_of_parts_is_listed(store: ObjectStore) -> None:
    upload = await store.upload_begin("key")
    await asyncio.gather(*(store.upload_part("key", upload, number, [b"x"]) for number in range(1, 1006)))
    assert [part.number for part in await store.upload_parts("key", upload)] == list(range(1, 1006))


@has_none
async def test_a_store_without_parts_refuses_them_and_has_none(store: ObjectStore) -> None:
    assert not store.capabilities.multipart
    with pytest.raises(UnsupportedError):
        await store.upload_begin("key")
    assert not await store.uploads()
