"""A bucket behaves as a directory: what is done in it is in the bucket, at a known number of requests."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import zlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient, MakeFilesystem
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.options import Metadata, S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import Capabilities
from vhostfs.backends.s3.writing.committing import Conflict
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

DATA = bytes(range(251)) * 4
MIB = 1 << 20


@pytest.fixture
async def client(make_filesystem: MakeFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has the bucket mounted."""
    async with mount(make_filesystem()) as client:
        yield client


async def _refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        await call


# ---- Requests ----


async def test_a_new_file_costs_one_request(client: Client, server: FakeS3) -> None:
    """From create to close, in a directory that was listed."""
    await client.listdir("/")
    server.requests.clear()
    await client.write_bytes("/new", DATA)
    assert server.requests == {"PutObject": 1}
    assert server.bucket.objects["new"].data == DATA
    assert "if-none-match" in server.asked[-1].headers


async def test_a_listed_directory_answers_lookups_by_itself(client: Client, server: FakeS3) -> None:
    """Those of names that are not there, too."""
    server.bucket.put("a", DATA, {})
    server.bucket.put("d/b", DATA, {})
    assert await client.listdir("/") == ["a", "d"]
    server.requests.clear()
    assert await client.exists("/d")
    assert not await client.exists("/c")
    assert not server.requests


async def test_ten_thousand_files_are_listed_with_their_sizes_in_ten_requests(
    client: Client, server: FakeS3
) -> None:
    """One a page."""
    for number in range(10_000):
        server.bucket.put(f"d/{number:05}", b"x" * (number % 7), {})
    server.requests.clear()
    entries = await client.entries("/d", plus=True)
    assert len([entry for entry in entries if entry.name not in {b".", b".."}]) == 10_000
    assert server.requests.total() <= 12


async def test_spaces_and_plus_signs_are_told_apart_in_listings(client: Client, server: FakeS3) -> None:
    """S3 encodes the one as the other."""
    for name in ("a b", "a+b", "a%20b", "c d/e f", "ü +%/x"):
        server.bucket.put(f"d/{name}", DATA, {})
    assert await client.listdir("/d") == sorted(["a b", "a+b", "a%20b", "c d", "ü +%"])
    assert await client.read_bytes("/d/a+b") == DATA


async def test_the_same_question_at_the_same_time_is_asked_once(client: Client, server: FakeS3) -> None:
    """However many ask."""
    server.bucket.put("a", DATA, {})
    server.latency = 0.01
    await asyncio.gather(*(client.stat("/a") for _ in range(20)))
    assert server.requests == {"HeadObject": 1, "ListObjectsV2": 1}


async def test_a_directory_without_an_object_of_its_own_is_not_asked_for_one(
    client: Client, server: FakeS3
) -> None:
    """The listing that found it has told."""
    server.bucket.put("directory/file", b"content", {})
    assert (await client.stat("/directory")).mode & 0o777 == 0o755
    assert server.requests == {"HeadObject": 1, "ListObjectsV2": 1}
    server.requests.clear()
    assert await client.read_bytes("/directory/file") == b"content"
    assert server.requests == {"HeadObject": 1, "ListObjectsV2": 1, "GetObject": 1}


async def test_what_turns_out_to_be_a_link_is_another_file(client: Client, server: FakeS3) -> None:
    """A kernel that saw a listing took it for a regular one."""
    server.bucket.put("link", b"target", {"x-amz-meta-mode": str(stat.S_IFLNK | 0o777)})
    entries = await client.entries("/", plus=True)
    assert [entry.name for entry in entries] == [b"link"]
    await _refused(errno.ESTALE, client.stat("/link"))  # upon which Linux looks the name up again
    assert stat.S_ISLNK((await client.stat("/link")).mode)
    assert await client.readlink("/link") == "target"


