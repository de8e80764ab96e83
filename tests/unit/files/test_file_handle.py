"""A file of any file system is read, sought and written as a file of the host is."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.files.trees import (
    ROOT_CALLER,
    Counting,
    Direct,
    Plain,
    attr_of,
    content_of,
    make,
    node_of,
    symlink,
)
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.files import FileHandle, begun
from vhostfs.files.buffers import LentReadBuffer, LentWriteBuffer
from vhostfs.filesystem import (
    Attr,
    Caller,
    Entry,
    Filesystem,
    Options,
    ReadBuffer,
    Session,
    WriteBuffer,
    WriteFlags,
)
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio


# ---- As a file of the host ----

OFFSETS = st.integers(0, 40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 30)),
        st.tuples(st.just("readline"), st.integers(1, 30)),
        st.tuples(st.just("readline"), st.just(-1)),
        st.tuples(
            st.just("write"), st.sampled_from(["", "a", "b\n", "\u00e9\r\n\u20ac", "longer than that\n\r"])
        ),
        st.tuples(st.just("seek"), OFFSETS),
        st.tuples(st.just("back"), st.just(0)),
        st.tuples(st.just("tell"), st.just(0)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("truncate"), OFFSETS),
        st.tuples(st.just("flush"), st.just(0)),
    ),
    max_size=12,
)
CONTENT = b"first\nsecond line\r\nthird\rfourth\n\nlast without an end"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the host to compare with."""
    return tmp_path_factory.mktemp("host") / "file"


@given(
    steps=STEPS,
    mode=st.sampled_from(["rb", "r+b", "w+b", "a+b", "wb"]),
    buffering=st.sampled_from([0, 1, 7, 4096]),
)
def test_a_binary_file_does_what_one_of_the_host_does(
    path: Path, steps: list[tuple[str, Any]], mode: str, buffering: int
) -> None:
    async def run() -> None:
        filesystem = Counting(MemoryFilesystem(size=1 << 20, inodes=100))
        await make(filesystem, "/file", CONTENT)
        filesystem.forget(await node_of(filesystem, "/file"))
        file = await FileHandle.open(filesystem, "file", mode, buffering=buffering)
        with path.open(mode, buffering=0) as host:
            for action, argument in steps:
                assert await outcome(file, action, argument) == host_outcome(host, action, argument)
        await file.aclose()
        assert await content_of(filesystem, "file") == await anyio.Path(path).read_bytes()
        assert not filesystem.held
        assert not filesystem.opened

    path.write_bytes(CONTENT)
    anyio.run(run)


async def outcome(file: FileHandle[bytes], action: str, argument: Any) -> Any:
    """Return what a step does on a file of ours."""
    try:
        match action:
            case "write":
                return await file.write(argument.encode())
            case "seek":
                return await file.seek(argument)
            case "back":
                return await file.seek(0, os.SEEK_CUR)
            case "end":
                return await file.seek(-1, os.SEEK_END)
            case "tell":
                return await file.tell()
            case "flush":
                return await file.flush()
            case _:
                return await getattr(file, action)(argument)
    except OSError as error:
        return type(error), error.errno


def host_outcome(host: Any, action: str, argument: Any) -> Any:
    """Return what it does on the host."""
    try:
        match action:
            case "write":
                return host.write(argument.encode())
            case "back":
                return host.seek(0, os.SEEK_CUR)
            case "end":
                return host.seek(-1, os.SEEK_END)
            case "tell" | "flush":
                return getattr(host, action)()
            case _:
                return getattr(host, action)(argument)
    except OSError as error:
        return type(error), error.errno


