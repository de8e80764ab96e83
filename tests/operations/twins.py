"""Two equal trees, one on the host and one in a share: the same call on both must have the same outcome.

A case says one thing twice, once as the host's system call and once as the FUSE requests that a guest's
kernel makes of it. compare() runs both and compares errno and all that can be seen in the trees afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.operations.shares import Mount

LONG_NAME = "n" * 255
TOO_LONG_NAME = "n" * 256


@dataclass(frozen=True, slots=True)
class Case:
    """One call: on the host below a directory, and in the guest through a mount."""

    name: str
    host: Callable[[Path], object]
    guest: Callable[[Mount], object]


def plant(directory: Path) -> None:
    """Fill a directory with one file of every kind."""
    (directory / "file").write_bytes(b"content")
    (directory / "empty").touch()
    (directory / "locked").write_bytes(b"secret")
    (directory / "locked").chmod(0)
    (directory / "dir").mkdir()
    (directory / "dir" / "inner").write_bytes(b"inner content")
    (directory / "dir" / "sub").mkdir()
    (directory / "hollow").mkdir()
    (directory / "link").symlink_to("file")
    (directory / "dangling").symlink_to("nowhere")
    (directory / "loop").symlink_to("loop")
    (directory / "twice").write_bytes(b"twice")
    os.link(directory / "twice", directory / "dir" / "again")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o644)
    os.mknod(directory / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def portrait(directory: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a user may see of a tree, but for times and inode numbers, up to 1 MiB a file."""
    seen: dict[str, tuple[object, ...]] = {}
    paths = [Path(root, name) for root, *names in os.walk(directory) for name in chain(*names)]
    for path in sorted(paths):
        about = path.lstat()
        content: bytes | str = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            with path.open("rb") as file:
                content = file.read(1 << 20)
        attributes = () if path.is_symlink() else tuple(sorted(os.listxattr(path)))
        seen[str(path.relative_to(directory))] = (
            oct(about.st_mode),
            about.st_nlink,
            about.st_uid,
            about.st_gid,
            about.st_rdev,
            0 if stat.S_ISDIR(about.st_mode) else about.st_size,
            content,
            attributes,
        )
    return seen


def outcome(call: Callable[[], object]) -> str:
    """Return the name of the errno that a call fails with, or what it returns."""
    try:
        value = call()
    except TimeoutError:
        raise
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return repr(value) if isinstance(value, int | bytes) else "done"


def errno_of(call: Callable[[], object]) -> int | None:
    """Return the errno that a call fails with, or None where it succeeds."""
    try:
        call()
    except TimeoutError:
        raise
    except OSError as error:
        return error.errno
    return None


def compare(case: Case, host: Path, mount: Mount) -> None:
    """Run a case on both sides, from equal trees, and check that all is equal again."""
    host.mkdir()
    mask = os.umask(0)
    try:
        plant(host)
        plant(mount.directory)
        expected = outcome(lambda: case.host(host))
    finally:
        os.umask(mask)
    assert outcome(lambda: case.guest(mount)) == expected
    assert portrait(mount.directory) == portrait(host)