async def test_names_that_are_asked_for_one_by_one_lead_to_a_listing(client: Client, server: FakeS3) -> None:
    """After which they cost nothing."""
    for number in range(50):
        server.bucket.put(f"{number}", DATA, {})
    for number in range(50):
        assert await client.exists(f"/{number}")
    assert server.requests["ListObjectsV2"] <= 6
    assert server.requests.total() <= 12 + 50  # each file is looked at


# ---- Files ----


async def test_what_is_written_is_read(client: Client, server: FakeS3) -> None:
    """Again, and by whoever reads the bucket."""
    await client.write_bytes("/file", DATA)
    assert await client.read_bytes("/file") == DATA
    await client.write_bytes("/file", b"other")
    assert server.bucket.objects["file"].data == b"other"
    assert await client.read_bytes("/file") == b"other"
    assert (await client.stat("/file")).size == 5


async def test_a_part_of_a_file_is_written(client: Client, server: FakeS3) -> None:
    """And the rest stays; where nothing was written there are zeros."""
    await client.write_bytes("/file", DATA)
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node, os.O_RDWR)).fh
    await client.write(node, handle, 100, b"new")
    await client.write(node, handle, 2000, b"end")
    assert await client.read(node, handle, 0, 4096) == DATA[:100] + b"new" + DATA[103:] + bytes(996) + b"end"
    assert server.bucket.objects["file"].data == DATA
    await client.flush(node, handle)
    assert server.bucket.objects["file"].data == DATA[:100] + b"new" + DATA[103:] + bytes(996) + b"end"
    await client.release(node, handle)


async def test_a_large_file_is_changed_without_being_sent_again(client: Client, server: FakeS3) -> None:
    """What did not change is copied by the store."""
    server.bucket.put("big", bytes(40 * MIB), {})
    node = (await client.lookup(client.root, "big")).nodeid
    handle = (await client.open_node(node, os.O_RDWR)).fh
    await client.write(node, handle, 20 * MIB, b"changed")
    await client.fsync(node, handle)
    data = server.bucket.objects["big"].data
    assert len(data) == 40 * MIB
    assert data[20 * MIB : 20 * MIB + 7] == b"changed"
    assert data.count(0) == 40 * MIB - 7
    sent = sum(len(asked.body) for asked in server.asked if asked.method == "PUT")
    assert sent <= 16 * MIB
    assert not server.bucket.uploads
    await client.release(node, handle)


@pytest.mark.parametrize("conflict", Conflict)
async def test_a_store_that_overlooks_the_version_copies_only_where_a_later_condition_tells(
    make_client: MakeClient, server: FakeS3, tmp_path: Path, conflict: Conflict
) -> None:
    """Else what is copied might be of another version than what stays."""
    server.bucket.put("big", bytes(40 * MIB), {})
    store = make_client(capabilities=Capabilities(conditional_copy_part=False))
    filesystem = S3Filesystem(store, S3Options(conflict=conflict), Memory(64 * MIB), Spool(tmp_path))
    async with mount(filesystem) as client:
        node = (await client.lookup(client.root, "big")).nodeid
        handle = (await client.open_node(node, os.O_RDWR)).fh
        await client.write(node, handle, 20 * MIB, b"changed")
        await client.flush(node, handle)
        await client.release(node, handle)
    assert server.bucket.objects["big"].data[20 * MIB :].startswith(b"changed")
    assert bool(server.requests["UploadPartCopy"]) == (conflict is not Conflict.LAST_WRITER_WINS)


async def test_a_file_that_is_read_on_is_fetched_ahead(client: Client, server: FakeS3) -> None:
    """In few requests; and what is read is what is there."""
    data = os.urandom(10 * MIB)
    server.bucket.put("big", data, {})
    assert await client.read_bytes("/big") == data
    assert server.requests["GetObject"] <= 12


