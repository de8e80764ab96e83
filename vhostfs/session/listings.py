"""Directory listings: a generator that lives between requests, and pages packed from what it yields."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from struct import Struct
from typing import Any, Final

from vhostfs.filesystem import Caller, DirEntry, Entry
from vhostfs.filesystem.wrapper import settled
from vhostfs.session.faults import Faults, is_cancellation

_DIRENT: Final = Struct("<QQII")
_NO_ENTRY: Final = bytes(128)
_PADDING: Final = tuple(bytes(-length % 8) for length in range(8))
_COOKIE_LIMIT: Final = 1 << 63
_NAME_MAX: Final = 255
_DOTS: Final = frozenset({".", ".."})
_ENTRY_SIZE: Final = len(_NO_ENTRY)
_SET: Final = object.__setattr__

type PackEntry = Callable[[Entry], bytes]


class Listing:
    """Where one directory handle stands in its listing."""

    __slots__ = ("_lock", "again", "ended", "kept", "number", "position", "shown", "skip", "source")

    def __init__(self) -> None:
        self._lock: asyncio.Lock | None = None
        self.drop()

    def drop(self) -> None:
        """Forget the source: the next request begins another one."""
        self.source: Iterator[DirEntry] | AsyncIterator[DirEntry] | None = None
        self.position = 0
        """The cookie from which the source goes on."""
        self.number = 0
        self.skip = 0
        self.kept: tuple[DirEntry, int] | None = None
        """An entry, and its cookie, that did not fit."""
        self.shown: list[bytes] = []
        """The records that the last reply had of entries without offsets; no attributes."""
        self.again: deque[bytes] = deque()
        """Those of them that are asked for once more."""
        self.ended = False

    def begin(self, source: Iterator[DirEntry] | AsyncIterator[DirEntry], offset: int) -> None:
        """List from a new source, which was asked for what lies behind `offset`."""
        self.drop()
        self.source = source
        self.position = self.skip = offset

    def resumes(self, offset: int) -> bool:
        """Tell whether the source stands where a request wants to go on; a listing that ended begins anew."""
        if self.source is None:
            return False
        if offset == self.position:
            return not (self.ended and offset == 0)
        return self._goes_back(offset)

    def _goes_back(self, offset: int) -> bool:
        """Go back within the last reply: Linux asks again for what its reader had no room for.

        To count from a new beginning would miss entries, as others may have gone meanwhile.
        """
        for at, record in enumerate(self.shown, 1):
            if _cookie_of(record) == offset:
                # Without attributes, which the kernel has been given, and which may be others by now.
                self.again.extendleft(reversed(self.shown[at:]))
                self.position = offset
                return True
        return False

    @property
    def busy(self) -> bool:
        """Tell whether a task is listing."""
        return self._lock is not None and self._lock.locked()

    @property
    def lock(self) -> asyncio.Lock:
        """Return what tasks that list hold."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    def cookie(self, entry: DirEntry) -> int:
        """Return the cookie behind an entry; 0 where it lies before what was asked for."""
        cookie = entry.offset
        if cookie is None:
            self.number += 1
            return self.number if self.number > self.skip else 0
        if not 0 < cookie < _COOKIE_LIMIT:
            raise ValueError(f"{cookie} is no offset of a directory's entry")
        return cookie

    def close(self) -> None:
        """End a source that is no async one."""
        source = self.source
        self.drop()
        close = getattr(source, "close", None)
        if close is not None:
            close()

    async def aclose(self) -> None:
        """End a source of either kind."""
        source: Any = self.source
        if hasattr(source, "aclose"):
            self.drop()
            await source.aclose()
        else:
            self.close()


class Page:
    """One reply of READDIR or READDIRPLUS: whole records, as many as there is room for."""

    __slots__ = ("_pack", "_records", "_room", "_size", "shown")

    def __init__(self, room: int, pack: PackEntry | None) -> None:
        """Pack entries by `pack`, which counts a lookup, or without attributes."""
        self._records: list[bytes] = []
        self.shown: list[bytes] = []
        """The records of entries without offsets."""
        self._size = 0
        self._room = room
        self._pack = pack

    @property
    def empty(self) -> bool:
        """Tell whether nothing has been added."""
        return not self._size

    @property
    def records(self) -> bytes:
        """Return the reply."""
        return b"".join(self._records)

    def add(self, entry: DirEntry, cookie: int) -> bool:
        """Append an entry; False where it does not fit. ValueError for what is no name."""
        wire = entry.wire
        record = wire[1] if wire is not None and wire[0] == cookie else _packed(entry, cookie)
        pack = self._pack
        size = self._size + len(record)
        if pack is not None:
            size += _ENTRY_SIZE
        if size > self._room:
            return False
        if pack is not None:
            held = entry.entry
            # Linux never forgets what it was told of '.' and '..'.
            known = held is not None and entry.name not in _DOTS
            self._records.append(pack(held) if held is not None and known else _NO_ENTRY)
        self._records.append(record)
        if entry.offset is None:
            self.shown.append(record)
        self._size = size
        return True

    def add_again(self, record: bytes) -> bool:
        """Append a record that an earlier page has shown; False where it does not fit."""
        size = self._size + len(record) + (0 if self._pack is None else _ENTRY_SIZE)
        if size > self._room:
            return False
        if self._pack is not None:
            self._records.append(_NO_ENTRY)
        self._records.append(record)
        self.shown.append(record)
        self._size = size
        return True


