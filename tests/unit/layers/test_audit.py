"""An audit tells who asked for what and what came of it, and holds nobody up."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.filesystem import Caller
from vhostfs.layers.audit import Audit, AuditSettings, Lines
from vhostfs.layers.selection import Selection
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

EVERYTHING = Selection(("any",), ("/**",))


def memory() -> MemoryFilesystem:
    return MemoryFilesystem(size=1 << 20, inodes=100, mode=0o755, uid=0, gid=0)


class Written:
    """Keeps what is written, once it may be."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.batches = 0
        self.open = threading.Event()
        self.open.set()

    def write(self, lines: list[str]) -> None:
        self.open.wait()
        self.batches += 1
        self.lines += [json.loads(line) for line in lines]


async def audited(work: Callable[[Client], Any], selection: Selection = EVERYTHING) -> list[dict[str, Any]]:
    """Return the lines that some work leaves."""
    written = Written()
    async with mount(Audit(memory(), Lines(written.write, 1000), selection)) as client:
        await work(client)
    return written.lines


@pytest.mark.vhostfs_quiet
async def test_a_line_tells_who_did_what_to_what_with_which_result() -> None:
    async def work(client: Client) -> None:
        client.caller = Caller(1000, 100, 4711)
        await client.mkdir("/d")
        await client.write_bytes("/d/file", b"content")
        with pytest.raises(OSError, match="empty"):
            await client.rmdir("/d")

    lines = await audited(work)
    found = {(line["operation"], line["path"]): line for line in lines}
    made = found["mkdir", "/d"]
    assert (made["uid"], made["gid"], made["pid"], made["result"]) == (1000, 100, 4711, "ok")
    assert made["microseconds"] >= 0
    assert found["write", "/d/file"]["bytes"] == 7
    assert found["rmdir", "/d"]["result"] == "ENOTEMPTY"
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


@pytest.mark.vhostfs_quiet
async def test_lines_are_written_as_json_writes_objects() -> None:
    written: list[str] = []

    async def work(client: Client) -> None:
        for name in ('"quoted\\"', "l\u00e9ger \U0001f600", "\udcff\n\x00\x7f".replace("\0", "")):
            await client.write_bytes(f"/{name}", b"content")
            assert await client.read_bytes(f"/{name}") == b"content"
            await client.rename(f"/{name}", "/moved")

    lines = Lines(written.extend, 1000)
    async with mount(Audit(memory(), lines, EVERYTHING, name='a "name"')) as client:
        await work(client)
    assert {"path", "mount", "to", "bytes"} <= {key for line in written for key in json.loads(line)}
    assert written == [json.dumps(json.loads(line)) for line in written]


@pytest.mark.vhostfs_quiet
async def test_paths_are_those_of_the_moment_also_of_open_and_removed_files() -> None:
    async def work(client: Client) -> None:
        await client.mkdir("/d")
        await client.write_bytes("/d/file", b"content")
        node = (await client.lookup((await client.lookup(1, "d")).nodeid, "file")).nodeid
        fh = (await client.open_node(node)).fh
        await client.rename("/d", "/moved")
        await client.read(node, fh, 0, 4)
        await client.unlink("/moved/file")
        await client.read(node, fh, 0, 3)
        await client.release(node, fh)

    lines = await audited(work)
    (rename,) = [line for line in lines if line["operation"] == "rename"]
    assert (rename["path"], rename["to"]) == ("/d", "/moved")
    reads = [(line["path"], line["bytes"]) for line in lines if line["operation"] == "read"]
    assert reads == [("/moved/file", 4), ("/moved/file", 3)]


@pytest.mark.vhostfs_quiet
async def test_only_what_is_selected_is_told() -> None:
    async def work(client: Client) -> None:
        for name in ("public", "secret"):
            await client.mkdir(f"/{name}")
            await client.write_bytes(f"/{name}/file", b"")
        await client.rename("/public/file", "/secret/other")

    lines = await audited(work, Selection(("mkdir", "rename", "create"), ("/secret/**",)))
    assert [(line["operation"], line["path"]) for line in lines] == [
        ("mkdir", "/secret"),
        ("create", "/secret/file"),
        ("rename", "/public/file"),
    ]


@pytest.mark.vhostfs_quiet
async def test_a_slow_disk_holds_nobody_up_and_the_audit_tells_what_is_missing() -> None:
    written = Written()
    written.open.clear()
    lines = Lines(written.write, 5)
    async with mount(Audit(memory(), lines, EVERYTHING)) as client:
        for _ in range(20):
            await client.getattr(client.root)
        assert not written.lines
        written.open.set()
    missing = [line["missing"] for line in written.lines if "missing" in line]
    told = [line for line in written.lines if "operation" in line]
    # Those that waited, and those that the thread had taken before.
    assert 5 <= len(told) <= 10
    assert sum(missing) + len(told) == 20


async def test_a_disk_that_is_full_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def write(lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    lines = Lines(write, 10)
    lines.add("{}")
    await asyncio.to_thread(lines.flush, 10)
    assert "1 lines of an audit could not be written: No space left on device" in caplog.text


@pytest.mark.vhostfs_quiet
async def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        settings = AuditSettings(PurePosixPath(path), operations=("mkdir",), name="share")
        async with mount(settings.wrap(memory())) as client:
            await client.mkdir("/d\udcff\n")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["path"], line["mount"]) for line in lines] == [("/d\udcff\n", "share")] * 2
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.vhostfs_quiet
async def test_without_a_file_lines_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vhostfs.audit")
    async with mount(AuditSettings(operations=("mkdir",)).wrap(memory())) as client:
        await client.mkdir("/d")
    (record,) = [record for record in caplog.records if record.name == "vhostfs.audit"]
    assert json.loads(record.getMessage())["path"] == "/d"


def test_settings_that_name_nothing_are_told() -> None:
    with pytest.raises(ValueError, match="'unlnk' is no operation; did you mean unlink"):
        AuditSettings(operations=("unlnk",))
    with pytest.raises(ValueError, match="absolute path"):
        AuditSettings(PurePosixPath("audit"))
