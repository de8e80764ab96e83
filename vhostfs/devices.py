"""Devices made from settings: what the data plane, the session and the front-end are told."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from vhostfs.backends.passthrough import PassthroughOptions, mount_passthrough
from vhostfs.config.model import (
    MOUNT_DESCRIPTORS_MINIMUM,
    Configuration,
    DeviceSettings,
    IoUring,
    LockOwner,
    PassthroughSettings,
)
from vhostfs.errors import StartError
from vhostfs.fuse_abi.negotiation import CacheMode, NegotiationSettings, ReaddirplusMode, wanted_flags
from vhostfs.sandbox import Sandbox
from vhostfs.vhost_user.messages import VirtioFsConfig
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import Device, DeviceOptions, SessionOptions

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
    return SessionOptions(
        init_flags=int(wanted_flags(negotiation(settings))),
        max_write=MAX_WRITE,
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


def make_device(
    settings: DeviceSettings, sandbox: Sandbox, budgets: dict[PassthroughSettings, int]
) -> Device:
    """Make a device and its mounts; raise StartError where the host refuses."""
    root = settings.mounts[ROOT]
    try:
        device = Device(
            DeviceOptions(
                queues=offer(settings).queue_limit,
                pool_threads=settings.pool_threads,
                poll_nanoseconds=settings.poll_microseconds * 1000,
                io_uring=settings.io_uring is IoUring.AUTO,
            ),
            session_options(root),
        )
    except OSError as error:
        raise StartError(f"{settings.name}: no device can be made: {error.strerror}") from None
    try:
        mount_passthrough(device, passthrough_options(root, sandbox, budgets[root]))
    except OSError as error:
        device.close()
        raise StartError(f"{settings.name}: {root.shared_dir} cannot be mounted: {error.strerror}") from None
    return device


def descriptor_budgets(configuration: Configuration, limit: int) -> dict[PassthroughSettings, int]:
    """Share out what the process may open: half to the nodes of all mounts, half to open files and the rest.

    A mount that is given a number keeps it, and the others share what is left. Raise StartError where the
    limit cannot hold the numbers given, or leaves a mount fewer than it can do with.
    """
    mounts = [mount for device in configuration.devices for mount in device.mounts.values()]
    given = sum(mount.descriptors for mount in mounts if mount.descriptors is not None)
    if given and given > limit - OTHER_DESCRIPTORS:
        raise StartError(f"the mounts may keep {given} descriptors, and the process only {limit} in all")
    fair = (limit - given) // 2 // max(sum(mount.descriptors is None for mount in mounts), 1)
    if fair < MOUNT_DESCRIPTORS_MINIMUM and any(mount.descriptors is None for mount in mounts):
        raise StartError(f"{limit} open descriptors are too few for the mounts; raise rlimit_nofile")
    return {mount: mount.descriptors or fair for mount in mounts}
