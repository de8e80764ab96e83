"""Draw comparisons as SVG: rates beside each peer's, and CPU time beside the bare system calls.

The same comparison gives the same bytes. Text and ground follow what the reader prefers, dark or light.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.targets import CPU_DEPTH, Comparison, goals, peer_number
from benchmarks.workloads import BY_NAME

INK: Final = "#1f2328"
PAPER: Final = "#fefefe"
THEME: Final = (
    f"svg{{color:{INK};--paper:{PAPER}}}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3;--paper:#0d1117}}"
)
"""The colours of text and ground, which stand in the drawing as INK and PAPER."""

DEPTH_COLOURS: Final = {1: "#8a6fd1", 4: "#d9822b", 32: "#2f86d6"}
DAEMON_COLOURS: Final = ("#2f86d6", "#d9822b", "#8a6fd1", "#3a9a5b")
SETTINGS: Final[Any] = {
    "svg.hashsalt": "vhostfs",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}


def svg(figure: Figure) -> str:
    """Return a figure as SVG that is the same each time, and fits dark pages too."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue().replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    return text.replace('<style type="text/css">', f'<style type="text/css">{THEME}', 1)


def _rows_axis(axes: Any, titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for at in range(0, len(titles), 2):
        axes.axhspan(at - 0.5, at + 0.5, color="#808080", alpha=0.08, linewidth=0)


def _plain_ticks(axes: Any, ticks: Sequence[float]) -> None:
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="#808080", alpha=0.25, linewidth=0.6)


def rates(comparison: Comparison) -> Figure:
    """Draw the ratios of requests a second to each peer, a row for each workload, with the targets."""
    first, *others = comparison.daemons
    names = list(dict.fromkeys(row.workload for row in comparison.rows))
    height = 1.5 + 0.34 * len(names)
    figure = Figure(figsize=(3.2 + 3.4 * max(1, len(others)), height), layout="constrained")
    panels = figure.subplots(1, max(1, len(others)), sharey=True, squeeze=False)[0]
    for axes, peer in zip(panels, others, strict=False):
        axes.set_xscale("log")
        for row in comparison.rows:
            shift = {1: -0.22, 4: 0.0, 32: 0.22}.get(row.depth, 0.0)
            at = names.index(row.workload) + shift
            colour = DEPTH_COLOURS.get(row.depth, INK)
            axes.plot(row.ratio(first, peer, "rate"), at, "o", color=colour, markersize=4.5)
            for goal in goals(BY_NAME[row.workload], row.depth, peer_number(peer)):
                if goal.figure == "rate":
                    axes.plot(goal.bound, at, "|", color=colour, markersize=9, markeredgewidth=1.8)
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_title(f"to {peer}", fontsize=10)
        axes.set_xlabel(f"requests/s of {first}, times the peer's")
        _plain_ticks(axes, (0.5, 1, 1.5, 2, 3, 5, 10, 20))
    _rows_axis(panels[0], [BY_NAME[name].title for name in names])
    for axes in panels[1:]:
        _rows_axis(axes, [BY_NAME[name].title for name in names])
    for depth, colour in DEPTH_COLOURS.items():
        panels[0].plot([], [], "o", color=colour, markersize=4.5, label=f"depth {depth}")
    panels[0].plot([], [], "|", color=INK, markersize=9, markeredgewidth=1.8, label="target")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def cpu(comparison: Comparison) -> Figure:
    """Draw the daemons' CPU time a request beside the bare calls', at depth 32 or the greatest measured."""
    deepest = {row.workload: row for row in sorted(comparison.rows, key=lambda row: row.depth)}
    rows = [deepest[name] for name in dict.fromkeys(row.workload for row in comparison.rows)]
    figure = Figure(figsize=(8.4, 1.5 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for at, row in enumerate(rows):
        requests = BY_NAME[row.workload].requests
        values = [row.middle(name, "cpu") / requests for name in comparison.daemons]
        drawn = [*values, row.bare / requests] if row.bare else values
        axes.plot([min(drawn), max(drawn)], [at, at], color="#808080", alpha=0.5, linewidth=1, zorder=1)
        for value, colour in zip(values, DAEMON_COLOURS, strict=False):
            axes.plot(value, at, "o", color=colour, markersize=5.5)
        if row.bare:
            axes.plot(row.bare / requests, at, "|", color=INK, markersize=11, markeredgewidth=2)
    titles = [
        BY_NAME[row.workload].title + ("" if row.depth == CPU_DEPTH else f" (depth {row.depth})")
        for row in rows
    ]
    _rows_axis(axes, titles)
    _plain_ticks(axes, (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
    axes.set_xlabel("CPU µs a request, at depth 32 where no other is named")
    for name, colour in zip(comparison.daemons, DAEMON_COLOURS, strict=False):
        axes.plot([], [], "o", color=colour, markersize=5.5, label=name)
    axes.plot([], [], "|", color=INK, markersize=11, markeredgewidth=2, label="the bare system calls")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def plot(comparison: Comparison, directory: Path, name: str) -> list[str]:
    """Draw a comparison into a directory, and return the names of the files."""
    drawn = []
    with mpl.rc_context(SETTINGS):
        for kind, draw in (("rates", rates), ("cpu", cpu)):
            (directory / f"{name}-{kind}.svg").write_text(svg(draw(comparison)))
            drawn.append(f"{name}-{kind}.svg")
    return drawn
