"""Whoever runs a bucket's mount sees what it does, and can have it do some things, while a guest works."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from tests.fake_s3.faults import Kind
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs import cli
from vhostfs.cli_s3 import ProgressDisplay
from vhostfs.control.messages import ProgressLine
from vhostfs.control.server import Control, serve_control
from vhostfs.filesystem import Order
from vhostfs.made_device import MadeDevice
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = b"data" * 1000


@dataclass(slots=True)
class Mounted:
    """A bucket that a guest has mounted, and the control socket of who serves it."""

    client: Client
    control: Path

    async def run(self, *arguments: str) -> int:
        """Run `vhostfs s3`, and return its exit status."""
        line = ["s3", "--control", str(self.control), *arguments]
        return await anyio.to_thread.run_sync(cli.main, line)


@pytest.fixture
async def mounted(make_filesystem: MakeFilesystem, tmp_path: Path) -> AsyncIterator[Mounted]:
    """Return a mount that can be asked."""
    filesystem = make_filesystem()
    bridged = {PurePosixPath("/"): SimpleNamespace(filesystem=filesystem)}
    devices = {"tag": cast(MadeDevice, SimpleNamespace(bridged=bridged))}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        async with mount(filesystem) as client, anyio.create_task_group() as group:
            group.start_soon(serve_control, listener, Control(devices, network=True))
            yield Mounted(client, tmp_path / "control")
            group.cancel_scope.cancel()


async def _unwritten(client: Client, name: str) -> tuple[int, int]:
    """Leave a file open that was written and not committed."""
    entry, opened = await client.create_at(client.root, name)
    await client.write(entry.nodeid, opened.fh, 0, DATA)
    return entry.nodeid, opened.fh


async def test_the_status_counts_what_was_asked_of_the_store(
    mounted: Mounted, server: FakeS3, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests by type, bytes, what was tried again, what failed, what is hidden."""
    server.bucket.put("there", DATA, {})
    server.bucket.put("a//b", DATA, {})
    server.fail(Kind.STATUS, "ListObjectsV2")
    assert await mounted.client.listdir("/") == ["a", "there"]
    assert await mounted.client.listdir("/a") == []
    assert await mounted.client.read_bytes("/there") == DATA
    await mounted.client.write_bytes("/new", DATA)
    assert await mounted.run("status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["requests"] == dict(sorted(server.requests.items()))
    assert status["requests"]["ListObjectsV2"] == 3
    assert status["received"] == status["sent"] == len(DATA)
    assert status["retried"] == status["throttled"] == 1
    assert status["hidden keys"] == 1
    assert status["trouble"] is None
    assert await mounted.run("status") == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["received"].strip() == "3.9 KiB"
    assert lines["requests: PutObject"].strip() == "1"


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
    files.append(await _unwritten(mounted.client, "bad\x1b"))
    server.fail(Kind.STATUS, "PutObject", status=403, code="AccessDenied")
    assert await mounted.run("sync") == 1
    said = capsys.readouterr().out
    assert "bad\\x1b: writing bad\\x1b: AccessDenied" in said
    assert "0 files are in the bucket now, 1 are not" in said
    for node, handle in files:
        await mounted.client.release(node, handle)


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


async def test_every_command_can_be_given_twice_at_once(make_filesystem: MakeFilesystem) -> None:
    """They answer, and change nothing that the other one needs."""
    filesystem = make_filesystem()
    async with mount(filesystem):
        answers: list[Any] = []

        async def give(name: str) -> None:
            command = filesystem.commands()[name]
            answers.append(await command(Order({}, (), lambda _: None)))

        async with anyio.create_task_group() as group:
            for name in [*filesystem.commands()] * 2:
                group.start_soon(give, name)
    assert len(answers) == 2 * len(filesystem.commands())


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
