"""/dev/fuse: a file system mounted on this host, and a device that serves it.

Root mounts by mount(2). A user mounts by fusermount3, the set-uid program of libfuse, which opens /dev/fuse,
mounts, and passes the descriptor back over a socket (_FUSE_COMMFD). The connection lasts as long as anybody
has the descriptor or a clone of it: a daemon that dies leaves a mount whose every call fails with ENOTCONN,
and which umount(8) takes away.
"""

from __future__ import annotations

import array
import ctypes
import errno
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from vhostfs.errors import StartError
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.transports.journal import Journal
from vhostfs.virtqueue import Device, DeviceEventKind

FUSE_DEVICE: Final = Path("/dev/fuse")
HELPER: Final = "fusermount3"

TRANSPORT_FLAGS: Final = InitFlags.ABORT_ERROR | InitFlags.OVER_IO_URING
"""What any session takes here: an abort of the connection reads as one (ECONNABORTED), and requests come over
io_uring, where the kernel offers that and the data plane can make the rings."""

BACKING_FLAGS: Final = InitFlags.PASSTHROUGH
"""What is taken besides where there is a native mount: the kernel reads and writes its files by itself.

Linux lets only root (CAP_SYS_ADMIN) give it files, and takes none where it collects writes (writeback).
"""

# <sys/mount.h>
_MOUNT_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
}
_NOT: Final = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "atime": "noatime",
}
_MNT_DETACH: Final = 2
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
"""How mountinfo writes spaces and their like."""
_UMOUNT_NOFOLLOW: Final = 8


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How the kernel mounts: what -o says, with the names of mount(8) and mount.fuse3(8)."""

    allow_other: bool = False
    """Users other than who mounts may use it; permission bits decide in any case (default_permissions)."""
    source: str = "vhostfs"
    """What lists of mounts call it (fsname)."""
    subtype: str = "vhostfs"
    """Its type is fuse.SUBTYPE."""
    flags: frozenset[str] = frozenset({"nosuid", "nodev"})
    """Of ro, nosuid, nodev, noexec, sync, dirsync, noatime, nodiratime."""

    @property
    def read_only(self) -> bool:
        """Tell whether nothing may be changed."""
        return "ro" in self.flags

    def with_option(self, option: str) -> MountOptions:
        """Return these with one option of -o more. ValueError where there is no such option."""
        name, given, value = option.partition("=")
        if given and name in {"fsname", "subtype"}:
            return replace(self, source=value) if name == "fsname" else replace(self, subtype=value)
        if given:
            raise ValueError(option)
        if name == "allow_other":
            return replace(self, allow_other=True)
        if name == "default_permissions":
            return self
        if name in _MOUNT_FLAGS:
            return replace(self, flags=self.flags | {name})
        if name in _NOT:
            return replace(self, flags=self.flags - {_NOT[name]})
        raise ValueError(option)

    def texts(self) -> list[str]:
        """Return what is said to fuse itself, by the kernel's names."""
        return ["default_permissions", *(["allow_other"] if self.allow_other else [])]


class Connection:
    """A mounted file system: the descriptor to serve it by, and the way to unmount it."""

    def __init__(self, descriptor: int, mountpoint: Path, unmount: Callable[[Path], None]) -> None:
        """Take what was mounted just now."""
        self.descriptor: Final = descriptor
        self.mountpoint: Final = mountpoint
        self._device = _device_at(mountpoint)
        self._unmount = unmount

    def read_ahead(self, size: int) -> None:
        """Have the kernel read so far ahead of who reads on, where this host lets us; once its session began.

        Linux takes 128 KiB for any mount, which is also the largest read that it then asks for.
        """
        with suppress(OSError):
            Path(f"/sys/class/bdi/{self._device}/read_ahead_kb").write_text(str(size >> 10))

    def close(self) -> None:
        """Unmount, unless that has been done; a file system in use ends for its users. Waits.

        What somebody has mounted over it stays, and it below that, as a mount whose daemon has gone.
        """
        try:
            if self._device is not None and _device_at(self.mountpoint) == self._device:
                self._unmount(self.mountpoint)
        finally:
            os.close(self.descriptor)


def _device_at(mountpoint: Path) -> str | None:
    """Return the number of the device that is mounted at a path, uppermost; None where none is."""
    found = None
    place = os.fsencode(mountpoint)
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ", 5)
        if _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4]) == place:
            found = fields[2].decode()
    return found


def usable_mountpoint(mountpoint: Path) -> Path:
    """Return the absolute path of an existing directory, without links; StartError with what is wrong."""
    try:
        mode = mountpoint.stat().st_mode
        resolved = mountpoint.resolve()
    except OSError as error:
        hint = ""
        if error.errno == errno.ENOTCONN:
            hint = f": a file system whose daemon has died is mounted there; umount {mountpoint.absolute()}"
        raise StartError(f"{mountpoint}: {error.strerror}{hint}") from None
    if not stat.S_ISDIR(mode):
        raise StartError(f"{mountpoint} is no directory")
    return resolved


