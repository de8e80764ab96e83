"""Fixtures: the daemons of a run, and a mounted share for a test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.connections.served import Served, serving
from tests.operations.shares import Mount, Shares

pytest.register_assert_rewrite("tests.operations.twins")

if os.getuid() != 0:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Say why nothing is collected where it is not."""
    return "" if os.getuid() == 0 else "tests/operations: left out, as they need root to act as several users"


@pytest.fixture(scope="session")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shares]:
    """Provide the daemons of this run; each must end cleanly and never have met a fault of its own."""
    shares = Shares(tmp_path_factory.mktemp("shares"))
    try:
        yield shares
    finally:
        ended = shares.stop()
    for share, status in ended:
        assert status == 0, share.daemon.log()
        assert "Traceback" not in share.daemon.log()
        assert " ERROR " not in share.daemon.log()


@pytest.fixture
def mount(shares: Shares) -> Iterator[Mount]:
    """Provide an empty share of a daemon with extended attributes and host locks, mounted."""
    with shares.mounted("--xattr") as mount:
        yield mount


@pytest.fixture(scope="session")
def daemon_of_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Provide a daemon that offers packed rings and four request queues."""
    keys = "packed: true\n    request_queues: 4"
    with serving(tmp_path_factory.mktemp("rings"), keys=keys) as served:
        yield served


@pytest.fixture
def served(daemon_of_run: Served) -> Iterator[Served]:
    """Provide a daemon that must serve a new guest when the test is over."""
    yield daemon_of_run
    daemon_of_run.check()