async def test_who_reads_far_ahead_takes_nothing_from_who_reads_behind(
    client: Client, server: FakeS3
) -> None:
    """What is fetched for one is not given up because another is past it."""
    data = os.urandom(MIB) * 20
    server.bucket.put("big", data, {})
    node = (await client.lookup(client.root, "big")).nodeid
    handle = (await client.open_node(node)).fh
    for offset in range(0, 4 * MIB, MIB):
        assert await client.read(node, handle, offset, MIB) == data[offset : offset + MIB]
    server.latency = 0.01
    offsets = [number * MIB for number in range(4, 20)]
    found = await asyncio.gather(*(client.read(node, handle, offset, MIB) for offset in offsets))
    assert [each == data[:MIB] for each in found] == [True] * len(offsets)
    await client.release(node, handle)


async def test_scattered_reads_fetch_what_they_ask_for(client: Client, server: FakeS3) -> None:
    """And nothing more."""
    data = os.urandom(10 * MIB)
    server.bucket.put("big", data, {})
    node = (await client.lookup(client.root, "big")).nodeid
    handle = (await client.open_node(node)).fh
    offsets = [(number * 7_654_321) % (10 * MIB - 4096) for number in range(1, 40)]
    for offset in offsets:
        assert await client.read(node, handle, offset, 4096) == data[offset : offset + 4096]
    assert server.sent <= 39 * 65536
    await client.release(node, handle)


async def test_readers_of_the_whole_leave_no_memory_behind(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """The budget bounds what is fetched ahead, and is whole again afterwards."""
    data = os.urandom(6 * MIB)
    server.bucket.put("big", data, {})
    async with mount(make_filesystem(memory=2 * MIB)) as client:
        assert await client.read_bytes("/big") == data


async def test_truncation_cuts_and_grows(client: Client, server: FakeS3) -> None:
    """What was cut off does not come back."""
    await client.write_bytes("/file", DATA)
    await client.truncate("/file", 10)
    await client.truncate("/file", 20)
    assert await client.read_bytes("/file") == DATA[:10] + bytes(10)
    assert server.bucket.objects["file"].data == DATA[:10] + bytes(10)


async def test_a_deleted_file_that_is_open_is_read_on(client: Client, server: FakeS3) -> None:
    """Until it is closed; its object has gone."""
    await client.write_bytes("/file", DATA)
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node)).fh
    await client.unlink("/file")
    assert "file" not in server.bucket.objects
    assert await client.read(node, handle, 0, 4096) == DATA
    assert (await client.getattr(node, handle)).attr.nlink == 0
    await client.release(node, handle)


async def test_a_deleted_file_of_which_a_part_was_written_is_read_on(client: Client) -> None:
    """The part as it was written, the rest as it was in the bucket."""
    await client.write_bytes("/file", DATA)
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node, os.O_RDWR)).fh
    await client.write(node, handle, 100, b"new")
    await client.unlink("/file")
    assert await client.read(node, handle, 0, 4096) == DATA[:100] + b"new" + DATA[103:]
    await client.release(node, handle)


@pytest.mark.parametrize("cut", [False, True])
async def test_what_is_written_while_a_file_is_deleted_stays(
    client: Client, server: FakeS3, *, cut: bool
) -> None:
    """What is fetched for who has it open takes the place of nothing newer, and what was cut off stays so."""
    await client.write_bytes("/file", DATA)
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node, os.O_RDWR)).fh
    server.held["GetObject"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.unlink("/file"))
        while not server.requests["GetObject"]:
            await server.changed()
        await client.write(node, handle, 100, b"new")
        if cut:
            changes = SetattrIn(SetattrValid.SIZE | SetattrValid.FH, fh=handle, size=200)
            await client.setattr(node, changes)
        server.held["GetObject"].set()
    if cut:
        await client.write(node, handle, 300, b"end")
        expected = DATA[:100] + b"new" + DATA[103:200] + bytes(100) + b"end"
    else:
        expected = DATA[:100] + b"new" + DATA[103:]
    assert await client.read(node, handle, 0, 4096) == expected
    await client.release(node, handle)


