"""Any file system is walked as os.walk walks one of the host."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.files.trees import Counting, Plain, make, symlink
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.files import walk
from vhostfs.filesystem import Caller, DirEntry, Filesystem

pytestmark = pytest.mark.anyio

DIRECTORIES = ("/a", "/a/b", "/a/b/c", "/d", "/d/e")
FILES = ("/one", "/a/two", "/a/b/three", "/d/e/four")
LINKS = {"/a/to-d": "/d", "/a/b/to-file": "../two", "/d/nowhere": "missing", "/d/e/to-c": "../../a/b/c"}


async def walked(filesystem: Filesystem[Any], top: str = "/", **options: Any) -> list[tuple[str, Any, Any]]:
    """Return all that a walk yields, each list in order of names."""
    return [
        (path, sorted(directories), sorted(others))
        async for path, directories, others in walk(filesystem, top, **options)
    ]


@pytest.mark.parametrize("top_down", [True, False])
@pytest.mark.parametrize("follow", [True, False])
async def test_a_walk_sees_what_os_walk_sees(
    filesystem: MemoryFilesystem, tmp_path: Path, top_down: bool, follow: bool
) -> None:
    for path in DIRECTORIES:
        await make(filesystem, path)
        os.mkdir(f"{tmp_path}{path}")  # noqa: PTH102
    for path in FILES:
        await make(filesystem, path, b"")
        os.close(os.open(f"{tmp_path}{path}", os.O_CREAT))
    for path, target in LINKS.items():
        await symlink(filesystem, path, target)
        os.symlink(f"{tmp_path}{target}" if target[0] == "/" else target, f"{tmp_path}{path}")  # noqa: PTH211
    counting = Counting(filesystem)
    seen = await walked(counting, "/", top_down=top_down, follow_symlinks=follow)
    expected = [
        (path.removeprefix(str(tmp_path)) or "/", sorted(directories), sorted(others))
        for path, directories, others in os.walk(tmp_path, top_down, followlinks=follow)
    ]
    assert sorted(seen) == sorted(expected)
    order = [path for path, _, _ in seen]
    for path in order:
        above = path.rpartition("/")[0] or "/"
        if path != "/":
            assert (order.index(above) < order.index(path)) == top_down
    assert not counting.held


async def test_what_is_taken_out_of_the_list_is_not_walked(filesystem: MemoryFilesystem) -> None:
    for path in DIRECTORIES:
        await make(filesystem, path)
    seen = []
    async for path, directories, _ in walk(filesystem, "a/.."):
        seen.append(path)
        directories[:] = [name for name in directories if name != "a"]
    assert seen == ["a/..", "a/../d", "a/../d/e"]


async def test_links_that_lead_back_are_told_and_not_walked(filesystem: MemoryFilesystem) -> None:
    await make(filesystem, "/a")
    await make(filesystem, "/a/b")
    await symlink(filesystem, "/a/b/up", "..")
    await symlink(filesystem, "/a/self", "self")
    errors: list[OSError] = []
    counting = Counting(filesystem)
    seen = await walked(counting, follow_symlinks=True, on_error=errors.append)
    assert [path for path, _, _ in seen] == ["/", "/a", "/a/b"]
    assert [(error.filename, error.strerror) for error in errors] == [
        ("/a/b/up", "Too many levels of symbolic links")
    ]
    assert not counting.held


async def test_what_cannot_be_listed_is_passed_over_or_told() -> None:
    class Closed(MemoryFilesystem):
        def readdir(self, caller: Caller, node: int, handle: Any, offset: int) -> Any:
            if node == closed:
                raise PermissionError(13, "closed")
            return super().readdir(caller, node, handle, offset)

    closed = -1
    filesystem = Closed(size=1 << 20, inodes=100)
    for path in DIRECTORIES:
        await make(filesystem, path)
    closed = filesystem.lookup(Caller(), 1, "a").attr.ino  # type: ignore[union-attr]
    errors: list[OSError] = []
    assert [path for path, _, _ in await walked(filesystem, on_error=errors.append)] == ["/", "/d", "/d/e"]
    assert [(type(error), error.filename) for error in errors] == [(PermissionError, "/a")]
    assert [path for path, _, _ in await walked(filesystem)] == ["/", "/d", "/d/e"]
    assert await walked(filesystem, "/missing", on_error=errors.append) == []
    assert errors[-1].filename == "/missing"
    assert await walked(Plain({"file": b""}), "/file") == []


async def test_types_that_a_listing_does_not_tell_are_asked_for() -> None:
    assert await walked(Plain({"one": b"", "two": b""})) == [("/", [], ["one", "two"])]


async def test_a_walk_that_is_left_gives_back_what_it_holds(filesystem: MemoryFilesystem) -> None:
    for path in DIRECTORIES:
        await make(filesystem, path)
    counting = Counting(filesystem)
    async with aclosing(walk(counting)) as walking:
        async for path, _, _ in walking:
            if path == "/a/b":
                assert counting.held
                break
    assert not counting.held


async def test_names_that_lead_elsewhere_are_no_names() -> None:
    class Bad(Plain):
        async def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> Any:
            return [DirEntry("../up", 5)]

    with pytest.raises(ValueError, match="no name"):
        await walked(Bad({}))
