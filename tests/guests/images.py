"""The kernels and emulators that ``scripts/guest-images`` has put into the user's cache."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


class MissingImageError(Exception):
    """Raised when a guest image is not in the cache; the sentence names the command that makes it."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel for QEMU and its initrd, which has busybox and the modules of virtio-fs, but no init."""

    release: str
    vmlinuz: Path
    initrd: Path


@dataclass(frozen=True, slots=True)
class UserModeLinux:
    """A User-Mode Linux and a directory with its modules for virtio-fs."""

    release: str
    linux: Path
    modules: Path


@dataclass(frozen=True, slots=True)
class Emulator:
    """A QEMU: the host's own, or Debian sid's with the libraries that it wants."""

    release: str
    program: Path


class GuestImages:
    """The images in a cache directory: ``$VHOSTFS_CACHE``, or ``~/.cache/vhostfs``."""

    __slots__ = ("_directory",)

    def __init__(self, directory: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._directory = directory or Path(os.environ.get("VHOSTFS_CACHE") or cache / "vhostfs")

    def kernel(self, suite: str) -> Kernel:
        """Find the kernel of a Debian suite, ``bookworm`` or ``sid``. Raises MissingImageError."""
        place, release = self._image(f"kernel-{suite}")
        return Kernel(release, place / "vmlinuz", place / "initrd")

    def user_mode_linux(self) -> UserModeLinux:
        """Find Debian sid's User-Mode Linux. Raises MissingImageError."""
        place, release = self._image("uml-sid")
        return UserModeLinux(release, place / "linux", place / "modules")

    def sid_emulator(self) -> Emulator:
        """Find Debian sid's QEMU. Raises MissingImageError."""
        place, release = self._image("qemu-sid")
        return Emulator(release, place / "qemu-system-x86_64")

    def host_emulator(self) -> Emulator:
        """Find the QEMU that is installed on the host. Raises MissingImageError."""
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise MissingImageError("qemu-system-x86_64 is not installed: install Debian's qemu-system-x86")
        return Emulator("of the host", Path(program))

    def kernel_headers(self) -> Path:
        """Find the include directory of Debian sid's kernel headers. Raises MissingImageError."""
        place, _ = self._image("headers-sid")
        return place / "usr/include"

    def ceph(self) -> Path:
        """Find the root directory in which Debian sid's Ceph was unpacked. Raises MissingImageError."""
        place, _ = self._image("ceph-sid")
        return place / "root"

    def _image(self, name: str) -> tuple[Path, str]:
        place = self._directory / name
        if not (place / "release").exists():
            raise MissingImageError(f"{place} does not exist: run 'scripts/guest-images {name}'")
        return place, (place / "release").read_text().strip()
