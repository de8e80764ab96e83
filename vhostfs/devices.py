"""Devices made from settings: what the data plane, the sessions and the front-end are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from vhostfs.backends.passthrough import PassthroughOptions, mount_passthrough
from vhostfs.config.model import (
    MOUNT_DESCRIPTORS_MINIMUM,
    Configuration,
    DeviceSettings,
    FilesystemSettings,
    IoUring,
    LockOwner,
    PassthroughSettings,
)
from vhostfs.errors import ConfigurationError, StartError
from vhostfs.fuse_abi.negotiation import CacheMode, NegotiationSettings, ReaddirplusMode, wanted_flags
from vhostfs.sandbox import Sandbox
from vhostfs.vhost_user.messages import VirtioFsConfig
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import Device, DeviceOptions, SessionOptions

if TYPE_CHECKING:
    # Imported where a file system in Python is served, and only there: the others start sooner without.
    from vhostfs.filesystem import Filesystem
    from vhostfs.session import Session
    from vhostfs.virtqueue.handoff import Handoff

ROOT: Final = PurePosixPath("/")

RINGS_SERVED: Final = 64
"""Fewest rings that a device has: QEMU sets up as many as it likes, whatever it is told."""

MAX_PAGES: Final = 256
"""Most pages of a request: what Linux takes unless told otherwise (fs.fuse.max_pages_limit)."""

MAX_WRITE: Final = MAX_PAGES * 4096

OTHER_DESCRIPTORS: Final = 64
"""What a process needs besides its nodes' descriptors, at the very least."""

MAX_BACKGROUND: Final = 65_535
"""virtiofsd's: the ring bounds what is under way, not the guest's counting."""


@dataclass(frozen=True, slots=True)
class BridgedMount:
    """A file system in Python, its session, and the way between it and the device."""

    filesystem: Filesystem[Any]
    session: Session
    handoff: Handoff


@dataclass(frozen=True, slots=True)
class MadeDevice:
    """A device with its mounts, those in Python by place."""

    device: Device
    bridged: Mapping[PurePosixPath, BridgedMount]

    def start(self) -> None:
        """Bring the requests for file systems in Python to the running event loop, from now on."""
        for mount in self.bridged.values():
            mount.handoff.start(mount.session.receive)

    async def end(self) -> None:
        """End the sessions in Python, once the front-end is gone, and wait until they have ended."""
        for mount in self.bridged.values():
            await mount.session.close()
            mount.handoff.close()

    def close(self) -> None:
        """Free the device; no event loop is needed."""
        for mount in self.bridged.values():
            mount.handoff.close()
        self.device.close()


def negotiation(settings: PassthroughSettings) -> NegotiationSettings:
    """Return what a mount's settings mean for INIT."""
    return NegotiationSettings(
        cache=settings.cache,
        writeback=settings.writeback,
        allow_mmap=settings.allow_mmap,
        # Attributes that expire at once are not worth listing.
        readdirplus=ReaddirplusMode.OFF if settings.cache is CacheMode.NEVER else settings.readdirplus,
        posix_acl=settings.posix_acl,
        killpriv_v2=settings.killpriv_v2,
        announce_submounts=settings.announce_submounts,
        posix_locks=settings.locks.posix is LockOwner.HOST,
        flock=settings.locks.flock is LockOwner.HOST,
    )


def session_options(settings: PassthroughSettings) -> SessionOptions:
    """Return how INIT is answered where the root is such a mount."""
    return _session_options(int(wanted_flags(negotiation(settings))), MAX_WRITE)


def _session_options(init_flags: int, max_write: int) -> SessionOptions:
    return SessionOptions(
        init_flags=init_flags,
        max_write=max_write,
        max_readahead=MAX_WRITE,
        max_pages=MAX_PAGES,
        max_background=MAX_BACKGROUND,
        congestion_threshold=MAX_BACKGROUND // 4 * 3,
    )


def passthrough_options(
    settings: PassthroughSettings, sandbox: Sandbox, descriptor_budget: int
) -> PassthroughOptions:
    """Return what the data plane is told of a shared directory."""
    return PassthroughOptions(
        root_descriptor=sandbox.shares[settings.shared_dir],
        proc_self_descriptor=sandbox.proc_self_fd,
        cache=settings.cache,
        entry_seconds=settings.timeouts.entry,
        attribute_seconds=settings.timeouts.attribute,
        negative_seconds=settings.timeouts.negative,
        descriptor_budget=descriptor_budget,
        read_only=settings.read_only,
        xattr=settings.xattr,
        posix_locks=settings.locks.posix is LockOwner.HOST,
        flock=settings.locks.flock is LockOwner.HOST,
        direct_io=settings.direct_io,
        announce_submounts=settings.announce_submounts,
        writeback=settings.writeback,
        allow_mmap=settings.allow_mmap,
    )


