"""The vhost-user socket serves one front-end after the other, and none of them can hurt the next."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.unit.transports.fake_device import PATIENCE, FakeDevice, SocketFrontend
from tests.unit.vhost_user import frontend_script as script
from vhostfs.transports.vhost_user import serve_device
from vhostfs.vhost_user.messages import (
    NUMBER,
    VRING_STATE,
    FrontendRequest,
    LogArea,
    MemoryRegion,
    MemoryTable,
    Number,
    SingleRegion,
    VringState,
    build_request,
)
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import DeviceEvent, DeviceEventKind

pytestmark = pytest.mark.anyio
R = FrontendRequest
OFFER = Offer(queues=2, queue_limit=4)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    fake = FakeDevice(base=7)
    yield fake
    fake.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(path))
        made.listen()
        yield made


async def while_served(listener: socket.socket, device: FakeDevice, talk: Callable[[], None]) -> None:
    """Run `talk` in a thread while the device is served, and then stop serving."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:

            async def serve() -> None:
                await serve_device(listener, device, OFFER, name="share", once=False)

            group.start_soon(serve)
            try:
                await anyio.to_thread.run_sync(talk)
            finally:
                group.cancel_scope.cancel()


def gone(device: FakeDevice) -> None:
    """Wait until the device has been disconnected once more."""
    assert device.disconnected.acquire(timeout=PATIENCE)


