"""The report: which figures pass, which do not, and that all of it comes from what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.comparison import Row, Sample
from benchmarks.footprint import Footprint, Scaling
from benchmarks.targets import Comparison, Verdict, allowance, judge
from benchmarks.workloads import BY_NAME

C, RUST = "virtiofsd (C) 7.2.22", "virtiofsd 1.14.0"
MACHINE = {"processor": "2 of some", "kernel": "6.18", "file system": "ext4", "load": "0.1"}
DOCUMENT = "".join(
    f"# {kind}\n<!-- {kind}: begin -->\nold\n<!-- {kind}: end -->\n"
    for kind in ("measured", "footprint", "guest")
)


def row(
    workload: str, depth: int, bare: float, cpu: tuple[float, float, float], rate: tuple[float, float, float]
) -> Row:
    """Return a row of one run of vhostfs, C and Rust, with their CPU times and rates."""
    samples = {
        name: [Sample(rate=rate[at], cpu=cpu[at], median=1.0, percentile_99=2.0, worst=3.0, calls=1.0)]
        for at, name in enumerate(("vhostfs", C, RUST))
    }
    return Row(workload, depth, 1, bare, samples)


def verdicts(*rows: Row) -> dict[tuple[int, str, str], Verdict]:
    """Return the verdicts of a comparison by depth, peer and figure."""
    comparison = Comparison(MACHINE, ["vhostfs", C, RUST], list(rows))
    judged = [one for each in rows for one in judge(comparison, each)]
    return {(one.row.depth, one.peer, one.goal.figure): one.verdict for one in judged}


# Four requests, 10 µs of bare calls: 15 µs are allowed. Targets against C: rate 1.7, CPU 0.55.
CREATE_32 = row("create", 32, 10.0, (14.9, 20.0, 100.0), (60_000, 50_000, 10_000))


def test_the_allowance_counts_every_request_of_a_cycle() -> None:
    assert allowance(CREATE_32) == pytest.approx(1.3 * 10 + 0.5 * 4)
    assert BY_NAME["mix"].requests == 1


def test_a_miss_passes_where_the_bare_calls_leave_no_room() -> None:
    found = verdicts(CREATE_32)
    assert found[32, C, "rate"] is Verdict.BARE
    assert found[32, C, "cpu"] is Verdict.BARE
    assert found[32, RUST, "rate"] is Verdict.MET
    assert found[32, RUST, "cpu"] is Verdict.MET


def test_a_miss_does_not_pass_beyond_the_allowance() -> None:
    found = verdicts(row("create", 32, 10.0, (15.1, 20.0, 100.0), (60_000, 50_000, 10_000)))
    assert found[32, C, "rate"] is Verdict.MISSED
    assert found[32, C, "cpu"] is Verdict.MISSED


def test_a_miss_does_not_pass_unless_ahead_of_both_peers() -> None:
    found = verdicts(row("create", 32, 10.0, (14.9, 20.0, 100.0), (60_000, 50_000, 60_001)))
    assert found[32, C, "rate"] is Verdict.MISSED


def test_a_miss_does_not_pass_where_the_bare_calls_leave_room() -> None:
    # C takes 25 µs a cycle by its rate at depth 4: 1.4 times as fast is 17.9 µs, and 15 are allowed.
    found = verdicts(CREATE_32, row("create", 4, 10.0, (30.0, 40.0, 100.0), (50_000, 40_000, 10_000)))
    assert found[4, C, "rate"] is Verdict.MISSED


def test_the_cpu_time_of_depth_32_decides_for_the_other_depths() -> None:
    # At depth 4 the daemon takes more than 15 µs, for its sleeping; 20 µs over 1.4 leave no room.
    at_4 = row("create", 4, 10.0, (18.0, 22.0, 100.0), (60_000, 50_000, 10_000))
    assert verdicts(CREATE_32, at_4)[4, C, "rate"] is Verdict.BARE
    dear = row("create", 32, 10.0, (15.1, 20.0, 100.0), (60_000, 50_000, 10_000))
    assert verdicts(dear, at_4)[4, C, "rate"] is Verdict.MISSED


def test_where_there_is_no_depth_32_each_depth_decides_for_itself() -> None:
    within = row("read1m", 1, 150.0, (190.0, 200.0, 250.0), (5_200, 5_000, 3_000))
    beyond = row("read1m", 4, 150.0, (200.0, 200.0, 250.0), (5_200, 5_000, 3_000))
    found = verdicts(within, beyond)
    assert found[1, C, "rate"] is Verdict.BARE
    assert found[4, C, "rate"] is Verdict.MISSED


def test_without_bare_calls_no_miss_passes() -> None:
    found = verdicts(row("read4k-disk", 32, 0.0, (1.0, 2.0, 3.0), (60_000, 50_000, 10_000)))
    assert found[32, C, "rate"] is Verdict.MISSED


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Provide a document with all marks, and an old plot."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "old-rates.svg").write_text("")
    (tmp_path / "benchmarks.md").write_text(DOCUMENT)
    return tmp_path / "benchmarks.md"


def kept(path: Path) -> Path:
    """Write a comparison as `compare --json` does."""
    rows = [CREATE_32, row("getattr", 32, 0.5, (1.2, 1.0, 9.0), (60_000, 50_000, 10_000))]
    content = {"machine": MACHINE, "daemons": ["vhostfs", C, RUST], "rows": [asdict(one) for one in rows]}
    path.write_text(json.dumps(content))
    return path


def test_the_report_counts_and_names_what_falls_short(document: Path, tmp_path: Path) -> None:
    assert report.main([str(kept(tmp_path / "kept")), "--document", str(document)]) == 0
    text = document.read_text()
    assert "of 8 figures with a target, 4 meet it, 2 pass by the rule" in text
    assert "and 2 fall short" in text
    assert f"- ext4: getattr: requests/s at depth 32 to {C} 1.2 (≥ 1.7); CPU at depth 32" in text
    assert "*1.20*" in text
    assert "**1.20**" in text
    assert "# footprint\n<!-- footprint: begin -->\nold" in text


def test_the_plots_are_the_same_each_time_and_stale_ones_go(document: Path, tmp_path: Path) -> None:
    file = kept(tmp_path / "kept")
    drawn = []
    for _ in range(2):
        report.main([str(file), "--document", str(document)])
        drawn.append({path.name: path.read_text() for path in (tmp_path / "plots").iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"ext4-rates.svg", "ext4-cpu.svg"}
    for name, text in drawn[0].items():
        assert f"](plots/{name})" in document.read_text()
        assert "prefers-color-scheme:dark" in text


def test_what_vhostfs_takes_by_itself_replaces_its_part_alone(document: Path, tmp_path: Path) -> None:
    found = Footprint(MACHINE, 0.2, 50 << 20, 240.0, 1000, 0.0, [Scaling("getattr", 32, 1.0, 1.1, 1.7)])
    (tmp_path / "kept").write_text(json.dumps(asdict(found)))
    report.main(["--footprint", str(tmp_path / "kept"), "--document", str(document)])
    text = document.read_text()
    assert "| start to a listening socket | 0.20 s | < 0.4 s |" in text
    assert "| resident memory, idle | **50 MiB** | < 45 MiB |" in text
    assert "| getattr | 32 | 1.00 | 1.10 | 1.70 |" in text
    assert "<!-- measured: begin -->\nold" in text
