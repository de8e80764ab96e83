"""Where a mount keeps its state on the host: a directory for each bucket and prefix, which one daemon holds.

It is opened before the sandbox; everything in it is found by its descriptor.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from vhostfs.backends.opening import open_path
from vhostfs.backends.s3.spool import Spool, SpoolFile
from vhostfs.errors import StartError

LOCK: Final = "lock"
DATA: Final = ".data"
_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9._-]")


def default_state_directory(environment: Mapping[str, str]) -> Path:
    """Return where state belongs: below XDG_STATE_HOME, for root in /var/lib, else in the user's home."""
    home = environment.get("XDG_STATE_HOME", "")
    if home.startswith("/"):
        return Path(home) / "vhostfs"
    if os.geteuid() == 0:
        return Path("/var/lib/vhostfs")
    return Path(environment.get("HOME", "/nonexistent")) / ".local/state/vhostfs"


class StateDirectory(Spool):
    """The state of one mount. For one process at a time, which its lock sees to."""

    def __init__(self, parent: Path, store: str, bucket: str, prefix: str, *, make: bool) -> None:
        """Open, and make where it is not there, the directory of a part of a bucket of a store.

        `make` lets the parent directory be made, too. Raise StartError for one that another daemon holds,
        OSError for one that cannot be had.
        """
        if make:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256("\0".join((store, bucket, prefix)).encode("utf-8", "surrogateescape"))
        name = f"{_UNUSUAL.sub('_', bucket)[:64]}-{digest.hexdigest()[:16]}"
        above = open_path(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=above)
        finally:
            os.close(above)
        super().__init__(None, descriptor=descriptor)
        try:
            self._lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=descriptor)
        except BaseException:
            super().close()
            raise
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StartError(
                f"{parent / name} is held by another daemon that has the same part of the bucket mounted"
            ) from None

    def new(self) -> SpoolFile:
        """Return a new file, which has a name."""
        return SpoolFile(self, f"{os.urandom(8).hex()}{DATA}")

    def found(self, name: str) -> SpoolFile:
        """Return a file that an earlier daemon has left."""
        return SpoolFile(self, name, is_there=True)

    def open(self, name: str) -> int:
        """Return a descriptor of a file that is there."""
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.descriptor)

    def names(self) -> Iterator[str]:
        """Yield the names of all files of data."""
        with os.scandir(self.descriptor) as found:
            for each in found:
                if each.name.endswith(DATA):
                    yield each.name

    def unlink(self, name: str) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def set_aside(self, names: Sequence[str]) -> str:
        """Move files to a directory that nothing looks into any more, and return its name."""
        directory = f"damaged-{time.time_ns()}"
        os.mkdir(directory, 0o700, dir_fd=self.descriptor)
        for name in names:
            self.rename(name, f"{directory}/{name}")
        return directory

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""
        os.rename(name, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def synchronize(self) -> None:
        """Let names that were made or changed outlive the host's power."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Give it up: another daemon may have it."""
        os.close(self._lock)
        super().close()
