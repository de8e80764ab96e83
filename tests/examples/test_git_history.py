"""The example of a Git repository's history."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.git_history import History
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

PERSON = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of two commits."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, *PERSON, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/program").write_text("#!/bin/sh\n")
    (tmp_path / "directory/program").chmod(0o755)
    (tmp_path / "file").write_text("first")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("directory/program")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "file").write_text("second " * 10_000)
    git("commit", "-am", "second")
    return tmp_path


def commits(repository: Path) -> list[str]:
    command = ["git", "-C", str(repository), "log", "--format=%H"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@asynccontextmanager
async def mounted(repository: Path) -> AsyncIterator[Client]:
    """Mount the history; in the end nothing of it is kept."""
    history = History(str(repository))
    with history._git:
        async with mount(history) as client:
            yield client
    assert not history._items
    assert not history._nodes


async def test_each_commit_is_a_directory_of_the_files_as_they_were(repository: Path) -> None:
    second, first = commits(repository)
    async with mounted(repository) as client:
        assert await client.listdir("/") == [second, first]
        for commit in (first, second):
            assert sorted(await client.listdir(f"/{commit}")) == ["directory", "empty", "file", "link"]
            assert await client.read_bytes(f"/{commit}/empty") == b""
            assert await client.readlink(f"/{commit}/link") == "directory/program"
            assert (await client.stat(f"/{commit}/directory/program")).mode & 0o777 == 0o555
        assert await client.read_bytes(f"/{first}/file") == b"first"
        assert await client.read_bytes(f"/{second}/file") == b"second " * 10_000
        assert (await client.stat(f"/{second}/file")).size == 70_000
        for name in ("f" * 40, "HEAD", f"{first}/none", f"{first}/file/below"):
            assert not await client.exists(f"/{name}")


async def test_files_are_read_side_by_side(repository: Path) -> None:
    second, first = commits(repository)
    async with mounted(repository) as client:
        paths = [f"/{commit}/{name}" for commit in (first, second) for name in ("file", "empty")] * 5
        contents = await asyncio.gather(*(client.read_bytes(path) for path in paths))
        assert contents == [b"first", b"", b"second " * 10_000, b""] * 5


async def test_a_submodule_is_an_empty_directory(repository: Path) -> None:
    tree = ["update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module"]
    for command in (tree, ["commit", "-m", "third"]):
        subprocess.run(["git", "-C", repository, *PERSON, *command], check=True, capture_output=True)  # noqa: ASYNC221
    (third, *_) = commits(repository)
    async with mounted(repository) as client:
        assert await client.listdir(f"/{third}/module") == []
        assert not await client.exists(f"/{third}/module/file")
