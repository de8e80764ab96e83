"""Devices made from settings: what the data plane, the sessions and the front-end are told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from vhostfs.backends.passthrough import PassthroughOptions
from vhostfs.backends.vfs import ROOT
from vhostfs.config.model import (
    MOUNT_DESCRIPTORS_MINIMUM,
    Configuration,
    DeviceSettings,
    FilesystemSettings,
    IoUring,
    LockOwner,
    MountSettings,
    PassthroughSettings,
)
from vhostfs.errors import ConfigurationError, StartError
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.negotiation import (
    CacheMode,
    NegotiationSettings,
    ReaddirplusMode,
    tree_flags,
    wanted_flags,
)
from vhostfs.made_device import MadeDevice, NativeMount, PythonMount, flag_names
from vhostfs.sandbox import Sandbox
from vhostfs.vhost_user.messages import VirtioFsConfig
from vhostfs.vhost_user.offer import Offer
from vhostfs.virtqueue import Device, DeviceOptions, SessionOptions

if TYPE_CHECKING:
    from vhostfs.filesystem import Filesystem

logger = logging.getLogger(__name__)

LOCKS: Final = InitFlags.POSIX_LOCKS | InitFlags.FLOCK_LOCKS
WISHES: Final = (
    LOCKS
    | InitFlags.WRITEBACK_CACHE
    | InitFlags.POSIX_ACL
    | InitFlags.CACHE_SYMLINKS
    | InitFlags.HANDLE_KILLPRIV_V2
    | InitFlags.DIRECT_IO_ALLOW_MMAP
)
"""Flags that somebody has asked for; a file system in Python that can lock has not asked that it must."""

RINGS_SERVED: Final = 64
"""Fewest rings that a device has: QEMU sets up as many as it likes, whatever it is told."""

MAX_PAGES: Final = 256
"""Most pages of a request: what Linux takes unless told otherwise (fs.fuse.max_pages_limit)."""

MAX_WRITE: Final = MAX_PAGES * 4096

NO_FLAGS: Final = InitFlags(0)

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


def native_flags(settings: PassthroughSettings) -> InitFlags:
    """Return what a shared directory takes of INIT by itself."""
    return wanted_flags(negotiation(settings))


def session_options(init_flags: InitFlags, max_write: int) -> SessionOptions:
    """Return how a device answers INIT."""
    return SessionOptions(
        init_flags=int(init_flags),
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


def native_mount(settings: PassthroughSettings, sandbox: Sandbox, descriptor_budget: int) -> NativeMount:
    """Return a shared directory, which the sandbox has opened, ready to be mounted."""
    return NativeMount(
        passthrough_options(settings, sandbox, descriptor_budget),
        native_flags(settings),
        tuple(limit.limit() for limit in settings.rate_limits),
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
            except Exception as error:
                # Whoever wrote the file system needs to know where; whoever runs it, that it is not us.
                logger.exception("%s: %s cannot be opened", settings.name, place)
                reason = f"{type(error).__name__}: {error}"
                raise StartError(f"{settings.name}: {place} cannot be opened: {reason}") from error
    return opened


def make_device(
    settings: DeviceSettings,
    sandbox: Sandbox | None,
    budgets: Mapping[PassthroughSettings, int],
    filesystems: Mapping[PurePosixPath, Filesystem[Any]],
    *,
    growing: bool = False,
    transport_flags: InitFlags = NO_FLAGS,
) -> MadeDevice:
    """Make a device and its mounts; raise StartError where the host refuses.

    `filesystems` are those that open_filesystems has opened; native mounts need the sandbox, as do devices to
    which mounts can be added later (`growing`). `transport_flags` are taken of INIT besides the mounts' own.
    """
    mounts: dict[PurePosixPath, NativeMount | PythonMount] = {}
    for place, mount in settings.mounts.items():
        if isinstance(mount, PassthroughSettings):
            assert sandbox is not None
            mounts[place] = native_mount(mount, sandbox, budgets[mount])
        else:
            mounts[place] = PythonMount(mount.type, filesystems[place])
    flags = device_flags(settings.name, mounts, growing=growing)
    max_write = min([MAX_WRITE, *(filesystem.options.max_write for filesystem in filesystems.values())])
    try:
        device = Device(
            DeviceOptions(
                queues=offer(settings).queue_limit,
                pool_threads=settings.pool_threads,
                poll_nanoseconds=settings.poll_microseconds * 1000,
                io_uring=settings.io_uring is IoUring.AUTO,
            ),
            session_options(flags | transport_flags, max_write),
        )
    except OSError as error:
        raise StartError(f"{settings.name}: no device can be made: {error.strerror}") from None
    made = MadeDevice(device, settings.name, flags, max_write)
    try:
        # Those above come first: what is mounted at "/" is the root only before there is a tree.
        for place in sorted(mounts):
            what = _described(place, settings.mounts[place])
            made.mount(place, mounts[place])
        what = "the tree"
        if ROOT not in mounts:
            made.tree.plant()
        if growing:
            assert sandbox is not None
            made.let_grow(sandbox.proc_self_fd)
    except OSError as error:
        made.close()
        raise StartError(f"{settings.name}: {what} cannot be mounted: {error.strerror}") from None
    return made


def _described(place: PurePosixPath, mount: MountSettings) -> str:
    return str(mount.shared_dir) if isinstance(mount, PassthroughSettings) else f"the mount at {place}"


def device_flags(
    name: str, mounts: Mapping[PurePosixPath, NativeMount | PythonMount], *, growing: bool
) -> InitFlags:
    """Return what a device takes of INIT; a warning says which wish of a mount the others leave unfulfilled.

    One to which mounts can be added does without what directories, as they are shared by default, would
    lack, unless a directory was given, with its settings.
    """
    wanted = {place: mount.flags for place, mount in mounts.items()}
    if list(wanted) == [ROOT] and not growing:
        return wanted[ROOT]
    everybody = list(wanted.values())
    if growing and not any(isinstance(mount, NativeMount) for mount in mounts.values()):
        everybody.append(native_flags(PassthroughSettings(ROOT)))
    taken = tree_flags(everybody)
    for place, mount in mounts.items():
        wishes = WISHES if isinstance(mount, NativeMount) else WISHES & ~LOCKS
        left = wanted[place] & wishes & ~taken
        if left:
            names = ", ".join(flag_names(left))
            logger.warning("%s: %s: %s stays off, as other mounts do without", name, place, names)
    return taken


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
