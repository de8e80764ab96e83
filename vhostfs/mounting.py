"""File systems mounted on this host, through /dev/fuse: `vhostfs mount`, and the same for programs.

    vhostfs.mount(MyFilesystem(), "/mnt")              # until it is unmounted, or a signal ends it

    async with mounted(MyFilesystem(), "/mnt") as mount:
        await mount.wait()                             # the same on an event loop of the program's own

A directory in place of the file system is served as it is, by the data plane alone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import anyio
import anyio.to_thread

from vhostfs import logs
from vhostfs.backends.contract import Backend, Given, needs_network
from vhostfs.backends.named import NamedSettings
from vhostfs.backends.vfs import ROOT
from vhostfs.config import schema
from vhostfs.config.model import (
    Configuration,
    DeviceSettings,
    FilesystemSettings,
    LogDestination,
    LogSettings,
    MountSettings,
    PassthroughSettings,
    PathSocket,
    SocketSettings,
)
from vhostfs.daemon import import_for_control, keep_controlled, raise_descriptor_limit
from vhostfs.devices import descriptor_budgets, make_device, open_filesystems
from vhostfs.endings import ended
from vhostfs.errors import ConfigurationError, StartError
from vhostfs.filesystem import Filesystem, PathFilesystem
from vhostfs.listening import open_listener
from vhostfs.made_device import MadeDevice
from vhostfs.sandbox import PROC_SELF_FD, Sandbox
from vhostfs.serving import END_SIGNALS, end_on_signal
from vhostfs.transports.fuse_device import (
    BACKING_FLAGS,
    TRANSPORT_FLAGS,
    MountOptions,
    connect,
    serve_connection,
    usable_mountpoint,
)
from vhostfs.transports.journal import Journal
from vhostfs.virtqueue import initialise_core

Source = str | os.PathLike[str] | Filesystem[Any] | PathFilesystem[Any] | Backend | MountSettings
"""What can be mounted: a directory of the host, a file system, or the settings of one."""

Sources = Source | Mapping[str, Source]
"""Or a tree of these, by absolute path; without a "/" the root has nothing but the way to the others."""

MOST_THREADS: Final = 4
"""Threads that read requests where nothing is said, and not one loop does: one a processor, up to this."""

READ_AHEAD: Final = 512 << 10
"""How far ahead the kernel reads what comes from the network: in requests four times as large as else."""


class Mount:
    """A file system that is mounted."""

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint: Final = mountpoint
        self._ended = anyio.Event()

    @property
    def ended(self) -> bool:
        """Tell whether it is mounted no longer."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Return when it is mounted no longer, whoever has unmounted it."""
        await self._ended.wait()

    def _end(self) -> None:
        self._ended.set()


@asynccontextmanager
async def mounted(
    source: Sources,
    mountpoint: str | os.PathLike[str],
    options: MountOptions | None = None,
    *,
    threads: int | None = None,
    control: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Mount]:
    """Mount a file system, or a directory of the host, while the block runs; serve it on this event loop.

    At its end the file system is unmounted, also where files of it are open, and has been destroyed. What
    runs on this loop must not wait for the mount: reading a file of it there would wait for ever. Raise
    StartError where this host does not let it be mounted, with what can be done. Runs on asyncio.
    `control` is where a socket is made that `vhostfs mounts list` and the like ask.
    """
    wanted = MountOptions() if options is None else options
    settings = _device_settings(_mounts(source, wanted), mountpoint)
    asked_at = None if control is None else PathSocket(PurePosixPath(Path.cwd() / control))
    async with _mounted(settings, Path(mountpoint), wanted, threads, asked_at) as made:
        yield made


