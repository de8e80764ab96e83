"""The configuration of a daemon: what it serves, to whom, how. Defaults are virtiofsd's where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode

if TYPE_CHECKING:
    # The API for file systems in Python is imported only where one is served.
    from vhostfs.backends.contract import Backend
    from vhostfs.layers.rate_limit import RateLimitSettings

MOUNT_LIMITS: Final = 4
"""Most limits of a native mount: FILESYSTEM_LIMITS of csrc/session.h."""

TAG_LIMIT: Final = 36
"""Most bytes of a tag: struct virtio_fs_config, virtio 5.11.4."""

SOCKET_PATH_LIMIT: Final = 107
"""Most bytes of a socket's path: struct sockaddr_un without the final NUL."""

REQUEST_QUEUE_LIMIT: Final = 255
"""Most request queues: a vhost-user ring index has eight bits, and the first ring is not for requests."""

MOUNTS_LIMIT: Final = 254
"""Most mounts of a device: their numbers have eight bits, and one is that of the directories between."""

NAME_LIMIT: Final = 255
"""Most bytes of a file's name: NAME_MAX of Linux."""

MOUNT_DESCRIPTORS_MINIMUM: Final = 16
"""Fewest descriptors that the nodes of a mount can do with."""

POOL_THREADS: Final = 64
"""Most threads of a device for requests that wait for a disk, unless told otherwise."""

POLL_MICROSECONDS: Final = 60
"""Past the 57 µs after which a sleeping guest was woken, in the median of docs/benchmarks.md."""

DAY: Final = 86_400.0


class IoUring(StrEnum):
    """Whether a device lets the host's kernel read by itself what is not in its page cache."""

    AUTO = "auto"
    """Where the host has io_uring and allows it."""
    NEVER = "never"
    """Threads wait for the disk."""


class LockOwner(StrEnum):
    """Who keeps a kind of lock."""

    GUEST = "guest"
    """The guest's kernel: fast, and invisible to the host and to other guests."""
    HOST = "host"
    """The host's file system: seen by everybody, one request a lock."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a guest may trust what it was told, in seconds."""

    entry: float
    """That a name leads to a file."""
    attribute: float
    """A file's size, times, owner, mode."""
    negative: float
    """That a name is missing; 0 has it ask each time."""


TIMEOUTS: Final = {
    CacheMode.NEVER: Timeouts(entry=0.0, attribute=0.0, negative=0.0),
    CacheMode.METADATA: Timeouts(entry=DAY, attribute=DAY, negative=1.0),
    CacheMode.AUTO: Timeouts(entry=1.0, attribute=1.0, negative=1.0),
    CacheMode.ALWAYS: Timeouts(entry=DAY, attribute=DAY, negative=1.0),
}
"""What each cache mode means where no time-out is given.

A missing name is never trusted for longer than a second: what a host adds to a share shall appear in a guest.
"""


@dataclass(frozen=True, slots=True)
class Locks:
    """Who keeps which locks."""

    posix: LockOwner = LockOwner.GUEST
    flock: LockOwner = LockOwner.GUEST


@dataclass(frozen=True, slots=True)
class PassthroughSettings:
    """A directory of the host, served as it is."""

    shared_dir: PurePosixPath
    """Absolute."""
    cache: CacheMode = CacheMode.AUTO
    timeouts: Timeouts = TIMEOUTS[CacheMode.AUTO]
    readdirplus: ReaddirplusMode = ReaddirplusMode.AUTO
    writeback: bool = False
    xattr: bool = False
    posix_acl: bool = False
    """Implies xattr."""
    killpriv_v2: bool = False
    announce_submounts: bool = True
    locks: Locks = Locks()
    direct_io: bool = False
    """O_DIRECT of the guest reaches the host's file."""
    allow_mmap: bool = False
    read_only: bool = False
    descriptors: int | None = None
    """Most descriptors kept for nodes; None: a fair part of what the process may open."""
    rate_limits: tuple[RateLimitSettings, ...] = ()
    """At most MOUNT_LIMITS."""


@dataclass(frozen=True, slots=True)
class FilesystemSettings:
    """A file system in Python, of a type that a package declares, with its layers."""

    type: str
    backend: Backend
    network: bool = False
    """Whether it needs the host's network."""


MountSettings = PassthroughSettings | FilesystemSettings
"""What can be mounted."""


@dataclass(frozen=True, slots=True)
class PathSocket:
    """A socket that the daemon makes, and removes when it ends."""

    path: PurePosixPath
    group: str | None = None
    """Name or number of the group that owns it; None: the daemon's own."""
    mode: int | None = None
    """Permission bits; None: 0600, or 0660 where a group is given."""

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that whoever started the daemon left open."""

    fd: int

    def __str__(self) -> str:
        return f"descriptor {self.fd}"


@dataclass(frozen=True, slots=True)
class ActivatedSocket:
    """A listening socket that systemd passes: by FileDescriptorName=, or by its place among them, from 0."""

    name: str

    def __str__(self) -> str:
        return f"systemd socket {self.name}"


SocketSettings = PathSocket | InheritedSocket | ActivatedSocket


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """One virtio-fs device: a socket for one front-end at a time, and what its guest sees."""

    socket: SocketSettings
    mounts: dict[PurePosixPath, MountSettings]
    """By place in the guest's mount, at least one; each place is absolute and in its shortest form."""
    tag: str | None = None
    """What the guest mounts by, told to front-ends that ask for it; None: the front-end knows it."""
    request_queues: int = 1
    packed: bool = False
    poll_microseconds: int = POLL_MICROSECONDS
    """How long an idle queue polls, at most, before it sleeps; 0: never."""
    pool_threads: int = POOL_THREADS
    """Most threads for requests that wait for a disk."""
    io_uring: IoUring = IoUring.AUTO

    @property
    def name(self) -> str:
        """Return what log lines call the device."""
        return self.tag or str(self.socket)


