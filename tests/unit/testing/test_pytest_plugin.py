"""The pytest plugin fails tests during which vhostfs logged a warning, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import logging
import pytest

LOGGER = logging.getLogger("vhostfs.session")

def test_nothing_asked():
    LOGGER.warning("heard by nobody")

def test_quiet(vhostfs_quiet):
    LOGGER.info("no warning")
    logging.getLogger("other").warning("not ours")

def test_warned(vhostfs_quiet):
    LOGGER.warning("the warning")

@pytest.mark.vhostfs_quiet
def test_marked():
    LOGGER.error("the error")

@pytest.fixture
def untidy():
    yield
    LOGGER.warning("while torn down")

@pytest.mark.vhostfs_quiet
def test_torn_down(untidy):
    pass

def test_expected(vhostfs_quiet):
    LOGGER.warning("expected")
    (record,) = vhostfs_quiet
    assert record.getMessage() == "expected"
    vhostfs_quiet.clear()
"""


def test_a_warning_in_the_log_fails_a_test_that_asked_for_quiet(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", "-rA"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    for name in ("test_nothing_asked", "test_quiet", "test_expected"):
        assert f"PASSED test_them.py::{name}" in done, done
        assert f"ERROR test_them.py::{name}" not in done, done
    for name, text in (
        ("test_warned", "WARNING vhostfs.session: the warning"),
        ("test_marked", "ERROR vhostfs.session: the error"),
        ("test_torn_down", "WARNING vhostfs.session: while torn down"),
    ):
        assert f"ERROR test_them.py::{name}" in done, done
        assert text in done, done
