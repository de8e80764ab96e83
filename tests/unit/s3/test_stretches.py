"""A directory that was known is listed by several requests side by side, and nobody sees a difference."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fake_s3.bucket import Bucket
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.backends.s3.naming import stretches
from vhostfs.backends.s3.naming.namespace import Namespace, is_name
from vhostfs.backends.s3.options import Metadata
from vhostfs.backends.s3.store import Capabilities, Listed, ObjectStore, Page
from vhostfs.testing import mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

PAGE = 4
FILES = 10_000

type Change = tuple[str, bool]
"""A key, and whether it is there from now on."""


class Store:
    """A store of small pages, which changes with each request, and whose answers overtake each other."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.bucket = Bucket()
        self.capabilities = Capabilities()
        self.changes: list[Change] = []
        self.turns: list[int] = []
        """How often the next answers let others go first."""
        self.requests = self.most_at_once = self._at_once = 0
        self.broken: Callable[[Page], Page] = lambda page: page
        self._change([(key, True) for key in keys])
        self.history = [self.entries()]

    def entries(self) -> set[str]:
        """Return the names in the directory d, those of prefixes with a slash."""
        keys = [key.removeprefix("d/").partition("/") for key in self.bucket.objects if key.startswith("d/")]
        return {name + slash for name, slash, _ in keys if is_name(name)}

    def _change(self, changes: Sequence[Change]) -> None:
        for key, is_there in changes:
            self.bucket.delete(key)
            if is_there:
                self.bucket.put(key, b"", {})

    async def list(
        self, prefix: str, *, delimiter: str, start_after: str = "", page: str | None = None
    ) -> Page:
        """Return a page; as ObjectStore.list."""
        self.requests += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        for _ in range(self.turns.pop() if self.turns else 0):
            await asyncio.sleep(0)
        if self.changes:
            self._change([self.changes.pop()])
            self.history.append(self.entries())
        after = start_after if page is None else page
        objects, prefixes, onward = self.bucket.page(prefix, delimiter, after, PAGE, goes_on=page is not None)
        await asyncio.sleep(0)
        self._at_once -= 1
        return self.broken(Page([Listed(key, 0, item.etag, 0) for key, item in objects], prefixes, onward))


@pytest.fixture(autouse=True, scope="module")
def _small_pages() -> object:
    patch = pytest.MonkeyPatch()
    patch.setattr(stretches, "PAGE_MAXIMUM", PAGE)
    yield
    patch.undo()


def _names(store: Store) -> Namespace:
    """Return what knows nothing of a store, and believes nothing that it was told before."""
    return Namespace(cast(ObjectStore, store), "", 0.0)


async def _listed(names: Namespace) -> list[str]:
    root = names.nodes.root
    directory = root.children.get("d") or names.nodes.add(root, "d", stat.S_IFDIR)
    async with aclosing(names.entries(directory)) as found:
        return [child.name async for child in found]


_NAMES = st.text("a-/0é\uff5a😀.", min_size=1, max_size=4)
_KEYS = st.lists(_NAMES.map("d/{}".format), max_size=40, unique=True)
_CHANGES = st.lists(st.tuples(_NAMES.map("d/{}".format), st.booleans()), max_size=30)
_SIXTEEN = [f"d/{number:02}" for number in range(16)]


@given(before=_KEYS, after=_KEYS, changes=_CHANGES, turns=st.lists(st.integers(0, 5), max_size=30))
@example(_SIXTEEN, [*_SIXTEEN, "d/03/x", "d/07a", "d/07b"], [], [])
@example(_SIXTEEN, ["d/03/x", "d/03/y", "d/03-"], [("d/03/z", True), ("d/03/x", False)], [5, 0, 3])
@example([f"{key}/x" for key in _SIXTEEN], _SIXTEEN, [("d/15", False), ("d/00-", True)], [0, 5, 0, 5])
@example(["d/a"], [f"{key}/x" for key in _SIXTEEN], [("d/03", True)], [])
def test_a_known_directory_has_each_name_once_whatever_changes(
    before: list[str], after: list[str], changes: list[Change], turns: list[int]
) -> None:
    """All that is there all the while, nothing that never was, and what a chain finds if nothing changes."""

    async def compare() -> None:
        store = Store(before)
        names = _names(store)
        assert set(await _listed(names)) == {each.rstrip("/") for each in store.entries()}
        store.bucket = Store(after).bucket
        unchanged = sorted(await _listed(names))
        chain = _names(store)
        store.capabilities = Capabilities(list_from_key=False)
        assert unchanged == sorted(await _listed(chain))
        store.capabilities = Capabilities()
        store.history = [store.entries()]
        store.changes, store.turns = list(changes), list(turns)
        found = await _listed(names)
        assert len(found) == len(set(found))
        assert {each.rstrip("/") for each in set.intersection(*store.history)} <= set(found)
        assert set(found) <= {each.rstrip("/") for each in set.union(*store.history)}

    asyncio.run(compare())


