"""Directories are listed by generators that live between requests, and never held as a whole."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from vhostfs.filesystem import Attr, Caller, DirEntry, Entry, Filesystem, Opened
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import ReadIn
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

MANY = 100_000


class Directory(Filesystem[str]):
    """A directory of many entries by an async generator; `begun` holds the offsets it was asked for."""

    def __init__(self, count: int = MANY) -> None:
        self.count = count
        self.begun: list[int] = []
        self.closed = 0
        self.yielded = 0

    def entry(self, number: int) -> DirEntry:
        """Return an entry without an offset."""
        return DirEntry.of(f"entry {number}", Entry(Attr.file(number + 2)))

    async def readdir(
        self, caller: Caller, node: int, handle: str | None, offset: int
    ) -> AsyncIterator[DirEntry]:
        self.begun.append(offset)
        try:
            for number in range(self.count):
                if number % 1000 == 0:
                    await asyncio.sleep(0)
                self.yielded += 1
                yield self.entry(number)
        finally:
            self.closed += 1


class Prompt(Directory):
    """The same by a generator."""

    def readdir(self, caller: Caller, node: int, handle: str | None, offset: int) -> Iterator[DirEntry]:  # type: ignore[override]
        self.begun.append(offset)
        try:
            for number in range(self.count):
                self.yielded += 1
                yield self.entry(number)
        finally:
            self.closed += 1


class Whole(Directory):
    """The same as a list, after a while."""

    async def readdir(  # type: ignore[override]
        self, caller: Caller, node: int, handle: str | None, offset: int
    ) -> Iterable[DirEntry]:
        self.begun.append(offset)
        await asyncio.sleep(0)
        self.closed += 1
        return [self.entry(number) for number in range(self.count)]


class Sought(Directory):
    """The same with offsets of its own."""

    def readdir(self, caller: Caller, node: int, handle: str | None, offset: int) -> Iterator[DirEntry]:  # type: ignore[override]
        self.begun.append(offset)
        for number in range(offset // 1000, self.count):
            yield DirEntry(f"entry {number}", number + 2, offset=(number + 1) * 1000)
        self.closed += 1


KINDS: list[Any] = [Directory, Prompt, Whole, Sought]


@pytest.fixture(params=KINDS, ids=["async generator", "generator", "list later", "own offsets"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return each kind of listing in turn."""
    return request.param


@pytest.mark.vhostfs_quiet
async def test_a_hundred_thousand_entries_come_page_by_page_from_one_generator(kind: Any) -> None:
    filesystem = kind()
    async with mount(filesystem) as client:
        entries = await client.list_node(1, size=65536)
        assert [each.name for each in entries] == [b"entry %d" % number for number in range(MANY)]
        assert filesystem.begun == [0]
        assert filesystem.closed == 1
        assert client.lookups == {}


@pytest.mark.vhostfs_quiet
async def test_with_attributes_each_entry_that_the_kernel_gets_counts_one_lookup(kind: Any) -> None:
    filesystem = kind(100)
    async with mount(filesystem) as client:
        entries = await client.list_node(1, size=4096, plus=True)
        assert len(entries) == 100
        known = 0 if kind is Sought else 100
        assert len(client.lookups) == known
        for node in list(client.lookups):
            client.forget(node, 1)
            with pytest.raises(OSError, match=r"Errno 116"):
                await client.request(Opcode.READDIR, node, ReadIn(1, 0, 4096).pack())


async def test_no_more_is_taken_from_a_generator_than_fits_and_one() -> None:
    filesystem = Directory()
    async with mount(filesystem) as client:
        fh = (await client.opendir(1)).fh
        page = await client.readdir(1, fh, size=4096)
        assert filesystem.yielded == len(page) + 1
        following = await client.readdir(1, fh, page[-1].off, size=4096)
        assert following[0].name == b"entry %d" % len(page)


async def test_a_seek_closes_the_generator_and_begins_another(kind: Any) -> None:
    filesystem = kind(1000)
    async with mount(filesystem) as client:
        fh = (await client.opendir(1)).fh
        page = await client.readdir(1, fh, size=4096)
        await client.readdir(1, fh, page[-1].off, size=4096)
        again = await client.readdir(1, fh, page[3].off, size=4096)
        assert again[0].name == b"entry 4"
        assert filesystem.begun == [0, page[3].off]
        rewound = await client.readdir(1, fh, 0, size=4096)
        assert rewound == page
        beyond = await client.readdir(1, fh, 2**62, size=4096)
        assert beyond == []


