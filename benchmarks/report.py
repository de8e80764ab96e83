"""Write what comparisons measured into docs/benchmarks.md: a table for each, and what misses its target.

The comparisons are files that `benchmarks/compare --json` kept. Their tables replace those between the two
marks in the document; all else in it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison import Row, Sample
from benchmarks.workloads import BY_NAME, Workload

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at against one peer: a figure's ratio, at least or at most."""

    figure: str
    bound: float
    least: bool = True

    def missed(self, ratio: float) -> bool:
        """Tell whether a ratio falls short."""
        return ratio < self.bound if self.least else ratio > self.bound


DATA_GOALS: Final = {
    "readdirplus": (1.9, 4.5),
    "read4k": (1.4, 2.2),
    "write4k": (1.4, 2.2),
    "read1m": (1.1, 1.4),
    "write1m": (1.1, 1.4),
    "read4k-disk": (4.0, 4.0),
}
"""Least ratios of rates to the C and to the Rust virtiofsd; those of 4 KiB are for depth 32."""

METADATA_RATES: Final = {1: (1.15, 1.6), 4: (1.4, 2.5), 32: (1.7, 3.5)}
METADATA_CPU: Final = (0.55, 0.25)
"""Most CPU time a request at depth 32."""


def goals(workload: Workload, depth: int, peer: int) -> Iterator[Goal]:
    """Yield what is aimed at against a peer: 0 the C virtiofsd, 1 the Rust one."""
    if workload.name == "getattr-fsync":
        yield Goal("worst", 0.1, least=False)
    elif workload.name in DATA_GOALS:
        if depth == 32 or not workload.name.endswith("4k"):
            yield Goal("rate", DATA_GOALS[workload.name][peer])
    elif workload.metadata:
        yield Goal("rate", METADATA_RATES[depth][peer])
        if depth == 32:
            yield Goal("cpu", METADATA_CPU[peer], least=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison as it was kept: vhostfs first, then its peers."""

    machine: dict[str, str]
    daemons: list[str]
    rows: list[Row]

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Read a file of `compare --json`."""
        kept = json.loads(path.read_text())
        return cls(kept["machine"], kept["daemons"], [_row(row) for row in kept["rows"]])


def _row(kept: dict[str, Any]) -> Row:
    samples = {
        name: [Sample(**sample) for sample in samples] for name, samples in kept.pop("samples").items()
    }
    return Row(samples=samples, **kept)


def _peer(name: str) -> int:
    return 0 if "(C)" in name else 1


def _cell(row: Row, first: str, other: str, figure: str) -> str:
    """Return a ratio, in bold where it misses its goal."""
    ratio = row.ratio(first, other, figure)
    aims = [goal for goal in goals(BY_NAME[row.workload], row.depth, _peer(other)) if goal.figure == figure]
    text = f"{ratio:.2f}"
    return f"**{text}**" if any(goal.missed(ratio) for goal in aims) else text


def table(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table."""
    first, *others = comparison.daemons
    heads = ["workload", "depth", f"{first}, per s", "p50 / p99 µs", "bare CPU µs"]
    heads += [f"CPU µs, {name}" for name in comparison.daemons]
    for name in others:
        heads += [f"rate to {name}", "CPU", "worst latency"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in comparison.rows:
        queues = f", {row.queues} queues" if row.queues > 1 else ""
        cells = [BY_NAME[row.workload].title + queues, str(row.depth), f"{row.middle(first, 'rate'):,.0f}"]
        cells.append(f"{row.middle(first, 'median'):.1f} / {row.middle(first, 'percentile_99'):.1f}")
        cells.append(f"{row.bare:.2f}" if row.bare else "-")
        cells += [f"{row.middle(name, 'cpu'):.2f}" for name in comparison.daemons]
        for name in others:
            cells += [_cell(row, first, name, figure) for figure in ("rate", "cpu", "worst")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(comparison: Comparison) -> str:
    """Return a comparison with where it ran, for the document."""
    where = comparison.machine
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    return f"### On {where['file system']}\n\n{facts}\n\n{table(comparison)}\n"


def main(argv: Sequence[str]) -> int:
    """Replace the measured part of the document."""
    parser = argparse.ArgumentParser(prog="report", description="Write comparisons into docs/benchmarks.md.")
    parser.add_argument("file", nargs="+", type=Path, help="what `benchmarks/compare --json` kept")
    sections = [section(Comparison.load(path)) for path in parser.parse_args(argv).file]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