async def test_a_known_directory_costs_no_more_requests_and_fewer_turns() -> None:
    """At most eight at a time."""
    keys = [f"d/{number:03}" for number in range(20 * PAGE - stretches.OWN)]
    store = Store(keys)
    names = _names(store)
    expected = [key.removeprefix("d/") for key in keys]
    assert await _listed(names) == expected
    assert (store.requests, store.most_at_once) == (20, 1)
    store.requests = 0
    assert await _listed(names) == expected
    assert (store.requests, store.most_at_once) == (20, 8)


async def test_a_directory_that_was_emptied_is_not_asked_for_all_that_it_had() -> None:
    """Where the store says that nothing follows, nothing does."""
    store = Store([f"d/{number:03}" for number in range(40 * PAGE)])
    names = _names(store)
    await _listed(names)
    store.bucket, store.requests = Store(["d/new"]).bucket, 0
    assert await _listed(names) == ["new"]
    assert store.requests <= stretches.AT_ONCE


@pytest.mark.parametrize(
    "broken",
    [
        lambda page: Page(page.objects[::-1], page.prefixes, page.next),
        lambda page: Page([*page.objects, Listed("d/000", 0, '"e"', 0)], page.prefixes, page.next),
        lambda page: Page(page.objects, ["d/!/"], page.next),
    ],
    ids=["backwards", "with-others", "with-prefixes-again"],
)
async def test_a_store_that_lists_in_another_order_is_listed_page_by_page(
    broken: Callable[[Page], Page],
) -> None:
    """From then on, and nothing is missed."""
    keys = [f"d/{number:03}" for number in range(100)]
    store = Store(keys)
    store.broken = broken
    names = _names(store)
    expected = sorted(await _listed(names))
    assert len(expected) >= 100
    assert sorted(await _listed(names)) == expected
    store.most_at_once = 0
    assert sorted(await _listed(names)) == expected
    assert store.most_at_once == 1


async def test_a_store_that_begins_elsewhere_than_it_is_told_to_is_listed_page_by_page() -> None:
    """As those do that know of no start-after."""
    store = Store([f"d/{number:03}" for number in range(100)])
    names = _names(store)
    expected = await _listed(names)
    listed = store.list

    async def from_the_beginning(prefix: str, *, start_after: str, **others: str) -> Page:
        return await listed(prefix, **others)

    store.list = from_the_beginning  # type: ignore[method-assign,assignment]
    assert sorted(await _listed(names)) == expected
    store.requests = 0
    assert await _listed(names) == expected
    assert store.requests == 25


@pytest.mark.parametrize("metadata", [Metadata.LAZY, Metadata.FULL])
async def test_ten_thousand_files_are_listed_side_by_side_in_twelve_requests(
    make_filesystem: MakeFilesystem, server: FakeS3, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they were listed before, and where an index tells them."""
    monkeypatch.setattr(stretches, "PAGE_MAXIMUM", 1000)
    for number in range(FILES):
        server.bucket.put(f"{number:05}", b"x", {})
    filesystem = make_filesystem(seconds=0.0, metadata=metadata)
    async with mount(filesystem) as client:
        assert len(await client.entries("/", plus=True)) == FILES
    if metadata is Metadata.FULL:
        filesystem = make_filesystem(metadata=metadata)
    server.requests.clear()
    server.busiest, server.latency = 0, 0.02
    async with mount(filesystem) as client:
        assert len(await client.entries("/", plus=True)) == FILES
    assert server.requests.total() <= 12
    assert 1 < server.busiest <= stretches.AT_ONCE
