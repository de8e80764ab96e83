"""A pytest plugin: fixtures for tests of file systems. Nothing happens to tests that do not ask for it.

vhostfs_quiet   fails a test during which vhostfs logged a warning or an error; also as a mark of that name
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

LOGGER = "vhostfs"


class Recorder(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers", "vhostfs_quiet: fail this test if vhostfs logs a warning or an error meanwhile"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the fixture to tests with the mark, first of all, so that it sees the others being torn down."""
    for item in items:
        if item.get_closest_marker("vhostfs_quiet") is not None and isinstance(item, pytest.Function):
            names = item.fixturenames
            if "vhostfs_quiet" in names:
                names.remove("vhostfs_quiet")
            names.insert(0, "vhostfs_quiet")


@pytest.fixture
def vhostfs_quiet() -> Iterator[list[logging.LogRecord]]:
    """Fail if vhostfs logs a warning or an error; yield the records, which a test may clear."""
    recorder = Recorder()
    logger = logging.getLogger(LOGGER)
    logger.addHandler(recorder)
    try:
        yield recorder.records
    finally:
        logger.removeHandler(recorder)
    if recorder.records:
        formatter = logging.Formatter("%(levelname)s %(name)s: %(message)s")
        lines = "\n".join(formatter.format(record) for record in recorder.records)
        pytest.fail(f"vhostfs logged during this test:\n{lines}", pytrace=False)
