"""A file system's own commands reach it by the control socket, and nobody who is silent is in their way."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import anyio.to_thread
import pytest

from vhostfs.backends.contract import Given
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.config.model import DeviceSettings, FilesystemSettings, PathSocket
from vhostfs.control import client, messages, server
from vhostfs.devices import make_device
from vhostfs.errors import StartError
from vhostfs.filesystem import Command, Filesystem, Order, Progress
from vhostfs.filesystem.commands import Value
from vhostfs.filesystem.wrapper import Wrapper
from vhostfs.virtqueue import initialise_core

pytestmark = pytest.mark.anyio


class Commanded(Filesystem[None]):
    """Counts, waits, and reads what it is given."""

    def __init__(self) -> None:
        self.waiting = anyio.Event()
        self.cancelled = anyio.Event()
        self.go_on = anyio.Event()

    def commands(self) -> Mapping[str, Command]:
        return {"count": self._count, "wait": self._wait, "read": self._read, "fail": self._fail}

    async def _count(self, order: Order) -> Value:
        total = int(order.arguments["to"])
        for number in range(total):
            order.report(Progress("counted", number + 1, total))
        await self.go_on.wait()
        return {"counted": total}

    async def _wait(self, order: Order) -> Value:
        self.waiting.set()
        try:
            await anyio.Event().wait()
        finally:
            self.cancelled.set()
        return None

    async def _read(self, order: Order) -> Value:
        return os.read(order.descriptors[0], 100).decode()

    async def _fail(self, order: Order) -> Value:
        raise OSError(errno.EBUSY, "that is not to be had")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def filesystem() -> Commanded:
    return Commanded()


@pytest.fixture
async def control(tmp_path: Path, filesystem: Commanded) -> AsyncIterator[Path]:
    """The control socket of a device with the file system, under a layer, and with another one."""
    mounts: dict[str, Filesystem[Any]] = {
        "/": MemoryFilesystem(size=1 << 20, inodes=9),
        "/told": Wrapper(filesystem),
    }
    settings = DeviceSettings(
        PathSocket(PurePosixPath(tmp_path / "socket")),
        {PurePosixPath(place): FilesystemSettings("python", Given(each)) for place, each in mounts.items()},
        tag="tag",
    )
    initialise_core()
    made = make_device(settings, None, {}, {PurePosixPath(place): each for place, each in mounts.items()})
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(64)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve_control, listener, server.Control({"tag": made}, network=True))
            yield path
            group.cancel_scope.cancel()
    made.close()


async def told(control: Path, name: str, **how: Any) -> Any:
    """What a command answers, asked for by a thread as by a program."""
    return await anyio.to_thread.run_sync(partial(client.tell, control, name, **how), abandon_on_cancel=True)


async def test_a_command_says_how_far_it_is_and_then_what_it_answers(
    control: Path, filesystem: Commanded
) -> None:
    """Of a command that takes its time, the latest of what it has said."""
    seen: list[messages.ProgressLine] = []

    def note(line: messages.ProgressLine) -> None:
        seen.append(line)
        anyio.from_thread.run_sync(filesystem.go_on.set)

    assert await told(control, "count", arguments={"to": "5"}, progress=note) == {"counted": 5}
    assert seen[-1] == messages.ProgressLine(what="counted", done=5, total=5)


async def test_open_files_come_with_a_command(control: Path, tmp_path: Path) -> None:
    """The daemon, which sees no file, reads them all the same."""
    (tmp_path / "file").write_text("of the one who asks")
    with (tmp_path / "file").open("rb") as file:
        assert await told(control, "read", descriptors=[file.fileno()]) == "of the one who asks"


@pytest.mark.parametrize(
    ("name", "how", "sentence"),
    [
        ("fail", {}, "that is not to be had"),
        ("unknown", {}, "no mount that could be meant knows the command unknown"),
        ("fail", {"place": "/"}, "no mount that could be meant knows the command fail"),
        ("fail", {"place": "/none"}, "there is no mount of a file system in Python at /none"),
        ("fail", {"device": "other"}, "there is no device other"),
        ("count", {}, "the daemon met a fault"),
    ],
)
async def test_what_cannot_be_done_is_told(
    control: Path, name: str, how: dict[str, str], sentence: str
) -> None:
    """In a sentence, and the next command is answered."""
    with pytest.raises(StartError, match=sentence):
        await told(control, name, **how)
    assert await anyio.to_thread.run_sync(client.list_mounts, control)


async def test_who_waits_no_longer_ends_the_command(control: Path, filesystem: Commanded) -> None:
    """And no other."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(control))
        connection.sendall(messages.encode(messages.Tell(name="wait")))
        await filesystem.waiting.wait()
    with anyio.fail_after(30):
        await filesystem.cancelled.wait()


async def test_many_who_say_nothing_delay_nobody(control: Path, filesystem: Commanded) -> None:
    """Nor does a command that takes long."""
    with ExitStack() as stack:
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        waiting.connect(str(control))
        waiting.sendall(messages.encode(messages.Tell(name="wait")))
        await filesystem.waiting.wait()
        for _ in range(2 * server.CONNECTIONS_MAXIMUM):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            silent.connect(str(control))
        with anyio.fail_after(server.PATIENCE / 2):
            lines = await anyio.to_thread.run_sync(client.list_mounts, control)
        assert [line.place for line in lines] == ["/", "/told"]
        assert not filesystem.cancelled.is_set()


async def test_more_commands_than_can_be_are_refused(control: Path, filesystem: Commanded) -> None:
    """At once, and in a sentence."""
    with ExitStack() as stack:
        for _ in range(server.REQUESTS_MAXIMUM):
            filesystem.waiting = anyio.Event()
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.connect(str(control))
            waiting.sendall(messages.encode(messages.Tell(name="wait")))
            await filesystem.waiting.wait()
        with pytest.raises(StartError, match="too many other requests"):
            await anyio.to_thread.run_sync(client.list_mounts, control)
