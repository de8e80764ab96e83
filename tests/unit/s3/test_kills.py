"""A daemon may be killed at any moment: nothing is lost that was acknowledged, and no uploads are left.

VHOSTFS_KILLS says how many are killed; few by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3 import killed
from tests.unit.s3.orders import told, unwritten
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.testing import Client

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("VHOSTFS_KILLS", "14"))
FIRST = int(os.environ.get("VHOSTFS_KILLS_FIRST", "0"))


@dataclass
class Expected:
    """What must be there after a kill: files by path, and what an operation that was under way may leave."""

    files: dict[str, bytes] = field(default_factory=dict)
    under_way: dict[str, Any] | None = None

    def take(self, line: bytes) -> None:
        """Take note of what the daemon said."""
        said = json.loads(line)
        if "begin" in said:
            self.under_way = said["begin"]
        elif "done" in said:
            self.files = self.after(said["done"])
            self.under_way = None

    def after(self, said: dict[str, Any]) -> dict[str, bytes]:
        """Return the files after an operation."""
        files = dict(self.files)
        match said["do"]:
            case "put":
                files[said["path"]] = killed.content(said["tag"], said["size"])
            case "patch":
                old, at = files[said["path"]], said["offset"]
                data = killed.content(said["tag"], said["size"])
                files[said["path"]] = old[:at].ljust(at, b"\0") + data + old[at + len(data) :]
            case "rename":
                files[said["to"]] = files.pop(said["path"])
            case "unlink":
                del files[said["path"]]
        return files

    def check(self, found: dict[str, bytes], *, exact: bool) -> None:
        """Compare with what is there; what was under way may have happened, in part where that is allowed."""
        said = self.under_way
        touched = set() if said is None else {said["path"], said.get("to", said["path"])}
        paths = set(self.files) | set(found)
        for path in sorted(paths - touched):
            assert found.get(path) == self.files.get(path), f"{path} is not what was acknowledged"
        if said is None or said["do"] == "mkdir":
            return
        after = self.after(said)
        if said["do"] == "rename":
            source, target = said["path"], said["to"]
            assert found.get(target) in {self.files.get(target), after[target]}
            assert found.get(source) in {self.files[source], None}
            assert found.get(target) == after[target] or found.get(source) == self.files[source]
            return
        path = said["path"]
        allowed = [self.files.get(path), after.get(path)]
        if not exact and said["do"] == "put":
            allowed += [b"", None if path not in self.files else b""]
        if not exact and said["do"] == "patch" and path in found:
            at, end = said["offset"], said["offset"] + said["size"]
            old = self.files[path]
            assert found[path][: min(at, len(old))] == old[: min(at, len(old))]
            assert found[path][end:] == old[end:]
            return
        assert found.get(path) in allowed, f"{path} is neither what it was nor what it was to be"


@dataclass
class Moved:
    """What must be there after a kill of who renames a directory over and over: its files, in one place."""

    place: str = killed.DIRECTORIES[0]
    files: dict[str, bytes] = field(default_factory=dict)
    """By their names in the directory."""
    under_way: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        """Take note of what the daemon said."""
        said = json.loads(line)
        if "begin" in said:
            self.under_way[said["number"]] = said["begin"]
        elif "done" in said:
            del self.under_way[said["number"]]
            self._do(self.files, said["done"])
            self.place = said["done"]["to"] if said["done"]["do"] == "move" else self.place

    def _do(self, files: dict[str, bytes], said: dict[str, Any]) -> None:
        match said["do"]:
            case "make" | "change":
                data = killed.content(said["tag"], said["size"])
                files[said["name"]] = data + files.get(said["name"], b"")[len(data) :]
            case "over":
                files[said["to"]] = files.pop(said["name"])

    def check(self, found: dict[str, bytes]) -> None:
        """Compare with what is there; each operation that was under way has happened, or it has not."""
        places = {self.place, *(said["to"] for said in self.under_way.values() if said["do"] == "move")}
        used = {place for path in found for place in places if path.startswith(f"{place}/")}
        assert len(used) <= 1, f"the directory is in two places: {sorted(found)}"
        names = {path.removeprefix(f"{place}/"): data for path, data in found.items() for place in used}
        allowed = [self.files]
        for said in self.under_way.values():
            for files in list(allowed):
                after = dict(files)
                self._do(after, said)
                allowed.append(after)
                if said["do"] == "make":
                    allowed.append({**files, said["name"]: b""})
        assert names in allowed, f"{sorted(names)} {self.under_way}"


async def _run_and_kill(
    server: FakeS3, state: Path, write: Write, seed: int, program: str, expected: Expected | Moved
) -> None:
    """Let a daemon run until the moment that a seed says, and take note of what it had acknowledged."""
    chance = random.Random(seed * 7919)
    at_line = chance.randrange(2, 120) if chance.random() < 0.4 else None
    at_request = None if at_line is not None else chance.randrange(1, 130)
    answered = chance.random() < 0.5
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.unit.s3.killed", server.url, str(state), write, str(seed), program,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    count = 0

    def watch(_name: str, done: bool) -> None:
        nonlocal count
        count += not done
        if count == at_request and done == answered and process.returncode is None:
            process.kill()

    server.watch = watch
    lines = 0
    try:
        while line := await process.stdout.readline():
            if not line.endswith(b"\n"):
                break
            expected.take(line)
            lines += 1
            if lines == at_line or b'"end"' in line:
                process.kill()
    finally:
        server.watch = None
        await process.wait()
    # It was killed, and has not failed by itself.
    assert process.returncode == -9


async def _files(client: Client) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    waiting = ["/"]
    while waiting:
        directory = waiting.pop()
        for name, kind in (await client.types(directory)).items():
            path = f"{directory.rstrip('/')}/{name}"
            if kind.name == "DIRECTORY":
                waiting.append(path)
            else:
                with suppress(FileNotFoundError):  # listed, and then seen to be deleted
                    found[path] = await client.read_bytes(path)
    return found


@pytest.mark.parametrize("write", list(Write))
@pytest.mark.parametrize("seed", range(FIRST, FIRST + KILLS // 2))
async def test_a_kill_loses_nothing_that_was_acknowledged(
    server: FakeS3, tmp_path: Path, write: Write, seed: int
) -> None:
    """And nothing of it is left in the store but the files."""
    server.bucket.part_minimum = killed.PART // 2
    expected = Expected()
    await _run_and_kill(server, tmp_path / "state", write, seed, "Program", expected)
    async with killed.mounted(server.url, tmp_path / "state", write) as (client, filesystem):
        expected.check(await _files(client), exact=write is Write.SYNC)
        await filesystem.recovered()
        expected.check(await _files(client), exact=write is Write.SYNC)
        assert await unwritten(filesystem) == 0
        assert not await told(filesystem, "s3-conflicts")
        assert not server.bucket.uploads
    stored = {f"/{key}": each.data for key, each in server.bucket.objects.items() if not key.endswith("/")}
    expected.check(stored, exact=write is Write.SYNC)


@pytest.mark.parametrize("write", list(Write))
@pytest.mark.parametrize("seed", range(FIRST, FIRST + KILLS // 2))
async def test_a_kill_leaves_a_directory_that_is_renamed_in_one_place(
    server: FakeS3, tmp_path: Path, write: Write, seed: int
) -> None:
    """With all that is in it, and what was acknowledged of that; each of its files has one name."""
    server.bucket.part_minimum = killed.PART // 2
    moved = Moved()
    await _run_and_kill(server, tmp_path / "state", write, seed, "Mover", moved)
    async with killed.mounted(server.url, tmp_path / "state", write) as (client, filesystem):
        with suppress(OSError):  # one of two places is being given up
            await _files(client)
        await filesystem.recovered()
        if (left := filesystem._renamer.left._runner) is not None:
            await asyncio.wait([left])  # what the look before has had open
        moved.check(await _files(client))
        assert await unwritten(filesystem) == 0
        assert not await told(filesystem, "s3-conflicts")
        assert not server.bucket.uploads
    moved.check({f"/{key}": each.data for key, each in server.bucket.objects.items() if key[-1] != "/"})