@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.text(alphabet="a\n\r\u00e9\u20ac", max_size=40).map(str.encode),
    ),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16", "shift_jis"]),
    newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
    sizes=st.lists(st.integers(0, 9), max_size=6),
    buffering=st.sampled_from([1, 2, 5, 4096]),
)
def test_text_is_decoded_as_on_the_host_and_can_be_come_back_to(
    data: bytes, encoding: str, newline: str | None, sizes: list[int], buffering: int
) -> None:
    if encoding == "utf-16":
        data = b"\xff\xfe" + data

    async def run() -> None:
        filesystem = Plain({"file": data})
        options: dict[str, Any] = {"encoding": encoding, "errors": "replace", "newline": newline}
        host = io.TextIOWrapper(io.BytesIO(data), **options)
        async with await FileHandle.open(filesystem, "/file", buffering=buffering, **options) as file:
            assert await file.readlines() == host.readlines()
            await file.seek(0)
            host.seek(0)
            for number, size in enumerate(sizes):
                got = await (file.readline(size) if number % 2 else file.read(size))
                assert got == (host.readline(size) if number % 2 else host.read(size))
                position = await file.tell()
                rest = await file.read()
                assert await file.read(1) == ""
                await file.seek(position)
                assert await file.read() == rest
                await file.seek(position)
            assert await file.read() == host.read()

    anyio.run(run)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("newline", [None, "", "\r\n"])
async def test_text_is_written_as_on_the_host(
    filesystem: MemoryFilesystem, tmp_path: Path, encoding: str, newline: str | None
) -> None:
    host = tmp_path / "file"
    for mode, text in [("w", "one\ntwo\r\n"), ("a", "thr\u00e9e\n"), ("x", "")]:
        if mode == "x":
            with pytest.raises(FileExistsError):
                await FileHandle.open(filesystem, "/file", "x")
            continue
        async with await FileHandle.open(
            filesystem, "/file", mode, encoding=encoding, newline=newline
        ) as file:
            assert await file.write(text) == len(text)
            await file.writelines(["four", "\n"])
        with host.open(mode, encoding=encoding, newline=newline) as other:
            other.write(text)
            other.writelines(["four", "\n"])
        assert await content_of(filesystem, "/file") == host.read_bytes()


async def test_text_may_be_read_and_written_in_turn(filesystem: MemoryFilesystem) -> None:
    async with await FileHandle.open(filesystem, "/file", "w+", newline="\n") as file:
        await file.write("one\ntwo\nthree\n")
        await file.seek(0)
        assert await file.readline() == "one\n"
        await file.write("TWO")
        assert await file.readline() == "\n"
        position = await file.tell()
        assert await file.truncate() == position
        await file.seek(0, os.SEEK_END)
        await file.write("\u20ac")
        await file.seek(0)
        assert await file.read() == "one\nTWO\n\u20ac"


# ---- What is asked of the file system ----


async def test_a_file_is_read_whatever_its_file_system_leaves_out() -> None:
    data = bytes(range(250)) * 5
    for filesystem in (Plain({"file": data}), Direct({"file": data})):
        async with await FileHandle.open(filesystem, "file", "rb", buffering=16) as file:
            assert await file.read(10) == data[:10]
            assert await file.read() == data[10:]
            assert await file.seek(-5, os.SEEK_END) == len(data) - 5
            memory = bytearray(9)
            assert await file.readinto(memory) == 5
            assert memory == data[-5:] + bytes(4)
            assert await file.seek(7, os.SEEK_DATA) == 7
            assert await file.seek(7, os.SEEK_HOLE) == len(data)
            with pytest.raises(OSError, match="No such device or address") as caught:
                await file.seek(len(data), os.SEEK_DATA)
            assert caught.value.errno == errno.ENXIO
        with pytest.raises(OSError, match="Function not implemented"):
            await FileHandle.open(filesystem, "new", "w")


