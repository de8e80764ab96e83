"""What is promised to who closes a file: it outlives the daemon, and reaches the bucket once."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import Mounted
from tests.unit.s3.orders import told, unwritten
from vhostfs.backends.s3.journal.journal import LOG
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.writing import scheduling
from vhostfs.backends.s3.writing.committing import Conflict
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.errors import StartError
from vhostfs.fuse_abi.structures import SetattrIn

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 4
MIB = 1 << 20


def _killed(tmp_path: Path) -> Path:
    """Return a copy of the state directory: what is left of a daemon that is killed now."""
    found = tmp_path / f"killed-{len(list(tmp_path.iterdir()))}"
    shutil.copytree(tmp_path / "state", found)
    return found


async def _refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        await call


async def test_what_is_closed_is_there_after_a_crash_and_reaches_the_bucket(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """At once for who looks, and a moment later for the bucket."""
    big = os.urandom(300 << 10)
    async with mounted() as (client, _):
        await client.mkdir("/d", 0o750)
        await client.write_bytes("/d/file", DATA, mode=0o640)
        await client.write_bytes("/d/big", big)
        await client.symlink("file", "/d/link")
        assert (await client.stat("/d/link")).size == len("file")
        assert not server.bucket.objects
        killed = _killed(tmp_path)
        for path in ("/d/file", "/d/big", "/d/link"):
            await client.unlink(path)
        await client.rmdir("/d")
    assert not server.bucket.objects
    async with mounted(killed) as (client, filesystem):
        assert await client.read_bytes("/d/file") == DATA
        assert await client.read_bytes("/d/big") == big
        assert await client.readlink("/d/link") == "file"
        assert (await client.stat("/d/link")).size == len("file")
        assert (await client.stat("/d")).mode == stat.S_IFDIR | 0o750
        await filesystem.recovered()
        assert sorted(server.bucket.objects) == ["d/", "d/big", "d/file", "d/link"]
        assert server.bucket.objects["d/file"].data == DATA
        assert server.bucket.objects["d/file"].headers["x-amz-meta-mode"] == str(stat.S_IFREG | 0o640)
        assert await unwritten(filesystem) == 0


async def test_fsync_reaches_the_bucket(mounted: Mounted, server: FakeS3) -> None:
    """And close does not have to."""
    async with mounted() as (client, _):
        entry, opened = await client.create_at(client.root, "file", os.O_WRONLY, 0o600)
        await client.write(entry.nodeid, opened.fh, 0, DATA)
        await client.flush(entry.nodeid, opened.fh)
        assert "file" not in server.bucket.objects
        await client.fsync(entry.nodeid, opened.fh)
        assert server.bucket.objects["file"].data == DATA
        await client.release(entry.nodeid, opened.fh)


async def test_what_is_renamed_before_it_is_sent_is_one_request(mounted: Mounted, server: FakeS3) -> None:
    """Over what is there, and what is deleted before is none."""
    async with mounted() as (client, _):
        await client.write_bytes("/config", b"old")
        await client.syncfs()
        server.requests.clear()
        await client.write_bytes("/config.lock", b"new")
        await client.rename("/config.lock", "/config")
        await client.write_bytes("/gone", b"gone")
        await client.unlink("/gone")
        await client.syncfs()
        assert server.requests["PutObject"] == 1
        assert "CopyObject" not in server.requests
        assert {key: each.data for key, each in server.bucket.objects.items()} == {"config": b"new"}


async def test_a_change_of_a_file_is_promised_over_what_is_there(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """And shows both after a crash; a truncation, too."""
    server.bucket.put("file", DATA, {})
    server.bucket.put("short", DATA, {})
    async with mounted() as (client, _):
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node, os.O_RDWR)).fh
        await client.write(node, handle, 100, b"new")
        await client.flush(node, handle)
        await client.truncate("/short", 10)
        killed = _killed(tmp_path)
        await client.release(node, handle)
    server.bucket.put("file", DATA, {})
    server.bucket.put("short", DATA, {})
    async with mounted(killed) as (client, filesystem):
        assert await client.read_bytes("/file") == DATA[:100] + b"new" + DATA[103:]
        assert await client.read_bytes("/short") == DATA[:10]
        await filesystem.recovered()
        assert server.bucket.objects["file"].data == DATA[:100] + b"new" + DATA[103:]
        assert server.bucket.objects["short"].data == DATA[:10]


async def test_what_was_committed_before_the_crash_is_not_committed_again(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """Its object says whose it is; the journal had not been told."""
    async with mounted() as (client, filesystem):
        await client.write_bytes("/file", DATA)
        killed = _killed(tmp_path)
        await client.syncfs()
    server.requests.clear()
    async with mounted(killed) as (client, filesystem):
        await filesystem.recovered()
        assert await client.read_bytes("/file") == DATA
        assert await unwritten(filesystem) == 0
        assert not await told(filesystem, "s3-conflicts")
    assert "PutObject" not in server.requests


async def test_what_cannot_be_written_is_told_once_and_tried_again(mounted: Mounted, server: FakeS3) -> None:
    """By the next fsync, whoever closed the file."""
    async with mounted() as (client, _):
        await client.write_bytes("/file", DATA)
        server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied", times=1)
        await _refused(errno.EACCES, client.syncfs())
        await client.write_bytes("/file", b"other")
        await client.syncfs()
        assert server.bucket.objects["file"].data == b"other"


async def test_who_loses_a_race_is_told_and_keeps_the_data(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """In the state directory, also after a crash, until somebody discards it."""
    async with mounted(write=Write.SYNC) as (client, filesystem):
        server.bucket.put("file", b"base", {})
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node, os.O_WRONLY | os.O_TRUNC)).fh
        await client.write(node, handle, 0, b"mine")
        server.bucket.put("file", b"theirs", {})
        await _refused(errno.ESTALE, client.flush(node, handle))
        await client.release(node, handle)
        assert await client.read_bytes("/file") == b"theirs"
    async with mounted(write=Write.SYNC) as (client, filesystem):
        [kept] = await told(filesystem, "s3-conflicts")
        assert (kept["key"], kept["path"], kept["size"], kept["is_whole"]) == ("file", "/file", 4, True)
        with (tmp_path / "exported").open("wb") as file:
            await told(filesystem, "s3-conflict-export", number=kept["number"], descriptors=[file.fileno()])
        assert (tmp_path / "exported").read_bytes() == b"mine"
        await told(filesystem, "s3-conflict-discard", number=kept["number"])
        assert not await told(filesystem, "s3-conflicts")
    async with mounted(write=Write.SYNC) as (client, filesystem):
        assert not await told(filesystem, "s3-conflicts")
        assert await client.read_bytes("/file") == b"theirs"


@pytest.mark.parametrize("write", list(Write))
async def test_the_loser_of_a_race_becomes_a_file_beside(
    mounted: Mounted, server: FakeS3, write: Write
) -> None:
    """Where that is what was asked for."""
    server.bucket.put("file", b"base", {})
    async with mounted(write=write, conflict=Conflict.CONFLICT_COPY) as (client, _):
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node, os.O_WRONLY | os.O_TRUNC)).fh
        await client.write(node, handle, 0, b"mine")
        server.bucket.put("file", b"theirs", {})
        await client.flush(node, handle)
        await client.release(node, handle)
        await client.syncfs()
        assert await client.read_bytes("/file") == b"theirs"
        [other] = [name for name in await client.listdir("/") if name != "file"]
        assert other.startswith("file.conflict-")
        assert await client.read_bytes(f"/{other}") == b"mine"


async def test_a_large_file_is_sent_while_it_is_written(mounted: Mounted, server: FakeS3) -> None:
    """And a part that is written again, again; no more is sent at its end than what is missing."""
    data = bytearray(os.urandom(25 * MIB))
    async with mounted(write=Write.SYNC) as (client, _):
        entry, opened = await client.create_at(client.root, "big", os.O_WRONLY, 0o600)
        for at in range(0, len(data), MIB):
            await client.write(entry.nodeid, opened.fh, at, bytes(data[at : at + MIB]))
        while server.requests["UploadPart"] < 3:
            await server.changed()
        assert "CompleteMultipartUpload" not in server.requests
        data[MIB : MIB + 3] = b"new"
        await client.write(entry.nodeid, opened.fh, MIB, b"new")
        await client.flush(entry.nodeid, opened.fh)
        assert server.bucket.objects["big"].data == data
        assert server.requests["UploadPart"] == 5
        assert "CopyObject" not in server.requests
        await client.release(entry.nodeid, opened.fh)
        assert not server.bucket.uploads


async def test_uploads_of_a_daemon_that_was_killed_are_aborted(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """Those whose names it never came to know, too; others' are left alone."""
    server.bucket.begin_upload("others", {})
    async with mounted(write=Write.SYNC) as (client, _):
        entry, opened = await client.create_at(client.root, "big", os.O_WRONLY, 0o600)
        for at in range(0, 17 * MIB, MIB):
            await client.write(entry.nodeid, opened.fh, at, bytes(MIB))
        while server.requests["UploadPart"] < 2:
            await server.changed()
        killed = _killed(tmp_path)
        await client.release(entry.nodeid, opened.fh)
    del server.bucket.objects["big"]
    server.bucket.begin_upload("big", {})
    log = next(killed.glob(f"*/{LOG}"))
    content = log.read_bytes()
    log.write_bytes(content[: content.rindex(b"vhj1")])  # its name came too late
    async with mounted(killed, write=Write.SYNC) as (client, filesystem):
        await filesystem.recovered()
        assert [each.key for each in server.bucket.uploads.values()] == ["others"]


