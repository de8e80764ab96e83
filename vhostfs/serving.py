"""Serve a device over its socket: for the daemon, and for programs that serve file systems of their own."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskStatus

from vhostfs.backends.vfs import ROOT
from vhostfs.config.model import TAG_LIMIT, DeviceSettings, FilesystemSettings, PathSocket
from vhostfs.devices import make_device, offer
from vhostfs.listening import open_listener
from vhostfs.made_device import MadeDevice, PythonMount
from vhostfs.transports.vhost_user import serve_device
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import initialise_core

if TYPE_CHECKING:
    from vhostfs.filesystem import Filesystem, PathFilesystem

    type Mountable = Filesystem[Any] | PathFilesystem[Any]
    type Place = str | os.PathLike[str]

logger = logging.getLogger(__name__)

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def end_on_signal(signals: AsyncIterable[signal.Signals], serving: anyio.CancelScope) -> None:
    """Cancel what serves when the first of the signals comes; another one ends the process at once."""
    async for number in signals:
        logger.info("ending: %s", number.name)
        serving.cancel()
        for each in END_SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        return


class Mounts:
    """The mounts of a device that `serve` serves; more may come, and they may go, while a guest works."""

    def __init__(self, made: MadeDevice) -> None:
        self._made = made

    @property
    def places(self) -> tuple[PurePosixPath, ...]:
        """Return where something is mounted."""
        return tuple(mount.place for mount in self._made.mounts())

    async def add(self, place: Place, filesystem: Mountable) -> None:
        """Mount at an absolute path; a guest finds it at its next lookup that reaches this process.

        Raise OSError: EBUSY where a mount is there, EINVAL for what is no absolute path and for a file system
        that cannot keep what the others have promised the guest, ENOSPC, ENAMETOOLONG; ESHUTDOWN before
        `serve` serves and after.
        """
        from vhostfs.backends.contract import Given  # noqa: PLC0415

        opened = Given(filesystem).open()
        await self._made.add(PurePosixPath(place), PythonMount("python", opened))

    async def remove(self, place: Place) -> None:
        """Take a mount away at once, as `umount -l` does; its file system has ended then, and is closed.

        Raise OSError: ENOENT where there is none, EBUSY for "/" and where others lie below.
        """
        await self._made.remove(PurePosixPath(place))


async def serve_made(
    listening: socket.socket, made: MadeDevice, offered: Offer, *, name: str, once: bool
) -> None:
    """Serve the front-ends of a device that was started as serve_device does; then end it."""
    try:
        await serve_device(listening, made.device, offered, name=name, once=once)
    finally:
        # The front-end is gone by now; what it left behind is finished even where the daemon ends.
        await made.end()


async def serve(
    filesystem: Mountable | Mapping[str, Mountable],
    socket_path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    request_queues: int = 1,
    once: bool = False,
    task_status: TaskStatus[Mounts] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a file system to virtual machines, on a vhost-user socket that is made and removed here.

    In place of one file system, a mapping has several by the absolute paths at which they are mounted. One
    front-end at a time, until cancelled; with `once`, until the first has gone. Nothing is sandboxed, and the
    program's signals stay its own: `vhostfs serve my.module:fs` does both. `tag` is what the guest mounts by
    where its front-end does not say. Several devices may be served at once, each file system an object of its
    own.
    In a task group of anyio, `await group.start(serve, filesystem, path)` returns when the socket listens:
    with the device's Mounts, which may come and go from then on.

    Raises StartError where the socket or the device cannot be made, ValueError for a tag that is none and for
    a mapping without file systems.
    Needs an event loop of asyncio.
    """
    # A daemon of native mounts, which needs serve_made alone, starts sooner without.
    from vhostfs.backends.contract import Given  # noqa: PLC0415

    several = filesystem if isinstance(filesystem, Mapping) else {str(ROOT): filesystem}
    given = {PurePosixPath(place): Given(each) for place, each in several.items()}
    if not given:
        raise ValueError("there is nothing to serve")
    if tag is not None and not (tag.isprintable() and 1 <= len(os.fsencode(tag)) <= TAG_LIMIT):
        raise ValueError(f"a tag has 1 to {TAG_LIMIT} bytes of printable text")
    settings = DeviceSettings(
        socket=PathSocket(PurePosixPath(Path.cwd() / socket_path)),
        mounts={place: FilesystemSettings("python", each) for place, each in given.items()},
        tag=tag,
        request_queues=request_queues,
    )
    initialise_core()
    listener = open_listener(settings.socket, os.environ)
    try:
        made = make_device(settings, None, {}, {place: each.open() for place, each in given.items()})
        try:
            made.start()
            task_status.started(Mounts(made))
            await serve_made(listener.socket, made, offer(settings), name=settings.name, once=once)
        finally:
            made.close()
    finally:
        listener.close()


def run(
    filesystem: Mountable | Mapping[str, Mountable],
    socket_path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    request_queues: int = 1,
    once: bool = False,
) -> None:
    """Serve as `serve` does, on an event loop of its own, until SIGTERM, SIGINT or SIGHUP.

    A second signal ends the process at once. Call it in the main thread.
    """

    async def until_told() -> None:
        with anyio.open_signal_receiver(*END_SIGNALS) as signals:
            async with anyio.create_task_group() as group:
                group.start_soon(end_on_signal, signals, group.cancel_scope)
                await serve(filesystem, socket_path, tag=tag, request_queues=request_queues, once=once)
                group.cancel_scope.cancel()

    anyio.run(until_told)
