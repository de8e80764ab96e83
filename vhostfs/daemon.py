"""The life of a daemon: sockets, sandbox, devices; then serving until it is told to end.

The order matters. Sockets are made, file systems in Python are opened, and everything is imported while the
host's files are in sight. The sandbox comes next, before there is a second thread. Then devices are made from
descriptors alone, and only then is anybody told that they can connect.
"""

from __future__ import annotations

import codecs
import gc
import importlib
import logging
import os
import resource
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from vhostfs import logs
from vhostfs.config.model import Configuration, PathSocket, SandboxMode, idle_settings
from vhostfs.devices import descriptor_budgets, make_device, offer, open_filesystems
from vhostfs.errors import ConfigurationError, StartError
from vhostfs.listening import Listener, forget_passed_sockets, open_listener
from vhostfs.made_device import MadeDevice
from vhostfs.sandbox import Sandbox, enter
from vhostfs.serving import END_SIGNALS, end_on_signal, serve_made
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import initialise_core

logger = logging.getLogger(__name__)

READY: Final = "Waiting for vhost-user socket connection..."
"""Launchers look for this text on stderr: Kata's runtime-rs."""

DESCRIPTORS_WANTED: Final = 1_000_000
"""How many open descriptors a daemon asks for: virtiofsd's number."""

IMPORTED_ON_FIRST_USE: Final = ("anyio._backends._asyncio", "traceback", "linecache", "tokenize")
NEEDED_BY_FILESYSTEMS: Final = ("concurrent.futures.thread", "vhostfs.session", "vhostfs.virtqueue.handoff")
CODECS_FOUND_ON_FIRST_USE: Final = ("ascii", "latin-1", "unicode_escape", "utf-8")


@dataclass(frozen=True, slots=True)
class _Served:
    """One device, ready for front-ends."""

    name: str
    listener: Listener
    made: MadeDevice
    offer: Offer


