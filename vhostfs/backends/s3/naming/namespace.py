"""Names: which objects are files and which prefixes directories, at as few requests as can be.

A directory that was listed and not yet expired answers every lookup in it, misses included, without a
request. A name in one that was not costs HEAD and LIST side by side, and identical questions at the same
time are one. After some such lookups the directory is listed; a large one when its pages are no more than the
lookups were.

Keys that no path can name (an empty segment, '.' or '..', NUL, a segment beyond 255 bytes) are left out and
counted. So are objects that have the name of a prefix: the directory is what is seen.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final

from vhostfs.backends.s3.naming.index import NAME as INDEX
from vhostfs.backends.s3.naming.index import read_index, write_index
from vhostfs.backends.s3.naming.listing import Listing
from vhostfs.backends.s3.naming.metadata import PosixMetadata, decoded
from vhostfs.backends.s3.naming.nodes import LOOKUPS_BEFORE_LISTING, Node, NodeTable
from vhostfs.backends.s3.naming.stretches import (
    IDLE_PAGES_MAXIMUM,
    Pages,
    Stretch,
    UnorderedError,
    side_by_side,
    stretches,
)
from vhostfs.backends.s3.operating.probing import NAME as PROBE
from vhostfs.backends.s3.store import (
    PAGE_MAXIMUM,
    BrokenAnswerError,
    Listed,
    MissingError,
    ObjectInfo,
    ObjectStore,
    Page,
    StoreError,
)
from vhostfs.filesystem.refusals import refused

logger = logging.getLogger(__name__)

PAGES_AWAITED: Final = 10
"""How many pages a listing may take for which a lookup waits."""

MISSING_MAXIMUM: Final = 4096
"""How many missing names of a directory are remembered."""

NAME_MAXIMUM: Final = 255

NAMES_MAXIMUM: Final = 4_000_000
"""How many names of a directory are taken from a store: they stay in memory, some 500 bytes each."""

HEADS_AT_ONCE: Final = 64
STALE_MINIMUM: Final = 3
"""How many entries an index may lack before it is written again."""
KEY_MAXIMUM: Final = 1024

FOLDER: Final = "_$folder$"
"""How some programs call an object that stands for a directory."""


@dataclass(slots=True)
class _Survey:
    """What a listing of a directory has found so far."""

    directory: Node
    above: str
    """What the keys of all that is in the directory begin with."""
    removed: Set[str]
    """What this mount has taken away since the listing began: the store may tell of it all the same."""
    index: Mapping[str, tuple[str, PosixMetadata]]
    names: set[str] = field(default_factory=set)
    doubtful: dict[str, tuple[Listed, int]] = field(default_factory=dict)
    """Objects where a directory was, and how many writes were known: its prefix may follow."""
    hidden: int = 0
    asked: int = 0
    """How many files' metadata was asked for."""
    heads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HEADS_AT_ONCE))