async def test_requests_are_as_large_as_the_file_system_takes_them() -> None:
    sizes: list[int] = []

    class Small(MemoryFilesystem):
        options = Options(max_write=4096)

        def read(self, caller: Caller, node: int, handle: Any, offset: int, buffer: ReadBuffer) -> Any:
            sizes.append(buffer.size)
            return super().read(caller, node, handle, offset, buffer)

        def write(
            self, caller: Caller, node: int, handle: Any, offset: int, data: WriteBuffer, flags: WriteFlags
        ) -> int:
            sizes.append(data.size)
            return super().write(caller, node, handle, offset, data, flags)

    filesystem = Small(size=1 << 20, inodes=10)
    data = os.urandom(10_000)
    async with await FileHandle.open(filesystem, "/file", "w+b", buffering=0) as file:
        assert await file.write(data) == len(data)
        await file.seek(0)
        assert await file.read(len(data)) == data
    assert sizes == [4096, 4096, 1808] * 2


async def test_small_writes_are_collected_until_somebody_may_look(filesystem: MemoryFilesystem) -> None:
    async with await FileHandle.open(filesystem, "/file", "wb") as file:
        await file.write(b"one")
        await file.write(b"two")
        assert (await attr_of(filesystem, "/file")).size == 0
        assert (await file.stat()).size == 6
        await file.write(b"three")
        await file.fsync(datasync=True)
        assert (await attr_of(filesystem, "/file")).size == 11


async def test_an_error_of_a_write_is_told_at_the_end(filesystem: MemoryFilesystem) -> None:
    counting = Counting(MemoryFilesystem(size=4096, inodes=10))
    file = await FileHandle.open(counting, "/file", "wb")
    await file.write(bytes(8192))
    with pytest.raises(OSError, match="No space left on device"):
        await file.aclose()
    assert file.closed
    assert not counting.held
    assert not counting.opened
    await file.aclose()


@pytest.mark.parametrize("answer", [bytes(11), 11, -1])
async def test_more_than_was_asked_for_is_an_error(answer: Any) -> None:
    class Wrong(Plain):
        def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> Any:
            return answer

    async with await FileHandle.open(Wrong({"file": bytes(20)}), "file", "rb", buffering=0) as file:
        with pytest.raises(OSError, match="was answered by"):
            await file.read(10)


async def test_a_file_belongs_to_the_caller_and_has_the_permissions_asked_for(
    filesystem: MemoryFilesystem,
) -> None:
    caller = Caller(uid=7, gid=8)
    async with await FileHandle.open(filesystem, "/file", "w", permissions=0o4600, caller=caller) as file:
        attr = await file.stat()
        assert (attr.uid, attr.gid, attr.mode & 0o7777) == (7, 8, 0o4600)
        await file.write("x")
        assert (await file.stat()).mode & 0o7777 == 0o600


async def test_calls_that_come_at_once_wait_for_each_other(filesystem: MemoryFilesystem) -> None:
    async with await FileHandle.open(Counting(filesystem), "/file", "wb", buffering=0) as file:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(file.write, b"%02d" % number)
        assert await file.tell() == 40
    content = await content_of(filesystem, "/file")
    assert sorted(content[at : at + 2] for at in range(0, 40, 2)) == [
        b"%02d" % number for number in range(20)
    ]


# ---- How it is opened ----


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("", "invalid mode"),
        ("rw", "invalid mode"),
        ("r++", "invalid mode"),
        ("rbt", "binary"),
        ("q", "invalid"),
    ],
)
async def test_a_mode_that_is_none_is_refused(filesystem: MemoryFilesystem, mode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await FileHandle.open(filesystem, "/file", mode)


@pytest.mark.parametrize(
    "options",
    [{"encoding": "no-such"}, {"errors": "no-such"}, {"newline": "x"}, {"buffering": 0}, {"buffering": -1}],
)
async def test_what_text_cannot_be_is_refused_before_anything_is_made(
    filesystem: MemoryFilesystem, options: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, LookupError)):
        await FileHandle.open(filesystem, "/file", "w", **options)
    with pytest.raises(FileNotFoundError):
        await FileHandle.open(filesystem, "/file")