async def test_a_damaged_journal_costs_what_is_damaged_alone(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """It is set aside; a torn end is none of that."""
    async with mounted() as (client, _):
        for number in range(5):
            await client.write_bytes(f"/{number}", DATA)
        killed = _killed(tmp_path)
    server.bucket.objects.clear()
    log = next(killed.glob(f"*/{LOG}"))
    content = bytearray(log.read_bytes())
    content[content.index(b'"key":"2"')] ^= 0xFF
    log.write_bytes(content[:-10])
    async with mounted(killed) as (client, filesystem):
        await filesystem.recovered()
        assert set(server.bucket.objects) >= {"0", "1", "3"}
        assert "2" not in server.bucket.objects
    assert list(killed.glob("*/damaged-*/journal"))


def test_one_daemon_has_a_state_directory(tmp_path: Path) -> None:
    """The second one is told."""
    first = StateDirectory(tmp_path, "store", "bucket", "", make=True)
    with pytest.raises(StartError, match="another daemon"):
        StateDirectory(tmp_path, "store", "bucket", "", make=True)
    StateDirectory(tmp_path, "store", "bucket", "other/", make=True).close()
    first.close()
    StateDirectory(tmp_path, "store", "bucket", "", make=True).close()
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o700}


async def test_many_files_are_sent_side_by_side(mounted: Mounted, server: FakeS3) -> None:
    """And each once."""
    server.latency = 0.005
    async with AsyncExitStack() as stack:
        client, filesystem = await stack.enter_async_context(mounted())
        await client.listdir("/")
        for number in range(100):
            await client.write_bytes(f"/{number}", DATA)
        assert await unwritten(filesystem) == 100
        assert (await told(filesystem, "s3-status"))["unwritten bytes"] == 100 * len(DATA)
        await client.syncfs()
        assert await unwritten(filesystem) == 0
    assert server.requests["PutObject"] == 100
    assert server.busiest >= 16