async def test_a_file_that_is_replaced_while_it_is_committed_is_read_on_as_it_was_written(
    client: Client, server: FakeS3
) -> None:
    await client.write_bytes("/old", DATA)
    await client.write_bytes("/new", b"other")
    node = (await client.lookup(client.root, "old")).nodeid
    handle = (await client.open_node(node, os.O_RDWR)).fh
    await client.write(node, handle, 100, b"new")
    server.requests.clear()
    server.held["PutObject"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.flush(node, handle))
        while not server.requests["PutObject"]:
            await server.changed()
        group.create_task(client.rename("/new", "/old"))
        for _ in range(1000):  # turns of the loop, enough for the rename to come as far as it can
            await asyncio.sleep(0)
        server.held["PutObject"].set()
    assert await client.read(node, handle, 0, 4096) == DATA[:100] + b"new" + DATA[103:]
    assert server.bucket.objects["old"].data == b"other"
    await client.release(node, handle)


# ---- Attributes ----


async def test_attributes_stand_in_the_objects_metadata(client: Client, server: FakeS3) -> None:
    """As s3fs has them, and as rclone reads them."""
    await client.write_bytes("/file", DATA, mode=0o640)
    await client.chown("/file", 1000, 1001)
    await client.utime("/file", 5_000_000_007, 1_234_567_890_000_000_001)
    await client.syncfs()
    assert server.requests["CopyObject"] == 1
    headers = server.bucket.objects["file"].headers
    assert headers["x-amz-meta-mode"] == str(stat.S_IFREG | 0o640)
    assert (headers["x-amz-meta-uid"], headers["x-amz-meta-gid"]) == ("1000", "1001")
    assert headers["x-amz-meta-mtime"] == "1234567890.000000001"
    assert headers["x-amz-meta-atime"] == "5.000000007"
    found = await client.stat("/file")
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o640, 1000, 1001)
    assert (found.mtime_ns, found.atime_ns) == (1_234_567_890_000_000_001, 5_000_000_007)


async def test_attributes_that_change_while_a_file_is_written_cost_nothing(
    client: Client, server: FakeS3
) -> None:
    """They go with the data, as when an archive is unpacked."""
    await client.listdir("/")
    server.requests.clear()
    entry, opened = await client.create_at(client.root, "file", os.O_WRONLY, 0o600)
    await client.write(entry.nodeid, opened.fh, 0, DATA)
    changes = SetattrIn(valid=1 | 64, mode=0o755, fh=opened.fh)
    await client.setattr(entry.nodeid, changes)
    await client.flush(entry.nodeid, opened.fh)
    await client.release(entry.nodeid, opened.fh)
    assert server.requests == {"PutObject": 1}
    assert server.bucket.objects["file"].headers["x-amz-meta-mode"] == str(stat.S_IFREG | 0o755)


async def test_what_others_stored_with_an_object_stays(client: Client, server: FakeS3) -> None:
    """Whatever is changed."""
    server.bucket.put("file", DATA, {"x-amz-meta-theirs": "kept", "content-type": "text/x-theirs"})
    await client.chmod("/file", 0o600)
    await client.write_bytes("/file", b"other")
    headers = server.bucket.objects["file"].headers
    assert headers["x-amz-meta-theirs"] == "kept"
    assert headers["content-type"] == "text/x-theirs"


