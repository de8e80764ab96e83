"""A device that ends does so whole, whoever loses patience meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path, PurePosixPath

import pytest

from vhostfs.backends.contract import Given
from vhostfs.config.model import DeviceSettings, FilesystemSettings, PathSocket
from vhostfs.control import messages, server
from vhostfs.devices import make_device
from vhostfs.filesystem import Attr, Caller, Filesystem, Options
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION
from vhostfs.made_device import MadeDevice, PythonMount
from vhostfs.sandbox import PROC_SELF_FD
from vhostfs.session.channel import RECORD, RecordKind
from vhostfs.session.session import State
from vhostfs.virtqueue import initialise_core

pytestmark = pytest.mark.anyio

ROOT, BELOW = PurePosixPath("/"), PurePosixPath("/below")
BEGIN = memoryview(RECORD.pack(0, RecordKind.BEGIN, 0, KERNEL_MINOR_VERSION, 0))


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop that sessions run on."""
    return "asyncio"


class Slow(Filesystem[None]):
    """Ends when it may."""

    options = Options()

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.may_end = asyncio.Event()
        self.ended = False

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        return Attr.directory(node)

    async def destroy(self) -> None:
        self.ending.set()
        await self.may_end.wait()
        self.ended = True


@pytest.fixture
def slow() -> tuple[Slow, Slow]:
    """Return two file systems that are mounted."""
    return Slow(), Slow()


@pytest.fixture
async def made(slow: tuple[Slow, Slow]) -> AsyncIterator[MadeDevice]:
    """Provide a device whose file systems have begun."""
    initialise_core()
    places = dict(zip((ROOT, BELOW), slow, strict=True))
    settings = DeviceSettings(
        PathSocket(PurePosixPath("/run/none")),
        {place: FilesystemSettings("python", Given(each)) for place, each in places.items()},
    )
    made = make_device(settings, None, {}, {place: Given(each).open() for place, each in places.items()})
    proc_self = os.open(PROC_SELF_FD, os.O_PATH)
    made.let_grow(proc_self)
    os.close(proc_self)
    made.start()
    for mount in made.bridged.values():
        mount.session.receive(BEGIN)
        assert mount.session.state is State.SERVING
    yield made
    made.close()


async def is_cancelled_at_last(
    work: Awaitable[None], slow: Slow, others: Callable[[], None] = lambda: None
) -> None:
    """Cancel some work twice while a file system ends; it must go on, and be cancelled when that is done."""
    task = asyncio.ensure_future(work)
    await slow.ending.wait()
    for _ in range(2):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
    others()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_end_that_is_cancelled_is_an_end_of_all_mounts(
    made: MadeDevice, slow: tuple[Slow, Slow]
) -> None:
    await is_cancelled_at_last(made.end(), slow[0], slow[1].may_end.set)
    assert [each.ended for each in slow] == [True, True]
    assert [mount.session.state for mount in made.bridged.values()] == [State.IDLE, State.IDLE]


async def test_a_removal_that_is_cancelled_removes(made: MadeDevice, slow: tuple[Slow, Slow]) -> None:
    await is_cancelled_at_last(made.remove(BELOW), slow[1])
    assert slow[1].ended
    assert [each.place for each in made.mounts()] == [ROOT]
    slow[0].may_end.set()
    await made.end()


async def test_a_mount_is_added_whole_though_who_asked_for_it_is_sent_away(
    made: MadeDevice, slow: tuple[Slow, Slow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, go_on = asyncio.Event(), asyncio.Event()
    closed: list[object] = []
    add = made.add

    async def add_slowly(place: PurePosixPath, mount: PythonMount) -> None:
        await add(place, mount)
        added.set()
        await go_on.wait()

    monkeypatch.setattr(made, "add", add_slowly)
    monkeypatch.setattr(server, "close_quietly", closed.append)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as asking,
    ):
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        asking.connect(str(tmp_path / "control"))
        asking.sendall(messages.encode(messages.Add(place="/new", mount="type: memory")))
        serving = asyncio.ensure_future(server.serve_control(listener, server.Control({"": made}, True)))
        await added.wait()
        serving.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not serving.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert PurePosixPath("/new") in made.bridged
    assert closed == []
    for each in slow:
        each.may_end.set()
    await made.end()
