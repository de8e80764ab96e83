"""What the project aims at beside each peer, and whether what a comparison measured meets it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison import Row, Sample
from benchmarks.workloads import BY_NAME, Workload

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

CPU_DEPTH: Final = 32
BARE_FACTOR: Final = 1.3
BARE_MICROSECONDS: Final = 0.5
"""What a daemon may take: this factor of its bare system calls, and this much more for each request."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is aimed at against one peer: a figure's ratio, at least or at most."""

    figure: str
    bound: float
    least: bool = True

    def missed(self, ratio: float) -> bool:
        """Tell whether a ratio falls short."""
        return ratio < self.bound if self.least else ratio > self.bound


class Verdict(Enum):
    """How a figure stands to its goal."""

    MET = "met"
    BARE = "passes by the rule of the bare calls"
    MISSED = "falls short"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A figure that has a goal: its ratio to one peer, and how it stands."""

    row: Row
    peer: str
    goal: Goal
    ratio: float
    verdict: Verdict


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


def goals(workload: Workload, depth: int, peer: int) -> Iterator[Goal]:
    """Yield what is aimed at against a peer: 0 the C virtiofsd, 1 the Rust one."""
    if workload.name == "getattr-fsync":
        yield Goal("worst", 0.1, least=False)
    elif workload.name in DATA_GOALS:
        if depth == 32 or not workload.name.endswith("4k"):
            yield Goal("rate", DATA_GOALS[workload.name][peer])
    elif workload.metadata and depth in METADATA_RATES:
        yield Goal("rate", METADATA_RATES[depth][peer])
        if depth == CPU_DEPTH:
            yield Goal("cpu", METADATA_CPU[peer], least=False)


def peer_number(name: str) -> int:
    """Return which peer a daemon of this name is: 0 the C virtiofsd, 1 the Rust one."""
    return 0 if "(C)" in name else 1


def allowance(row: Row) -> float:
    """Return the CPU microseconds that a cycle may take: those of the bare calls, and the rule's addition."""
    return BARE_FACTOR * row.bare + BARE_MICROSECONDS * BY_NAME[row.workload].requests


def _deciding_row(comparison: Comparison, row: Row) -> Row:
    """Return the row whose CPU time counts: that of depth 32, or the row itself where there is none."""
    alike = (one for one in comparison.rows if (one.workload, one.queues) == (row.workload, row.queues))
    return next((one for one in alike if one.depth == CPU_DEPTH), row)


def _no_room(row: Row, peer: str, goal: Goal) -> bool:
    """Tell whether a goal asks for less time a cycle than the rule allows beside the bare calls.

    One queue is served by one thread: a rate asks for a time, as CPU time does.
    """
    if goal.figure == "rate":
        asked = 1e6 / (goal.bound * row.middle(peer, "rate"))
    else:
        asked = goal.bound * row.middle(peer, "cpu")
    return asked < allowance(row)


def passes_by_bare_calls(comparison: Comparison, row: Row, peer: str, goal: Goal) -> bool:
    """Tell whether a figure that misses its goal passes, as the bare system calls leave no room for it.

    They leave none where the goal asks for less than the allowance (1.3 times the bare calls, and 0.5 µs a
    request). The workload must then be ahead of every peer at this depth, and the daemon's CPU time at
    depth 32 (without a row of that depth: at this one) within the allowance.
    """
    first, *others = comparison.daemons
    deciding = _deciding_row(comparison, row)
    return (
        goal.figure in ("rate", "cpu")
        and min(row.bare, deciding.bare) > 0
        and _no_room(row, peer, goal)
        and deciding.middle(first, "cpu") <= allowance(deciding)
        and all(row.ratio(first, other, "rate") > 1 for other in others)
    )


def judge(comparison: Comparison, row: Row) -> Iterator[Judgement]:
    """Yield how each figure of a row stands that has a goal."""
    first, *others = comparison.daemons
    for peer in others:
        for goal in goals(BY_NAME[row.workload], row.depth, peer_number(peer)):
            ratio = row.ratio(first, peer, goal.figure)
            if not goal.missed(ratio):
                verdict = Verdict.MET
            elif passes_by_bare_calls(comparison, row, peer, goal):
                verdict = Verdict.BARE
            else:
                verdict = Verdict.MISSED
            yield Judgement(row, peer, goal, ratio, verdict)