async def test_full_metadata_is_listed_by_an_index(make_filesystem: MakeFilesystem, server: FakeS3) -> None:
    """The first listing asks for each file, the next ones for what has changed."""
    for number in range(500):
        mode = str(stat.S_IFREG | (0o600 + number % 64))
        server.bucket.put(f"{number:03}", b"x", {"x-amz-meta-mode": mode, "x-amz-meta-uid": str(number)})

    async def listed() -> dict[str, tuple[int, int]]:
        server.requests.clear()
        async with mount(make_filesystem(metadata=Metadata.FULL)) as client:
            entries = await client.entries("/", plus=True)
            assert all(entry.entry is not None for entry in entries)
            return {
                entry.name.decode(): (entry.entry.attr.mode & 0o777, entry.entry.attr.uid)
                for entry in entries
                if entry.entry is not None
            }

    expected = {f"{number:03}": (0o600 + number % 64, number) for number in range(500)}
    assert await listed() == expected
    assert server.requests["HeadObject"] >= 500
    assert await listed() == expected
    assert server.requests.total() <= 3
    server.bucket.put("007", b"new", {"x-amz-meta-mode": str(stat.S_IFREG | 0o777)})
    assert await listed() == {**expected, "007": (0o777, 0)}
    assert server.requests["HeadObject"] == 1
    for nonsense in (b"", b"[]", b'{"format":1,"files":{"000":{"etag":5}}}', b'{"format":1,"files":7}'):
        server.bucket.put(".vhostfs-meta", zlib.compress(nonsense), {})
        assert len(await listed()) == 500


async def test_extended_attributes_stay(client: Client) -> None:
    """With any bytes; more than there is room for is refused."""
    await client.write_bytes("/file", DATA)
    await client.setxattr("/file", "user.one", b"\0\xff")
    assert await client.getxattr("/file", "user.one") == b"\0\xff"
    assert list(await client.listxattr("/file")) == ["user.one"]
    await _refused(errno.ENOSPC, client.setxattr("/file", "user.two", bytes(2048)))
    await client.removexattr("/file", "user.one")
    await _refused(errno.ENODATA, client.getxattr("/file", "user.one"))


async def test_links_are_objects_with_their_target(client: Client, server: FakeS3) -> None:
    """And known as links to whoever looks."""
    await client.symlink("some/where", "/link")
    assert server.bucket.objects["link"].data == b"some/where"
    assert stat.S_ISLNK((await client.stat("/link")).mode)
    assert await client.readlink("/link") == "some/where"
    await _refused(errno.EPERM, client.link("/link", "/other"))


# ---- Directories ----


async def test_directories_are_made_and_removed(client: Client, server: FakeS3) -> None:
    """Empty ones alone."""
    await client.mkdir("/d", 0o750)
    assert server.bucket.objects["d/"].headers["content-type"] == "application/x-directory"
    assert (await client.stat("/d")).mode == stat.S_IFDIR | 0o750
    await client.write_bytes("/d/file", DATA)
    await _refused(errno.ENOTEMPTY, client.rmdir("/d"))
    await client.unlink("/d/file")
    await client.rmdir("/d")
    assert not server.bucket.objects


async def test_the_root_of_a_bucket_is_no_object(client: Client, server: FakeS3) -> None:
    """It is not asked for, and never written."""
    assert stat.S_ISDIR((await client.stat("/")).mode)
    await _refused(errno.EPERM, client.chmod("/", 0o700))
    await _refused(errno.EPERM, client.setxattr("/", "user.name", b"value"))
    await client.syncfs()
    assert not server.requests


