"""Mountpoints of this host, which nothing stays mounted on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs root and /dev/fuse, and say so."""
    if os.getuid() == 0 and Path("/dev/fuse").exists():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="mounting on this host needs root and /dev/fuse"))


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """Provide an empty directory; whatever a failed test leaves mounted on it is taken away."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    yield directory
    while _LIBC.umount2(os.fsencode(directory), _MNT_DETACH) == 0:
        pass


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Provide a directory to be served, with a file in it."""
    directory = tmp_path / "share"
    directory.mkdir()
    (directory / "file").write_bytes(b"content")
    return directory
