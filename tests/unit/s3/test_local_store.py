"""A store of the daemon's own, for trying things out."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostfs.backends.s3.local_store import LocalStore


def test_a_store_that_has_ended_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store = LocalStore("demo")
    assert list(tmp_path.iterdir())
    store.stop()
    assert not list(tmp_path.iterdir())
