"""Fixtures: the daemons of a run, and a mounted share for a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.shares import PEER, Mount, Shares

pytest.register_assert_rewrite("tests.operations.twins")

if os.getuid() != 0:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Say why nothing is collected where it is not."""
    return "" if os.getuid() == 0 else "tests/operations: left out, as they need root to act as several users"


@pytest.fixture(scope="session")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shares]:
    """Provide the daemons of this run; each must end cleanly, and must never have met an error of its own."""
    shares = Shares(tmp_path_factory.mktemp("shares"))
    status = shares.stop
    try:
        yield shares
    finally:
        ended = status()
    if not PEER:
        assert set(ended.values()) <= {0}, f"daemons ended with {ended}"


@pytest.fixture
def mount(shares: Shares) -> Iterator[Mount]:
    """Provide an empty share of a daemon with extended attributes and host locks, mounted."""
    with shares.mounted("--xattr") as mount:
        yield mount


@pytest.fixture
def share_directory(mount: Mount) -> Path:
    """Provide the mounted share as the host sees it."""
    return mount.directory