def connect(mountpoint: Path, options: MountOptions) -> Connection:
    """Mount at a usable mountpoint; raise StartError with what the user can do where that fails. Waits.

    The kernel waits for nobody yet: requests are read when the connection is served.
    """
    if not FUSE_DEVICE.exists():
        raise StartError(
            f"{FUSE_DEVICE} is missing: load the kernel's module fuse (modprobe fuse);"
            f" a container must be given the device"
        )
    if os.geteuid() == 0:
        return _connect_as_root(mountpoint, options)
    return _connect_as_user(mountpoint, options)


def _connect_as_root(mountpoint: Path, options: MountOptions) -> Connection:
    try:
        descriptor = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(f"{FUSE_DEVICE}: {error.strerror}") from None
    data = ",".join(
        [f"fd={descriptor},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}", *options.texts()]
    )
    flags = sum(_MOUNT_FLAGS[name] for name in options.flags)
    result = _libc.mount(
        os.fsencode(options.source),
        os.fsencode(mountpoint),
        f"fuse.{options.subtype}".encode(),
        flags,
        data.encode(),
    )
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        os.close(descriptor)
        raise StartError(f"{mountpoint} cannot be mounted upon: {reason}")
    return Connection(descriptor, mountpoint, _unmount_as_root)


def _unmount_as_root(mountpoint: Path) -> None:
    path = os.fsencode(mountpoint)
    if _libc.umount2(path, _UMOUNT_NOFOLLOW) == 0:
        return
    if ctypes.get_errno() == errno.EBUSY and _libc.umount2(path, _UMOUNT_NOFOLLOW | _MNT_DETACH) == 0:
        return
    if ctypes.get_errno() not in {errno.EINVAL, errno.ENOENT}:  # it is mounted no longer
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(mountpoint))


def _helper() -> str:
    found = shutil.which(HELPER)
    if found is None:
        raise StartError(f"users mount by {HELPER}, which is missing: install the package fuse3")
    return found


def _connect_as_user(mountpoint: Path, options: MountOptions) -> Connection:
    helper = _helper()
    # What the kernel shows besides, and what mount(2) takes as flags, goes by the same list here.
    listed = [
        *options.texts(),
        f"fsname={_escaped(options.source)}",
        f"subtype={_escaped(options.subtype)}",
        *sorted(options.flags),
    ]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ran = subprocess.run(
            [helper, "-o", ",".join(listed), "--", str(mountpoint)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        theirs.close()
        room = array.array("i").itemsize
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(room), socket.MSG_CMSG_CLOEXEC)
    if ran.returncode != 0 or not ancillary:
        reason = ran.stderr.decode(errors="replace").strip() or f"{HELPER} ended with {ran.returncode}"
        raise StartError(f"{mountpoint} cannot be mounted upon: {reason}")
    received = array.array("i", ancillary[0][2][:room])
    return Connection(received[0], mountpoint, _unmount_as_user)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _unmount_as_user(mountpoint: Path) -> None:
    # Lazily: it also ends where files are open, and the connection ends with the daemon.
    subprocess.run(
        [_helper(), "-u", "-q", "-z", "--", str(mountpoint)], stdin=subprocess.DEVNULL, check=False
    )


async def serve_connection(
    device: Device,
    connection: Connection,
    *,
    threads: int,
    journal: Journal,
    read: Callable[[], Callable[[], None]] | None = None,
    read_ahead: int | None = None,
) -> None:
    """Serve a mounted file system by a device until somebody unmounts it, or until cancelled.

    By 0 threads: `read` begins to read requests on this loop, and returns how to end that. `read_ahead` is
    how far ahead the kernel shall read, other than it does by itself.

    Unmounts in any case, closes the connection and detaches the device; loops that serve handed-over requests
    must run until this has returned. Raises OSError where threads cannot be started.
    """
    end_reading: Callable[[], None] | None = None
    try:
        try:
            device.attach_fuse(connection.descriptor, threads)
            if read is not None:
                end_reading = read()
            began = None if read_ahead is None else partial(connection.read_ahead, read_ahead)
            await _watch(device, journal, began)
        finally:
            # While the threads still answer: unmounting may ask the file system.
            await _in_worker(connection.close)
    finally:
        if end_reading is not None:
            end_reading()
        await _in_worker(device.detach_fuse)


async def _watch(device: Device, journal: Journal, began: Callable[[], None] | None) -> None:
    while True:
        await anyio.wait_readable(device.event_descriptor)
        await checkpoint()
        while (event := device.next_event()) is not None:
            level = logging.WARNING if event.kind is DeviceEventKind.WARNING else logging.INFO
            cause = "" if event.error is None else f" ({os.strerror(event.error)})"
            journal.write(level, f"{event.text}{cause}")
            if event.kind is DeviceEventKind.SESSION and began is not None:
                began()
            if event.kind is DeviceEventKind.UNMOUNTED:
                return


async def _in_worker(call: Callable[[], None]) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(call)


_libc: Final = ctypes.CDLL(None, use_errno=True)