@asynccontextmanager
async def _mounted(
    settings: DeviceSettings,
    mountpoint: Path,
    options: MountOptions,
    threads: int | None,
    control: SocketSettings | None,
) -> AsyncIterator[Mount]:
    async with AsyncExitStack() as cleanup:
        place = await anyio.to_thread.run_sync(usable_mountpoint, mountpoint)
        _refuse_inside(settings, place)
        # Opened before there is a mount, which may cover it.
        made = _make_device(settings)
        cleanup.callback(made.close)
        if control is not None:
            listener = open_listener(control, os.environ)
            cleanup.callback(listener.close)
            import_for_control()
        made.start()
        cleanup.push_async_callback(made.end)
        if control is not None:
            asked = keep_controlled(listener, {settings.name: made}, network=True, grows=False)
            controlling = asyncio.get_running_loop().create_task(asked)
            cleanup.push_async_callback(_cancelled, controlling)
        connection = await anyio.to_thread.run_sync(connect, place, options)
        mount = Mount(place)
        journal = Journal(logging.getLogger("vhostfs.transports.fuse_device"), str(place))

        scope = anyio.CancelScope()

        async def serve() -> None:
            try:
                read = _reader(made) if threads is None and not _shares(settings) else None
                count = 0 if read is not None else (threads or _threads())
                with scope:
                    await serve_connection(
                        made.device,
                        connection,
                        threads=count,
                        journal=journal,
                        read=read,
                        read_ahead=READ_AHEAD if _is_far(settings) else None,
                    )
            finally:
                mount._end()

        serving = asyncio.get_running_loop().create_task(serve())
        try:
            yield mount
        finally:
            # By its scope: asyncio's cancel would not leave a thread of the end's to finish first.
            scope.cancel()
            await ended(serving)
        serving.result()


def _is_far(settings: DeviceSettings) -> bool:
    """Tell whether files come from the network."""
    return any(isinstance(each, FilesystemSettings) and each.network for each in settings.mounts.values())


async def _cancelled(task: asyncio.Task[None]) -> None:
    """End a task, and wait until it has ended."""
    task.cancel()
    await ended(task)


def _reader(made: MadeDevice) -> Callable[[], Callable[[], None]] | None:
    """Return how this loop can read requests by itself: where all are for one file system in Python."""
    if list(made.bridged) != [ROOT]:
        return None
    return made.bridged[ROOT].handoff.read_fuse


def mount(
    source: Sources,
    mountpoint: str | os.PathLike[str],
    options: MountOptions | None = None,
    *,
    threads: int | None = None,
    control: str | os.PathLike[str] | None = None,
) -> None:
    """Mount as `mounted` does, and return when it is mounted no longer, as by SIGTERM, SIGINT or SIGHUP.

    A second signal ends the process at once. For the main thread alone, as signals are.
    """
    wanted = MountOptions() if options is None else options
    settings = _device_settings(_mounts(source, wanted), mountpoint)
    asked_at = None if control is None else PathSocket(PurePosixPath(Path.cwd() / control))
    _mount_until_told(settings, Path(mountpoint), wanted, threads, asked_at, lambda: None)


def _mount_until_told(
    settings: DeviceSettings,
    mountpoint: Path,
    options: MountOptions,
    threads: int | None,
    control: SocketSettings | None,
    ready: Callable[[], None],
) -> None:
    async def run() -> None:
        with anyio.open_signal_receiver(*END_SIGNALS) as signals:
            async with _mounted(settings, mountpoint, options, threads, control) as made:
                ready()
                async with anyio.create_task_group() as group:
                    group.start_soon(end_on_signal, signals, group.cancel_scope)
                    await made.wait()
                    group.cancel_scope.cancel()

    anyio.run(run)


# ---- What is mounted ----


def shared_directory(directory: str | os.PathLike[str], options: MountOptions) -> PassthroughSettings:
    """Return how a directory is served where nothing more is said: with extended attributes."""
    return PassthroughSettings(
        PurePosixPath(Path(directory).resolve()),
        xattr=True,
        # Else the kernel asks for an attribute before each write. It may show the bits for a while after
        # they have gone, which is harmless where they do not count.
        killpriv_v2="nosuid" in options.flags,
        announce_submounts=False,
        read_only=options.read_only,
    )


def _mount_settings(source: Source, options: MountOptions) -> MountSettings:
    if isinstance(source, Filesystem | PathFilesystem):
        return FilesystemSettings("python", Given(source))
    if isinstance(source, Backend):
        return FilesystemSettings("python", source, needs_network(source))
    if isinstance(source, str | os.PathLike):
        return shared_directory(source, options)
    return source


def _mounts(source: Sources, options: MountOptions) -> dict[PurePosixPath, MountSettings]:
    if not isinstance(source, Mapping):
        return {ROOT: _mount_settings(source, options)}
    return {PurePosixPath(place): _mount_settings(each, options) for place, each in source.items()}


