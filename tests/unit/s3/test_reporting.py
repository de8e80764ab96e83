"""Whoever runs a bucket's mount sees what it does, and can have it do some things, while a guest works."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import cast

import anyio
import anyio.to_thread
import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeClient, MakeFilesystem
from tests.unit.s3.orders import told, unwritten
from vhostfs import cli
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.store import Capabilities
from vhostfs.cli_s3 import ProgressDisplay
from vhostfs.control.messages import ProgressLine
from vhostfs.control.server import Control, serve_control
from vhostfs.filesystem import Progress
from vhostfs.made_device import MadeDevice
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = b"data" * 1000


@dataclass(slots=True)
class Mounted:
    """A bucket that a guest has mounted, and the control socket of who serves it."""

    client: Client
    control: Path
    filesystem: S3Filesystem

    async def run(self, *arguments: str) -> int:
        """Run `vhostfs s3`, and return its exit status."""
        line = ["s3", "--control", str(self.control), *arguments]
        return await anyio.to_thread.run_sync(cli.main, line)


@pytest.fixture
async def mounted(make_filesystem: MakeFilesystem, tmp_path: Path) -> AsyncIterator[Mounted]:
    """Return a mount that can be asked."""
    async with _mounted(make_filesystem(), tmp_path) as found:
        yield found


@pytest.fixture
async def mounted_with_state(make_client: MakeClient, tmp_path: Path) -> AsyncIterator[Mounted]:
    """Return a mount that can be asked, and that has a state directory."""
    state = StateDirectory(tmp_path, "store", "bucket", "", make=False)
    filesystem = S3Filesystem(make_client(), S3Options(), Memory(1 << 20), state, journal=Journal(state))
    async with _mounted(filesystem, tmp_path) as found:
        yield found
    filesystem.close()


@asynccontextmanager
async def _mounted(filesystem: S3Filesystem, tmp_path: Path) -> AsyncIterator[Mounted]:
    bridged = {PurePosixPath("/"): SimpleNamespace(filesystem=filesystem)}
    devices = {"tag": cast(MadeDevice, SimpleNamespace(bridged=bridged))}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        async with mount(filesystem) as client, anyio.create_task_group() as group:
            group.start_soon(serve_control, listener, Control(devices, network=True))
            yield Mounted(client, tmp_path / "control", filesystem)
            group.cancel_scope.cancel()


async def _unwritten(client: Client, name: str, data: bytes = DATA) -> tuple[int, int]:
    """Leave a file open that was written and not committed."""
    entry, opened = await client.create_at(client.root, name)
    for at in range(0, len(data), 1 << 20):
        await client.write(entry.nodeid, opened.fh, at, data[at : at + (1 << 20)])
    return entry.nodeid, opened.fh


async def test_the_status_counts_what_was_asked_of_the_store(
    mounted: Mounted,
    server: FakeS3,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests by type, bytes, what was tried again, what failed, what is hidden; that is logged once."""
    caplog.set_level(logging.INFO)
    server.bucket.put("b/..", DATA, {})
    server.bucket.put("there", DATA, {})
    server.bucket.put("a", DATA, {})
    server.bucket.put("a//b", DATA, {})
    server.bucket.put("a//c/d", DATA, {})
    server.fail(Kind.STATUS, "ListObjectsV2")
    assert await mounted.client.listdir("/") == ["a", "b", "there"]
    assert await mounted.client.listdir("/a") == []
    assert await mounted.client.listdir("/b") == []
    assert await mounted.client.read_bytes("/there") == DATA
    await mounted.client.write_bytes("/new", DATA)
    assert await mounted.run("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["requests"] == dict(sorted(server.requests.items()))
    assert status["requests"]["ListObjectsV2"] == 4
    assert status["received"] == status["sent"] == len(DATA)
    assert status["retried"] == status["throttled"] == 1
    assert status["hidden keys"] == 3
    assert len([record for record in caplog.records if "cannot be shown" in record.getMessage()]) == 1
    assert status["trouble"] is None
    assert await mounted.run("status") == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["received"].strip() == "3.9 KiB"
    assert lines["requests: PutObject"].strip() == "1"
    assert lines["cache: fetched"].strip() == "3.9 KiB"
    assert lines["cache: disk hits"].strip() == "0"


async def test_a_sync_brings_what_was_written_to_the_bucket(
    mounted: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what it could not bring there, without commanding the terminal."""
    files = [await _unwritten(mounted.client, f"file{number}") for number in range(20)]
    assert "file0" not in server.bucket.objects
    assert await mounted.run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unwritten bytes"] == 20 * len(DATA)
    assert await mounted.run("sync") == 0
    assert server.bucket.objects["file19"].data == DATA
    assert capsys.readouterr().out == "20 files are in the bucket now, 0 are not\n"
    assert await mounted.run("sync") == 0
    assert capsys.readouterr().out == "everything was in the bucket already\n"
    files.append(await _unwritten(mounted.client, "bad\x1b"))
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied")
    assert await mounted.run("sync") == 1
    said = capsys.readouterr().out
    assert "bad\\x1b: writing bad\\x1b: AccessDenied" in said
    assert "0 files are in the bucket now, 1 are not" in said
    for node, handle in files:
        await mounted.client.release(node, handle)


async def test_a_directory_that_could_not_be_kept_is_synced_too(
    mounted: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was only a prefix, and whose last file has gone: what waits is told, and brought there."""
    server.bucket.put("d/file", DATA, {})
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied")
    with pytest.raises(OSError, match=rf"^\[Errno {errno.EACCES}\]"):
        await mounted.client.unlink("/d/file")
    assert await unwritten(mounted.filesystem) == 1
    assert await mounted.run("sync") == 0
    assert capsys.readouterr().out == "1 files are in the bucket now, 0 are not\n"
    assert list(server.bucket.objects) == ["d/"]


async def test_a_cleared_cache_is_asked_for_again(
    mounted: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that what others did to the bucket is seen at once."""
    assert await mounted.client.listdir("/") == []
    server.bucket.put("by-others", DATA, {})
    assert await mounted.client.listdir("/") == []
    assert await mounted.run("cache", "clear") == 0
    assert await mounted.client.listdir("/") == ["by-others"]
    assert "known names" in capsys.readouterr().out


@pytest.fixture
async def conflicting(mounted_with_state: Mounted, server: FakeS3) -> Mounted:
    """Return a mount that has kept a file which lost a race."""
    client = mounted_with_state.client
    node, handle = await _unwritten(client, "file\x1b")
    server.bucket.put("file\x1b", b"of somebody else", {})
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await client.flush(node, handle)
    await client.release(node, handle)
    return mounted_with_state


async def test_what_lost_a_race_is_listed_exported_and_given_up(
    conflicting: Mounted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a file that is there already is not written over."""
    assert await conflicting.run("conflicts", "--json") == 0
    [conflict] = json.loads(capsys.readouterr().out)
    assert conflict["path"] == "/file\x1b"
    assert conflict["size"] == len(DATA)
    assert await conflicting.run("conflicts") == 0
    assert "/file\\x1b" in capsys.readouterr().out
    target = tmp_path / "exported"
    assert await conflicting.run("conflicts", "--export", conflict["number"], str(target)) == 0
    assert target.read_bytes() == DATA
    assert await conflicting.run("conflicts", "--export", conflict["number"], str(target)) == 1
    assert await conflicting.run("conflicts", "--export", "unknown", str(tmp_path / "other")) == 1
    assert not (tmp_path / "other").exists()
    assert "there is no conflict unknown" in capsys.readouterr().err
    assert await conflicting.run("conflicts", "--discard", conflict["number"]) == 0
    assert await conflicting.run("conflicts") == 0
    assert capsys.readouterr().out == "there are none\n"


async def _lost(mounted: Mounted, server: FakeS3, data: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    """Let a file lose a race, and return the number by which it is kept."""
    node, handle = await _unwritten(mounted.client, "file", data)
    server.bucket.put("file", b"of somebody else", {})
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await mounted.client.flush(node, handle)
    await mounted.client.release(node, handle)
    assert await mounted.run("conflicts", "--json") == 0
    [conflict] = json.loads(capsys.readouterr().out)
    return str(conflict["number"])


@pytest.mark.parametrize("size", [4000, 20 << 20])
async def test_what_lost_a_race_is_written_over_what_is_there_by_order(
    mounted_with_state: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    """In parts where it is large; and then it is no conflict any more."""
    data = DATA[:100] * (size // 100)
    number = await _lost(mounted_with_state, server, data, capsys)
    assert await mounted_with_state.run("conflicts", "--retry", number) == 0
    assert server.bucket.objects["file"].data == data
    assert not server.bucket.uploads
    assert await mounted_with_state.run("conflicts") == 0
    assert capsys.readouterr().out == "there are none\n"
    assert (await mounted_with_state.client.stat("/file")).size == len(data)


@pytest.mark.parametrize(("operation", "size"), [("PutObject", 4000), ("CompleteMultipartUpload", 20 << 20)])
async def test_what_was_written_by_order_is_known_though_the_answer_was_lost(
    mounted_with_state: Mounted,
    server: FakeS3,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    size: int,
) -> None:
    """As any file's is: it is no conflict any more."""
    data = DATA[:100] * (size // 100)
    number = await _lost(mounted_with_state, server, data, capsys)
    server.fail(Kind.LATE_DROP, operation)
    assert await mounted_with_state.run("conflicts", "--retry", number) == 0
    assert server.bucket.objects["file"].data == data
    assert await mounted_with_state.run("conflicts") == 0
    assert capsys.readouterr().out == "there are none\n"


async def test_a_daemon_killed_while_it_writes_by_order_leaves_no_upload_unknown_to_its_journal(
    mounted_with_state: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """So that the next one aborts it."""
    number = await _lost(mounted_with_state, server, bytes(20 << 20), capsys)
    server.held["UploadPart"] = release = asyncio.Event()
    before = server.requests["UploadPart"]
    retry = asyncio.ensure_future(mounted_with_state.run("conflicts", "--retry", number))
    while server.requests["UploadPart"] == before:
        await server.changed()
    shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("killed", "control"))
    left = Journal(StateDirectory(tmp_path / "killed", "store", "bucket", "", make=False))
    assert server.bucket.uploads
    assert {note.upload for note in left.uploads.values()} == set(server.bucket.uploads)
    assert number in left.intents
    left.close()
    release.set()
    assert await retry == 0


async def test_who_waits_for_a_large_file_to_be_written_by_order_sees_how_far_it_is(
    mounted_with_state: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bytes, up to all of them."""
    size = 20 << 20
    number = await _lost(mounted_with_state, server, bytes(size), capsys)
    seen: list[Progress] = []
    await told(mounted_with_state.filesystem, "s3-conflict-retry", number=number, report=seen.append)
    assert len(seen) == 3
    assert seen == sorted(seen, key=lambda progress: progress.done)
    assert seen[-1] == Progress("file", size, size)


@pytest.mark.parametrize("size", [4000, 20 << 20])
async def test_a_store_that_knows_no_parts_is_written_to_by_order_too(
    make_client: MakeClient, server: FakeS3, capsys: pytest.CaptureFixture[str], tmp_path: Path, size: int
) -> None:
    """By one request, as it is at any time."""
    state = StateDirectory(tmp_path, "store", "bucket", "", make=False)
    store = make_client(capabilities=Capabilities(multipart=False))
    filesystem = S3Filesystem(store, S3Options(), Memory(1 << 20), state, journal=Journal(state))
    async with _mounted(filesystem, tmp_path) as mounted:
        number = await _lost(mounted, server, bytes(size), capsys)
        await told(filesystem, "s3-conflict-retry", number=number)
        assert server.bucket.objects["file"].data == bytes(size)
        assert "CreateMultipartUpload" not in server.requests
    filesystem.close()


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_anything_else_lines() -> None:
    """With a key that wants to command the terminal as its escape."""
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        display = ProgressDisplay(stream)
        for done in range(101):
            display.show(ProgressLine(what=f"key\x1b{done}", done=done, total=100))
        display.end()
    assert "[" + "#" * 15 + "." * 15 + "] 50/100 key\\x1b50" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert file.getvalue().splitlines()[-1] == "100/100 key\\x1b100"
    assert len(file.getvalue().splitlines()) <= 11
