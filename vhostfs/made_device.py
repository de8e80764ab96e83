"""A device with its mounts, native ones and those in Python, which may come and go while it serves."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from vhostfs.backends.passthrough import PassthroughOptions, mount_passthrough
from vhostfs.backends.vfs import ROOT, Tree, normal
from vhostfs.endings import carried_out
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.negotiation import flags_in_the_way
from vhostfs.virtqueue import Device
from vhostfs.virtqueue.rate_limit import RateLimit, limit_mount

if TYPE_CHECKING:
    # Imported where a file system in Python is served, and only there: the others start sooner without.
    from vhostfs.filesystem import Filesystem
    from vhostfs.session import Session
    from vhostfs.virtqueue.handoff import Handoff

NATIVE: Final = "passthrough"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NativeMount:
    """A directory of the host, for the data plane. Its descriptors stay whoever's they are."""

    options: PassthroughOptions
    flags: InitFlags
    """What it takes of INIT by itself."""
    limits: tuple[RateLimit, ...] = ()
    """What its requests keep to."""

    @property
    def type(self) -> str:
        """Return what a configuration calls it."""
        return NATIVE


@dataclass(frozen=True, slots=True)
class PythonMount:
    """A file system in Python, opened."""

    type: str
    filesystem: Filesystem[Any]

    @property
    def flags(self) -> InitFlags:
        """Return what it takes of INIT by itself, or does no worse with."""
        from vhostfs.filesystem import implemented  # noqa: PLC0415
        from vhostfs.session import offer  # noqa: PLC0415

        methods = implemented(self.filesystem)
        flags = offer.wanted_flags(self.filesystem.options, methods)
        # What cuts no file at all need not do so in OPEN.
        return flags if "setattr" in methods else flags | InitFlags.ATOMIC_O_TRUNC


@dataclass(frozen=True, slots=True)
class BridgedMount:
    """A file system in Python, its session, and the way between it and the device."""

    filesystem: Filesystem[Any]
    session: Session
    handoff: Handoff


@dataclass(frozen=True, slots=True)
class MountStatus:
    """What is mounted where."""

    place: PurePosixPath
    type: str
    faults: int = 0
    """How many operations of a file system in Python failed by what is no OSError, since it was mounted."""