async def test_the_root_of_a_part_of_a_bucket_has_attributes(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """In the object of its prefix."""
    async with mount(make_filesystem(prefix="part/")) as client:
        await client.chmod("/", 0o700)
        await client.write_bytes("/file", DATA)
    assert sorted(server.bucket.objects) == ["part/", "part/file"]
    assert server.bucket.objects["part/"].headers["x-amz-meta-mode"] == str(stat.S_IFDIR | 0o700)


async def test_a_directory_that_was_only_a_prefix_outlives_its_files(client: Client, server: FakeS3) -> None:
    """As everywhere else."""
    server.bucket.put("d/file", DATA, {})
    await client.unlink("/d/file")
    assert await client.listdir("/d") == []
    assert list(server.bucket.objects) == ["d/"]


async def test_files_and_directories_are_renamed(client: Client, server: FakeS3) -> None:
    """With all that is in them."""
    await client.mkdir("/d")
    await client.write_bytes("/d/one", b"1")
    await client.mkdir("/d/e")
    await client.write_bytes("/d/e/two", b"2")
    await client.rename("/d", "/moved")
    assert sorted(server.bucket.objects) == ["moved/", "moved/e/", "moved/e/two", "moved/one"]
    assert await client.read_bytes("/moved/e/two") == b"2"
    await client.rename("/moved/one", "/moved/e/two")
    assert await client.read_bytes("/moved/e/two") == b"1"
    assert not await client.exists("/moved/one")
    await _refused(errno.ENOTEMPTY, client.rmdir("/moved"))
    await _refused(errno.EINVAL, client.rename("/moved", "/moved/e/below"))
    await client.write_bytes("/other", b"3")
    await _refused(errno.EEXIST, client.rename("/other", "/moved/e/two", 1))
    await _refused(errno.EINVAL, client.rename("/other", "/moved/e/two", 2))


async def test_a_file_that_is_not_there_yet_is_renamed_for_nothing(client: Client, server: FakeS3) -> None:
    """As editors and Git do: write, rename, and it is one request."""
    await client.write_bytes("/config", b"old")
    server.requests.clear()
    entry, opened = await client.create_at(client.root, "config.lock", os.O_WRONLY, 0o600)
    await client.write(entry.nodeid, opened.fh, 0, b"new")
    await client.rename("/config.lock", "/config")
    await client.flush(entry.nodeid, opened.fh)
    await client.release(entry.nodeid, opened.fh)
    assert server.bucket.objects["config"].data == b"new"
    assert list(server.bucket.objects) == ["config"]
    assert server.requests["PutObject"] == 1
    assert "CopyObject" not in server.requests


async def test_keys_that_no_path_can_name_are_left_out(client: Client, server: FakeS3) -> None:
    """And break nothing."""
    for key in ("a//b", "../evil", "./x", "ok", "d/../../etc", "d/x", "nul\x01", "long" * 100):
        server.bucket.put(key, DATA, {})
    assert await client.listdir("/") == ["a", "d", "nul\x01", "ok"]
    assert await client.listdir("/a") == []
    assert await client.listdir("/d") == ["x"]


async def test_a_directory_hides_an_object_of_its_name(client: Client, server: FakeS3) -> None:
    """Its files could not be reached otherwise."""
    server.bucket.put("same", DATA, {})
    server.bucket.put("same/below", DATA, {})
    assert await client.listdir("/") == ["same"]
    assert await client.read_bytes("/same/below") == DATA


# ---- What goes wrong ----


async def test_two_writers_do_not_lose_each_others_data_unnoticed(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """The one who comes second is told."""
    server.bucket.put("file", b"base", {})
    async with mount(make_filesystem()) as one, mount(make_filesystem()) as two:
        handles = []
        for client in (one, two):
            node = (await client.lookup(client.root, "file")).nodeid
            handles.append((client, node, (await client.open_node(node, os.O_RDWR)).fh))
        for number, (client, node, handle) in enumerate(handles):
            await client.write(node, handle, 0, f"from {number}".encode())
        (first, node, handle), (second, other, its_handle) = handles
        await first.flush(node, handle)
        await _refused(errno.ESTALE, second.flush(other, its_handle))
        assert server.bucket.objects["file"].data == b"from 0"
        await first.release(node, handle)
        await second.release(other, its_handle)
    assert server.bucket.objects["file"].data == b"from 0"


async def test_a_write_whose_answer_was_lost_is_not_taken_for_anothers(
    client: Client, server: FakeS3
) -> None:
    """The nonce tells that it was ours."""
    server.fail(Kind.LATE_DROP, "PutObject")
    await client.write_bytes("/file", DATA)
    assert server.bucket.objects["file"].data == DATA


async def test_a_link_or_directory_whose_answer_was_lost_is_ours_too(client: Client, server: FakeS3) -> None:
    """Whatever makes an object tells it from anothers'."""
    server.fail(Kind.LATE_DROP, "PutObject")
    await client.symlink("target", "/link")
    assert await client.readlink("/link") == "target"
    server.fail(Kind.LATE_DROP, "PutObject")
    await client.mkdir("/d")
    assert sorted(server.bucket.objects) == ["d/", "link"]


async def test_a_deleted_file_is_not_taken_for_its_successor(client: Client, server: FakeS3) -> None:
    """Its name leads to another object, which is never asked for in its place."""
    server.bucket.put("file", DATA, {})
    [entry] = [each for each in await client.list_node(client.root, plus=True) if each.name == b"file"]
    assert entry.entry is not None
    node = entry.entry.nodeid
    await client.unlink("/file")
    server.bucket.put("file", b"other", {"x-amz-meta-uid": "7"})
    server.requests.clear()
    await _refused(errno.ESTALE, client.readlink_node(node))
    assert not server.requests


async def test_what_cannot_be_written_is_told_at_close_and_kept(client: Client, server: FakeS3) -> None:
    """Until it can."""
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied", times=2)
    entry, opened = await client.create_at(client.root, "file", os.O_WRONLY, 0o600)
    await client.write(entry.nodeid, opened.fh, 0, DATA)
    await _refused(errno.EACCES, client.flush(entry.nodeid, opened.fh))
    await _refused(errno.EACCES, client.fsync(entry.nodeid, opened.fh))
    await client.fsync(entry.nodeid, opened.fh)
    assert server.bucket.objects["file"].data == DATA
    await client.release(entry.nodeid, opened.fh)


async def test_two_versions_are_never_mixed(client: Client, server: FakeS3) -> None:
    """A reader that has begun gets an error, one that has not the new one."""
    server.bucket.put("file", b"a" * MIB, {})
    node = (await client.lookup(client.root, "file")).nodeid
    fresh = (await client.open_node(node)).fh
    server.bucket.put("file", b"b" * MIB, {})
    assert await client.read(node, fresh, 0, 10) == b"b" * 10
    server.bucket.put("file", b"c" * MIB, {})
    await _refused(errno.ESTALE, client.read(node, fresh, MIB // 2, 10))
    await client.release(node, fresh)
    assert await client.read_bytes("/file") == b"c" * MIB


async def test_a_store_that_is_down_is_an_error_and_then_none(
    client: Client, server: FakeS3, vhostfs_quiet: list[logging.LogRecord]
) -> None:
    """Nothing stays broken."""
    server.bucket.put("file", DATA, {})
    server.fail(Kind.STATUS, times=30)
    await _refused(errno.EIO, client.listdir("/"))
    server.faults.clear()
    assert await client.listdir("/") == ["file"]
    assert await client.read_bytes("/file") == DATA
    vhostfs_quiet.clear()  # tests/unit/s3/test_standing.py has what is told


@pytest.mark.parametrize("kind", [Kind.SILENT, Kind.CUT, Kind.STATUS, Kind.WRONG_BYTES, Kind.DROP])
async def test_no_failure_keeps_the_guests_memory(client: Client, server: FakeS3, kind: Kind) -> None:
    """Neither of a request that was made again, nor of one beside which another was made."""
    server.bucket.put("file", DATA, {})
    node = (await client.lookup(client.root, "file")).nodeid
    handle = (await client.open_node(node)).fh
    for offset in range(100):
        assert await client.read(node, handle, offset * 7 % 900, 10) == DATA[offset * 7 % 900 :][:10]
    for offset in (500, 300, 100):
        server.fail(kind, "GetObject")
        assert await client.read(node, handle, offset, 10) == DATA[offset : offset + 10]
    await client.release(node, handle)