def _device_settings(
    mounts: dict[PurePosixPath, MountSettings], mountpoint: str | os.PathLike[str]
) -> DeviceSettings:
    # It is the mountpoint that a device's lines in the log go by.
    return DeviceSettings(PathSocket(PurePosixPath(Path(mountpoint).absolute())), mounts)


def _found(
    text: str, mountpoint: Path, options: MountOptions
) -> tuple[DeviceSettings, SocketSettings | None]:
    """Return what a command line means: a directory, a configuration file, or MODULE:NAME.

    A configuration may name a control socket, too. Raise StartError or ConfigurationError where it is none
    of these.
    """
    path = Path(text)
    if path.is_dir():
        return _device_settings({ROOT: shared_directory(path, options)}, mountpoint), None
    if path.exists():
        device, control = _one_device(path)
        made = _device_settings(device.mounts, mountpoint)
        return replace(made, pool_threads=device.pool_threads, io_uring=device.io_uring), control
    if ":" not in text or "/" in text:
        raise StartError(f"{text}: there is no such directory or file")
    # As `python -m` does; the installed command begins with its own directory instead.
    sys.path.insert(0, str(Path.cwd()))
    try:
        named = NamedSettings(text)
    except ValueError as error:
        raise StartError(str(error)) from None
    return _device_settings({ROOT: FilesystemSettings("python", named)}, mountpoint), None


def _one_device(path: Path) -> tuple[DeviceSettings, SocketSettings | None]:
    configuration = schema.load(path)
    if len(configuration.devices) > 1:
        names = ", ".join(configuration.device_names())
        raise ConfigurationError(f"{path}: one device can be mounted, and there are several: {names}")
    return configuration.devices[0], configuration.control


def _shares(settings: DeviceSettings) -> list[PurePosixPath]:
    return [each.shared_dir for each in settings.mounts.values() if isinstance(each, PassthroughSettings)]


def _refuse_inside(settings: DeviceSettings, place: Path) -> None:
    """Refuse to be mounted within what is served: walking through it, the daemon would wait for itself."""
    for share in _shares(settings):
        if Path(share) in place.parents:
            raise StartError(f"{place} lies in {share}, which would contain itself")


# ---- Devices ----


def _make_device(settings: DeviceSettings) -> MadeDevice:
    initialise_core()
    budgets = descriptor_budgets(Configuration((settings,)), raise_descriptor_limit(None))
    filesystems = open_filesystems(settings)
    flags = TRANSPORT_FLAGS | BACKING_FLAGS if _shares(settings) else TRANSPORT_FLAGS
    with _opened_shares(settings) as host:
        return make_device(settings, host, budgets, filesystems, transport_flags=flags)


@contextmanager
def _opened_shares(settings: DeviceSettings) -> Iterator[Sandbox]:
    """Open the directories that the data plane serves, which has duplicates, with nothing locked in."""
    with ExitStack() as opened:

        def open_directory(path: PurePosixPath) -> int:
            try:
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise StartError(f"{path} cannot be served: {error.strerror}") from None
            opened.callback(os.close, descriptor)
            return descriptor

        proc_self = open_directory(PROC_SELF_FD)
        yield Sandbox({share: open_directory(share) for share in _shares(settings)}, proc_self)


def _threads() -> int:
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


# ---- The command ----


def run(text: str, mountpoint: Path, options: MountOptions, *, threads: int | None, foreground: bool) -> int:
    """Mount what a command line says; return the exit status, when it ends or, in the background, serves.

    What is in memory when it serves stays there: collections of garbage need not look at it (gc.freeze).
    """
    if foreground:
        logs.set_up(LogSettings())
        found, control = _found(text, mountpoint, options)
        _mount_until_told(found, mountpoint, options, threads, control, gc.freeze)
        return 0
    waiting, telling = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(telling)
        if os.read(waiting, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(waiting)
    os.setsid()

    def leave() -> None:
        gc.freeze()
        logs.set_up(LogSettings(destination=LogDestination.SYSLOG))
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.close(null)
        os.write(telling, b"1")
        os.close(telling)

    logs.set_up(LogSettings())
    found, control = _found(text, mountpoint, options)
    _mount_until_told(found, mountpoint, options, threads, control, leave)
    return 0
