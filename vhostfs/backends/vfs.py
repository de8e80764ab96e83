"""A tree of mounts: one device, many file systems, each at a path of its own, nested too.

Where nothing is mounted at "/", the root is a read-only directory with nothing but the way to the mounts; so
are the directories on the way that a mount above does not have. A mount is found at its path whether or not
the mount above has such a directory, but listed there only if it has.

The guest's kernel shows a mount as a mount, with a device number of its own, from Linux 5.10 on. Links,
renames and copies between mounts are EXDEV; the names that lead to mounts cannot be removed (EBUSY).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from vhostfs.virtqueue import Device

ROOT: Final = PurePosixPath("/")

type Mounter = Callable[[Device, int], None]
"""Mounts a file system on a device, as the number given: mount_passthrough with options, or a Handoff."""


class Tree:
    """The mounts of a device. One thread at a time; also while the device serves a guest.

    A guest finds what is mounted later when it looks the name up again: at once, or when the time is over for
    which the mount above lets it trust the name. What is unmounted is gone at once, as by `umount -l`: files
    that are open are ESTALE from then on. Numbers are used once a session, so that nothing that a guest
    remembers comes to mean another mount: after 254 of them the next needs a new session (OSError ENOSPC).
    """

    def __init__(self, device: Device) -> None:
        """Begin the tree of a device that has no mount yet."""
        self._device = device
        self._planted = False
        self._numbers: dict[PurePosixPath, int] = {}

    @property
    def numbers(self) -> Mapping[PurePosixPath, int]:
        """Return the mounts: the number of each by its path."""
        return MappingProxyType(self._numbers)

    def plant(self, proc_self_descriptor: int | None = None) -> None:
        """Make the device a tree, as the first mount beside "/" does; a device without "/" needs it to serve.

        With an O_PATH descriptor of /proc/self/fd, which stays the caller's, directories of the host can be
        mounted while the device serves though none was before.
        """
        if not self._planted:
            self._device.plant(proc_self_descriptor)
            self._planted = True

    def mount(self, path: str | PurePosixPath, mounter: Mounter) -> int:
        """Mount at an absolute path, and return the mount's number; "/" only as the first.

        Raise OSError: EBUSY where a mount is there, EINVAL for what is no path (or has ".."), ENAMETOOLONG,
        ENOSPC, and whatever the mounter raises; then nothing is mounted.
        """
        place = normal(path)
        if place in self._numbers:
            raise OSError(errno.EBUSY, "another mount is there")
        if place == ROOT and not self._planted:
            mounter(self._device, 0)
            self._numbers[place] = 0
            return 0
        self.plant()
        number = self._device.free_mount()
        mounter(self._device, number)
        try:
            self._device.attach(os.fspath(place), number)
        except OSError:
            self._device.unmount(number)
            raise
        self._numbers[place] = number
        return number

    def unmount(self, path: str | PurePosixPath) -> None:
        """Take a mount away. Raise OSError: EBUSY for "/" and where others lie below, ENOENT: there is none.

        A file system in Python is told the end of its session; its Handoff is to be closed after that.
        """
        place = normal(path)
        if place not in self._numbers:
            raise OSError(errno.ENOENT, "no mount is there")
        self._device.unmount(self._numbers[place])
        del self._numbers[place]


def normal(path: str | PurePosixPath) -> PurePosixPath:
    """Return a path as mounts are known by: absolute, with one slash between names. OSError EINVAL."""
    text = os.fspath(path)
    place = PurePosixPath("/" + text.lstrip("/"))
    if not text.startswith("/") or ".." in place.parts or "\0" in text:
        raise OSError(errno.EINVAL, "no absolute path without '..'")
    return place
