"""Fixtures: a daemon for all tests of a file, which none of them may harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.connections.served import Served, serving


@pytest.fixture(scope="module")
def daemon_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Provide a daemon that serves one test after the other."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def served(daemon_of_module: Served) -> Iterator[Served]:
    """Provide a daemon that must serve a new guest when the test is over."""
    yield daemon_of_module
    daemon_of_module.check()
