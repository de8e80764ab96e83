"""Write what was measured into docs/benchmarks.md: a summary, tables and plots, and what misses its target.

Each kind of measurement replaces what is between its own two marks in the document; without a file of a kind
its part stays. All else in the document is written by hand.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import footprint
from benchmarks.comparison import Row
from benchmarks.plots import plot
from benchmarks.targets import Comparison, Judgement, Verdict, judge
from benchmarks.workloads import BY_NAME

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARKED: Final = {Verdict.MET: "", Verdict.BARE: "*", Verdict.MISSED: "**"}
LEGEND: Final = (
    "In **bold**: falls short of its target. "
    "In *italics*: misses it, and passes by the rule of the bare calls, above."
)
UNITS: Final = {"rate": "requests/s", "cpu": "CPU", "worst": "worst latency"}


def table(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table; how a ratio stands to its goal shows in its type."""
    first, *others = comparison.daemons
    heads = ["workload", "depth", f"{first}, per s", "p50 / p99 µs", "bare CPU µs"]
    heads += [f"CPU µs, {name}" for name in comparison.daemons]
    for name in others:
        heads += [f"rate to {name}", "CPU", "worst latency"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in comparison.rows:
        cells = [_title(row), str(row.depth), f"{row.middle(first, 'rate'):,.0f}"]
        cells.append(f"{row.middle(first, 'median'):.1f} / {row.middle(first, 'percentile_99'):.1f}")
        cells.append(f"{row.bare:.2f}" if row.bare else "-")
        cells += [f"{row.middle(name, 'cpu'):.2f}" for name in comparison.daemons]
        marks = {(one.peer, one.goal.figure): MARKED[one.verdict] for one in judge(comparison, row)}
        for name in others:
            for figure in ("rate", "cpu", "worst"):
                mark = marks.get((name, figure), "")
                cells.append(f"{mark}{row.ratio(first, name, figure):.2f}{mark}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _title(row: Row) -> str:
    queues = f", {row.queues} queues" if row.queues > 1 else ""
    return BY_NAME[row.workload].title + queues


def summary(comparisons: Sequence[Comparison]) -> str:
    """Return how many figures meet their targets, and each that falls short, as Markdown."""
    lines = []
    short = []
    for comparison in comparisons:
        judged = [one for row in comparison.rows for one in judge(comparison, row)]
        counts = {verdict: sum(one.verdict is verdict for one in judged) for verdict in Verdict}
        where = comparison.machine["file system"]
        lines.append(
            f"- On {where}, of {len(judged)} figures with a target, {counts[Verdict.MET]} meet it, "
            f"{counts[Verdict.BARE]} pass by the rule of the bare calls, "
            f"and {counts[Verdict.MISSED]} fall short."
        )
        short += [f"- {where}: {line}" for line in _fallen_short(judged)]
    if short:
        lines += ["", "What falls short, with its ratio and the target:", "", *short]
    return "\n".join(lines)


def _fallen_short(judged: Sequence[Judgement]) -> Iterator[str]:
    """Yield a line for each workload that has a figure which falls short."""
    missed = [one for one in judged if one.verdict is Verdict.MISSED]
    for title in dict.fromkeys(_title(one.row) for one in missed):
        figures = (
            f"{UNITS[one.goal.figure]} at depth {one.row.depth} to {one.peer} "
            f"{one.ratio:.3g} ({'≥' if one.goal.least else '≤'} {one.goal.bound:g})"
            for one in missed
            if _title(one.row) == title
        )
        yield f"{title}: " + "; ".join(figures)


def section(comparison: Comparison, pictures: Sequence[str]) -> str:
    """Return a comparison with where it ran and its plots, for the document."""
    where = comparison.machine
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    shown = "\n\n".join(f"![{Path(name).stem}, on {where['file system']}](plots/{name})" for name in pictures)
    return f"### On {where['file system']}\n\n{facts}\n\n{shown}\n\n{LEGEND}\n\n{table(comparison)}\n"


def results(files: Sequence[Path], plots: Path) -> str:
    """Draw the plots of comparisons into a directory, and return the document's part about them."""
    comparisons = [Comparison.load(path) for path in files]
    plots.mkdir(exist_ok=True)
    for stale in plots.glob("*.svg"):
        stale.unlink()
    sections = []
    for number, comparison in enumerate(comparisons):
        kind = comparison.machine["file system"]
        earlier = sum(one.machine["file system"] == kind for one in comparisons[:number])
        name = f"{kind}-{earlier + 1}" if earlier else kind
        sections.append(section(comparison, plot(comparison, plots, name)))
    return "\n".join([summary(comparisons) + "\n", *sections])


def replaced(text: str, kind: str, part: str) -> str:
    """Return a document with what is between the two marks of a kind replaced."""
    begin, end = f"<!-- {kind}: begin -->", f"<!-- {kind}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the document has no marks {begin} and {end}")
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    """Replace the measured parts of the document."""
    parser = argparse.ArgumentParser(prog="report", description="Write measurements into a document.")
    parser.add_argument("file", nargs="*", type=Path, help="what `benchmarks/compare --json` kept")
    parser.add_argument("--footprint", type=Path, help="what benchmarks/footprint.py kept")
    parser.add_argument("--guest", type=Path, help="what `benchmarks/guest-compare --json` kept")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="instead of docs/benchmarks.md")
    parser.add_argument("--python", type=Path, help="what `benchmarks/python-compare --json` kept")
    parser.add_argument("--s3", type=Path, help="what `benchmarks/s3-compare --json` kept")
    options = parser.parse_args(argv)
    text = options.document.read_text()
    if options.file:
        text = replaced(text, "measured", results(options.file, options.document.parent / "plots"))
    if options.footprint:
        text = replaced(text, "footprint", footprint.section(options.footprint))
    if options.guest:
        guest_report = importlib.import_module("benchmarks.guest_report")
        text = replaced(text, "guest", guest_report.section(options.guest))
    if options.python:
        python_report = importlib.import_module("benchmarks.python.report")
        text = replaced(text, "python", python_report.section(options.python))
    if options.s3:
        s3_report = importlib.import_module("benchmarks.s3.report")
        text = replaced(text, "s3", s3_report.section(options.s3))
    options.document.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