async def test_who_closes_next_is_told_what_went_wrong_meanwhile(
    mounted: Mounted, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; and it is tried until it can be."""
    monkeypatch.setattr(scheduling, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(scheduling, "RETRY_SECONDS", 0.0)
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied", times=3)
    async with mounted() as (client, _):
        entry, opened = await client.create_at(client.root, "file", os.O_WRONLY, 0o600)
        await client.write(entry.nodeid, opened.fh, 0, DATA)
        await client.flush(entry.nodeid, opened.fh)
        while server.requests["PutObject"] < 3:
            await server.changed()
        await _refused(errno.EACCES, client.flush(entry.nodeid, opened.fh))
        while server.requests["PutObject"] < 4:
            await server.changed()
        await client.fsync(entry.nodeid, opened.fh)
        assert server.bucket.objects["file"].data == DATA
        await client.flush(entry.nodeid, opened.fh)
        await client.release(entry.nodeid, opened.fh)


async def test_what_a_store_that_is_away_does_not_take_waits_for_the_next_daemon(
    mounted: Mounted, server: FakeS3
) -> None:
    """Nothing of it is lost when the mount ends."""
    async with mounted() as (client, filesystem):
        await client.write_bytes("/file", DATA)
        await client.write_bytes("/other", DATA)
        server.fail(Kind.DROP, "PutObject", times=1000)
    assert not server.bucket.objects
    server.faults.clear()
    async with mounted() as (client, filesystem):
        assert await client.read_bytes("/file") == DATA
        await filesystem.recovered()
    assert sorted(server.bucket.objects) == ["file", "other"]


async def test_an_upload_that_another_writer_met_is_sent_again(mounted: Mounted, server: FakeS3) -> None:
    """As S3 asks for it."""
    data = os.urandom(9 * MIB)
    async with mounted(write=Write.SYNC) as (client, _):
        server.fail_with(409, "ConditionalRequestConflict", "CompleteMultipartUpload")
        await client.write_bytes("/file", data)
        assert server.bucket.objects["file"].data == data
        assert server.requests["CreateMultipartUpload"] == 2
        server.fail_with(404, "NoSuchUpload", "UploadPart")
        await client.write_bytes("/file", data[::-1])
        assert server.bucket.objects["file"].data == data[::-1]
    assert not server.bucket.uploads


async def test_attributes_of_what_somebody_else_has_replaced_are_not_set(
    mounted: Mounted, server: FakeS3
) -> None:
    """And who asks for them to be there is told."""
    server.bucket.put("file", b"base", {})
    async with mounted() as (client, _):
        node = (await client.lookup(client.root, "file")).nodeid
        handle = (await client.open_node(node, os.O_RDWR)).fh
        await client.setattr(node, SetattrIn(valid=1 | 64, mode=0o700, fh=handle))
        server.bucket.put("file", b"theirs", {})
        await _refused(errno.ESTALE, client.fsync(node, handle))
        await client.release(node, handle)
        assert await client.read_bytes("/file") == b"theirs"
    assert "x-amz-meta-mode" not in server.bucket.objects["file"].headers


async def test_nothing_is_written_to_what_has_become_another_file(mounted: Mounted, server: FakeS3) -> None:
    """Who opened it before is told at once."""
    server.bucket.put("file", b"base", {})
    async with mounted(write=Write.SYNC, seconds=0.0) as (client, _):
        node = (await client.lookup(client.root, "file")).nodeid
        old = (await client.open_node(node, os.O_RDWR)).fh
        server.bucket.put("file", b"theirs", {})
        new = (await client.open_node(node, os.O_RDWR)).fh
        await _refused(errno.ESTALE, client.write(node, old, 0, b"lost"))
        await client.write(node, new, 0, b"ours")
        await client.fsync(node, new)
        for handle in (old, new):
            await client.release(node, handle)
    assert server.bucket.objects["file"].data == b"oursrs"


async def test_a_link_takes_the_place_of_what_is_there(mounted: Mounted, server: FakeS3) -> None:
    """Also when it is not in the bucket yet itself."""
    server.bucket.put("file", DATA, {})
    async with mounted() as (client, _):
        await client.symlink("target", "/link")
        await client.rename("/link", "/file")
        await client.syncfs()
        assert await client.readlink("/file") == "target"
    assert {key: each.data for key, each in server.bucket.objects.items()} == {"file": b"target"}


async def test_what_a_killed_daemon_had_sent_may_arrive_late(
    mounted: Mounted, server: FakeS3, tmp_path: Path
) -> None:
    """After the next one has looked for it: it is known as what it is."""
    async with mounted() as (client, _):
        await client.write_bytes("/file", DATA)
        await client.symlink("target", "/link")
        killed = _killed(tmp_path)
        server.held["PutObject"] = release = asyncio.Event()
        sent = asyncio.ensure_future(client.syncfs())
        while server.requests["PutObject"] < 2:
            await server.changed()
        async with mounted(killed) as (_, later):
            while server.requests["PutObject"] < 4:
                await server.changed()
            release.set()
            await later.recovered()
            assert await unwritten(later) == 0
            assert not await told(later, "s3-conflicts")
        await sent
    assert {key: each.data for key, each in server.bucket.objects.items()} == {
        "file": DATA,
        "link": b"target",
    }


async def test_who_is_interrupted_while_closing_loses_nothing(mounted: Mounted, server: FakeS3) -> None:
    """What was on its way arrives, and is known when the file is closed for good."""
    async with mounted(write=Write.SYNC) as (client, filesystem):
        entry, opened = await client.create_at(client.root, "file", os.O_WRONLY, 0o600)
        await client.write(entry.nodeid, opened.fh, 0, DATA)
        server.held["PutObject"] = release = asyncio.Event()
        flushing = asyncio.ensure_future(client.flush(entry.nodeid, opened.fh))
        while not server.requests["PutObject"]:
            await server.changed()
        client.interrupt()
        await _refused(errno.EINTR, flushing)
        release.set()
        await client.release(entry.nodeid, opened.fh)
        assert not await told(filesystem, "s3-conflicts")
        assert server.requests["PutObject"] == 1
    assert server.bucket.objects["file"].data == DATA