class Namespace:
    """The names of a bucket below a prefix. For one event loop; raises StoreError where the store fails."""

    def __init__(self, store: ObjectStore, prefix: str, seconds: float, *, exact: bool = False) -> None:
        """A namespace of which nothing is known; what is found may be believed for so many seconds.

        An exact one has every file's metadata once it was listed, and keeps an index in each directory.
        """
        self._exact = exact
        self.nodes = NodeTable()
        self._hidden: dict[int, int] = {}
        """How many keys of a directory could not be shown when it was listed, by its number."""
        self._store = store
        self._prefix = prefix
        self._seconds = seconds
        self._under_way: dict[object, asyncio.Task[Any]] = {}
        self._listings: dict[int, Listing] = {}
        self._writes = 0
        self._in_order = True
        """The store lists in order, as far as was seen."""

    @property
    def hidden(self) -> int:
        """Return how many keys were seen that cannot be shown."""
        return sum(self._hidden.values())

    def key(self, node: Node) -> str:
        """Return the key of a node's object; a directory's ends with a slash."""
        return self._prefix + (node.prefix if node.is_directory else node.path)

    def path(self, key: str) -> str | None:
        """Return the path that a key has below the mount's root; None for one that lies elsewhere."""
        return key.removeprefix(self._prefix) if key.startswith(self._prefix) else None

    async def end(self) -> None:
        """Give up what is asked for and waited for by nobody."""
        asked = list(self._under_way.values())
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    def child_key(self, directory: Node, name: str) -> str:
        """Return the key that a file of a name in a directory has, or would have."""
        return f"{self._prefix}{directory.prefix}{name}"

    def known(self, key: str) -> Node | None:
        """Return the node of a key, if there is one already."""
        path = self.path(key)
        node = None if path is None else self._deepest(path)
        return node if node is not None and self.key(node) == key else None

    def doubt_below(self, key: str) -> None:
        """Take note that a file or directory of a key, and all below it, may be what is not known yet."""
        path = self.path(key)
        if path is None:
            return
        found = self._deepest(path)
        if found.parent is not None:
            found.parent.listed_until = 0.0
        waiting = [found]
        while waiting:
            node = waiting.pop()
            node.expires = node.listed_until = 0.0
            node.missing.clear()
            waiting += node.children.values()

    def _deepest(self, path: str) -> Node:
        """Return the node of a path, or of the last directory on the way to it that is known."""
        node = self.nodes.root
        for name in path.removesuffix("/").split("/"):
            child = node.children.get(name)
            if child is None:
                break
            node = child
        return node

    def believe_empty(self, directory: Node) -> None:
        """Take note that a directory was made, with nothing in it."""
        directory.listed_until = monotonic() + self._seconds

    def believe(self, node: Node) -> None:
        """Take note that what is known of a node is so now."""
        node.expires = monotonic() + self._seconds

    def doubt(self, node: Node) -> None:
        """Take note that a node's object is not the one that was known: who looks its name up asks again."""
        node.expires = 0.0
        if not node.is_local:
            node.posix = None
        if node.parent is not None:
            node.parent.listed_until = 0.0

    def wrote(self, node: Node) -> None:
        """Take note that this mount has just written a node's object: what was asked for before is older."""
        self._writes += 1
        node.written = self._writes
        self.believe(node)

    @property
    def writes(self) -> int:
        """Return how many objects this mount has written: what is written later has a greater `written`."""
        return self._writes

    async def find(self, directory: Node, name: str) -> Node | None:
        """Return the node of a name, or None where there is none."""
        now = monotonic()
        child = directory.children.get(name)
        if child is not None and (child.is_local or child.expires > now):
            return child
        if directory.listed_until > now:
            return child
        if child is None and directory.missing.get(name, 0.0) > now:
            return None
        if not is_name(name) or is_reserved(name):
            return None
        question = (directory.number, name)
        directory.lookups += question not in self._under_way
        if directory.lookups > directory.lookups_enough and self._seconds:
            listing = self._begin((directory.number, ""), lambda: self._list_for_lookups(directory))
            if directory.lookups_enough == LOOKUPS_BEFORE_LISTING and await asyncio.shield(listing):
                return directory.children.get(name)
        return await self._once(question, lambda: self._ask(directory, name))

    async def refresh(self, node: Node) -> None:
        """Ask for a file's metadata, if that is not known; MissingError where the object is gone.

        OSError ESTALE where it turns out to be of another type: its name leads to another node from now on.
        """
        fresh = node.posix is not None and (node.expires > monotonic() or node.is_local)
        # What is gone has no key any more: an object of that key is another file.
        if not fresh and not node.gone:
            joins = node.number in self._under_way
            try:
                await self._once(node.number, lambda: self._head(node))
            except OSError as error:
                if not joins or isinstance(error, MissingError):
                    raise
                # What has failed was begun before this was asked, perhaps for nobody: it may not fail again.
                await self._once(node.number, lambda: self._head(node))
        if node.gone and node.posix is None:
            raise refused(errno.ESTALE)

    async def revalidate(self, node: Node) -> None:
        """Ask whether a file is what it was, where that may not be believed any more; as `refresh`."""
        if node.expires <= monotonic():
            await self.refresh(node)

    async def learn(self, node: Node, ask: Callable[[], Awaitable[ObjectInfo | None]]) -> None:
        """Know a file's metadata by a request that asks for more; who wants it meanwhile waits for that one.

        Where that request fails, or does not tell it, HEAD does. Nothing is asked if HEAD is under way.
        """

        async def answered() -> None:
            try:
                info = await ask()
            except StoreError:
                info = None
            if node.posix is not None or node.is_local or node.gone:
                return  # what is known by now may be newer
            if info is not None and info.etag == node.etag:
                self._see_object(node, info)
            else:
                await self._head(node)

        await self._once(node.number, answered)

    async def list(self, directory: Node) -> None:
        """Know all names of a directory."""
        async for _ in self.entries(directory):
            pass

    async def _list_for_lookups(self, directory: Node) -> bool:
        """Know all names of a directory, unless that takes more requests than lookups did; tell whether."""
        most = PAGE_MAXIMUM * max(PAGES_AWAITED, directory.lookups)
        known = 0
        async with aclosing(self.entries(directory)) as children:
            async for _ in children:
                known += 1
                if known > most:
                    directory.lookups_enough = 2 * most // PAGE_MAXIMUM
                    return False
        return True

    async def entries(self, directory: Node) -> AsyncGenerator[Node]:
        """Yield the children of a directory, each page of a listing as it comes."""
        if directory.listed_until > monotonic():
            for name in sorted(directory.children):
                known = directory.children.get(name)  # it may be another one by now, or none
                if known is not None:
                    yield known
            return
        listing = self._listings.get(directory.number)
        # Where nothing is believed, a listing that has begun before is not, either.
        if listing is None or listing.has_ended or not self._seconds:
            listing = self._listings[directory.number] = Listing(self._list(directory))
        shown: set[int] = set()
        names: set[str] = set()
        try:
            async with aclosing(listing.follow()) as found:
                async for child in found:
                    current = directory.children.get(child.name)  # it may be another one by now, or none
                    if current is not None and current.number not in shown and child.name not in names:
                        shown.add(current.number)
                        names.add(child.name)
                        yield current
        finally:
            if listing.has_ended and self._listings.get(directory.number) is listing:
                del self._listings[directory.number]

    async def _list(self, directory: Node) -> AsyncGenerator[Sequence[Node]]:
        """Yield the children of a directory by pages, and then those that only this mount knows."""
        begun = monotonic()
        prefix = self._prefix + directory.prefix
        removed = self.nodes.watch(directory)
        try:
            index = await read_index(self._store, prefix) if self._exact else {}
            survey = _Survey(directory, prefix, removed, index)
            for parts in self._ways_to_list(directory, prefix, index):
                try:
                    ask = partial(self._ask_page, survey)
                    async with aclosing(side_by_side(parts, ask)) as found:
                        async for children in found:
                            yield children
                            if self._prefix + directory.prefix != prefix:
                                return  # it has another name, and under that one nothing was listed
                except UnorderedError:
                    logger.info("the store does not list in order: large directories are listed page by page")
                    self._in_order = False
                    survey = _Survey(directory, prefix, removed, index)
                else:
                    break
        finally:
            self.nodes.unwatch(directory, removed)
        doubtful = self._take_doubtful(survey)
        await self._know_all(survey, doubtful)
        yield doubtful
        names = survey.names - removed
        ours = [child for child in _sorted(directory.children.values()) if child.name not in names]
        yield [child for child in ours if self._is_ours(child, begun)]
        for child in ours:
            if not child.gone and not self._is_ours(child, begun):
                self.nodes.lose(child)
        self._note_hidden(survey)
        if survey.asked > STALE_MINIMUM:
            await write_index(self._store, prefix, list(directory.children.values()))
        directory.listed_until = monotonic() + self._seconds
        directory.lookups, directory.lookups_enough = 0, LOOKUPS_BEFORE_LISTING
        directory.missing.clear()

    def _ways_to_list(
        self, directory: Node, prefix: str, index: Mapping[str, object]
    ) -> Iterator[Sequence[Stretch]]:
        """Yield how a directory is to be listed, and how if that cannot be: page by page."""
        if self._in_order and self._store.capabilities.list_from_key:
            known = max(directory.children, index, key=len)
            yield stretches(prefix, [name for name in known if is_name(name)])
        yield [Stretch()]

    def _is_ours(self, child: Node, begun: float) -> bool:
        """Tell whether a child that no listing has may be there all the same."""
        return child.expires >= begun + self._seconds or child.has_local

    async def _ask_page(self, survey: _Survey, pages: Pages) -> Sequence[Node]:
        """Ask for a page of a directory; return the children that it tells of for the first time."""
        writes = self._writes
        page = await self._store.list(
            survey.above, delimiter="/", start_after=pages.start_after, page=pages.page
        )
        page = pages.take(page)
        if self._prefix + survey.directory.prefix != survey.above:
            return ()
        children = self._take_page(survey, page, writes)
        if len(survey.names) > NAMES_MAXIMUM:
            raise BrokenAnswerError(f"listing {survey.above or '/'}: it has too many names")
        await self._know_all(survey, children)
        return children

    async def _know_all(self, survey: _Survey, children: Sequence[Node]) -> None:
        """Know the metadata of listed files, from the index or by asking, if it is to be known."""
        if not self._exact:
            return
        unknown = []
        for child in children:
            if child.posix is not None or child.is_directory:
                continue
            etag, posix = survey.index.get(child.name, (None, None))
            if posix is not None and etag == child.etag:
                self._take_metadata(child, posix)
            else:
                unknown.append(child)
        survey.asked += len(unknown)

        async def ask(child: Node) -> None:
            async with survey.heads:
                with suppress(MissingError):  # deleted since it was listed
                    await self._once(child.number, lambda: self._head(child))

        await asyncio.gather(*map(ask, unknown))

    def _take_page(self, survey: _Survey, page: Page, writes: int) -> Sequence[Node]:
        directory, above = survey.directory, survey.above
        survey.names |= survey.removed  # since the store has looked, perhaps
        found: list[Node] = []

        def see_directory(name: str) -> None:
            if name not in survey.names:
                survey.names.add(name)
                found.append(self._see_directory(directory, name))
                return
            shown = directory.children.get(name)
            if shown is not None and not shown.is_directory and name not in survey.removed:
                self._hide(survey, above + name)  # though it was told of, perhaps pages ago
                self._see_directory(directory, name)

        for prefix in page.prefixes:
            name = prefix[len(above) :].removesuffix("/") if prefix.startswith(above) else ""
            if self._can_be_named(survey, name, prefix):
                see_directory(name)
        for item in page.objects:
            if item.key == above:
                continue  # the directory's own marker
            name = item.key[len(above) :] if item.key.startswith(above) else ""
            if not self._can_be_named(survey, name, item.key):
                continue
            if name.endswith(FOLDER) and is_name(name.removesuffix(FOLDER)):
                see_directory(name.removesuffix(FOLDER))
                continue
            child = directory.children.get(name)
            if child is not None and child.is_directory:
                survey.doubtful[name] = item, writes
            elif name not in survey.names:
                survey.names.add(name)
                found.append(self._see_file(directory, name, item, writes))
        return _sorted(found)

    def _take_doubtful(self, survey: _Survey) -> Sequence[Node]:
        """Return the files that were directories before, and of which there is no such prefix any more."""
        found: list[Node] = []
        for name, (item, writes) in survey.doubtful.items():
            if name not in survey.names:
                survey.names.add(name)
                found.append(self._see_file(survey.directory, name, item, writes))
            elif name not in survey.removed:
                self._hide(survey, item.key)
        return _sorted(found)

    def _can_be_named(self, survey: _Survey, name: str, key: str) -> bool:
        if is_name(name):
            return not is_reserved(name)
        self._hide(survey, key)
        return False

    def _hide(self, survey: _Survey, key: str) -> None:
        """Count a key that cannot be shown; tell of the first."""
        if not self._hidden and not survey.hidden:
            logger.info("the key %.200r cannot be shown; others like it are counted only", key)
        survey.hidden += 1

    def _note_hidden(self, survey: _Survey) -> None:
        if survey.hidden:
            self._hidden[survey.directory.number] = survey.hidden
        else:
            self._hidden.pop(survey.directory.number, None)

    def _see_directory(self, parent: Node, name: str) -> Node:
        child = parent.children.get(name)
        if child is not None and not child.is_directory and child.is_local:
            return child  # until the bucket has both
        if child is None or not child.is_directory:
            child = self.nodes.add(parent, name, stat.S_IFDIR)
        self.believe(child)
        return child

    def _see_file(self, parent: Node, name: str, item: Listed, writes: int) -> Node:
        """Take note of what was told of a file when so many writes were known; return its node."""
        child = parent.children.get(name)
        if child is not None and (child.is_local or child.written > writes):
            return child
        if child is not None and child.is_directory and child.has_local:
            return child  # until the bucket has what is below it
        if child is None or child.is_directory:
            child = self.nodes.add(parent, name, stat.S_IFREG)
        if child.etag != item.etag:
            child.posix = None
            child.etag, child.size, child.modified = item.etag, item.size, item.modified
        self.believe(child)
        return child

    def _see_object(self, node: Node, info: ObjectInfo) -> Node:
        """Take note of what HEAD told of a file's object, and return the node that it is."""
        node = self._take_metadata(node, decoded(info.headers))
        node.etag, node.size, node.modified = info.etag, info.size, info.modified
        self.believe(node)
        return node

    def _take_metadata(self, node: Node, posix: PosixMetadata) -> Node:
        """Take note of a file's metadata, which may say that it is no regular file after all.

        Then it becomes another node: a kernel that knows it already does not believe in changes of type.
        """
        kind = stat.S_IFLNK if posix.link is not None else stat.S_IFMT(posix.mode or 0)
        if kind in {0, stat.S_IFDIR, node.type}:
            node.posix = posix
            return node
        if node.known and node.parent is not None and not node.gone:
            old, node = node, self.nodes.add(node.parent, node.name, kind)
            node.etag, node.size, node.modified = old.etag, old.size, old.modified
        node.type, node.posix = kind, posix
        return node

    async def _ask(self, directory: Node, name: str) -> Node | None:
        """Ask for one name: an object, or a prefix of others."""
        key, writes = self.child_key(directory, name), self._writes
        removed = self.nodes.watch(directory)
        try:
            head, below = await asyncio.gather(
                self._store.head(key), first_keys(self._store, f"{key}/", 1), return_exceptions=True
            )
        finally:
            self.nodes.unwatch(directory, removed)
        if isinstance(below, BaseException):
            raise below
        if isinstance(head, BaseException) and not isinstance(head, MissingError):
            raise head
        if name in removed:
            return directory.children.get(name)  # it was there when the store looked, perhaps
        if below:
            child = self._see_directory(directory, name)
            if child.is_directory and child.posix is None and below[0] != f"{key}/":
                child.posix = PosixMetadata()  # its own object would come first
            return child
        if isinstance(head, BaseException):
            old = directory.children.get(name)
            if old is not None and (old.has_local or old.written > writes):
                return old
            if old is not None:
                self.nodes.lose(old)
            if len(directory.missing) >= MISSING_MAXIMUM:
                directory.missing.clear()
            directory.missing[name] = monotonic() + self._seconds
            return None
        listed = Listed(key, head.size, head.etag, head.modified)
        child = self._see_file(directory, name, listed, writes)
        return child if child.has_local or child.written > writes else self._see_object(child, head)

    async def _head(self, node: Node) -> None:
        if node.is_directory:
            key = self.key(node)
            try:
                info = await self._store.head(key) if key else None  # a whole bucket's root is no object
            except MissingError:
                info = None
            if info is None:
                node.posix = PosixMetadata()  # no more than a prefix
                self.believe(node)
                return
            node.posix = decoded(info.headers)
            node.etag, node.modified = info.etag, info.modified
            self.believe(node)
            return
        while True:
            writes = self._writes
            try:
                info = await self._store.head(self.key(node))
            except MissingError:
                if node.written <= writes:
                    raise
                continue
            if node.is_local:
                return
            if node.written <= writes:
                self._see_object(node, info)
                return
            if node.posix is not None:
                return

    async def _once[Result](self, what: object, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask, or wait for the answer to the same question; who stops to wait does not stop the others."""
        return await asyncio.shield(self._begin(what, ask))

    def _begin[Result](self, what: object, ask: Callable[[], Awaitable[Result]]) -> asyncio.Task[Result]:
        """Begin to ask, unless the same question is asked already."""
        task = self._under_way.get(what)
        if task is None:
            task = asyncio.ensure_future(_awaited(ask))
            self._under_way[what] = task
            task.add_done_callback(lambda done: self._answered(what, done))
        return task

    def _answered(self, what: object, task: asyncio.Task[Any]) -> None:
        self._under_way.pop(what, None)
        if not task.cancelled():
            task.exception()


async def _awaited(ask: Callable[[], Awaitable[object]]) -> object:
    return await ask()


def _sorted(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.name)


async def first_keys(store: ObjectStore, prefix: str, most: int) -> list[str]:
    """Return the first keys with a prefix, up to so many. A page may hold fewer of them, and even none."""
    found: list[str] = []
    page: str | None = None
    for _ in range(IDLE_PAGES_MAXIMUM):
        told = await store.list(prefix, page=page, limit=most - len(found))
        found += [item.key for item in told.objects]
        if told.next is None or len(found) >= most:
            return found
        if told.next == page:
            break
        page = told.next
    raise BrokenAnswerError(f"listing {prefix}: it goes on, and leads nowhere")


def is_name(name: str) -> bool:
    """Tell whether a part of a key can be a name in a directory."""
    if not name or name in {".", ".."} or "\0" in name or "/" in name:
        return False
    try:
        return len(name.encode()) <= NAME_MAXIMUM
    except UnicodeEncodeError:
        return False


def is_reserved(name: str) -> bool:
    """Tell whether a name is that of an object of vhostfs's own, which is never shown."""
    return name == INDEX or name.startswith(PROBE)