@pytest.mark.parametrize("plus", [False, True])
async def test_what_a_reader_had_no_room_for_comes_again_though_entries_have_gone(plus: bool) -> None:
    class Shrinking(Directory):
        def readdir(self, caller: Caller, node: int, handle: str | None, offset: int) -> Iterator[DirEntry]:  # type: ignore[override]
            self.begun.append(offset)
            return (self.entry(number) for number in range(self.count) if number not in gone)

    gone: set[int] = set()
    filesystem = Shrinking(200)
    async with mount(filesystem) as client:
        fh = (await client.opendir(1)).fh
        seen, offset = [], 0
        while page := await client.readdir(1, fh, offset, size=2048, plus=plus):
            taken = page[: len(page) // 2 + 1]
            seen += [each.name for each in taken]
            gone |= {int(each.name.split()[1]) for each in taken}
            offset = taken[-1].off
        assert seen == [b"entry %d" % number for number in range(200)]
        assert filesystem.begun == [0]
        assert set(client.lookups.values()) == ({1} if plus else set())


async def test_a_listing_that_has_ended_begins_anew_when_rewound() -> None:
    filesystem = Prompt(0)
    async with mount(filesystem) as client:
        fh = (await client.opendir(1)).fh
        assert await client.readdir(1, fh) == []
        filesystem.count = 1
        assert len(await client.readdir(1, fh)) == 1


async def test_two_readers_of_one_handle_take_turns() -> None:
    class Slow(Directory):
        inside = 0

        async def readdir(
            self, caller: Caller, node: int, handle: str | None, offset: int
        ) -> AsyncIterator[DirEntry]:
            for number in range(10):
                assert self.inside == 0
                self.inside += 1
                await asyncio.sleep(0)
                self.inside -= 1
                yield self.entry(number)

    async with mount(Slow()) as client:
        fh = (await client.opendir(1)).fh
        pages = await asyncio.gather(*(client.readdir(1, fh) for _ in range(5)))
        assert all(page == pages[0] for page in pages)
        assert client.session.faults == 0


@pytest.mark.vhostfs_quiet
async def test_generators_are_closed_at_the_release_and_at_the_end() -> None:
    for kind in (Directory, Prompt):
        filesystem = kind()
        async with mount(filesystem) as client:
            one, two = (await client.opendir(1)).fh, (await client.opendir(1)).fh
            await client.readdir(1, one, size=4096)
            await client.readdir(1, two, size=4096)
            await client.releasedir(1, one)
            assert filesystem.closed == 1
        assert filesystem.closed == 2


async def test_an_error_behind_some_entries_is_met_by_the_next_request() -> None:
    class Failing(Directory):
        def readdir(self, caller: Caller, node: int, handle: str | None, offset: int) -> Iterator[DirEntry]:  # type: ignore[override]
            self.begun.append(offset)
            yield self.entry(0)
            yield self.entry(1)
            raise OSError(errno.EREMOTEIO, "gone")

    class FailingLater(Directory):
        async def readdir(
            self, caller: Caller, node: int, handle: str | None, offset: int
        ) -> AsyncIterator[DirEntry]:
            self.begun.append(offset)
            yield self.entry(0)
            yield self.entry(1)
            raise OSError(errno.EREMOTEIO, "gone")

    for kind in (Failing, FailingLater):
        async with mount(kind()) as client:
            fh = (await client.opendir(1)).fh
            page = await client.readdir(1, fh)
            assert len(page) == 2
            with pytest.raises(OSError, match=rf"Errno {errno.EREMOTEIO}"):
                await client.readdir(1, fh, page[-1].off)


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 256])
async def test_what_is_no_name_is_never_listed(name: str) -> None:
    class Wrong(Filesystem[Any]):
        def readdir(self, caller: Caller, node: int, handle: Any, offset: int) -> list[DirEntry]:
            return [DirEntry(name, 2)]

    async with mount(Wrong()) as client:
        with pytest.raises(OSError, match=r"Errno 5\b"):
            await client.list_node(1)
        assert client.session.faults == 1


async def test_a_reply_without_room_for_one_entry_is_no_end_of_the_listing() -> None:
    async with mount(Prompt(3)) as client:
        fh = (await client.opendir(1)).fh
        with pytest.raises(OSError, match=r"Errno 22"):
            await client.readdir(1, fh, size=20)
        assert len(await client.readdir(1, fh)) == 3


async def test_dots_count_no_lookup_whatever_is_said_of_them() -> None:
    class Dotted(Filesystem[Any]):
        def readdir(self, caller: Caller, node: int, handle: Any, offset: int) -> list[DirEntry]:
            return [DirEntry.of(name, Entry(Attr.directory(9))) for name in (".", "..", "directory")]

    async with mount(Dotted()) as client:
        entries = await client.list_node(1, plus=True)
        assert [each.entry.nodeid for each in entries if each.entry] == [0, 0, 9]
        assert client.lookups == {9: 1}


async def test_the_file_systems_own_directory_handles_reach_readdir() -> None:
    class Own(Filesystem[str]):
        def __init__(self) -> None:
            self.released: list[str] = []

        def opendir(self, caller: Caller, node: int, flags: int) -> Opened[str]:
            assert flags & os.O_DIRECTORY
            return Opened("own")

        async def readdir(
            self, caller: Caller, node: int, handle: str | None, offset: int
        ) -> AsyncIterator[DirEntry]:
            assert handle == "own"
            yield DirEntry("x", 2)

        def releasedir(self, caller: Caller, node: int, handle: str, flags: int) -> None:
            self.released.append(handle)

    filesystem = Own()
    async with mount(filesystem) as client:
        assert await client.listdir() == ["x"]
        assert filesystem.released == ["own"]
        assert client.session.faults == 0


async def test_an_interrupted_listing_gives_what_it_has_and_goes_on_in_the_next_request() -> None:
    class Stuck(Directory):
        stuck = True

        async def readdir(
            self, caller: Caller, node: int, handle: str | None, offset: int
        ) -> AsyncIterator[DirEntry]:
            for number in range(4):
                if number == 2 and self.stuck:
                    await asyncio.Event().wait()
                yield self.entry(number)

    filesystem = Stuck()
    async with mount(filesystem) as client:
        fh = (await client.opendir(1)).fh
        request = client.start(Opcode.READDIR, 1, ReadIn(fh, 0, 4096).pack())
        client.interrupt()
        await client.finish(request)
        filesystem.stuck = False
        assert [each.name for each in await client.readdir(1, fh, 2)] == [b"entry 2", b"entry 3"]
        filesystem.stuck = True
        request = client.start(Opcode.READDIR, 1, ReadIn(fh, 2, 4096).pack())
        client.interrupt()
        with pytest.raises(OSError, match=r"Errno 4\b"):
            await client.finish(request)
