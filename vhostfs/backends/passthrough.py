"""A directory of the host as the data plane serves it: its options, and how a device comes to mount it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from vhostfs._core import ffi, lib
from vhostfs.fuse_abi.negotiation import CacheMode
from vhostfs.virtqueue import Device

_CACHE_MODES: Final[dict[CacheMode, int]] = {
    CacheMode.NEVER: lib.VHOSTFS_CACHE_NEVER,
    CacheMode.METADATA: lib.VHOSTFS_CACHE_METADATA,
    CacheMode.AUTO: lib.VHOSTFS_CACHE_AUTO,
    CacheMode.ALWAYS: lib.VHOSTFS_CACHE_ALWAYS,
}


@dataclass(frozen=True, slots=True)
class PassthroughOptions:
    """How a directory is shared. The descriptors stay the caller's; the mount has duplicates.

    The times say how long the guest may trust a name, attributes, and the absence of a name (0: it must not).
    """

    root_descriptor: int
    """Any descriptor of the shared directory."""
    proc_self_descriptor: int
    """An O_PATH descriptor of /proc/self/fd, opened where /proc is still in sight."""
    cache: CacheMode
    entry_seconds: float
    attribute_seconds: float
    negative_seconds: float
    descriptor_budget: int
    """The most descriptors that are kept for nodes; at least 16."""
    read_only: bool = False
    xattr: bool = False
    posix_locks: bool = False
    flock: bool = False
    direct_io: bool = False
    announce_submounts: bool = False
    writeback: bool = False
    allow_mmap: bool = False

    @property
    def flags(self) -> int:
        """Return the switches as enum vhostfs_passthrough_flags has them."""
        switches: tuple[tuple[bool, int], ...] = (
            (self.read_only, lib.VHOSTFS_PASSTHROUGH_READ_ONLY),
            (self.xattr, lib.VHOSTFS_PASSTHROUGH_XATTR),
            (self.posix_locks, lib.VHOSTFS_PASSTHROUGH_POSIX_LOCKS),
            (self.flock, lib.VHOSTFS_PASSTHROUGH_FLOCK),
            (self.direct_io, lib.VHOSTFS_PASSTHROUGH_DIRECT_IO),
            (self.announce_submounts, lib.VHOSTFS_PASSTHROUGH_ANNOUNCE_SUBMOUNTS),
            (self.writeback, lib.VHOSTFS_PASSTHROUGH_WRITEBACK),
            (self.allow_mmap, lib.VHOSTFS_PASSTHROUGH_ALLOW_MMAP),
        )
        return sum(flag for on, flag in switches if on)


def mount_passthrough(device: Device, options: PassthroughOptions, mount: int = 0) -> None:
    """Mount a directory as number `mount` (0 holds the root), before the first request; raise OSError."""
    wired = ffi.new(
        "struct vhostfs_passthrough_options *",
        {
            "root_fd": options.root_descriptor,
            "proc_self_fd": options.proc_self_descriptor,
            "cache": _CACHE_MODES[options.cache],
            "flags": options.flags,
            "entry_nanoseconds": _nanoseconds(options.entry_seconds),
            "attribute_nanoseconds": _nanoseconds(options.attribute_seconds),
            "negative_nanoseconds": _nanoseconds(options.negative_seconds),
            "descriptor_budget": options.descriptor_budget,
        },
    )
    result: int = lib.vhostfs_device_mount_passthrough(device.handle, mount, wired)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _nanoseconds(seconds: float) -> int:
    """Return a time as the data plane takes it; whatever exceeds a century counts as a century."""
    return min(round(seconds * 1_000_000_000), 100 * 365 * 86400 * 1_000_000_000)
