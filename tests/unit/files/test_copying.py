"""A tree is copied to another file system as it is, or as the options say."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pytest

from tests.unit.files.trees import (
    ROOT_CALLER,
    Counting,
    Plain,
    attr_of,
    content_of,
    make,
    node_of,
    symlink,
)
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.files import CopyOptions, FileHandle, copy_tree, walk
from vhostfs.filesystem import Caller, Filesystem, SetAttr, settled

pytestmark = pytest.mark.anyio

HOLE = 1 << 20


@pytest.fixture
def target() -> Counting:
    """Return an empty file system to copy to."""
    return Counting(MemoryFilesystem(size=64 << 20, inodes=1000))


async def fill(filesystem: MemoryFilesystem) -> None:
    """Make a tree of every kind of file."""
    for path in ("/tree", "/tree/directory", "/tree/directory/deep", "/tree/empty"):
        await make(filesystem, path)
    await make(filesystem, "/tree/file", b"content\0" * 1000)
    await make(filesystem, "/tree/directory/nothing", b"")
    await symlink(filesystem, "/tree/link", "../not/followed")
    tree, deep = await node_of(filesystem, "/tree"), await node_of(filesystem, "/tree/directory/deep")
    filesystem.link(ROOT_CALLER, await node_of(filesystem, "/tree/file"), deep, "other name")
    filesystem.mknod(ROOT_CALLER, tree, "fifo", stat.S_IFIFO | 0o640, 0)
    filesystem.mknod(ROOT_CALLER, deep, "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    filesystem.symlink(ROOT_CALLER, deep, "bytes\udcff", "raw\udcfe")
    async with await FileHandle.open(filesystem, "/tree/sparse", "wb") as file:
        await file.write(b"begin")
        await file.seek(HOLE)
        await file.write(b"middle")
        await file.truncate(4 * HOLE)
    for number, path in enumerate(["/tree", "/tree/directory", "/tree/file", "/tree/link", "/tree/fifo"]):
        node = await node_of(filesystem, path)
        filesystem.setattr(ROOT_CALLER, node, None, SetAttr(uid=100 + number, gid=200 + number))
        if path != "/tree/fifo":
            filesystem.setxattr(ROOT_CALLER, node, f"trusted.name{number}", b"value\0%d" % number, 0, False)
        times = SetAttr(mode=0o4751, atime_ns=number * 10**9 + 1, mtime_ns=-number * 10**9 + 2)
        if path == "/tree/link":
            times = SetAttr(atime_ns=5, mtime_ns=6)
        filesystem.setattr(ROOT_CALLER, node, None, times)


async def described(filesystem: Filesystem[Any], top: str) -> dict[str, tuple[Any, ...]]:
    """Return all there is to know of what is below a path, by path."""
    found: dict[str, tuple[Any, ...]] = {}
    async for path, directories, others in walk(filesystem, top):
        for each in [path, *(f"{path}/{name}" for name in directories + others)]:
            node = await node_of(filesystem, each)
            attr = await settled(filesystem.getattr(ROOT_CALLER, node, None))
            names = sorted(await settled(filesystem.listxattr(ROOT_CALLER, node)))
            data: Any = None
            if stat.S_ISREG(attr.mode):
                data = await content_of(filesystem, each), attr.blocks
            elif stat.S_ISLNK(attr.mode):
                data = await settled(filesystem.readlink(ROOT_CALLER, node))
            xattrs = [(name, await settled(filesystem.getxattr(ROOT_CALLER, node, name))) for name in names]
            times = attr.mtime_ns
            found[each.removeprefix(top)] = (
                *(attr.mode, attr.uid, attr.gid, attr.rdev, attr.nlink, attr.size, times),
                *(xattrs, data),
            )
    return found


async def test_a_copy_is_what_it_was_copied_from(filesystem: MemoryFilesystem, target: Counting) -> None:
    await fill(filesystem)
    source = Counting(filesystem)
    copied = await copy_tree(source, "/tree", target, "/copy")
    assert (await attr_of(target, "/copy/link")).atime_ns == 5
    assert await described(target, "/copy") == await described(filesystem, "/tree")
    names = [await node_of(target, f"/copy/{name}") for name in ("file", "directory/deep/other name")]
    assert names[0] == names[1]
    assert (copied.files, copied.directories, copied.symlinks) == (3, 4, 2)
    assert (copied.special_files, copied.hard_links) == (2, 1)
    assert copied.size == 8000 + 2 * 4096


async def test_a_copy_gives_back_all_that_it_held(filesystem: MemoryFilesystem, target: Counting) -> None:
    await fill(filesystem)
    source = Counting(filesystem)
    await copy_tree(source, "/tree", target, "/copy")
    await copy_tree(source, "tree/", target, "/copy", CopyOptions(overwrite=True))
    assert not source.held | target.held
    assert not source.opened + target.opened
    with pytest.raises(FileExistsError) as caught:
        await copy_tree(source, "/tree", target, "/copy")
    assert caught.value.filename is not None
    assert not source.held | target.held


async def test_holes_are_found_by_their_zeroes_where_the_source_cannot_tell(target: Counting) -> None:
    data = b"begin" + bytes(HOLE * 2) + b"end" + bytes(9000)
    source = Plain({"sparse": data, "zeroes": bytes(10_000)})
    copied = await copy_tree(source, "/", target, "/copy")
    for name, expected in (("sparse", data), ("zeroes", bytes(10_000))):
        assert await content_of(target, f"/copy/{name}") == expected
    assert copied.size == 2 * 4096
    assert (await attr_of(target, "/copy/zeroes")).blocks == 0
    copied = await copy_tree(source, "/", target, "/full", CopyOptions(holes=False))
    assert copied.size == len(data) + 10_000


async def test_what_is_not_to_be_kept_is_not(filesystem: MemoryFilesystem, target: Counting) -> None:
    await fill(filesystem)
    nothing = CopyOptions(
        modes=False,
        owners=False,
        times=False,
        xattrs=False,
        hard_links=False,
        special_files=False,
    )
    await copy_tree(filesystem, "/tree", target, "/copy", nothing, caller=Caller(uid=5, gid=6))
    assert {path.rpartition("/")[2] for path in await described(target, "/copy")} == {
        *("", "directory", "deep", "empty", "file", "nothing", "link", "other name", "bytes\udcff", "sparse")
    }
    file = await attr_of(target, "/copy/file")
    assert (stat.S_IMODE(file.mode), file.uid, file.gid, file.nlink) == (0o755, 5, 6, 1)
    assert file.mtime_ns > 1_000_000_000
    assert stat.S_IMODE((await attr_of(target, "/copy/sparse")).mode) == 0o644
    assert stat.S_IMODE((await attr_of(target, "/copy/empty")).mode) == 0o755
    assert list(target.listxattr(ROOT_CALLER, file.ino)) == []  # type: ignore[arg-type]


async def test_one_file_is_a_tree_too(filesystem: MemoryFilesystem, target: Counting) -> None:
    await fill(filesystem)
    await symlink(filesystem, "/to-file", "tree/file")
    await copy_tree(filesystem, "/tree/file", target, "/one")
    await copy_tree(filesystem, "/to-file", target, "/link")
    await copy_tree(filesystem, "/to-file", target, "/two", CopyOptions(follow_symlinks=True))
    assert await content_of(target, "/one") == await content_of(target, "/two") == b"content\0" * 1000
    assert stat.S_ISLNK((await attr_of(target, "/link")).mode)


async def test_what_is_not_selected_is_left_out(filesystem: MemoryFilesystem, target: Counting) -> None:
    await fill(filesystem)
    asked: list[str] = []

    def select(path: str) -> bool:
        asked.append(path)
        return path not in {"directory", "sparse"}

    await copy_tree(filesystem, "/tree", target, "/copy", select=select)
    assert set(asked) == {"directory", "empty", "file", "sparse", "link", "fifo"}
    assert set(await described(target, "/copy")) == {"", "/empty", "/file", "/link", "/fifo"}


async def test_what_links_lead_to_is_copied_and_loops_end(
    filesystem: MemoryFilesystem, target: Counting
) -> None:
    for path in ("/tree", "/tree/inner", "/outside"):
        await make(filesystem, path)
    await make(filesystem, "/outside/file", b"outside")
    await symlink(filesystem, "/tree/out", "/outside")
    await symlink(filesystem, "/tree/inner/up", "../../tree")
    await symlink(filesystem, "/tree/inner/self", "self")
    await symlink(filesystem, "/tree/dangling", "missing")
    errors: list[OSError] = []
    source = Counting(filesystem)
    await copy_tree(
        source, "/tree", target, "/copy", CopyOptions(follow_symlinks=True), on_error=errors.append
    )
    assert await content_of(target, "/copy/out/file") == b"outside"
    assert sorted((error.filename, error.errno) for error in errors) == [
        ("dangling", errno.ENOENT),
        ("inner/self", errno.ELOOP),
        ("inner/up", errno.ELOOP),
    ]
    assert not source.held


async def test_directories_are_merged_and_files_replaced_where_that_is_asked_for(
    filesystem: MemoryFilesystem, target: Counting
) -> None:
    await fill(filesystem)
    await make(target, "/copy")
    await make(target, "/copy/link")
    await make(target, "/copy/directory")
    await make(target, "/copy/directory/kept", b"kept")
    await make(target, "/copy/file", b"old")
    await make(target, "/copy/empty", b"a file where a directory comes")
    errors: list[OSError] = []
    await copy_tree(filesystem, "/tree", target, "/copy", CopyOptions(overwrite=True), on_error=errors.append)
    assert sorted((error.filename, error.errno) for error in errors) == [
        ("empty", errno.ENOTDIR),
        ("link", errno.EISDIR),
    ]
    assert await content_of(target, "/copy/directory/kept") == b"kept"
    assert await content_of(target, "/copy/file") == b"content\0" * 1000


async def test_a_tree_is_not_copied_into_itself(filesystem: MemoryFilesystem) -> None:
    await fill(filesystem)
    counting = Counting(filesystem)
    for path in ("/tree", "/tree/directory", "/tree/directory/deep/new"):
        with pytest.raises(OSError, match="Invalid argument"):
            await copy_tree(counting, "/tree", counting, path)
    await copy_tree(counting, "/tree/directory", counting, "/tree/beside", CopyOptions(times=False))
    assert set(await described(counting, "/tree/beside")) == set(await described(counting, "/tree/directory"))


async def test_a_full_target_ends_the_copy_and_holds_nothing(filesystem: MemoryFilesystem) -> None:
    await make(filesystem, "/big", os.urandom(1 << 20))
    small = Counting(MemoryFilesystem(size=64 << 10, inodes=10))
    counting = Counting(filesystem)
    with pytest.raises(OSError, match="No space left") as caught:
        await copy_tree(counting, "/", small, "/copy")
    assert caught.value.filename == "big"
    assert not counting.held | small.held
    assert not counting.opened + small.opened


async def test_extended_attributes_that_the_target_cannot_have_are_an_error(
    filesystem: MemoryFilesystem, target: Counting
) -> None:
    await fill(filesystem)
    target.setxattr = Filesystem.setxattr.__get__(target)  # type: ignore[method-assign]
    with pytest.raises(OSError, match="not supported"):
        await copy_tree(filesystem, "/tree", target, "/copy")
    await copy_tree(Plain({"file": b"data"}), "/", target, "/plain")
    assert await content_of(target, "/plain/file") == b"data"
