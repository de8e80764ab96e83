"""A directory of the host is copied, and its files used, by the same means as any file system."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

import vhostfs
from tests.unit.files.trees import content_of
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.files import CopyOptions, begun

pytestmark = pytest.mark.anyio

MiB = 1 << 20


async def test_a_directory_of_the_host_goes_to_memory_and_back(
    filesystem: MemoryFilesystem, tmp_path: Path
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "below").mkdir(parents=True)
    data = os.urandom(3 * MiB + 5)
    (source / "below" / "data").write_bytes(data)
    (source / "link").symlink_to("below/data")
    (source / "other").hardlink_to(source / "below" / "data")
    with (source / "sparse").open("wb") as sparse:
        sparse.truncate(64 * MiB)
    back.mkdir()
    options = CopyOptions(owners=False)
    async with begun(DirectoryFilesystem(source, xattr=False)) as host:
        copied = await vhostfs.copy_tree(host, "/", filesystem, "/copy", options)
        assert copied.size < 4 * MiB
        assert await content_of(filesystem, "/copy/link") == data
        async with (
            await vhostfs.FileHandle.open(host, "/log", "a") as first,
            await vhostfs.FileHandle.open(host, "/log", "a") as second,
        ):
            await first.write("one\n")
            await second.write("two\n")
            await first.write("three\n")
        assert await anyio.Path(source / "log").read_text() == "one\ntwo\nthree\n"
    async with begun(DirectoryFilesystem(back, xattr=False)) as host:
        await vhostfs.copy_tree(filesystem, "/copy", host, "/", options)
        assert sorted([path async for path, _, _ in vhostfs.walk(host)]) == ["/", "/below"]
    assert (back / "below" / "data").read_bytes() == data
    assert (back / "link").readlink() == Path("below/data")
    assert (back / "other").samefile(back / "below" / "data")
    found, wanted = (back / "sparse").stat(), (source / "sparse").stat()
    assert (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)
    assert found.st_blocks < 2048
