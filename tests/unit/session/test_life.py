"""A session begins, serves, and ends in order, whatever comes meanwhile."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest

from tests.unit.session.everything import DIRECTORY, FILE, Everything
from vhostfs.filesystem import Attr, Caller, Entry, Filesystem, Opened, Options, Session
from vhostfs.fuse_abi.opcodes import NotifyCode, Opcode
from vhostfs.fuse_abi.structures import GetattrIn, InHeader, LkIn
from vhostfs.session import RecordKind, State
from vhostfs.testing import Client, KernelClient, Request, mount

pytestmark = pytest.mark.anyio


class Waiting(Filesystem[str]):
    """Every getattr waits for `gate`, and notes how it ended."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ends: list[str] = []
        self.callers: list[Caller] = []

    async def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
        self.callers.append(caller)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("answered")
        return Attr.directory(node)


def getattr_request(client: KernelClient) -> Request:
    """Send a GETATTR of the root."""
    return client.start(Opcode.GETATTR, client.root, GetattrIn().pack())


async def errno_of(client: KernelClient, request: Request) -> int:
    """Return the errno that a request is answered."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        await client.finish(request)
    assert caught.value.errno is not None
    return caught.value.errno


async def test_requests_wait_until_init_has_returned() -> None:
    order: list[str] = []

    class Slow(Waiting):
        async def init(self, session: Session) -> None:
            order.append("init")
            await self.gate.wait()
            order.append("ready")

        async def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
            order.append("getattr")
            return Attr.directory(node)

    filesystem = Slow()
    async with mount(filesystem) as client:
        requests = [getattr_request(client) for _ in range(3)]
        assert client.session.state is State.STARTING
        assert not any(request.answer.done() for request in requests)
        filesystem.gate.set()
        for request in requests:
            await client.finish(request)
        assert order == ["init", "ready", "getattr", "getattr", "getattr"]


async def test_a_session_whose_init_fails_answers_eio_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Everything):
        def init(self, session: Session) -> None:
            raise RuntimeError("no database")

        def destroy(self) -> None:
            raise AssertionError("what was not prepared is not finished")

    async with mount(Broken(), name="share") as client:
        assert await errno_of(client, getattr_request(client)) == errno.EIO
        assert client.session.state is State.IDLE
    assert [record.getMessage() for record in caplog.records] == [
        "share: init failed: RuntimeError: no database"
    ]


async def test_without_a_session_requests_are_answered_eio() -> None:
    client = Client(Everything())
    assert await errno_of(client, getattr_request(client)) == errno.EIO
    client.begin()
    await client.getattr(1)
    client.end()
    assert await errno_of(client, getattr_request(client)) == errno.EIO


async def test_the_end_cancels_releases_forgets_and_destroys_in_this_order() -> None:
    order: list[Any] = []

    class Ordered(Waiting):
        def lookup(self, caller: Caller, parent: int, name: str) -> Entry:
            return Entry(Attr.file(int(name)))

        def open(self, caller: Caller, node: int, flags: int) -> Opened[str]:
            return Opened(f"file {node}")

        def opendir(self, caller: Caller, node: int, flags: int) -> Opened[str]:
            return Opened(f"directory {node}")

        async def release(self, caller: Caller, node: int, handle: str, flags: int) -> None:
            order.append(("release", handle))

        def releasedir(self, caller: Caller, node: int, handle: str, flags: int) -> None:
            order.append(("releasedir", handle))

        def forget(self, node: int) -> None:
            order.append(("forget", node))

        async def destroy(self) -> None:
            order.append("destroy")

    filesystem = Ordered()
    async with mount(filesystem) as client:
        await client.lookup(1, "5")
        await client.lookup(1, "6")
        await client.open_node(5)
        await client.opendir(1)
        request = getattr_request(client)
        client.end()
        assert await errno_of(client, request) == errno.EINTR
        await client.session.close()
        assert filesystem.ends == ["cancelled"]
        assert order == [
            ("release", "file 5"),
            ("releasedir", "directory 1"),
            ("forget", 5),
            ("forget", 6),
            "destroy",
        ]
        assert client.session.state is State.IDLE


async def test_destroy_is_answered_when_the_file_system_has_ended() -> None:
    class Lasting(Waiting):
        async def destroy(self) -> None:
            await self.gate.wait()

    filesystem = Lasting()
    message = InHeader(InHeader.SIZE, Opcode.DESTROY, 2, 0).pack()
    async with mount(filesystem) as client:
        request = getattr_request(client)
        client.end()
        destroy = client.channel.request(message, room=64, kind=RecordKind.END)
        assert await errno_of(client, request) == errno.EINTR
        assert client.session.state is State.ENDING
        assert not destroy.answer.done()
        filesystem.gate.set()
        assert await destroy.answer == (0, b"")
        again = client.channel.request(message, room=64, kind=RecordKind.END)
        assert await again.answer == (0, b"")


async def test_a_session_that_begins_before_the_last_has_ended_waits_for_it() -> None:
    order: list[str] = []
    gate = asyncio.Event()

    class Slow(Filesystem[Any]):
        def init(self, session: Session) -> None:
            order.append("init")

        async def destroy(self) -> None:
            await gate.wait()
            order.append("destroy")

        def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            order.append("getattr")
            return Attr.directory(node)

    async with mount(Slow()) as client:
        client.end()
        client.begin()
        request = getattr_request(client)
        assert order == ["init"]
        gate.set()
        await client.finish(request)
        assert order == ["init", "destroy", "init", "getattr"]


async def test_requests_of_a_session_that_ended_before_it_was_ready_are_answered_eio() -> None:
    class Slow(Waiting):
        async def init(self, session: Session) -> None:
            await self.gate.wait()

    filesystem = Slow()
    async with mount(filesystem) as client:
        request = getattr_request(client)
        client.end()
        assert await errno_of(client, request) == errno.EIO
        assert await errno_of(client, getattr_request(client)) == errno.EIO
        filesystem.gate.set()
        client.begin()
        await client.getattr(1)


async def test_an_interrupt_cancels_the_operation_and_answers_eintr() -> None:
    filesystem = Waiting()
    async with mount(filesystem) as client:
        request = getattr_request(client)
        client.interrupt(12345)
        assert client.session.running == 1
        client.interrupt()
        assert await errno_of(client, request) == errno.EINTR
        assert filesystem.ends == ["cancelled"]
        assert filesystem.callers[0].interrupted() is False, "the request is over"
        assert client.session.running == 0


async def test_an_operation_that_goes_on_when_cancelled_knows_it_and_is_answered() -> None:
    class Stubborn(Waiting):
        async def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                assert caller.interrupted()
            return Attr.directory(node)

    async with mount(Stubborn()) as client:
        request = getattr_request(client)
        client.interrupt()
        await client.finish(request)
        assert client.session.faults == 0


async def test_a_ring_that_stops_cancels_its_requests() -> None:
    filesystem = Waiting()
    async with mount(filesystem) as client:
        one, two = getattr_request(client), getattr_request(client)
        client.cancel(one)
        assert await errno_of(client, one) == errno.EINTR
        filesystem.gate.set()
        await client.finish(two)
        assert filesystem.ends == ["cancelled", "answered"]


async def test_a_request_that_waits_for_init_can_be_interrupted() -> None:
    class Slow(Waiting):
        async def init(self, session: Session) -> None:
            await self.gate.wait()

    filesystem = Slow()
    async with mount(filesystem) as client:
        request = getattr_request(client)
        client.interrupt()
        assert await errno_of(client, request) == errno.EINTR
        filesystem.gate.set()


async def test_an_operation_that_takes_too_long_is_cancelled_and_answered_etimedout() -> None:
    class Timed(Waiting):
        options = Options(timeout_seconds=0.001)

        async def setlk(self, *arguments: Any) -> None:
            await self.gate.wait()

    filesystem = Timed()
    async with mount(filesystem) as client:
        lock = client.start(Opcode.SETLKW, 1, LkIn().pack())
        assert await errno_of(client, getattr_request(client)) == errno.ETIMEDOUT
        assert filesystem.ends == ["cancelled"]
        assert not lock.answer.done(), "locks wait as long as they must"
        filesystem.gate.set()
        await client.finish(lock)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EDQUOT, "full"), errno.EDQUOT),
        (FileNotFoundError(), errno.ENOENT),
        (PermissionError("no"), errno.EACCES),
        (TimeoutError(), errno.ETIMEDOUT),
        (OSError(), errno.EIO),
        (OSError(512, "a number of the kernel's own"), errno.EIO),
        (OSError(-2, "negative"), errno.EIO),
        (OSError("text", "text"), errno.EIO),
        (asyncio.CancelledError(), errno.EINTR),
    ],
)
@pytest.mark.vhostfs_quiet
async def test_an_oserror_is_answered_by_its_errno(error: BaseException, number: int) -> None:
    class Failing(Filesystem[Any]):
        def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            raise error

        async def access(self, caller: Caller, node: int, mask: int) -> None:
            raise error

    async with mount(Failing()) as client:
        assert await errno_of(client, getattr_request(client)) == number
        assert await errno_of(client, client.start(Opcode.ACCESS, 1, bytes(8))) == number
        assert client.session.faults == 0


@pytest.mark.parametrize(
    "answer", [None, 5, Attr.directory(-1), Attr.directory(2**64), "text", SystemExit(1)]
)
async def test_any_other_exception_and_any_nonsense_is_a_fault_that_the_session_outlives(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Everything):
        def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
            if isinstance(answer, BaseException):
                raise answer
            result: Attr = answer
            return result

        async def access(self, caller: Caller, node: int, mask: int) -> None:  # type: ignore[override]
            raise LookupError("what is this")

    async with mount(Wrong(), name="share") as client:
        assert await errno_of(client, getattr_request(client)) == errno.EIO
        assert await errno_of(client, client.start(Opcode.ACCESS, 1, bytes(8))) == errno.EIO
        assert client.session.faults == 2
        assert (await client.lookup(1, "file")).nodeid == FILE
    first, second = caplog.records
    assert first.getMessage().startswith("share: getattr failed: ")
    assert second.getMessage() == "share: access failed: LookupError: what is this"
    assert all(record.exc_info is not None for record in caplog.records)


async def test_a_faulty_file_system_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Filesystem[Any]):
        def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            raise ValueError("again")

    async with mount(Wrong()) as client:
        for _ in range(500):
            await errno_of(client, getattr_request(client))
        assert client.session.faults == 500
    assert len(caplog.records) == 60


async def test_answers_of_a_batch_are_flushed_once() -> None:
    filesystem = Waiting()
    async with mount(filesystem) as client:
        await asyncio.sleep(0)
        before = client.channel.flushes
        client.channel.hold()
        requests = [getattr_request(client) for _ in range(20)]
        client.channel.send()
        assert client.channel.flushes == before + 1
        filesystem.gate.set()
        for request in requests:
            await client.finish(request)
        assert client.channel.flushes == before + 2, "and those of tasks once an iteration of the loop"


async def test_an_answer_that_needs_no_waiting_is_there_when_its_batch_is_done() -> None:
    class Prompt(Filesystem[Any]):
        async def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            return Attr.directory(node)

    async with mount(Prompt()) as client:
        assert getattr_request(client).answer.done()
        assert client.session.running == 0


async def test_the_kernel_is_told_of_changes_by_its_own_numbers() -> None:
    filesystem = Everything()
    async with mount(filesystem, mount=2, minor=40) as client:
        session = filesystem.session
        assert session is not None
        assert session.minor == 40
        root = client.root
        file = (await client.lookup(root, "file")).nodeid
        session.invalidate_node(FILE, 4096, 10)
        session.invalidate_entry(1, "a")
        session.entry_deleted(1, FILE, "b")
        session.store(FILE, 8, b"data")
        words = [
            (code, [int.from_bytes(body[at : at + 8], "little") for at in range(0, 16, 8)], body[16:])
            for code, body in client.channel.notifications
        ]
        assert words == [
            (NotifyCode.INVAL_INODE, [file, 4096], (10).to_bytes(8, "little")),
            (NotifyCode.INVAL_ENTRY, [root, 1], b"a\0"),
            (NotifyCode.DELETE, [root, file], (1).to_bytes(8, "little") + b"b\0"),
            (NotifyCode.STORE, [file, 8], (4).to_bytes(8, "little") + b"data"),
        ]
        with pytest.raises(OSError, match=r"Errno 2\b"):
            session.invalidate_node(DIRECTORY)
        client.channel.notifies = False
        with pytest.raises(OSError, match=r"Errno 38\b"):
            session.invalidate_entry(1, "a")


async def test_two_sessions_of_a_process_know_nothing_of_each_other() -> None:
    one, two = Everything(), Everything()
    async with mount(one) as first, mount(two, mount=1) as second:
        await first.lookup(1, "file")
        with pytest.raises(OSError, match=r"Errno 116"):
            await second.getattr(1 << 48 | FILE)
        with pytest.raises(OSError, match=r"Errno 116"):
            await second.getattr(FILE)
        await first.getattr(FILE)
        assert [call[0] for call in two.calls] == []


async def test_the_end_waits_for_operations_that_ignore_their_cancellation(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vhostfs.session.session._PATIENCE_SECONDS", 0.001)
    caplog.set_level(logging.WARNING, "vhostfs")
    told = asyncio.Event()
    ended: list[str] = []

    class Stubborn(Waiting):
        async def getattr(self, caller: Caller, node: int, handle: str | None) -> Attr:
            while not told.is_set():
                try:
                    await told.wait()
                except asyncio.CancelledError:
                    if caplog.records:
                        told.set()
            return Attr.directory(node)

        def destroy(self) -> None:
            ended.append("destroy")

    async with mount(Stubborn()) as client:
        request = getattr_request(client)
        client.end()
        assert not ended
        await client.finish(request)
        await client.session.close()
        assert ended == ["destroy"]
    assert caplog.records[0].getMessage() == "test: 1 operations ignore that they were cancelled"


async def test_a_guest_that_only_opens_finds_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENFILE before the file system is asked; what is closed makes room again."""
    monkeypatch.setattr("vhostfs.session.nodes.HANDLE_LIMIT", 3)
    filesystem = Everything()
    async with mount(filesystem) as client:
        node = (await client.lookup(client.root, "file")).nodeid
        handles = [(await client.open_node(node)).fh for _ in range(3)]
        for ask in (
            client.open_node(node),
            client.opendir(client.root),
            client.create_at(client.root, "new"),
        ):
            with pytest.raises(OSError, match=rf"\[Errno {errno.ENFILE}\]"):
                await ask
        await client.release(node, handles.pop())
        handles.append((await client.open_node(node)).fh)
        for handle in handles:
            await client.release(node, handle)