class SandboxMode(StrEnum):
    """What the daemon sees of the host's files while it serves."""

    NAMESPACE = "namespace"
    """The shares, in a mount namespace of its own, and for a user in a user namespace of its own, too."""
    CHROOT = "chroot"
    """The share, by chroot(2); for containers that allow no namespaces."""
    NONE = "none"
    """Everything."""


@dataclass(frozen=True, slots=True)
class IdRange:
    """A range of user or group numbers in the daemon's user namespace and outside it."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """How the daemon is locked in."""

    mode: SandboxMode = SandboxMode.NAMESPACE
    uid_map: tuple[IdRange, ...] = ()
    """Empty: root needs none; a user becomes 0, followed by the range that /etc/subuid grants."""
    gid_map: tuple[IdRange, ...] = ()


class LogLevel(IntEnum):
    """The least severe event that is logged, by virtiofsd's names; the numbers are logging's."""

    TRACE = 5
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    OFF = 100


class LogFormat(StrEnum):
    """How an event becomes a line."""

    TEXT = "text"
    JSON = "json"


class LogDestination(StrEnum):
    """Where events go."""

    STDERR = "stderr"
    SYSLOG = "syslog"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, how and where."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT
    destination: LogDestination = LogDestination.STDERR


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that a daemon is told."""

    devices: tuple[DeviceSettings, ...]
    sandbox: SandboxSettings = SandboxSettings()
    log: LogSettings = LogSettings()
    rlimit_nofile: int | None = None
    """Most open descriptors of the process; None: as many as allowed, up to 1,000,000; 0: left as it is."""
    once: bool = False
    """End with the front-ends instead of waiting for the next ones."""
    control: SocketSettings | None = None
    """A socket by which mounts are added and removed while the daemon serves."""

    def device_names(self) -> tuple[str, ...]:
        """Return what log lines call the devices: by tag, and where several share it, by socket as well."""
        tags = [device.tag for device in self.devices]
        return tuple(
            f"{device.name} ({device.socket})" if tags.count(device.tag) > 1 and device.tag else device.name
            for device in self.devices
        )

    def shared_directories(self) -> tuple[PurePosixPath, ...]:
        """Return every directory of the host that is served, each once, in order."""
        return tuple(dict.fromkeys(mount.shared_dir for mount in self.native_mounts()))

    def native_mounts(self) -> Iterator[PassthroughSettings]:
        """Yield the mounts that the data plane serves by itself, in order."""
        for device in self.devices:
            for mount in device.mounts.values():
                if isinstance(mount, PassthroughSettings):
                    yield mount

    @property
    def network(self) -> bool:
        """Tell whether a mount needs the host's network."""
        mounts = (mount for device in self.devices for mount in device.mounts.values())
        return any(isinstance(mount, FilesystemSettings) and mount.network for mount in mounts)


def idle_settings(configuration: Configuration) -> Iterator[str]:
    """Yield a sentence for each setting that another one makes idle."""
    for device in configuration.devices:
        for mount in device.mounts.values():
            if not isinstance(mount, PassthroughSettings):
                continue
            cached = mount.cache in {CacheMode.AUTO, CacheMode.ALWAYS}
            if mount.writeback and not cached:
                yield f"{device.name}: writeback does nothing with cache {mount.cache}"
            if mount.allow_mmap and cached:
                yield f"{device.name}: allow_mmap does nothing with cache {mount.cache}: files map anyway"


def contradictions(configuration: Configuration) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what cannot be served although each part of it is right: the path of the key, and a reason."""
    seen: dict[SocketSettings, int] = {}
    for index, device in enumerate(configuration.devices):
        origin = PathSocket(device.socket.path) if isinstance(device.socket, PathSocket) else device.socket
        if origin in seen:
            yield ("devices", index, "socket"), f"the same socket as devices[{seen[origin]}]"
        seen.setdefault(origin, index)
    if configuration.control is not None:
        control = configuration.control
        origin = PathSocket(control.path) if isinstance(control, PathSocket) else control
        if origin in seen:
            yield ("control",), f"the same socket as devices[{seen[origin]}]"
    sandbox = configuration.sandbox
    shared = len(configuration.shared_directories())
    if sandbox.mode is SandboxMode.CHROOT and shared != 1:
        needed = "several need" if shared else "with none it needs"
        yield ("sandbox", "mode"), f"chroot holds one shared directory; {needed} namespace or none"
    if sandbox.mode is not SandboxMode.NAMESPACE:
        for key, ranges in (("uid_map", sandbox.uid_map), ("gid_map", sandbox.gid_map)):
            if ranges:
                yield ("sandbox", key), "needs the sandbox mode namespace"
