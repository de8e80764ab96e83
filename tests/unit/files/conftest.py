"""Files run on asyncio here, as sessions do; and a file system to have them in."""

from __future__ import annotations

import pytest

from vhostfs.backends.memory import MemoryFilesystem


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"


@pytest.fixture
def filesystem() -> MemoryFilesystem:
    """Return an empty file system in memory."""
    return MemoryFilesystem(size=64 << 20, inodes=10_000, mode=0o755)