def open_files() -> set[str]:
    return {f"{link.name} {link.readlink()}" for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


async def test_a_qemu_is_served_from_its_start_to_its_end(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.play(script.qemu_7_realize())
            frontend.play(script.qemu_7_start())
            frontend.settle()
            before = device.calls[:]
            assert VRING_STATE.parse(frontend.ask(R.GET_VRING_BASE, VringState(1, 0))) == VringState(1, 7)
            assert device.calls == [*before, ("stop_queue", 1)]
        gone(device)

    await while_served(listener, device, talk)
    names = device.names()
    assert names[-1] == "disconnect"
    assert [name for name in names if name not in ("set_queue_call", "set_queue_error")] == [
        "set_features",
        *["add_memory"] * 2,
        *["set_queue_size", "set_queue_base", "set_queue_addresses", "set_queue_kick"] * 2,
        *["enable_queue"] * 2,
        "stop_queue",
        "disconnect",
    ]
    assert ("set_features", 0x170000000) in device.calls
    assert ("set_queue_addresses", 1, 0, 0x7F0000010000, 0x7F0000012000, 0x7F0000011000, 0) in device.calls


@pytest.mark.parametrize("start", [script.uml_start, script.cloud_hypervisor_start, script.qemu_11_start])
async def test_a_conversation_leaves_no_descriptor_open(
    listener: socket.socket, device: FakeDevice, path: Path, start: Callable[[], list[script.Sent]]
) -> None:
    def talk() -> None:
        for _ in range(2):
            with SocketFrontend(path) as frontend:
                frontend.play([script.Sent(R.SET_BACKEND_REQ_FD, descriptors=1)] * 2)
                frontend.play(start())
                assert frontend.acknowledged(R.SET_LOG_BASE, LogArea(4096, 0), descriptors=1) == 0
                frontend.settle()
                # Half a message, with its descriptor, is the last that is heard.
                frontend.send(build_request(R.SET_VRING_CALL, Number(0))[:15], 1)
            gone(device)

    before = open_files()
    await while_served(listener, device, talk)
    assert {name for name in open_files() - before if "eventfd" in name} == set()


async def test_bytes_may_arrive_one_by_one(listener: socket.socket, device: FakeDevice, path: Path) -> None:
    def talk() -> None:
        with SocketFrontend(path) as frontend:
            message = build_request(R.ADD_MEM_REG, SingleRegion(script.LOW_MEMORY), need_reply=True)
            frontend.send(message[:1], 1)
            for byte in message[1:]:
                frontend.send(bytes([byte]))
            answered, body = frontend.receive()
            assert (answered, NUMBER.parse(body).value) == (R.ADD_MEM_REG, 0)

    await while_served(listener, device, talk)
    assert ("add_memory", 0) in device.calls


async def test_messages_may_arrive_all_at_once_with_their_descriptors_in_their_places(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.send(build_request(R.SET_OWNER) + build_request(R.GET_QUEUE_NUM))
            frontend.send(build_request(R.SET_VRING_CALL, Number(0)) + build_request(R.GET_QUEUE_NUM), 1)
            table = MemoryTable((script.LOW_MEMORY, script.HIGH_MEMORY))
            frontend.send(build_request(R.SET_MEM_TABLE, table, need_reply=True), 2)
            assert [frontend.receive()[0] for _ in range(3)] == [17, 17, 5]

    await while_served(listener, device, talk)
    assert ("replace_memory", 0, 0x100000) in device.calls


async def test_a_new_front_end_finds_the_device_clean(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    def talk() -> None:
        for _ in range(3):
            with SocketFrontend(path) as frontend:
                region = SingleRegion(script.LOW_MEMORY)
                assert frontend.acknowledged(R.ADD_MEM_REG, region, descriptors=1) == 0
            gone(device)

    await while_served(listener, device, talk)
    assert device.names() == ["add_memory", "disconnect"] * 3


async def test_the_next_front_end_waits_until_the_first_has_left(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    def talk() -> None:
        with SocketFrontend(path) as first, SocketFrontend(path) as second:
            second.send(build_request(R.SET_FEATURES, Number(0x140000000), need_reply=True))
            first.settle()
            assert device.calls == []
            first.socket.close()
            assert second.receive()[0] == R.SET_FEATURES
            assert device.names() == ["disconnect", "set_features"]

    await while_served(listener, device, talk)


async def test_once_returns_when_the_front_end_has_gone(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:

            def talk() -> None:
                with SocketFrontend(path) as frontend:
                    frontend.settle()

            group.start_soon(anyio.to_thread.run_sync, talk)
            await serve_device(listener, device, OFFER, name="share", once=True)
    assert device.names() == ["disconnect"]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ((struct.pack("=III", 1, 0x2, 0), 0), "a header with version 2 instead of 1"),
        ((struct.pack("=III", 2, 0x1, 2**31), 0), "SET_FEATURES announces 2147483648 bytes"),
        ((build_request(R.SET_FEATURES, Number(1 << 33)), 0), "features that were not offered: 0x200000000"),
        ((build_request(R.GET_QUEUE_NUM), 3), "GET_QUEUE_NUM: it came with 3 descriptors"),
        (
            (build_request(R.REM_MEM_REG, SingleRegion(MemoryRegion(0, 1, 0, 0))), 0),
            "no memory region 0x0+0x1",
        ),
        ((build_request(R.CHECK_DEVICE_STATE), 0), "not offered, and waits for a reply"),
    ],
)
async def test_a_breach_costs_that_connection_and_one_line_in_the_log(
    listener: socket.socket,
    device: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    message: tuple[bytes, int],
    sentence: str,
) -> None:
    path = Path(listener.getsockname())

    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.send(*message)
            assert frontend.hung_up()
        with SocketFrontend(path) as frontend:
            frontend.settle()

    await while_served(listener, device, talk)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("share: connection ended: ")
    assert sentence in lines[0]


async def test_what_the_device_refuses_is_an_error_acknowledgement_and_a_line_in_the_log(
    listener: socket.socket, device: FakeDevice, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError(14, "Bad address")

    device.obstacles["set_queue_addresses"] = fail

    def talk() -> None:
        with SocketFrontend(path) as frontend:
            message = script.addresses(1)
            assert frontend.acknowledged(message.request, message.payload) == 1
            frontend.settle()

    await while_served(listener, device, talk)
    assert "share: queue addresses set of ring 1 failed: Bad address" in caplog.text


async def test_a_fault_of_the_daemon_s_own_costs_one_connection(
    listener: socket.socket, device: FakeDevice, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> None:
        raise KeyError("nobody thought of this")

    device.obstacles["reset"] = fault

    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.send(build_request(R.RESET_DEVICE, need_reply=True))
            assert frontend.hung_up()
        gone(device)
        with SocketFrontend(path) as frontend:
            frontend.settle()

    await while_served(listener, device, talk)
    assert "nobody thought of this" in caplog.text


async def test_memory_that_vanishes_ends_the_connection(
    listener: socket.socket, device: FakeDevice, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.settle()
            device.tell(DeviceEvent(DeviceEventKind.QUEUE_BROKEN, 1, 22, "ring 1 is stopped: a loop"))
            device.tell(DeviceEvent(DeviceEventKind.MEMORY_GONE, None, None, "guest memory vanished"))
            assert frontend.hung_up()
        with SocketFrontend(path) as frontend:
            frontend.settle()

    await while_served(listener, device, talk)
    assert "share: ring 1 is stopped: a loop (Invalid argument)" in caplog.text
    assert "share: connection ended: guest memory vanished" in caplog.text


async def test_what_holds_up_the_end_of_a_connection_is_told_meanwhile(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "does not return" in record.getMessage():
                told.set()

    def obstacle() -> None:
        device.tell(DeviceEvent(DeviceEventKind.WARNING, 1, None, "a system call does not return"))
        assert told.wait(PATIENCE)

    device.obstacles["disconnect"] = obstacle

    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.settle()
        assert device.disconnected.acquire(timeout=PATIENCE)

    handler = Listener()
    logging.getLogger("vhostfs").addHandler(handler)
    try:
        await while_served(listener, device, talk)
    finally:
        logging.getLogger("vhostfs").removeHandler(handler)


async def test_one_device_s_wait_holds_up_no_other(
    listener: socket.socket, device: FakeDevice, path: Path, tmp_path: Path
) -> None:
    other = FakeDevice()
    other_path = tmp_path / "other"
    stopping, release = threading.Event(), threading.Event()

    def obstacle() -> None:
        stopping.set()
        assert release.wait(PATIENCE)

    device.obstacles["stop_queue"] = obstacle

    def talk() -> None:
        with SocketFrontend(path) as slow, SocketFrontend(other_path) as quick:
            slow.send(build_request(R.GET_VRING_BASE, VringState(0, 0)))
            assert stopping.wait(PATIENCE)
            quick.settle()
            assert device.calls == []
            release.set()
            assert slow.receive()[0] == R.GET_VRING_BASE

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other_listener:
        other_listener.bind(str(other_path))
        other_listener.listen()
        async with anyio.create_task_group() as group:

            async def serve_other() -> None:
                await serve_device(other_listener, other, OFFER, name="other", once=False)

            group.start_soon(serve_other)
            await while_served(listener, device, talk)
            group.cancel_scope.cancel()
    other.close()


async def test_a_front_end_that_never_pauses_holds_up_no_other(
    listener: socket.socket, device: FakeDevice, path: Path, tmp_path: Path
) -> None:
    enough = threading.Event()

    def talk() -> None:
        def flood() -> None:
            with SocketFrontend(path) as frontend:
                while not enough.is_set():
                    frontend.send(build_request(R.SET_OWNER) * 100)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            with SocketFrontend(tmp_path / "other") as quick:
                for _ in range(20):
                    quick.settle()
        finally:
            enough.set()
            flooding.join()

    other = FakeDevice()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other_listener:
        other_listener.bind(str(tmp_path / "other"))
        other_listener.listen()
        async with anyio.create_task_group() as group:

            async def serve_other() -> None:
                await serve_device(other_listener, other, OFFER, name="other", once=False)

            group.start_soon(serve_other)
            await while_served(listener, device, talk)
            group.cancel_scope.cancel()
    other.close()


async def test_a_front_end_that_reads_no_replies_can_still_leave(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.socket.setblocking(False)
            questions = build_request(R.GET_FEATURES) * 100
            with contextlib.suppress(BlockingIOError):
                while True:
                    frontend.socket.send(questions)
        gone(device)
        with SocketFrontend(path) as frontend:
            frontend.settle()

    await while_served(listener, device, talk)


async def test_cancellation_lets_what_runs_finish_and_cleans_the_device(
    listener: socket.socket, device: FakeDevice, path: Path
) -> None:
    stopping, release = threading.Event(), threading.Event()

    def obstacle() -> None:
        stopping.set()
        assert release.wait(PATIENCE)

    device.obstacles["stop_queue"] = obstacle
    with anyio.fail_after(PATIENCE), SocketFrontend(path) as frontend:
        async with anyio.create_task_group() as group:

            async def serve() -> None:
                await serve_device(listener, device, OFFER, name="share", once=False)

            group.start_soon(serve)
            frontend.send(build_request(R.GET_VRING_BASE, VringState(0, 0)))
            assert await anyio.to_thread.run_sync(stopping.wait, PATIENCE)
            group.cancel_scope.cancel()
            release.set()
        assert device.names() == ["stop_queue", "disconnect"]


async def test_descriptors_that_do_not_fit_end_the_connection(
    listener: socket.socket, device: FakeDevice, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def talk() -> None:
        with SocketFrontend(path) as frontend:
            frontend.settle()
            files = [os.eventfd(0) for _ in range(8)]
            table = MemoryTable(tuple(MemoryRegion(slot << 20, 1 << 20, 0, 0) for slot in range(8)))
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(files) + 3, hard))
                socket.send_fds(frontend.socket, [build_request(R.SET_MEM_TABLE, table)], files)
                assert frontend.hung_up()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for file in files:
                    os.close(file)
        with SocketFrontend(path) as frontend:
            frontend.settle()

    before = open_files()
    await while_served(listener, device, talk)
    assert "descriptors were lost" in caplog.text
    assert {name for name in open_files() - before if "eventfd" in name} == set()