def _cookie_of(record: bytes) -> int:
    cookie: int = _DIRENT.unpack_from(record)[1]
    return cookie


def _packed(entry: DirEntry, cookie: int) -> bytes:
    """Return a record without attributes, which the entry remembers."""
    name = os.fsencode(entry.name)
    length = len(name)
    if not 0 < length <= _NAME_MAX or b"/" in name or b"\0" in name:
        raise ValueError(f"{entry.name!r} is no name of a directory's entry")
    record = _DIRENT.pack(entry.ino, cookie, length, entry.type) + name + _PADDING[length & 7]
    _SET(entry, "wire", (cookie, record))
    return record


class Lister:
    """Answers READDIR and READDIRPLUS by a file system's `readdir`."""

    def __init__(self, readdir: Callable[..., Any], faults: Faults) -> None:
        self._readdir = readdir
        self._faults = faults

    def answer(
        self, listing: Listing, caller: Caller, node: int, handle: Any, offset: int, page: Page
    ) -> Any:
        """Return the page's bytes, or what is to be awaited for them."""
        if listing.busy or isinstance(listing.source, AsyncIterator):
            return self._answer_later(listing, caller, node, handle, offset, page, None)
        if not listing.resumes(offset):
            listing.close()
            made = self._readdir(caller, node, handle, offset)
            if not hasattr(type(made), "__iter__") or hasattr(type(made), "__await__"):
                return self._answer_later(listing, caller, node, handle, offset, page, made)
            listing.begin(iter(made), offset)
        try:
            self._fill(listing, page)
        except BaseException as error:
            listing.close()
            self._fallen(error, page)
        return _whole(listing, page)

    async def _answer_later(
        self,
        listing: Listing,
        caller: Caller,
        node: int,
        handle: Any,
        offset: int,
        page: Page,
        made: Any,
    ) -> bytes:
        async with listing.lock:
            try:
                if made is not None or not listing.resumes(offset):
                    await listing.aclose()
                    if made is None:
                        made = self._readdir(caller, node, handle, offset)
                    made = await settled(made)
                    is_async = hasattr(made, "__aiter__")
                    listing.begin(aiter(made) if is_async else iter(made), offset)
                if isinstance(listing.source, AsyncIterator):
                    await self._fill_later(listing, page)
                else:
                    self._fill(listing, page)
            except BaseException as error:
                await listing.aclose()
                self._fallen(error, page)
            return _whole(listing, page)

    def _fallen(self, error: BaseException, page: Page) -> None:
        """Raise again, unless there is something to answer: then the next request will meet the error."""
        if page.empty or isinstance(error, KeyboardInterrupt | GeneratorExit):
            raise error
        if not isinstance(error, OSError) and not is_cancellation(error):
            self._faults.report("readdir", error)

    @staticmethod
    def _fill(listing: Listing, page: Page) -> None:
        if not _add_kept(listing, page):
            return
        source: Any = listing.source
        add, cookie_of = page.add, listing.cookie
        cookie = listing.position
        for entry in source:
            following = cookie_of(entry)
            if following == 0:
                continue
            if not add(entry, following):
                listing.kept = entry, following
                listing.position = cookie
                return
            cookie = following
        listing.position = cookie
        listing.ended = True

    @staticmethod
    async def _fill_later(listing: Listing, page: Page) -> None:
        if not _add_kept(listing, page):
            return
        source: Any = listing.source
        add, cookie_of = page.add, listing.cookie
        async for entry in source:
            cookie = cookie_of(entry)
            if cookie == 0:
                continue
            if not add(entry, cookie):
                listing.kept = entry, cookie
                return
            listing.position = cookie
        listing.ended = True


def _add_kept(listing: Listing, page: Page) -> bool:
    """Add what is asked for again, and the entry that did not fit before; tell whether to go on."""
    listing.shown = page.shown
    while listing.again:
        if not page.add_again(listing.again[0]):
            return False
        listing.position = _cookie_of(listing.again.popleft())
    if listing.ended:
        return False
    if listing.kept is not None:
        entry, cookie = listing.kept
        if not page.add(entry, cookie):
            return False
        listing.position = cookie
        listing.kept = None
    return True


def _whole(listing: Listing, page: Page) -> bytes:
    """Return the page's bytes: none at the end alone, as nothing else tells the kernel of it."""
    if page.empty and (listing.kept is not None or listing.again):
        raise OSError(errno.EINVAL, "a reply of READDIR has no room for one entry")
    return page.records