def run(configuration: Configuration, notices: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Serve until a signal ends it or, with `once`, until the front-ends have gone; return the exit status.

    SIGTERM, SIGINT and SIGHUP answer what guests have under way, then end with status 0; a second signal ends
    at once. A device that fails by itself is logged and leaves the others running; the status is 1 then.
    Raise StartError, before anybody could connect, where the host does not let it start.
    """
    _fill_standard_streams()
    logs.set_up(configuration.log)
    for sentence in (*notices, *idle_settings(configuration)):
        logger.warning("%s", sentence)
    budgets = descriptor_budgets(configuration, raise_descriptor_limit(configuration.rlimit_nofile))
    _import_everything()
    with ExitStack() as cleanup:
        listeners = [
            _opened(open_listener(device.socket, environment), cleanup) for device in configuration.devices
        ]
        forget_passed_sockets(environment)
        filesystems = [open_filesystems(device) for device in configuration.devices]
        if any(filesystems):
            import_for_filesystems()
        control = None
        if configuration.control is not None:
            control = _opened(open_listener(configuration.control, environment), cleanup)
            import_for_control()
        sockets = [*(device.socket for device in configuration.devices), configuration.control]
        directories = {
            listener.directory: each.path.parent
            for each, listener in zip(sockets, [*listeners, control], strict=True)
            if isinstance(each, PathSocket) and listener is not None and listener.directory is not None
        }
        sandbox = enter(
            configuration.sandbox,
            configuration.shared_directories(),
            directories,
            network=configuration.network,
        )
        initialise_core()
        served = []
        for settings, name, listener, opened in zip(
            configuration.devices, configuration.device_names(), listeners, filesystems, strict=True
        ):
            made = make_device(settings, sandbox, budgets, opened, growing=control is not None)
            cleanup.callback(made.close)
            served.append(_Served(name, listener, made, offer(settings)))
        _close(sandbox)
        controlling = None
        if control is not None:
            devices = {each.name: each.made for each in served}
            controlling = partial(keep_controlled, control, devices, network=in_reach(configuration))
        gc.freeze()  # it stays: collections of garbage, for which all wait, need not look at it
        return anyio.run(
            _serve_all,
            served,
            configuration.once,
            lambda: logs.announce(configuration.log, READY),
            controlling,
        )


def raise_descriptor_limit(wanted: int | None) -> int:
    """Set how many descriptors the process may open, and return the number.

    None takes what is allowed, up to 1,000,000; 0 leaves the limit. Raise StartError where a number that was
    asked for is not allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = int(Path("/proc/sys/fs/nr_open").read_text())
    if wanted == 0:
        return soft
    limit = max(soft, min(hard, DESCRIPTORS_WANTED)) if wanted is None else wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
    except (OSError, ValueError) as error:
        raise StartError(f"{limit} open descriptors are not allowed: {error}") from None
    return limit


def _fill_standard_streams() -> None:
    """Open those of the descriptors 0 to 2 that are closed, lest another file be written to as stderr."""
    null = os.open("/dev/null", os.O_RDWR)
    while null < 3:
        os.set_inheritable(null, True)
        null = os.open("/dev/null", os.O_RDWR)
    os.close(null)


def _import_everything() -> None:
    """Import what libraries leave until it is needed, which is when a sandbox hides the files."""
    for module in IMPORTED_ON_FIRST_USE:
        importlib.import_module(module)
    for library in (anyio, anyio.lowlevel, anyio.to_thread):
        for name in dir(library):
            getattr(library, name)
    for codec in CODECS_FOUND_ON_FIRST_USE:
        codecs.lookup(codec)


def import_for_filesystems() -> None:
    """Import what file systems in Python need only when they are asked for something."""
    for module in NEEDED_BY_FILESYSTEMS:
        importlib.import_module(module)


def import_for_control() -> None:
    """Import all that mounts need which are added when no file is in sight any more."""
    import_for_filesystems()
    from vhostfs.backends import catalogue  # noqa: PLC0415
    from vhostfs.config.schema import parse_mount  # noqa: PLC0415

    importlib.import_module("vhostfs.control.server")
    catalogue.load_all()
    for text in ("type: memory", "type: memory\nsize: wrong\nunknown: 1", "type: unknown"):
        # pydantic leaves much until it is first used.
        with suppress(ConfigurationError):
            parse_mount(text, "")


def in_reach(configuration: Configuration) -> bool:
    """Tell whether the daemon has the host's network while it serves."""
    return configuration.network or configuration.sandbox.mode is not SandboxMode.NAMESPACE


def _opened(listener: Listener, cleanup: ExitStack) -> Listener:
    cleanup.callback(listener.close)
    return listener


def _close(sandbox: Sandbox) -> None:
    """Close what the sandbox left open; the devices have their own duplicates."""
    for descriptor in (*sandbox.shares.values(), sandbox.proc_self_fd):
        os.close(descriptor)


async def keep_controlled(
    listener: Listener, devices: Mapping[str, MadeDevice], *, network: bool, grows: bool = True
) -> None:
    """Serve the control socket of devices, as Control has it; a fault in that costs nobody anything else."""
    from vhostfs.control.server import Control, serve_control  # noqa: PLC0415

    try:
        await serve_control(listener.socket, Control(devices, network, grows))
    except Exception:
        logger.exception("the control socket is no longer served")
        listener.close()


async def _serve_all(
    served: Sequence[_Served],
    once: bool,
    announce: Callable[[], None],
    control: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> int:
    failures: list[str] = []
    with anyio.open_signal_receiver(*END_SIGNALS) as signals:
        async with anyio.create_task_group() as daemon:
            daemon.start_soon(end_on_signal, signals, daemon.cancel_scope)
            if control is not None:
                daemon.start_soon(control)
            async with anyio.create_task_group() as devices:
                for each in served:
                    devices.start_soon(_serve_one, each, once, failures)
                announce()
            daemon.cancel_scope.cancel()
    logger.info("ended")
    return 1 if failures else 0


async def _serve_one(served: _Served, once: bool, failures: list[str]) -> None:
    """Serve a device; a fault in it is logged, and costs no other device anything."""
    try:
        served.made.start()
        await serve_made(served.listener.socket, served.made, served.offer, name=served.name, once=once)
    except Exception:
        logger.exception("%s: this device is no longer served", served.name)
        failures.append(served.name)
        served.listener.close()
