"""The ways in which the promises are checked, each a Place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import pytest

from tests.conformance.detached import detached_tmpfs
from tests.conformance.host import HostPlace
from tests.conformance.in_process import mounted
from tests.conformance.place import Place
from tests.conformance.requests import RequestPlace
from vhostfs.backends.memory import MemoryFilesystem

SIZE: Final = 64 << 20
"""The size of the file systems that are made for a promise."""

INODES: Final = 1000


@contextmanager
def tmpfs() -> Iterator[Place]:
    """A tmpfs of this machine, the yardstick."""
    with detached_tmpfs(size=str(SIZE), nr_inodes=str(INODES), mode="755") as directory:
        yield HostPlace(directory, frozenset({"no-zero-range"}))


@contextmanager
def memory() -> Iterator[Place]:
    """A memory file system served in this process."""
    with mounted(MemoryFilesystem(size=SIZE, inodes=INODES, mode=0o755)) as client:
        yield RequestPlace(client)


WAYS: Final[dict[str, Callable[[], AbstractContextManager[Place]]]] = {
    "tmpfs": tmpfs,
    "memory": memory,
}


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Provide an empty directory, once for each way."""
    if request.param == "tmpfs" and os.getuid() != 0:
        pytest.skip("acting as several users needs root")
    with WAYS[request.param]() as place:
        yield place
