"""Serve a device over its socket: for the daemon, and for programs that serve file systems of their own."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskStatus

from vhostfs.backends.vfs import ROOT
from vhostfs.config.model import TAG_LIMIT, DeviceSettings, FilesystemSettings, PathSocket
from vhostfs.devices import make_device, offer
from vhostfs.listening import open_listener
from vhostfs.made_device import MadeDevice
from vhostfs.transports.vhost_user import serve_device
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import initialise_core

if TYPE_CHECKING:
    from vhostfs.filesystem import Filesystem, PathFilesystem

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve_made(
    listening: socket.socket, made: MadeDevice, offered: Offer, *, name: str, once: bool
) -> None:
    """Serve a device's front-ends as serve_device does, and its file systems in Python meanwhile."""
    made.start()
    try:
        await serve_device(listening, made.device, offered, name=name, once=once)
    finally:
        # The front-end is gone by now; what it left behind is finished even where the daemon ends.
        with anyio.CancelScope(shield=True):
            await made.end()


async def serve(
    filesystem: Filesystem[Any] | PathFilesystem[Any],
    socket_path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    request_queues: int = 1,
    once: bool = False,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a file system to virtual machines, on a vhost-user socket that is made and removed here.

    One front-end at a time, until cancelled; with `once`, until the first has gone. Nothing is sandboxed, and
    the program's signals stay its own: `vhostfs serve my.module:fs` does both. `tag` is what the guest mounts
    by where its front-end does not say. Several may be served at once, each a file system object of its own.
    In a task group of anyio, `await group.start(serve, filesystem, path)` returns when the socket listens.

    Raises StartError where the socket or the device cannot be made, ValueError for a tag that is none.
    Needs an event loop of asyncio.
    """
    # A daemon of native mounts, which needs serve_made alone, starts sooner without.
    from vhostfs.backends.contract import Given  # noqa: PLC0415

    given = Given(filesystem)
    if tag is not None and not (tag.isprintable() and 1 <= len(os.fsencode(tag)) <= TAG_LIMIT):
        raise ValueError(f"a tag has 1 to {TAG_LIMIT} bytes of printable text")
    settings = DeviceSettings(
        socket=PathSocket(PurePosixPath(Path.cwd() / socket_path)),
        mounts={ROOT: FilesystemSettings("python", given)},
        tag=tag,
        request_queues=request_queues,
    )
    initialise_core()
    listener = open_listener(settings.socket, os.environ)
    try:
        made = make_device(settings, None, {}, {ROOT: given.open()})
        try:
            task_status.started()
            await serve_made(listener.socket, made, offer(settings), name=settings.name, once=once)
        finally:
            made.close()
    finally:
        listener.close()


def run(
    filesystem: Filesystem[Any] | PathFilesystem[Any],
    socket_path: str | os.PathLike[str],
    *,
    tag: str | None = None,
    request_queues: int = 1,
    once: bool = False,
) -> None:
    """Serve as `serve` does, on an event loop of its own, until SIGTERM, SIGINT or SIGHUP.

    Call it in the main thread.
    """

    async def until_told() -> None:
        with anyio.open_signal_receiver(*END_SIGNALS) as signals:
            async with anyio.create_task_group() as group:

                async def end_on_signal() -> None:
                    async for _ in signals:
                        group.cancel_scope.cancel()
                        return

                group.start_soon(end_on_signal)
                await serve(filesystem, socket_path, tag=tag, request_queues=request_queues, once=once)
                group.cancel_scope.cancel()

    anyio.run(until_told)
