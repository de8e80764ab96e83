"""A rename that a daemon has begun and not ended: the next one ends it or takes it back, and loses nothing.

Daemons are cut off here at each of their requests: what is left of one is a copy of its state directory and
of the bucket, from which another one begins.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.fake_s3.bucket import StoredObject
from tests.fake_s3.faults import Fault, Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient
from tests.unit.s3.orders import told
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal.journal import LOG, Journal
from vhostfs.backends.s3.journal.records import Scan
from vhostfs.backends.s3.journal.renames import Copied, Rename
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.store import Capabilities
from vhostfs.backends.s3.writing import copying, resuming
from vhostfs.backends.s3.writing.resuming import Resumer
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 4
NAMES = ("", "four", "one", "sub/", "sub/three", "two")
OLD, NEW = {f"d/{name}" for name in NAMES}, {f"moved/{name}" for name in NAMES}

type Objects = dict[str, StoredObject]


@dataclass(frozen=True)
class Cut:
    """What is left of a daemon that is killed."""

    state: Path
    objects: Objects
    at: str
    """Which request it was, and whether that was carried out."""
    note: tuple[bytes, bool] = (b"", False)


class Cutter:
    """Keeps what is left of a daemon, at each request that changes the bucket."""

    def __init__(self, server: FakeS3, path: Path) -> None:
        self._server, self._path = server, path
        self.cuts: list[Cut] = []
        self.note = (b"", False)
        """What is kept with the next ones."""

    def cut(self, at: str) -> Cut:
        """Return what is left now."""
        state = self._path / f"killed-{len(list(self._path.iterdir()))}"
        shutil.copytree(self._path / "state", state)
        return Cut(state, dict(self._server.bucket.objects), at, self.note)

    def __enter__(self) -> Cutter:
        self._server.watch = self._watch
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.watch = None

    def _watch(self, name: str, done: bool) -> None:
        if name in {"CopyObject", "DeleteObject", "DeleteObjects", "CompleteMultipartUpload"}:
            self.cuts.append(self.cut(f"{name} {'done' if done else 'begins'} {len(self.cuts)}"))


@pytest.fixture
def cutter(server: FakeS3, tmp_path: Path) -> Cutter:
    """Return what keeps what is left of the daemon of this state directory."""
    return Cutter(server, tmp_path)


class Mounts:
    """Mounts of the bucket, each by a daemon of its own."""

    def __init__(self, server: FakeS3, make_client: MakeClient, path: Path) -> None:
        self._server, self._make_client, self._path = server, make_client, path

    @asynccontextmanager
    async def of(
        self, cut: Cut | None = None, *, write: Write = Write.SYNC, learn: Capabilities | None = None
    ) -> AsyncIterator[tuple[Client, S3Filesystem]]:
        """Mount the bucket, or what is left of an earlier mount."""
        if cut is not None:
            self._server.bucket.objects = dict(cut.objects)
            self._server.bucket._sorted = None
        state = self._path / "state" if cut is None else cut.state
        directory = StateDirectory(state, "store", "bucket", "", make=True)
        store: S3Client = self._make_client()
        if learn is not None:
            store.learn(learn)
        filesystem = S3Filesystem(
            store, S3Options(write=write), Memory(64 << 20), directory, None, Journal(directory)
        )
        async with mount(filesystem) as client:
            yield client, filesystem
        filesystem.close()


@pytest.fixture
def mounts(server: FakeS3, make_client: MakeClient, tmp_path: Path) -> Mounts:
    """Return what mounts the bucket."""
    return Mounts(server, make_client, tmp_path)


async def _directory(client: Client) -> None:
    await client.mkdir("/d")
    await client.mkdir("/d/sub")
    for name in ("one", "two", "sub/three", "four"):
        await client.write_bytes(f"/d/{name}", DATA + name.encode())


async def _tree(client: Client, top: str = "/") -> set[str]:
    found = set()
    for name, kind in (await client.types(top)).items():
        path = f"{top.rstrip('/')}/{name}"
        if kind.name == "DIRECTORY":
            found |= {f"{path[1:]}/"} | await _tree(client, path)
        else:
            found.add(path[1:])
    return found


def _data(server: FakeS3) -> dict[str, bytes]:
    return {key: found.data for key, found in server.bucket.objects.items()}


def _renames(filesystem: S3Filesystem) -> dict[str, Rename]:
    assert filesystem._journaling is not None
    return filesystem._journaling.journal.renames


async def _ended(filesystem: S3Filesystem) -> None:
    """Return when no rename is left."""
    runner = filesystem._renamer.left._runner
    assert runner is not None
    async with asyncio.timeout(30):
        await asyncio.wait([runner])
    assert not _renames(filesystem)


async def _cuts_of_a_directory(mounts: Mounts, cutter: Cutter) -> list[Cut]:
    async with mounts.of() as (client, _):
        await _directory(client)
        with cutter:
            await client.rename("/d", "/moved")
    return cutter.cuts


@pytest.mark.parametrize("write", list(Write))
async def test_a_directory_has_one_name_after_a_kill_at_any_request(
    mounts: Mounts, cutter: Cutter, server: FakeS3, write: Write
) -> None:
    """The old one as long as not all was copied, then the new one: with all that is in it."""
    async with mounts.of(write=write) as (client, filesystem):
        await _directory(client)
        await client.syncfs()
        before = _data(server)
        with cutter:
            await client.rename("/d", "/moved")
        assert set(server.bucket.objects) == NEW
    cutter.cuts.append(cutter.cut("ended"))
    seen = []
    for cut in cutter.cuts:
        async with mounts.of(cut, write=write) as (client, filesystem):
            for path in ("/", "/d", "/moved", "/d/sub", "/moved/sub"):
                with suppress(FileNotFoundError):  # nothing that is known now is believed afterwards
                    await client.listdir(path)
            await filesystem.recovered()
            keys = set(server.bucket.objects)
            assert keys in (OLD, NEW), cut.at
            assert await _tree(client) == keys
            top = "d" if keys == OLD else "moved"
            for name in ("one", "two", "sub/three", "four"):
                assert await client.read_bytes(f"/{top}/{name}") == before[f"d/{name}"]
            assert not _renames(filesystem)
            assert not await told(filesystem, "s3-conflicts")
        seen.append("back" if keys == OLD else "forward")
        assert seen == sorted(seen), "it has happened, and then it has not"
    assert set(seen) == {"back", "forward"}


@pytest.mark.parametrize("is_over", [False, True], ids=["alone", "over"])
@pytest.mark.parametrize("write", list(Write))
async def test_a_file_has_one_name_after_a_kill_at_any_request(
    mounts: Mounts, cutter: Cutter, server: FakeS3, write: Write, is_over: bool
) -> None:
    """And what it takes the place of is there until then."""
    async with mounts.of(write=write) as (client, filesystem):
        await client.write_bytes("/file", DATA)
        if is_over:
            await client.write_bytes("/other", b"other")
        await client.syncfs()
        before = _data(server)
        with cutter:
            await client.rename("/file", "/other")
        assert _data(server) == {"other": DATA}
    assert len(cutter.cuts) == 4
    for cut in cutter.cuts:
        async with mounts.of(cut, write=write) as (client, filesystem):
            await client.listdir("/")
            await filesystem.recovered()
            assert _data(server) in (before, {"other": DATA}), cut.at
            assert await _tree(client) == set(server.bucket.objects)
            assert not _renames(filesystem)
    assert _data(server) == {"other": DATA}


async def test_what_is_promised_while_a_directory_moves_is_there_after_a_kill_at_any_request(
    mounts: Mounts, cutter: Cutter, server: FakeS3
) -> None:
    """Changes of files that were copied already, and files that are new; with all else of the directory."""
    async with mounts.of(write=Write.WRITEBACK) as (client, filesystem):
        await _directory(client)
        await client.syncfs()
        directory = (await client.lookup(client.root, "d")).nodeid
        one = (await client.lookup(directory, "one")).nodeid
        handle = (await client.open_node(one, os.O_RDWR)).fh
        server.latency = 0.01
        cutter.note = (b"", False)
        with cutter:
            moving = asyncio.ensure_future(client.rename("/d", "/moved"))
            while not cutter.cuts:
                await server.changed()
            await client.write(one, handle, 0, b"new")
            await client.flush(one, handle)
            cutter.note = (b"new", False)
            entry, made = await client.create_at(directory, "made", os.O_WRONLY, 0o600)
            await client.write(entry.nodeid, made.fh, 0, b"made")
            await client.flush(entry.nodeid, made.fh)
            cutter.note = (b"new", True)
            await moving
        server.latency = 0.0
        await client.release(one, handle)
        await client.release(entry.nodeid, made.fh)
        await client.syncfs()
        assert set(server.bucket.objects) == {*NEW, "moved/made"}
    assert (b"new", True) in [cut.note for cut in cutter.cuts]
    tops = set()
    for cut in cutter.cuts:
        changed, is_made = cut.note
        async with mounts.of(cut, write=Write.WRITEBACK) as (client, filesystem):
            await filesystem.recovered()
            await client.syncfs()
            keys = set(server.bucket.objects)
            tops |= (top := {key.partition("/")[0] for key in keys})
            assert len(top) == 1, (cut.at, sorted(keys))
            [found] = top
            data = _data(server)
            assert {f"{found}/{name}" for name in NAMES} <= keys
            if changed:
                assert data[f"{found}/one"] == b"new" + DATA[3:] + b"one", cut.at
            if is_made:
                assert data[f"{found}/made"] == b"made", cut.at
            assert not await told(filesystem, "s3-conflicts"), cut.at
    assert tops == {"d", "moved"}


async def test_what_others_have_written_under_either_name_meanwhile_stays(
    mounts: Mounts, cutter: Cutter, server: FakeS3
) -> None:
    """Over copies, over originals, and beside them."""
    cuts = await _cuts_of_a_directory(mounts, cutter)
    for cut in cuts:
        objects = dict(cut.objects)
        for key in ("d/one", "moved/two", "d/theirs", "moved/theirs"):
            objects[key] = StoredObject(b"theirs " + key.encode(), f'"{key}"', 0.0, {})
        async with mounts.of(replace(cut, objects=objects)) as (client, filesystem):
            await filesystem.recovered()
            data = _data(server)
            for key in ("d/one", "moved/two", "d/theirs", "moved/theirs"):
                assert data[key] == b"theirs " + key.encode(), cut.at
                assert await client.read_bytes(f"/{key}") == data[key]
            for name in ("four", "sub/three"):
                [key] = {f"d/{name}", f"moved/{name}"} & set(data)
                assert data[key] == DATA + name.encode(), cut.at
            assert not _renames(filesystem)


async def test_what_others_have_deleted_meanwhile_costs_no_copy(
    mounts: Mounts, cutter: Cutter, server: FakeS3
) -> None:
    """Of two that were there, the other one stays."""
    for cut in await _cuts_of_a_directory(mounts, cutter):
        for lost in ("d/one", "moved/one"):
            objects = {key: each for key, each in cut.objects.items() if key != lost}
            there = {"d/one", "moved/one"} & set(objects)
            async with mounts.of(replace(cut, objects=objects)) as (_, filesystem):
                await filesystem.recovered()
                found = {"d/one", "moved/one"} & set(server.bucket.objects)
                # Once all was copied, the new name alone counts: who deletes there has deleted the file.
                assert found == there or lost == "moved/one", cut.at


async def test_an_equal_object_of_others_is_not_taken_for_a_copy(
    mounts: Mounts, cutter: Cutter, server: FakeS3
) -> None:
    """Bytes and ETag are the same: what was written with them is not."""
    cut = (await _cuts_of_a_directory(mounts, cutter))[0]
    assert not [key for key in cut.objects if key.startswith("moved/")]
    theirs = replace(cut.objects["d/one"], headers={"x-amz-meta-mode": "33188"})
    async with mounts.of(replace(cut, objects={**cut.objects, "moved/one": theirs})) as (_, filesystem):
        await filesystem.recovered()
        assert set(server.bucket.objects) == {*OLD, "moved/one"}


async def test_what_was_written_again_under_the_old_name_is_not_deleted(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by others nor here, also where the bytes are those that have moved."""
    cuts = await _cuts_of_a_directory(mounts, cutter)
    [*_, cut] = [each for each in cuts if {"d/one", "d/two"} <= set(each.objects)]
    again = replace(cut.objects["d/two"], modified=cut.objects["d/two"].modified + 3600)
    begin = Resumer.begin
    monkeypatch.setattr(Resumer, "begin", lambda _resumer: None)
    async with mounts.of(replace(cut, objects={**cut.objects, "d/two": again})) as (client, filesystem):
        await client.write_bytes("/d/one", DATA + b"one")
        assert server.bucket.objects["d/one"].etag == cut.objects["d/one"].etag
        begin(filesystem._renamer.left)
        await filesystem.recovered()
        assert set(server.bucket.objects) == {*NEW, "d/one", "d/two"}
        assert await _tree(client) == {*NEW, "d/", "d/one", "d/two"}