async def test_only_what_the_mode_allows_is_done(filesystem: MemoryFilesystem) -> None:
    async with await FileHandle.open(filesystem, "/file", "w") as file:
        assert file.writable()
        assert not file.readable()
        assert file.seekable()
        with pytest.raises(io.UnsupportedOperation):
            await file.read()
    for call in (file.read, file.tell, file.flush, file.stat):
        with pytest.raises(ValueError, match="closed"):
            await call()
    async with await FileHandle.open(filesystem, "/file", "rb") as reader:
        with pytest.raises(io.UnsupportedOperation):
            await reader.write(b"")
        with pytest.raises(OSError, match="Invalid argument"):
            await reader.seek(-1)
        with pytest.raises(OSError, match="Invalid argument"):
            await reader.seek(1 << 63)


async def test_what_is_no_file_cannot_be_opened(filesystem: MemoryFilesystem) -> None:
    await make(filesystem, "/directory")
    await make(filesystem, "/file", b"")
    filesystem.mknod(ROOT_CALLER, 1, "fifo", 0o010600, 0)
    await symlink(filesystem, "/link", "file")
    for path, mode, number in [
        ("/directory", "r", errno.EISDIR),
        ("/directory/", "w", errno.EISDIR),
        ("/", "r", errno.EISDIR),
        ("/fifo", "r", errno.ENXIO),
        ("/missing", "r", errno.ENOENT),
        ("/missing/", "w", errno.EISDIR),
        ("/missing/file", "w", errno.ENOENT),
        ("/file/file", "r", errno.ENOTDIR),
        ("/file/", "r", errno.ENOTDIR),
        ("/link", "x", errno.EEXIST),
        ("", "r", errno.ENOENT),
        ("/" + "n" * 256, "w", errno.ENAMETOOLONG),
        ("/" + "n/" * 2048, "r", errno.ENAMETOOLONG),
    ]:
        counting = Counting(filesystem)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            await FileHandle.open(counting, path, mode)
        assert (path, caught.value.errno) == (path, number)
        assert not counting.held
    with pytest.raises(ValueError, match="null"):
        await FileHandle.open(filesystem, "/file\0")
    with pytest.raises(OSError, match="symbolic links"):
        await FileHandle.open(filesystem, "/link", follow_symlinks=False)


# ---- Symbolic links ----


async def test_links_are_followed_within_the_file_system(filesystem: MemoryFilesystem) -> None:
    counting = Counting(filesystem)
    for path in ("/a", "/a/b"):
        await make(filesystem, path)
    await make(filesystem, "/file", b"at the root")
    await make(filesystem, "/a/file", b"below")
    await symlink(filesystem, "/a/b/up", "../file")
    await symlink(filesystem, "/a/b/out", "../../../../../file")
    await symlink(filesystem, "/a/b/absolute", "/a/b/up")
    await symlink(filesystem, "/directory", "a/b/")
    await symlink(filesystem, "/dangling", "a/made")
    for path, expected in [
        ("/a/b/up", b"below"),
        ("/a/b/out", b"at the root"),
        ("/a/b/absolute", b"below"),
        ("/directory/up", b"below"),
        ("/directory/../file", b"below"),
        ("/../a//./b/../file", b"below"),
    ]:
        assert (path, await content_of(counting, path)) == (path, expected)
    async with await FileHandle.open(counting, "/dangling", "w") as file:
        await file.write("made by way of a link")
    assert not counting.held
    assert await content_of(filesystem, "/a/made") == b"made by way of a link"


async def test_links_that_do_not_end_are_an_error(filesystem: MemoryFilesystem) -> None:
    counting = Counting(filesystem)
    await symlink(filesystem, "/self", "self")
    await symlink(filesystem, "/one", "two")
    await symlink(filesystem, "/two", "one")
    await symlink(filesystem, "/inside", "inside/file")
    for number in range(45):
        await symlink(filesystem, f"/chain{number}", f"chain{number + 1}")
    await make(filesystem, "/chain45", b"the end")
    for path in ("/self", "/one", "/inside", "/chain0"):
        for mode in ("rb", "wb"):
            with pytest.raises(OSError, match="symbolic links") as caught:
                await FileHandle.open(counting, path, mode)
            assert caught.value.errno == errno.ELOOP
    assert await content_of(counting, "/chain5") == b"the end"
    assert not counting.held