def offer(settings: DeviceSettings) -> Offer:
    """Return what a device offers its front-ends."""
    queues = 1 + settings.request_queues
    space = b"" if settings.tag is None else VirtioFsConfig(settings.tag, settings.request_queues).to_bytes()
    return Offer(queues, max(queues, RINGS_SERVED), space, settings.packed)


def open_filesystems(settings: DeviceSettings) -> dict[PurePosixPath, Filesystem[Any]]:
    """Open those of a device's mounts that are written in Python, before the host's files are out of sight.

    Raise StartError where one cannot be opened.
    """
    opened: dict[PurePosixPath, Filesystem[Any]] = {}
    for place, mount in settings.mounts.items():
        if isinstance(mount, FilesystemSettings):
            try:
                opened[place] = mount.backend.open()
            except (OSError, ConfigurationError) as error:
                raise StartError(f"{settings.name}: {place} cannot be opened: {error}") from error
    return opened


def make_device(
    settings: DeviceSettings,
    sandbox: Sandbox | None,
    budgets: Mapping[PassthroughSettings, int],
    filesystems: Mapping[PurePosixPath, Filesystem[Any]],
) -> MadeDevice:
    """Make a device and its mounts; raise StartError where the host refuses.

    `filesystems` are those that open_filesystems has opened; native mounts need the sandbox.
    """
    root = settings.mounts[ROOT]
    if isinstance(root, PassthroughSettings):
        session = session_options(root)
    else:
        session = bridged_session_options(filesystems[ROOT])
    try:
        device = Device(
            DeviceOptions(
                queues=offer(settings).queue_limit,
                pool_threads=settings.pool_threads,
                poll_nanoseconds=settings.poll_microseconds * 1000,
                io_uring=settings.io_uring is IoUring.AUTO,
            ),
            session,
        )
    except OSError as error:
        raise StartError(f"{settings.name}: no device can be made: {error.strerror}") from None
    bridged = {}
    try:
        if isinstance(root, PassthroughSettings):
            what = str(root.shared_dir)
            assert sandbox is not None
            mount_passthrough(device, passthrough_options(root, sandbox, budgets[root]))
        else:
            what = f"the mount at {ROOT}"
            bridged[ROOT] = bridge(device, filesystems[ROOT], settings.name)
    except OSError as error:
        device.close()
        raise StartError(f"{settings.name}: {what} cannot be mounted: {error.strerror}") from None
    return MadeDevice(device, bridged)


def bridged_session_options(filesystem: Filesystem[Any]) -> SessionOptions:
    """Return how INIT is answered where the root is a file system in Python."""
    from vhostfs.filesystem import implemented  # noqa: PLC0415
    from vhostfs.session import offer as wanted  # noqa: PLC0415

    options = filesystem.options
    return _session_options(int(wanted.wanted_flags(options, implemented(filesystem))), options.max_write)


def bridge(device: Device, filesystem: Filesystem[Any], name: str) -> BridgedMount:
    """Mount a file system in Python on a device that does not serve yet; OSError where that fails."""
    from vhostfs.filesystem import implemented  # noqa: PLC0415
    from vhostfs.session import Session  # noqa: PLC0415
    from vhostfs.session import offer as wanted  # noqa: PLC0415
    from vhostfs.virtqueue.handoff import Handoff  # noqa: PLC0415

    handoff = Handoff(device, 0, wanted.wanted_opcodes(implemented(filesystem)))
    return BridgedMount(filesystem, Session(filesystem, handoff, name=name), handoff)


def descriptor_budgets(configuration: Configuration, limit: int) -> dict[PassthroughSettings, int]:
    """Share out what the process may open: half to the nodes of all mounts, half to open files and the rest.

    A mount that is given a number keeps it, and the others share what is left. Raise StartError where the
    limit cannot hold the numbers given, or leaves a mount fewer than it can do with.
    """
    mounts = list(configuration.native_mounts())
    given = sum(mount.descriptors for mount in mounts if mount.descriptors is not None)
    if given and given > limit - OTHER_DESCRIPTORS:
        raise StartError(f"the mounts may keep {given} descriptors, and the process only {limit} in all")
    fair = (limit - given) // 2 // max(sum(mount.descriptors is None for mount in mounts), 1)
    if fair < MOUNT_DESCRIPTORS_MINIMUM and any(mount.descriptors is None for mount in mounts):
        raise StartError(f"{limit} open descriptors are too few for the mounts; raise rlimit_nofile")
    return {mount: mount.descriptors or fair for mount in mounts}
