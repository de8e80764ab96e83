"""The comparison of mounted buckets: ours passes every work, and what is wrong or falls short is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.s3 import objects, reading, store, writing
from benchmarks.s3.comparison import compare
from benchmarks.s3.contestants import Mounted
from benchmarks.s3.figures import VHOSTFS, WORKS, Sample
from benchmarks.s3.measuring import WrongResultError
from benchmarks.s3.report import S3Comparison

MACHINE = {"processor": "2 of some", "kernel": "6.18", "file system": "tmpfs", "load": "0.1"}
QUICK = ("scattered-16", "small-16", "create-16", "untar-writeback", "clone-writeback")
mounts = pytest.mark.skipif(
    os.getuid() != 0 or not Path("/dev/fuse").exists(),
    reason="mounting on this host needs root and /dev/fuse",
)


@mounts
def test_vhostfs_passes_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.1)
    monkeypatch.setattr(writing, "SECONDS", 0.1)
    works = [work for work in WORKS if work.name in QUICK]
    with store.running(latency=0, bandwidth=0) as running:
        samples = compare(running, tmp_path, Path("unused"), works, [VHOSTFS.name], 1)
    assert list(samples) == list(QUICK)
    for by_name in samples.values():
        assert by_name[VHOSTFS.name][0].failure is None
        assert by_name[VHOSTFS.name][0].value > 0


def test_a_page_from_another_place_is_seen(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    with (tmp_path / objects.LARGE).open("wb") as file:
        file.truncate(objects.LARGE_SIZE)

    class Elsewhere(Mounted):
        def __init__(self, running: store.Store) -> None:
            self.name, self.path, self.store = "elsewhere", tmp_path, running

        def cpu_seconds(self) -> float:
            return 0.0

        def peak_resident_bytes(self) -> int:
            return 0

    with (
        store.running(latency=0, bandwidth=0) as running,
        pytest.raises(WrongResultError, match=r"the page at .* is wrong"),
    ):
        reading.scattered(Elsewhere(running), 1, 1)


def test_what_falls_short_of_its_goal_is_in_bold(tmp_path: Path) -> None:
    samples = {
        "stream": {
            "vhostfs": [Sample(500.0, cpu=0.25), Sample(700.0, cpu=0.25)],
            "s3fs": [Sample(400.0, cpu=0.3), Sample(350.0, cpu=0.3)],
            "rclone": [Sample(failure="wrong"), Sample(failure="wrong")],
        },
        "list-index": {"vhostfs": [Sample(0.5)], "s3fs": [Sample(20.0)]},
    }
    kept, document = tmp_path / "kept", tmp_path / "document.md"
    S3Comparison(MACHINE, samples).save(kept)
    document.write_text("before\n<!-- s3: begin -->\nold\n<!-- s3: end -->\nafter\n")
    assert report.main(["--s3", str(kept), "--document", str(document)]) == 0
    text = document.read_text()
    assert "| 600 | 375 | wrong | - | **1.62** | ≥ 1.8 times |" in text
    assert "| **1.00** | 1.20 | wrong | - | 1.20 | ≤ 0.8 |" in text
    assert "| 0.50 | 20.00 | - | - | 40.00 | ≥ 20 times |" in text
    assert "old" not in text
