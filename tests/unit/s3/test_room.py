"""Room for what the bucket does not have yet: who writes waits for it, or is told that there is none."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import Mounted
from tests.unit.s3.orders import unwritten
from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.writing import room, scheduling
from vhostfs.filesystem import WriteBuffer
from vhostfs.testing import Client

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 4
PLENTY = 1 << 40


async def _refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        await call


async def _open(client: Client, name: str) -> tuple[int, int]:
    entry, opened = await client.create_at(client.root, name)
    return entry.nodeid, opened.fh


@pytest.fixture
def every_write_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each write see how much room there is."""
    monkeypatch.setattr(scheduling, "LOOK_BYTES", 1)


@pytest.fixture
def away(server: FakeS3) -> None:
    """Let the store take nothing, until its faults are cleared."""
    server.fail(Kind.DROP, "PutObject", times=1_000_000)


async def test_who_writes_waits_when_much_is_waiting(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until some of it is in the bucket."""
    monkeypatch.setattr(room, "FILES_MAXIMUM", 4)
    async with mounted() as (client, filesystem):
        for number in range(20):
            await client.write_bytes(f"/{number}", DATA)
            assert await unwritten(filesystem) <= 5
        assert len(server.bucket.objects) >= 15
        await client.syncfs()
    assert len(server.bucket.objects) == 20


@pytest.mark.usefixtures("every_write_looks")
async def test_a_full_disk_makes_who_writes_wait_and_nobody_else(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as something can be sent that makes room."""
    async with mounted() as (client, _):
        await client.write_bytes("/waits", DATA)
        monkeypatch.setattr(StateDirectory, "free", lambda _self: 0)
        server.held["PutObject"] = release = asyncio.Event()
        writing = asyncio.ensure_future(client.write_bytes("/file", DATA))
        while not server.requests["PutObject"]:
            await server.changed()
        assert await client.listdir("/") == ["file", "waits"]
        assert not writing.done()
        release.set()
        await writing
        assert server.bucket.objects["waits"].data == DATA
        assert await client.read_bytes("/file") == DATA
        await client.syncfs()
    assert server.bucket.objects["file"].data == DATA


async def test_a_disk_that_was_full_once_has_nobody_hurried_later(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes waits for a commit; what is closed afterwards is left alone for a while, as ever."""
    write = Contents.write
    refusals = iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])

    def full_once(contents: Contents, offset: int, data: WriteBuffer) -> int:
        for refusal in refusals:
            raise refusal
        return write(contents, offset, data)

    async with mounted() as (client, _):
        await client.write_bytes("/waits", DATA)
        monkeypatch.setattr(Contents, "write", full_once)
        node, handle = await _open(client, "open")
        await client.write(node, handle, 0, DATA)
        assert list(server.bucket.objects) == ["waits"]
        await client.write_bytes("/later", DATA)
        await client.fsync(node, handle)
        assert sorted(server.bucket.objects) == ["open", "waits"]
        await client.release(node, handle)
    assert sorted(server.bucket.objects) == ["later", "open", "waits"]


async def test_what_the_journal_has_no_room_for_goes_to_the_bucket(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes waits for that; deleting, cutting and making directories go on."""

    def full(*_anything: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with mounted() as (client, _):
        await client.write_bytes("/old", DATA)
        await client.write_bytes("/cut", DATA)
        monkeypatch.setattr(Journal, "enter", full)
        await client.write_bytes("/file", DATA)
        await client.symlink("target", "/link")
        await client.mkdir("/d")
        await client.unlink("/old")
        await client.truncate("/cut", 10)
        found = {key: each.data for key, each in server.bucket.objects.items()}
        assert found == {"file": DATA, "link": b"target", "d/": b"", "cut": DATA[:10]}


@pytest.mark.usefixtures("every_write_looks", "away")
async def test_while_the_store_is_away_who_writes_is_told_before_the_disk_is_full(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By write(2), mkdir(2) and the like; who closes, reads and deletes is not, and nothing is lost."""
    monkeypatch.setattr(scheduling, "RETRY_SECONDS_MAXIMUM", 0.0)
    free = PLENTY
    monkeypatch.setattr(StateDirectory, "free", lambda _self: free)
    async with mounted() as (client, _):
        node, handle = await _open(client, "open")
        await client.write(node, handle, 0, DATA)
        await client.write_bytes("/promised", DATA)
        await client.write_bytes("/deleted", DATA)
        free = room.FREE_MINIMUM - 1
        for _ in range(3):
            await _refused(errno.ENOSPC, client.write(node, handle, len(DATA), DATA))
            await _refused(errno.ENOSPC, client.mkdir("/d"))
            await _refused(errno.ENOSPC, client.symlink("target", "/link"))
            await _refused(errno.ENOSPC, client.create_at(client.root, "file"))
        await client.unlink("/deleted")
        await client.flush(node, handle)
        assert sorted(await client.listdir("/")) == ["open", "promised"]
        promised = (await client.lookup(client.root, "promised")).nodeid
        reading = (await client.open_node(promised, os.O_RDONLY)).fh
        assert await client.read(promised, reading, 0, 2 * len(DATA)) == DATA
        await client.release(promised, reading)
        assert await client.read(node, handle, 0, 2 * len(DATA)) == DATA
        assert not server.bucket.objects
        server.faults.clear()
        free = PLENTY
        await client.write(node, handle, len(DATA), DATA)
        await client.release(node, handle)
        await client.mkdir("/d")
        await client.syncfs()
        found = {key: each.data for key, each in server.bucket.objects.items()}
        assert found == {"open": DATA * 2, "promised": DATA, "d/": b""}


@pytest.mark.usefixtures("every_write_looks", "away")
async def test_while_the_store_is_away_no_more_waits_for_it_than_was_said(
    mounted: Mounted, server: FakeS3
) -> None:
    """What is deleted makes room, and so does the store when it is back."""
    async with mounted(unwritten_size=4 * len(DATA) + 1) as (client, _):
        for number in range(5):
            await client.write_bytes(f"/{number}", DATA)
        node, handle = await _open(client, "more")
        for _ in range(3):
            await _refused(errno.ENOSPC, client.write(node, handle, 0, DATA))
        await client.unlink("/0")
        await client.write(node, handle, 0, DATA)
        await client.flush(node, handle)
        await _refused(errno.ENOSPC, client.write(node, handle, len(DATA), DATA))
        await client.release(node, handle)
        server.faults.clear()
        await client.syncfs()
        for number in range(20):
            await client.write_bytes(f"/later-{number}", DATA)
        await client.syncfs()
        found = {key: each.data for key, each in server.bucket.objects.items() if each.data}
        names = ["1", "2", "3", "4", "more", *(f"later-{number}" for number in range(20))]
        assert found == dict.fromkeys(names, DATA)


@pytest.mark.usefixtures("every_write_looks")
async def test_what_is_open_counts_too_while_the_store_is_away(mounted: Mounted, server: FakeS3) -> None:
    """Else who closes it at last would have more wait than was said."""
    async with mounted(unwritten_size=10 * len(DATA)) as (client, _):
        node, handle = await _open(client, "open")
        await client.write_bytes("/promised", DATA)
        server.fail(Kind.DROP, times=1_000_000)
        await _refused(errno.EIO, client.syncfs())
        written = 10
        for number in range(written):
            await client.write(node, handle, number * len(DATA), DATA)
        await _refused(errno.ENOSPC, client.write(node, handle, written * len(DATA), DATA))
        await client.flush(node, handle)
        assert await client.read(node, handle, 0, written * len(DATA)) == DATA * written
        await client.release(node, handle)


@pytest.mark.usefixtures("every_write_looks")
async def test_a_store_that_takes_everything_has_nobody_told_that_there_is_no_room(
    mounted: Mounted, server: FakeS3
) -> None:
    """Who writes waits for it, with however little room."""
    async with mounted(unwritten_size=len(DATA)) as (client, _):
        for number in range(20):
            await client.write_bytes(f"/{number}", DATA * 3)
        assert len(server.bucket.objects) >= 18
        await client.syncfs()
    assert {each.data for each in server.bucket.objects.values()} == {DATA * 3}


@pytest.mark.usefixtures("every_write_looks")
async def test_a_file_that_the_disk_has_no_room_for_is_not_taken_to_its_last_byte(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the store takes everything: it has the file when it is closed. Small ones find their place."""
    monkeypatch.setattr(StateDirectory, "free", lambda _self: 0)
    monkeypatch.setattr(room, "OPEN_MAXIMUM", 3 * len(DATA))
    async with mounted() as (client, _):
        node, handle = await _open(client, "large")
        for number in range(3):
            await client.write(node, handle, number * len(DATA), DATA)
        await _refused(errno.ENOSPC, client.write(node, handle, 3 * len(DATA), DATA))
        await client.release(node, handle)
        for number in range(5):
            await client.write_bytes(f"/{number}", DATA)
        await client.syncfs()
    assert {key: len(each.data) // len(DATA) for key, each in server.bucket.objects.items()} == {
        "large": 3,
        **{str(number): 1 for number in range(5)},
    }


@pytest.mark.usefixtures("away")
async def test_while_the_store_is_away_no_more_files_wait_for_it_than_can_be_kept_account_of(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty ones are told when they are made."""
    monkeypatch.setattr(room, "FILES_MAXIMUM", 3)
    monkeypatch.setattr(room, "FILES_AWAY_MAXIMUM", 6)
    async with mounted() as (client, _):
        for number in range(6):
            await client.write_bytes(f"/{number}", b"")
        await _refused(errno.ENOSPC, client.write_bytes("/more", b""))
        await _refused(errno.ENOSPC, client.symlink("target", "/link"))
        await client.unlink("/0")
        await client.write_bytes("/more", b"")
        assert len(await client.listdir("/")) == 6


async def test_what_failed_while_the_store_was_away_is_tried_when_it_is_back(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, however long it was to wait, so that who writes does not wait for nothing."""
    monkeypatch.setattr(scheduling, "RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(scheduling, "RETRY_SECONDS_MAXIMUM", 3600.0)
    monkeypatch.setattr(room, "FILES_MAXIMUM", 3)
    monkeypatch.setattr(room, "FILES_AWAY_MAXIMUM", 3)
    async with mounted() as (client, _):
        node, handle = await _open(client, "open")
        for number in range(3):
            await client.write_bytes(f"/{number}", DATA)
        server.fail(Kind.DROP, times=1_000_000)
        await _refused(errno.ENOSPC, client.write(node, handle, 0, DATA))
        server.faults.clear()
        arrived = asyncio.Event()

        def watch(_name: str, _is_done: bool) -> None:
            if len(server.bucket.objects) == 4:
                arrived.set()

        server.watch = watch
        await client.fsync(node, handle)
        await arrived.wait()
        await client.write(node, handle, 0, DATA)
        await client.release(node, handle)
    assert {each.data for each in server.bucket.objects.values()} == {DATA}
