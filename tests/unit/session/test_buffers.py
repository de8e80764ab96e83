"""Guest memory is lent for one operation, and nobody keeps it unnoticed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vhostfs.filesystem import Caller, Filesystem, ReadBuffer, WriteBuffer, WriteFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import ReadIn, WriteIn, WriteOut
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

DATA = bytes(range(200))

type Act = Callable[[Any], Any]


class Lent(Filesystem[Any]):
    """Reads and writes by what a test says; keeps the last buffer, and views of it if told so."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.kept: Any = None
        self.buffer: Any = None

    def read(self, caller: Caller, node: int, handle: Any, offset: int, buffer: ReadBuffer) -> Any:
        self.buffer = buffer
        return self.act(buffer)

    def write(
        self, caller: Caller, node: int, handle: Any, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> Any:
        self.buffer = data
        return self.act(data)


class LentLater(Lent):
    """The same in tasks."""

    async def read(self, caller: Caller, node: int, handle: Any, offset: int, buffer: ReadBuffer) -> Any:
        self.buffer = buffer
        await asyncio.sleep(0)
        return self.act(buffer)

    async def write(
        self, caller: Caller, node: int, handle: Any, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> Any:
        self.buffer = data
        await asyncio.sleep(0)
        return self.act(data)


@pytest.fixture(params=[Lent, LentLater])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return each kind of file system in turn."""
    return request.param


def fill_segments(buffer: Any) -> int:
    """Store data through the memory itself."""
    done = 0
    for segment in buffer.segments:
        segment[:] = DATA[done : done + len(segment)]
        done += len(segment)
    return done


def write_twice(buffer: Any) -> int:
    """Append more than there is room for."""
    assert buffer.write(DATA[:60]) == 60
    assert buffer.write(DATA[60:]) == 40
    assert buffer.write(b"more") == 0
    return 100


@pytest.mark.vhostfs_quiet
@pytest.mark.parametrize(
    "act",
    [
        lambda buffer: DATA[: buffer.size],
        lambda buffer: bytearray(DATA[: buffer.size]),
        lambda buffer: memoryview(DATA)[: buffer.size],
        fill_segments,
        write_twice,
        lambda buffer: buffer.segments[0][: fill_segments(buffer)] and buffer.size,
    ],
)
async def test_a_read_answers_bytes_or_how_many_it_stored(kind: Any, act: Act) -> None:
    async with mount(kind(act)) as client:
        assert await client.read(1, 0, 0, 100) == DATA[:100]
        assert client.session.faults == 0


@pytest.mark.vhostfs_quiet
async def test_a_view_of_the_guests_memory_may_be_the_answer() -> None:
    def act(buffer: Any) -> memoryview:
        fill_segments(buffer)
        first: memoryview = buffer.segments[0]
        return first[:10]

    async with mount(Lent(act)) as client:
        assert await client.read(1, 0, 0, 100) == DATA[:10]


@pytest.mark.vhostfs_quiet
@pytest.mark.parametrize(
    "act",
    [
        lambda data: data.size if bytes(data) == DATA else 0,
        lambda data: data.size if b"".join(data.segments) == DATA else 0,
        lambda data: (
            data.size if data.read_into(target := bytearray(300)) == 200 and target[:200] == DATA else 0
        ),
        lambda data: (
            data.size if data.read_into(target := bytearray(9), 50) == 9 and target == DATA[50:59] else 0
        ),
    ],
)
async def test_a_write_reads_its_data(kind: Any, act: Act) -> None:
    async with mount(kind(act)) as client:
        assert await client.write(1, 0, 0, DATA) == 200


@pytest.mark.parametrize("answer", [101, -1, bytes(101), "text", None])
async def test_more_than_was_asked_for_and_what_is_no_data_is_a_fault(kind: Any, answer: Any) -> None:
    async with mount(kind(lambda _buffer: answer)) as client:
        for attempt in client.read(1, 0, 0, 100), client.write(1, 0, 0, bytes(100)):
            with pytest.raises(OSError, match=r"Errno 5\b"):
                await attempt
        assert client.session.faults == 2


async def test_data_goes_between_files_and_the_guest(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDWR)
    try:

        def act(buffer: Any) -> int:
            if hasattr(buffer, "write_to_fd"):
                written: int = buffer.write_to_fd(descriptor, 10)
                return written
            assert buffer.read_from_fd(descriptor, 50, 20) == 20
            return 20 + int(buffer.read_from_fd(descriptor, 180))

        async with mount(kind(act)) as client:
            assert await client.read(1, 0, 0, 100) == DATA[50:70] + DATA[180:]
            assert await client.write(1, 0, 0, b"written") == 7
        assert path.read_bytes()[10:17] == b"written"
    finally:
        os.close(descriptor)


async def test_a_buffer_raises_when_its_operation_is_over(kind: Any) -> None:
    filesystem = kind(lambda buffer: buffer.size if buffer.segments else 0)
    async with mount(filesystem) as client:
        await client.read(1, 0, 0, 100)
        uses: list[Callable[[], Any]] = [
            lambda: filesystem.buffer.segments,
            lambda: filesystem.buffer.write(b"x"),
            lambda: filesystem.buffer.read_from_fd(0, 0),
        ]
        for use in uses:
            with pytest.raises(ValueError, match="has ended"):
                use()
        await client.write(1, 0, 0, b"data")
        uses = [
            lambda: filesystem.buffer.segments,
            lambda: bytes(filesystem.buffer),
            lambda: filesystem.buffer.read_into(bytearray(1)),
            lambda: filesystem.buffer.write_to_fd(0, 0),
        ]
        for use in uses:
            with pytest.raises(ValueError, match="has ended"):
                use()


@pytest.mark.vhostfs_quiet
async def test_a_kept_view_is_released_and_raises() -> None:
    kept: list[memoryview] = []

    def act(buffer: Any) -> int:
        kept.extend(buffer.segments)
        return 0

    async with mount(Lent(act)) as client:
        await client.read(1, 0, 0, 100)
        with pytest.raises(ValueError, match="released"):
            kept[0][0] = 1
        assert client.session.faults == 0


@pytest.mark.parametrize("raises", [False, True])
async def test_a_kept_slice_is_a_fault_that_names_the_operation(
    kind: Any, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Any] = []

    def act(buffer: Any) -> int:
        kept.append(buffer.segments[0][1:2])
        if raises:
            raise OSError(errno.ENOSPC, "full")
        return 0

    number = errno.ENOSPC if raises else errno.EIO
    async with mount(kind(act)) as client:
        for attempt in client.read(1, 0, 0, 100), client.write(1, 0, 0, bytes(100)):
            with pytest.raises(OSError, match=rf"Errno {number}\b"):
                await attempt
        assert client.session.faults == 2
    assert [record.getMessage() for record in caplog.records] == [
        "test: read kept memory of the guest beyond its end",
        "test: write kept memory of the guest beyond its end",
    ]


@pytest.mark.vhostfs_quiet
async def test_views_in_the_frames_of_an_exception_are_not_kept(kind: Any) -> None:
    def act(buffer: Any) -> int:
        view = buffer.segments[0][1:2]
        try:
            raise KeyError("whatever")
        except KeyError:
            part = view[:1]
            raise OSError(errno.ENOSPC, "full", part.nbytes) from None

    async with mount(kind(act)) as client:
        with pytest.raises(OSError, match=r"Errno 28"):
            await client.read(1, 0, 0, 100)


async def test_a_cancelled_read_is_answered_when_its_thread_is_out_of_the_guests_memory() -> None:
    inside, leave, ended = threading.Event(), threading.Event(), asyncio.Event()

    class Threaded(Filesystem[Any]):
        async def read(self, caller: Caller, node: int, handle: Any, offset: int, buffer: ReadBuffer) -> int:
            try:
                return await asyncio.to_thread(buffer.read_from_fd, 0, 0)
            finally:
                ended.set()

    async with mount(Threaded()) as client:

        def read_from_fd(*_arguments: Any) -> int:
            inside.set()
            leave.wait()
            return 0

        client.channel.read_from_fd = read_from_fd  # type: ignore[method-assign, assignment]
        request = client.start(Opcode.READ, 1, ReadIn(0, 0, 100).pack())
        await asyncio.to_thread(inside.wait)
        client.interrupt()
        await ended.wait()
        await asyncio.sleep(0)
        assert client.session.running == 0
        assert not request.answer.done(), "the thread may still write"
        leave.set()
        with pytest.raises(OSError, match=r"Errno 4\b"):
            await client.finish(request)


async def test_a_write_that_says_another_size_than_it_has_is_refused() -> None:
    async with mount(Lent(lambda data: data.size)) as client:
        for size in 3, 5:
            request = client.start(
                Opcode.WRITE, 1, WriteIn(0, 0, size).pack(), room=WriteOut.SIZE, data=b"four"
            )
            with pytest.raises(OSError, match=r"Errno 5\b"):
                await client.finish(request)
