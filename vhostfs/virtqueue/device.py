"""A device of the data plane: each method is one function of csrc/core.h, typed, with errors as OSError.

The contracts are those of core.h. In short: one thread at a time makes calls for one device, except that
`next_event` may be called at any time; `stop_queue`, `reset`, `disconnect`, `detach_fuse` and `close` wait
until requests under way are answered, as `set_queue_size` and `set_queue_base` do for a ring that is kicked
and not enabled, and everything else returns at once. All calls let other Python threads run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from vhostfs._core import ffi, lib


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """The size of a device: the rings that it can serve (2 to 65535), its most pool threads, how it waits."""

    queues: int
    pool_threads: int = 64
    poll_nanoseconds: int = 0
    """How long an idle queue thread polls before it sleeps."""
    io_uring: bool = True
    """Whether queue threads may use io_uring, where the host has it and allows it."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What INIT is answered: the flags to take where the guest offers them, sizes in bytes, and limits."""

    init_flags: int
    max_write: int
    max_readahead: int
    max_pages: int
    max_background: int
    congestion_threshold: int


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of guest memory: `size` bytes at `offset` of a descriptor, which stays the caller's."""

    guest_address: int
    size: int
    user_address: int
    offset: int
    descriptor: int


class DeviceEventKind(IntEnum):
    """What the data plane tells (enum vhostfs_event_kind)."""

    QUEUE_BROKEN = 1
    """A ring was stopped, and its error descriptor signalled."""
    MEMORY_GONE = 2
    """Guest memory vanished; the connection is to be ended."""
    SESSION = 3
    """A FUSE session began or ended."""
    WARNING = 4
    UNMOUNTED = 5
    """/dev/fuse: there is no connection any more; the device is to be detached."""


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something to tell, `queue` and `error` (an errno) being None where they do not apply."""

    kind: DeviceEventKind
    queue: int | None
    error: int | None
    text: str


def initialise_core() -> None:
    """Install the handler that turns vanished guest memory into an event. Idempotent; raises OSError."""
    _check(lib.vhostfs_core_initialise())


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))


class Device:
    """A file-system device: guest memory, rings and one FUSE session. Owns a vhostfs_device until `close`."""

    def __init__(self, options: DeviceOptions, session: SessionOptions) -> None:
        """Create the device, without memory, rings or threads; raise OSError where that fails."""
        made = ffi.new("vhostfs_device **")
        _check(
            lib.vhostfs_device_create(
                ffi.new(
                    "struct vhostfs_device_options *",
                    (
                        options.queues,
                        options.pool_threads,
                        options.poll_nanoseconds,
                        options.io_uring,
                    ),
                ),
                ffi.new(
                    "struct vhostfs_session_options *",
                    {
                        "init_flags": session.init_flags,
                        "max_write": session.max_write,
                        "max_readahead": session.max_readahead,
                        "max_pages": session.max_pages,
                        "max_background": session.max_background,
                        "congestion_threshold": session.congestion_threshold,
                    },
                ),
                made,
            )
        )
        self.queues = options.queues
        self.limits: list[object] = []
        """The limits of its mounts, which groups of mounts find as long as one of them has them."""
        self._handle: Any = made[0]

    @property
    def handle(self) -> Any:
        """Return the vhostfs_device, for calls of core.h that mount file systems. ValueError when closed."""
        if self._handle is None:
            raise ValueError("the device is closed")
        return self._handle

    def close(self) -> None:
        """Disconnect and free the device with its mounts. Waits; harmless when repeated."""
        handle, self._handle = self._handle, None
        if handle is not None:
            lib.vhostfs_device_destroy(handle)

    def disconnect(self) -> None:
        """Return to the state before a front-end came: no rings, session, memory, log or features. Waits."""
        lib.vhostfs_device_disconnect(self.handle)

    def reset(self) -> None:
        """Stop and disable all rings and end the session; guest memory stays. Waits."""
        lib.vhostfs_device_reset(self.handle)

    def set_features(self, features: int) -> None:
        """Take the acknowledged virtio features; without PROTOCOL_FEATURES (bit 30) all rings are enabled."""
        _check(lib.vhostfs_device_set_features(self.handle, features))

    # Events.

    @property
    def event_descriptor(self) -> int:
        """Return the eventfd that is readable while events wait; it stays the device's."""
        descriptor: int = lib.vhostfs_device_event_fd(self.handle)
        return descriptor

    def next_event(self) -> DeviceEvent | None:
        """Take the oldest event, if there is any."""
        event = ffi.new("struct vhostfs_event *")
        lib.vhostfs_device_next_event(self.handle, event)
        if event.kind == lib.VHOSTFS_EVENT_NONE:
            return None
        return DeviceEvent(
            DeviceEventKind(event.kind),
            event.queue if event.queue >= 0 else None,
            event.error or None,
            ffi.string(event.text).decode(errors="replace"),
        )

    # /dev/fuse, instead of rings.

    def attach_fuse(self, descriptor: int, threads: int) -> None:
        """Serve a file system of this host, by 1 to 64 threads. The descriptor stays the caller's.

        Once in the device's life. The end of the connection is an event, UNMOUNTED.
        """
        _check(lib.vhostfs_device_attach_fuse(self.handle, descriptor, threads))

    def detach_fuse(self) -> None:
        """Serve it no longer: answer what is under way, end the session. Waits; harmless when repeated."""
        lib.vhostfs_device_detach_fuse(self.handle)

    # Guest memory.

    def add_memory(self, region: Region) -> None:
        """Map one more region. EEXIST where it overlaps another."""
        _check(lib.vhostfs_memory_add(self.handle, ffi.new("struct vhostfs_region *", _wired(region))))

    def remove_memory(self, region: Region) -> None:
        """Unmap a region, found by its addresses and size. ENOENT if there is none."""
        _check(lib.vhostfs_memory_remove(self.handle, ffi.new("struct vhostfs_region *", _wired(region))))

    def replace_memory(self, regions: Sequence[Region]) -> None:
        """Map these regions and unmap all others; rings that run go on in the new memory."""
        table = ffi.new("struct vhostfs_region[]", [_wired(region) for region in regions])
        _check(lib.vhostfs_memory_replace(self.handle, table, len(regions)))

    def set_log(self, descriptor: int, size: int, offset: int) -> None:
        """Mark written pages in this dirty log, whose descriptor stays the caller's; -1 drops the log."""
        _check(lib.vhostfs_memory_log(self.handle, descriptor, size, offset))

    # Rings.

    def set_queue_size(self, index: int, size: int) -> None:
        """Set how many entries a ring has. EBUSY while it runs; one that is only not enabled is drained."""
        _check(lib.vhostfs_queue_set_size(self.handle, index, size))

    def set_queue_addresses(
        self, index: int, *, flags: int, descriptors: int, used: int, available: int, log: int
    ) -> None:
        """Place a ring, by addresses of the front-end. EFAULT where they are in no region."""
        _check(lib.vhostfs_queue_set_addresses(self.handle, index, flags, descriptors, used, available, log))

    def set_queue_base(self, index: int, base: int) -> None:
        """Set where a ring goes on, as SET_VRING_BASE encodes it. EBUSY and draining as for the size."""
        _check(lib.vhostfs_queue_set_base(self.handle, index, base))

    def set_queue_kick(self, index: int, descriptor: int | None) -> None:
        """Start a ring. Owns the descriptor, in any case; without one the ring is polled."""
        _check(lib.vhostfs_queue_set_kick(self.handle, index, -1 if descriptor is None else descriptor))

    def set_queue_call(self, index: int, descriptor: int | None) -> None:
        """Set how the guest is told of used buffers. Owns the descriptor, in any case."""
        _check(lib.vhostfs_queue_set_call(self.handle, index, -1 if descriptor is None else descriptor))

    def set_queue_error(self, index: int, descriptor: int | None) -> None:
        """Set how the front-end is told of a broken ring. Owns the descriptor, in any case."""
        _check(lib.vhostfs_queue_set_error(self.handle, index, -1 if descriptor is None else descriptor))

    def enable_queue(self, index: int, enabled: bool) -> None:
        """Let a ring be served, or no longer."""
        _check(lib.vhostfs_queue_set_enabled(self.handle, index, int(enabled)))

    def stop_queue(self, index: int) -> int:
        """Stop a ring, answer or cancel what was taken from it, and return its base. Waits."""
        base = ffi.new("uint32_t *")
        _check(lib.vhostfs_queue_stop(self.handle, index, base))
        value: int = base[0]
        return value

    # A tree of mounts. These may be called while another thread makes the device's other calls.

    def plant(self, proc_self_descriptor: int | None) -> None:
        """Let mounts lie at paths: once (EBUSY), after a mount for "/" if there is to be one.

        With an O_PATH descriptor of /proc/self/fd, which stays the caller's, directories of the host may be
        mounted while rings run.
        """
        descriptor = -1 if proc_self_descriptor is None else proc_self_descriptor
        _check(lib.vhostfs_device_plant(self.handle, descriptor))

    def free_mount(self) -> int:
        """Return a number for a mount that none has had in the guest's session; ENOSPC after 254 of them."""
        number: int = lib.vhostfs_device_free_mount(self.handle)
        _check(number)
        return number

    def attach(self, path: str, mount: int) -> None:
        """Let the guest find a mount at an absolute path. EBUSY, EINVAL, ENOENT, ENAMETOOLONG, ENOSPC."""
        _check(lib.vhostfs_device_attach(self.handle, os.fsencode(path), mount))

    def unmount(self, mount: int) -> None:
        """Take a mount away, also under the guest's feet. EBUSY where others lie below it; ENOENT."""
        _check(lib.vhostfs_device_unmount(self.handle, mount))


def _wired(region: Region) -> dict[str, int]:
    return {
        "guest_address": region.guest_address,
        "size": region.size,
        "user_address": region.user_address,
        "offset": region.offset,
        "fd": region.descriptor,
    }