@asynccontextmanager
async def _with_an_open_copy(
    mounts: Mounts, cutter: Cutter, monkeypatch: pytest.MonkeyPatch, flags: int
) -> AsyncIterator[tuple[Client, S3Filesystem, int, int]]:
    """Mount what is left of a rename, and open a copy before it is taken back; yield its node and handle."""
    monkeypatch.setattr(resuming, "RETRY_SECONDS", 0.001)
    cuts = await _cuts_of_a_directory(mounts, cutter)
    cut = next(each for each in cuts if {"d/one", "moved/one"} <= set(each.objects))
    begin = Resumer.begin
    monkeypatch.setattr(Resumer, "begin", lambda _resumer: None)
    async with mounts.of(cut) as (client, filesystem):
        directory = (await client.lookup(client.root, "moved")).nodeid
        node = (await client.lookup(directory, "one")).nodeid
        handle = (await client.open_node(node, flags)).fh
        begin(filesystem._renamer.left)
        await filesystem.recovered()
        yield client, filesystem, node, handle


async def test_what_is_open_under_a_copys_name_is_not_deleted(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes it then brings it to the bucket; all else is taken back."""
    async with _with_an_open_copy(mounts, cutter, monkeypatch, os.O_RDWR) as (
        client,
        filesystem,
        node,
        handle,
    ):
        await client.write(node, handle, 0, b"new")
        await client.flush(node, handle)
        await client.release(node, handle)
        assert _data(server)["moved/one"] == b"new" + DATA[3:] + b"one"
        assert set(server.bucket.objects) >= OLD
        await _ended(filesystem)
        assert set(server.bucket.objects) == {*OLD, "moved/one"}


async def test_what_is_only_read_under_a_copys_name_is_taken_back_when_it_is_closed(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader reads on until then."""
    async with _with_an_open_copy(mounts, cutter, monkeypatch, os.O_RDONLY) as (
        client,
        filesystem,
        node,
        handle,
    ):
        assert await client.read(node, handle, 0, 10) == DATA[:10]
        assert _renames(filesystem)
        await client.release(node, handle)
        await _ended(filesystem)
        assert set(server.bucket.objects) == OLD


async def test_a_store_that_is_away_is_asked_again(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same daemon when it answers, or by the next one; the journal keeps it until then."""
    monkeypatch.setattr(resuming, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(resuming, "RETRY_SECONDS_MAXIMUM", 0.001)
    cuts = await _cuts_of_a_directory(mounts, cutter)
    early = next(each for each in cuts if {"d/one", "moved/one"} <= set(each.objects))
    [*_, late] = [each for each in cuts if "d/one" in each.objects]
    for cut, keys in ((early, OLD), (late, NEW)):
        away = Fault(Kind.STATUS, "ListObjectsV2", times=1 << 30)
        server.faults.append(away)
        for _ in range(2):
            async with mounts.of(cut) as (_, filesystem):
                await filesystem.recovered()
                assert _renames(filesystem)
                assert set(server.bucket.objects) == set(cut.objects)
        async with mounts.of(cut) as (client, filesystem):
            await filesystem.recovered()
            server.faults.clear()
            await _ended(filesystem)
            assert set(server.bucket.objects) == keys
            assert await _tree(client) == keys


@pytest.mark.parametrize("is_heeded", [False, True])
async def test_a_store_that_knows_no_conditions_is_compared_first(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch, is_heeded: bool
) -> None:
    """Whether its client does that, or nobody does."""
    if not is_heeded:
        without = replace(Capabilities(), conditional_delete=False)
        monkeypatch.setattr(S3Client, "capabilities", property(lambda _self: without))
    server.unheeded |= {(name, "if-match") for name in ("DeleteObject", "CopyObject")}
    server.unheeded |= {("CopyObject", name) for name in ("if-none-match", "x-amz-copy-source-if-match")}
    learn = Capabilities(conditional_copy=False, conditional_delete=False, conditional_source=False)
    async with mounts.of(learn=learn) as (client, _):
        await _directory(client)
        with cutter:
            await client.rename("/d", "/moved")
    for cut in cutter.cuts:
        objects = dict(cut.objects)
        for key in ("moved/one", "d/two"):
            objects[key] = StoredObject(b"theirs", '"theirs"', 0.0, {})
        async with mounts.of(replace(cut, objects=objects), learn=learn) as (_, filesystem):
            await filesystem.recovered()
            data = _data(server)
            assert data["moved/one"] == data["d/two"] == b"theirs", cut.at
            keys = set(data) - {"d/one", "d/two", "moved/one", "moved/two"}
            both = {"d/one", "d/two", "moved/one", "moved/two"}
            assert keys in (OLD - both, NEW - both), cut.at


async def test_copies_with_other_etags_are_known_all_the_same(
    mounts: Mounts, cutter: Cutter, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of what was copied in parts are: by what was noted, or written with them."""
    monkeypatch.setattr(copying, "COPY_MAXIMUM", 100)
    monkeypatch.setattr(copying, "PART_SIZE", 300)
    server.bucket.part_minimum = 300
    for cut in await _cuts_of_a_directory(mounts, cutter):
        if "moved/one" in cut.objects and "d/one" in cut.objects:
            assert cut.objects["moved/one"].etag != cut.objects["d/one"].etag
        async with mounts.of(cut) as (_, filesystem):
            await filesystem.recovered()
            assert set(server.bucket.objects) in (OLD, NEW), cut.at
    assert set(server.bucket.objects) == NEW


async def test_an_empty_directory_that_is_replaced_is_there_when_that_is_taken_back(
    mounts: Mounts, cutter: Cutter, server: FakeS3
) -> None:
    """And it is empty."""
    async with mounts.of() as (client, _):
        await _directory(client)
        await client.mkdir("/moved")
        with cutter:
            await client.rename("/d", "/moved")
    for cut in cutter.cuts:
        async with mounts.of(cut) as (client, filesystem):
            await filesystem.recovered()
            assert set(server.bucket.objects) in ({*OLD, "moved/"}, NEW), cut.at


@pytest.mark.parametrize("what", ["rename", "copied"])
async def test_a_damaged_record_loses_nothing(
    mounts: Mounts, cutter: Cutter, server: FakeS3, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Each file is under one of its names at least, and the log is set aside."""
    for cut in await _cuts_of_a_directory(mounts, cutter):
        [log] = cut.state.glob(f"*/{LOG}")
        content = bytearray(log.read_bytes())
        at = bytes(content).rfind(f'"is":"{what}"'.encode())
        if at < 0:
            continue
        content[at + 6] ^= 0xFF
        log.write_bytes(content)
        caplog.clear()
        async with mounts.of(cut) as (_, filesystem):
            await filesystem.recovered()
            keys = set(server.bucket.objects)
            for name in NAMES:
                assert {f"d/{name}", f"moved/{name}"} & keys, cut.at
            assert not _renames(filesystem)
        # The last one is taken for one that was not written to its end.
        assert "is damaged" in caplog.text or content.count(b'"is":', at) == 1


def test_a_rename_is_found_again_by_every_daemon_until_it_has_ended(tmp_path: Path) -> None:
    """With its copies, also when the log was written anew."""

    def opened() -> Journal:
        return Journal(StateDirectory(tmp_path, "store", "bucket", "", make=True))

    async def begin(journal: Journal) -> None:
        rename = Rename("0" * 16, "d/", "moved/", replaces=True)
        await journal.rename_begins(rename)
        for number in range(3):
            rename.copies[f"d/{number}"] = Copied(f'"{number}"', f'"{number}-1"', number)
            journal.rename_copied(rename, f"d/{number}")
        journal.rename_happened(rename, {})
        expected.append(rename)

    expected: list[Rename] = []
    journal = opened()
    asyncio.run(begin(journal))
    journal.close()
    for _ in range(3):
        journal = opened()
        assert list(journal.renames.values()) == expected
        journal.close()
    [log] = tmp_path.glob(f"*/{LOG}")
    assert [each.said["is"] for each in Scan(memoryview(log.read_bytes())).records()].count("copied") == 3
    journal = opened()
    journal.rename_ended(journal.renames["0" * 16])
    journal.close()
    journal = opened()
    assert not journal.renames
    journal.close()


async def test_an_answer_that_was_lost_is_looked_for(mounts: Mounts, server: FakeS3) -> None:
    """A copy that is there is one; what others have put there is not."""
    async with mounts.of() as (client, filesystem):
        await _directory(client)
        await client.write_bytes("/file", DATA)
        server.fail(Kind.LATE_DROP, "CopyObject", times=2)
        await client.rename("/file", "/other")
        assert "file" not in server.bucket.objects
        assert await client.read_bytes("/other") == DATA
        server.fail(Kind.LATE_DROP, "CopyObject", times=3)
        await client.rename("/d", "/moved")
        assert set(server.bucket.objects) == {*NEW, "other"}
        await client.listdir("/")
        server.bucket.put("theirs", b"theirs", {})
        server.fail(Kind.LATE_STATUS, "CopyObject", times=1)
        with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
            await client.rename("/other", "/theirs")
        assert _data(server)["theirs"] == b"theirs"
        assert await client.read_bytes("/other") == DATA
        assert _data(server)["other"] == DATA
        assert not _renames(filesystem)


@pytest.mark.parametrize("path", ["/file", "/d"])
async def test_deletions_that_fail_are_told_and_made_up_for(
    mounts: Mounts, server: FakeS3, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """What was renamed has its new name, and loses the old one when the store lets it."""
    monkeypatch.setattr(resuming, "RETRY_SECONDS", 0.001)
    async with mounts.of() as (client, filesystem):
        await _directory(client)
        await client.write_bytes("/file", DATA)
        server.fail_with(403, "AccessDenied", "DeleteObject")
        await _refused(errno.EACCES, client.rename(path, "/moved"))
        assert await client.exists("/moved")
        await _ended(filesystem)
        assert not [key for key in server.bucket.objects if f"/{key}".startswith(path)]
        assert not await client.exists(path)


async def _refused(number: int, call: Awaitable[object]) -> None:
    with pytest.raises(OSError, match=rf"^\[Errno {number}\]"):
        await call


async def test_a_directory_that_cannot_be_copied_is_taken_back_when_the_store_answers_again(
    mounts: Mounts, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the daemon that has tried, without anybody asking."""
    monkeypatch.setattr(resuming, "RETRY_SECONDS", 0.001)
    async with mounts.of() as (client, filesystem):
        await _directory(client)
        copied = 0

        def watch(name: str, done: bool) -> None:
            nonlocal copied
            copied += name == "CopyObject" and done
            if copied == 2 and not server.faults:
                server.faults.append(Fault(Kind.STATUS, times=1 << 30))

        server.watch = watch
        await _refused(errno.EIO, client.rename("/d", "/moved"))
        server.watch = None
        assert [key for key in server.bucket.objects if key.startswith("moved/")]
        assert _renames(filesystem)
        server.faults.clear()
        await _ended(filesystem)
        assert set(server.bucket.objects) == OLD
        assert await _tree(client) == OLD