# ---- Lookups ----


async def test_a_node_is_forgotten_when_the_last_of_its_files_is_closed(filesystem: MemoryFilesystem) -> None:
    counting = Counting(filesystem)
    await make(filesystem, "/directory")
    node = await make(filesystem, "/directory/file", b"data")
    first = await FileHandle.open(counting, "/directory/file")
    second = await FileHandle.open(counting, "/directory/file")
    await first.aclose()
    assert node in counting.held
    assert await second.read() == "data"
    await second.aclose()
    assert not counting.held


async def test_a_node_is_forgotten_when_neither_kernel_nor_program_hold_it(
    filesystem: MemoryFilesystem,
) -> None:
    counting = Counting(filesystem)
    await make(filesystem, "/file", b"data")
    async with mount(counting) as client:
        for kernel_first in (True, False):
            found = await client.lookup(client.root, "file")
            file = await FileHandle.open(counting, "/file")
            if kernel_first:
                client.forget(found.nodeid, 1)
            else:
                await file.aclose()
            assert counting.held
            assert await client.read_bytes("/file") == b"data"
            assert counting.held
            if kernel_first:
                await file.aclose()
            else:
                client.forget(found.nodeid, 1)
            assert not counting.held


async def test_a_file_system_without_a_session_is_begun_and_ended() -> None:
    calls: list[str] = []

    class Living(Plain):
        async def init(self, session: Session) -> None:
            with pytest.raises(OSError, match="not implemented"):
                session.invalidate_node(1)
            calls.append(f"init at 7.{session.minor}")

        def destroy(self) -> None:
            calls.append("destroy")

    filesystem: Filesystem[None]
    async with begun(Living({"file": b"data"})) as filesystem:
        assert await content_of(filesystem, "file") == b"data"
    assert calls == ["init at 7.45", "destroy"]


async def test_a_file_that_comes_between_is_opened(filesystem: MemoryFilesystem) -> None:
    class Racing(Plain):
        raced = False

        async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
            return Entry(Attr.file(9, 4)) if self.raced else None

        def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> Entry:
            self.raced = True
            raise FileExistsError

        def setattr(self, caller: Caller, node: int, handle: None, changes: Any) -> Attr:
            assert changes.size == 0
            return Attr.file(9)

    racing = Racing({})
    async with await FileHandle.open(racing, "/file", "w"):
        assert racing.raced


# ---- Buffers ----


@pytest.mark.parametrize("kind", [LentReadBuffer, LentWriteBuffer])
def test_a_buffer_cannot_be_used_behind_its_end(kind: Callable[[memoryview], Any]) -> None:
    buffer = kind(memoryview(bytearray(8)))
    assert [len(segment) for segment in buffer.segments] == [8]
    buffer.end()
    with pytest.raises(ValueError, match="ended"):
        _ = buffer.segments


def test_buffers_move_data_to_and_from_descriptors(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        source = LentWriteBuffer(memoryview(b"0123456789"))
        assert source.write_to_fd(descriptor, 2) == 10
        part = bytearray(4)
        assert source.read_into(part, 7) == 3
        assert part == b"789\0"
        with pytest.raises(ValueError, match="negative"):
            source.read_into(part, -1)
        memory = bytearray(8)
        target = LentReadBuffer(memoryview(memory))
        assert target.write(b"ab") == 2
        assert target.read_from_fd(descriptor, 2, 3) == 3
        assert target.read_from_fd(descriptor, 5) == 3
        assert target.read_from_fd(descriptor, 5) == 0
        assert target.write(b"more") == 0
        assert memory == b"ab012345"
    finally:
        os.close(descriptor)