class MadeDevice:
    """A device with its mounts. All methods are for one event loop, but for `mount` and `close` around it."""

    def __init__(self, device: Device, name: str, flags: InitFlags, max_write: int) -> None:
        """Own a device without mounts, which answers INIT with these flags and this size of a write."""
        self.device: Final = device
        self.bridged: Final[dict[PurePosixPath, BridgedMount]] = {}
        self.tree: Final = Tree(device)
        self._name = name
        self._flags = flags
        self._max_write = max_write
        self._types: dict[PurePosixPath, str] = {}
        self._changing = anyio.Lock()
        self._serving = False
        self._proc_self_descriptor: int | None = None

    # ---- Its life ----

    def start(self) -> None:
        """Bring the requests for file systems in Python to the running event loop, from now on."""
        self._serving = True
        for mount in self.bridged.values():
            mount.handoff.start(mount.session.receive)

    async def end(self) -> None:
        """End the sessions in Python, once the front-end is gone, and wait until they have ended.

        All are ended also where whoever waits is cancelled, and is then.
        """
        await carried_out(self._end())

    async def _end(self) -> None:
        async with self._changing:
            self._serving = False
            for mount in self.bridged.values():
                await mount.session.close()
                mount.handoff.close()

    def close(self) -> None:
        """Free the device; no event loop is needed."""
        for mount in self.bridged.values():
            mount.handoff.close()
        self.device.close()
        if self._proc_self_descriptor is not None:
            os.close(self._proc_self_descriptor)
            self._proc_self_descriptor = None

    # ---- Mounts ----

    def let_grow(self, proc_self_descriptor: int) -> None:
        """Take what mounting directories of the host takes later: an O_PATH descriptor of /proc/self/fd.

        It stays the caller's. Before the device serves, and after its first mounts. Raises OSError.
        """
        self._proc_self_descriptor = os.dup(proc_self_descriptor)
        if NATIVE not in self._types.values():
            self.tree.plant(proc_self_descriptor)

    @property
    def proc_self_descriptor(self) -> int:
        """Return an O_PATH descriptor of /proc/self/fd; OSError where the device is not to grow."""
        if self._proc_self_descriptor is None:
            raise OSError(errno.EOPNOTSUPP, "this device's mounts stay as they are")
        return self._proc_self_descriptor

    def mount(self, place: PurePosixPath, mount: NativeMount | PythonMount) -> None:
        """Mount, before the device serves. Raise OSError as Tree.mount does."""
        place = normal(place)
        if isinstance(mount, NativeMount):
            self.tree.mount(place, partial(_mount_native, mount=mount))
        else:
            bridging = partial(self._bridge, place, mount.filesystem)
            try:
                self.tree.mount(place, bridging)
            except OSError:
                bridged = self.bridged.pop(place, None)
                if bridged is not None:
                    bridged.handoff.close()
                raise
        self._types[place] = mount.type

    def _bridge(self, place: PurePosixPath, filesystem: Filesystem[Any], device: Device, number: int) -> None:
        from vhostfs.filesystem import implemented  # noqa: PLC0415
        from vhostfs.session import Session  # noqa: PLC0415
        from vhostfs.session.offer import wanted_opcodes  # noqa: PLC0415
        from vhostfs.virtqueue.handoff import Handoff  # noqa: PLC0415

        handoff = Handoff(device, number, wanted_opcodes(implemented(filesystem)))
        name = self._name if place == ROOT else f"{self._name}: {place}"
        session = Session(filesystem, handoff, mount=number, name=name)
        self.bridged[place] = BridgedMount(filesystem, session, handoff)

    async def add(self, place: PurePosixPath, mount: NativeMount | PythonMount) -> None:
        """Mount while the device serves; the guest finds it at the next lookup that reaches the daemon.

        Raise OSError as Tree.mount does, and with a sentence where the mount cannot join the others.
        """
        place = normal(place)
        await carried_out(self._add(place, mount))
        logger.info("%s: %s mounted at %s", self._name, mount.type, place)

    async def _add(self, place: PurePosixPath, mount: NativeMount | PythonMount) -> None:
        async with self._changing:
            self._check(place, mount)
            await anyio.to_thread.run_sync(self.mount, place, mount)
            bridged = self.bridged.get(place)
            if bridged is not None:
                bridged.handoff.start(bridged.session.receive)

    def _check(self, place: PurePosixPath, mount: NativeMount | PythonMount) -> None:
        if not self._serving:
            raise OSError(errno.ESHUTDOWN, "the device is not served")
        if place in self._types:
            raise OSError(errno.EBUSY, "another mount is there")
        missing = flags_in_the_way(self._flags, mount.flags)
        if missing:
            names = ", ".join(flag_names(missing))
            raise OSError(errno.EINVAL, f"the device's guest counts on {names}, which this mount lacks")
        if isinstance(mount, PythonMount) and mount.filesystem.options.max_write < self._max_write:
            raise OSError(errno.EINVAL, f"requests of the device have up to {self._max_write} bytes")

    async def remove(self, place: PurePosixPath) -> None:
        """Take a mount away at once, as `umount -l` does; a file system in Python has ended, and is closed.

        Raise OSError as Tree.unmount does.
        """
        place = normal(place)
        kind = await carried_out(self._remove(place))
        logger.info("%s: %s unmounted from %s", self._name, kind, place)

    async def _remove(self, place: PurePosixPath) -> str:
        async with self._changing:
            await anyio.to_thread.run_sync(self.tree.unmount, place)
            kind = self._types.pop(place)
            bridged = self.bridged.pop(place, None)
            if bridged is not None:
                await bridged.session.close()
                bridged.handoff.close()
                close_quietly(bridged.filesystem)
        return kind

    def mounts(self) -> list[MountStatus]:
        """Return what is mounted, by place."""
        return [
            MountStatus(place, self._types[place], self._faults_at(place)) for place in sorted(self._types)
        ]

    def _faults_at(self, place: PurePosixPath) -> int:
        bridged = self.bridged.get(place)
        return 0 if bridged is None else bridged.session.faults


def close_quietly(filesystem: Filesystem[Any]) -> None:
    """Close a file system that will not be mounted again; what it makes of that is told in the log alone."""
    try:
        filesystem.close()
    except Exception:
        logger.exception("a file system could not be closed")


def _mount_native(device: Device, number: int, mount: NativeMount) -> None:
    mount_passthrough(device, mount.options, number)
    try:
        for limit in mount.limits:
            limit_mount(device, number, limit)
    except OSError:
        if number != 0:
            device.unmount(number)
        raise


def flag_names(flags: InitFlags) -> Iterator[str]:
    """Yield the names of flags, as people write them."""
    for flag in flags:
        yield (flag.name or hex(flag)).lower()
