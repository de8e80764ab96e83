"""File systems that are asked by path: nodes stay what they are while names come, go and move."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    FileType,
    Opened,
    Options,
    PathFilesystem,
    ReadBuffer,
    RenameFlags,
    SetAttr,
    WriteBuffer,
    WriteFlags,
    by_nodes,
    implemented,
)
from vhostfs.filesystem.path_nodes import PathNodes
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


class Paths(PathFilesystem[bytearray]):
    """Directories and files by path: a file is its content, a directory None. Handles are contents."""

    options = Options(negative_seconds=1)

    def __init__(self) -> None:
        self.files: dict[str, bytearray | None] = {"/": None}
        self.asked: list[tuple[str, str]] = []

    def found(self, operation: str, path: str) -> bytearray | None:
        self.asked.append((operation, path))
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]

    def attr(self, content: bytearray | None) -> Attr:
        return Attr.directory(0) if content is None else Attr.file(0, len(content))

    def getattr(self, caller: Caller, path: str, handle: bytearray | None) -> Any:
        if path == "/forbidden":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if handle is not None:
            self.asked.append(("getattr by handle", path))
            return self.attr(handle)
        return self.attr(self.found("getattr", path))

    def setattr(self, caller: Caller, path: str, handle: bytearray | None, changes: SetAttr) -> Any:
        content = self.found("setattr", path) if handle is None else handle
        if changes.size is not None and content is not None:
            del content[changes.size :]
        return self.attr(content)

    def mkdir(self, caller: Caller, path: str, mode: int) -> Any:
        self.files[path] = None
        return Attr.directory(0)

    def mknod(self, caller: Caller, path: str, mode: int, rdev: int) -> Any:
        self.files[path] = bytearray()
        return Attr.file(0)

    def symlink(self, caller: Caller, path: str, target: str) -> Any:
        self.files[path] = bytearray(target.encode())
        return Attr.symlink(0, target)

    def readlink(self, caller: Caller, path: str) -> Any:
        content = self.found("readlink", path)
        assert content is not None
        return content.decode()

    def link(self, caller: Caller, path: str, new_path: str) -> Any:
        self.files[new_path] = self.found("link", path)
        return self.attr(self.files[new_path])

    def unlink(self, caller: Caller, path: str) -> Any:
        self.found("unlink", path)
        del self.files[path]

    def rmdir(self, caller: Caller, path: str) -> Any:
        self.found("rmdir", path)
        del self.files[path]

    def rename(self, caller: Caller, path: str, new_path: str, flags: RenameFlags) -> Any:
        self.found("rename", path)
        if RenameFlags.NOREPLACE in flags and new_path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

        def moved(each: str, old: str, new: str) -> str | None:
            return new + each.removeprefix(old) if each == old or each.startswith(old + "/") else None

        pairs = [(path, new_path)] + ([(new_path, path)] if RenameFlags.EXCHANGE in flags else [])
        there = {
            to: self.files[each] for old, new in pairs for each in self.files if (to := moved(each, old, new))
        }
        for old, _ in pairs:
            for each in [each for each in self.files if moved(each, old, "") is not None]:
                del self.files[each]
        self.files.update(there)

    def open(self, caller: Caller, path: str, flags: int) -> Any:
        content = self.found("open", path)
        assert content is not None
        return Opened(content)

    def create(self, caller: Caller, path: str, mode: int, flags: int) -> Any:
        content = self.files.setdefault(path, bytearray())
        assert content is not None
        return self.attr(content), Opened(content)

    def read(
        self, caller: Caller, path: str, handle: bytearray | None, offset: int, buffer: ReadBuffer
    ) -> Any:
        assert handle is not None
        self.asked.append(("read", path))
        return bytes(handle[offset : offset + buffer.size])

    def write(
        self,
        caller: Caller,
        path: str,
        handle: bytearray | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> Any:
        assert handle is not None
        handle[offset : offset + data.size] = bytes(data)
        return data.size

    def release(self, caller: Caller, path: str, handle: bytearray, flags: int) -> Any:
        self.asked.append(("release", path))

    def readdir(self, caller: Caller, path: str, handle: None, offset: int) -> Any:
        return self.listing(path)

    def listing(self, path: str) -> Iterator[DirEntry | str]:
        self.found("readdir", path)
        above = path.rstrip("/") + "/"
        for each, content in self.files.items():
            name = each.removeprefix(above)
            if each.startswith(above) and name and "/" not in name:
                yield DirEntry(name, 0, FileType.DIRECTORY) if content is None else name


def later(method: Any) -> Any:
    """Return a method as `async def`."""

    async def operation(self: Paths, *arguments: Any) -> Any:
        return method(self, *arguments)

    return operation


async def listed_later(self: Paths, path: str) -> AsyncIterator[DirEntry | str]:
    """Yield what Paths.listing does."""
    for each in Paths.listing(self, path):
        yield each


HELPERS = {"__init__", "found", "attr", "listing", "readdir"}
LATER: type[Paths] = type(
    "Later",
    (Paths,),
    {name: later(method) for name, method in vars(Paths).items() if callable(method) and name not in HELPERS}
    | {"listing": listed_later},
)

kinds = pytest.mark.parametrize("kind", [Paths, LATER], ids=["def", "async def"])


def nodes_of(client: Client) -> PathNodes[bytearray]:
    """Return the table behind a client."""
    table = client.session._filesystem
    assert isinstance(table, PathNodes)
    return table


@kinds
async def test_names_are_made_found_listed_and_removed(kind: type[Paths]) -> None:
    filesystem = kind()
    async with mount(filesystem) as client:
        await client.mkdir("/a")
        await client.mkdir("/a/b")
        await client.write_bytes("/a/b/file", b"content")
        await client.mknod("/a/other", stat.S_IFREG | 0o600)
        await client.symlink("b/file", "/a/link")
        assert await client.read_bytes("/a/b/file") == b"content"
        assert await client.readlink("/a/link") == "b/file"
        assert sorted(await client.listdir("/a")) == ["b", "link", "other"]
        assert (await client.types("/a"))["b"] is FileType.DIRECTORY
        await client.truncate("/a/b/file", 3)
        assert (await client.stat("/a/b/file")).size == 3
        await client.link("/a/b/file", "/again")
        assert await client.read_bytes("/again") == b"con"
        await client.unlink("/a/b/file")
        await client.rmdir("/a/b")
        assert not await client.exists("/a/b")
        assert set(filesystem.files) == {"/", "/a", "/a/other", "/a/link", "/again"}
        assert nodes_of(client).nodes == 1


@kinds
async def test_what_is_below_a_renamed_directory_goes_along(kind: type[Paths]) -> None:
    filesystem = kind()
    filesystem.files |= {"/a": None, "/a/b": None, "/a/b/file": bytearray(b"x"), "/z": None}
    async with mount(filesystem) as client:
        a = (await client.lookup(1, "a")).nodeid
        b = (await client.lookup(a, "b")).nodeid
        file = (await client.lookup(b, "file")).nodeid
        z = (await client.lookup(1, "z")).nodeid
        await client.rename_at(1, "a", z, "c", 0)
        filesystem.asked.clear()
        await client.getattr(file)
        assert filesystem.asked == [("getattr", "/z/c/b/file")]
        assert (await client.lookup(b, "file")).nodeid == file
        assert (await client.lookup(z, "c")).nodeid == a
        with pytest.raises(FileNotFoundError):
            await client.lookup(1, "a")


@kinds
async def test_exchanged_names_take_their_nodes_along(kind: type[Paths]) -> None:
    filesystem = kind()
    filesystem.files |= {"/a": None, "/a/file": bytearray(b"x"), "/b": bytearray(b"yy")}
    async with mount(filesystem) as client:
        a = (await client.lookup(1, "a")).nodeid
        file = (await client.lookup(a, "file")).nodeid
        b = (await client.lookup(1, "b")).nodeid
        await client.rename_at(1, "a", 1, "b", RenameFlags.EXCHANGE)
        assert (await client.getattr(b)).attr.size == 2
        assert (await client.getattr(file)).attr.size == 1
        assert filesystem.asked[-2:] == [("getattr", "/a"), ("getattr", "/b/file")]
        with pytest.raises(FileExistsError):
            await client.rename_at(1, "a", 1, "b", RenameFlags.NOREPLACE)
        assert (await client.lookup(1, "b")).nodeid == a


@kinds
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_a_file_that_is_open_is_used_by_its_handle_when_its_name_has_gone(
    kind: type[Paths], replaced: bool
) -> None:
    filesystem = kind()
    filesystem.files |= {"/file": bytearray(b"old"), "/new": bytearray(b"new one")}
    async with mount(filesystem) as client:
        node = (await client.lookup(1, "file")).nodeid
        opened = await client.open_node(node)
        if replaced:
            await client.rename("/new", "/file")
        else:
            await client.unlink("/file")
            await client.write_bytes("/file", b"new one")
        assert (await client.getattr(node)).attr.size == 3
        assert filesystem.asked[-1] == ("getattr by handle", "/file")
        assert await client.read(node, opened.fh, 0, 100) == b"old"
        await client.setattr(node, SetattrIn(SetattrValid.SIZE, size=1))
        assert await client.read(node, opened.fh, 0, 100) == b"o"
        assert (await client.lookup(1, "file")).nodeid != node
        assert await client.read_bytes("/file") == b"new one"
        with pytest.raises(OSError) as caught:  # noqa: PT011
            await client.open_node(node)
        assert caught.value.errno == errno.ESTALE
        await client.release(node, opened.fh)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            await client.getattr(node)
        assert caught.value.errno == errno.ESTALE


@kinds
async def test_the_table_holds_what_the_kernel_knows_in_whatever_order_it_forgets(kind: type[Paths]) -> None:
    filesystem = kind()
    filesystem.files |= {"/a": None, "/a/b": None, "/a/b/file": bytearray()}
    async with mount(filesystem) as client:
        table = nodes_of(client)
        a = (await client.lookup(1, "a")).nodeid
        b = (await client.lookup(a, "b")).nodeid
        file = (await client.lookup(b, "file")).nodeid
        client.forget(a, 1)
        client.forget(b, 1)
        assert (await client.getattr(file)).attr.size == 0
        assert filesystem.asked[-1] == ("getattr", "/a/b/file")
        assert (await client.lookup(1, "a")).nodeid == a
        client.forget(file, 1)
        assert table.nodes == 2
        client.forget(a, 1)
        assert table.nodes == 1
        # Something that was removed is free when it is forgotten, and not before.
        node = (await client.lookup(1, "a")).nodeid
        await client.rmdir_at(1, "a")
        assert table.nodes == 2
        client.forget(node, 1)
        assert table.nodes == 1


@kinds
async def test_open_files_outlast_being_forgotten_and_the_end_releases_them(kind: type[Paths]) -> None:
    filesystem = kind()
    filesystem.files |= {"/a": None, "/a/file": bytearray(b"x")}
    async with mount(filesystem) as client:
        a = (await client.lookup(1, "a")).nodeid
        file = (await client.lookup(a, "file")).nodeid
        first, second = await client.open_node(file), await client.open_node(file)
        client.forget(a, 1)
        client.forget(file, 1)
        assert nodes_of(client).nodes == 3
        await client.release(file, first.fh)
        assert nodes_of(client).nodes == 3
        client.end()
        await client.session.close()
        assert filesystem.asked[-2:] == [("release", "/a/file")] * 2
        assert nodes_of(client).nodes == 1
        assert second.fh != first.fh


@kinds
async def test_a_name_that_is_missing_may_be_remembered_and_errors_pass(kind: type[Paths]) -> None:
    async with mount(kind()) as client:
        with pytest.raises(FileNotFoundError):
            await client.lookup(1, "missing")
        with pytest.raises(PermissionError):
            await client.lookup(1, "forbidden")
        assert nodes_of(client).nodes == 1


@kinds
async def test_a_new_file_is_another_node_than_the_one_that_had_its_name(kind: type[Paths]) -> None:
    filesystem = kind()
    async with mount(filesystem) as client:
        first = (await client.mkdir_at(1, "name", 0o755)).nodeid
        await client.rmdir_at(1, "name")
        second = (await client.mkdir_at(1, "name", 0o755)).nodeid
        assert first != second
        assert (await client.getattr(second)).attr.ino == second
        with pytest.raises(OSError) as caught:  # noqa: PT011
            await client.lookup(first, "below")
        assert caught.value.errno in {errno.ENOENT, errno.ESTALE}


def test_what_is_not_overridden_is_not_answered() -> None:
    class Little(PathFilesystem[None]):
        def getattr(self, caller: Caller, path: str, handle: None) -> Attr:
            return Attr.directory(0)

        def statfs(self, caller: Caller, path: str) -> Any: ...

    assert implemented(by_nodes(Little())) == {"lookup", "getattr", "statfs"}


def test_one_that_is_asked_by_node_stays_itself() -> None:
    table = by_nodes(Paths())
    assert by_nodes(table) is table
