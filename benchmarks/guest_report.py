"""What a comparison in a guest measured: how it is kept, and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Final

LEAST_STEP: Final = 1.0
LEAST_MEAN: Final = 1.2
"""What is aimed at: how many times as fast as a peer vhostfs is in each step, and in the geometric mean."""


@dataclass(frozen=True, slots=True)
class StepSamples:
    """One step: for each daemon the seconds of each run, taken in turn, and the daemon's CPU seconds."""

    step: str
    samples: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def speed(self, daemon: str, other: str) -> float:
        """Return how many times as fast the first is as the other: the median of neighbouring runs."""
        return _median_ratio(self.samples[other], self.samples[daemon])

    def cpu_ratio(self, daemon: str, other: str) -> float:
        """Return the first daemon's CPU time over the other's: the median of neighbouring runs."""
        return _median_ratio(self.cpu[daemon], self.cpu[other])


@dataclass(frozen=True, slots=True)
class GuestComparison:
    """A comparison as it is kept: vhostfs first, then its peers."""

    machine: dict[str, str]
    daemons: list[str]
    steps: list[StepSamples]

    @classmethod
    def load(cls, path: Path) -> GuestComparison:
        """Read a file of `guest-compare --json`."""
        kept = json.loads(path.read_text())
        return cls(kept["machine"], kept["daemons"], [StepSamples(**step) for step in kept["steps"]])

    def save(self, path: Path) -> None:
        """Write what load reads."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def _median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return float(median(one / max(other, 1e-9) for one, other in zip(ones, others, strict=True)))


def _cell(ratio: float, least: float) -> str:
    return f"{ratio:.2f}" if round(ratio, 2) >= least else f"**{ratio:.2f}**"


def table(comparison: GuestComparison) -> str:
    """Return a comparison as a Markdown table; in bold what falls short of the aim."""
    first, *others = comparison.daemons
    heads = ["step", *(f"{name}, s" for name in comparison.daemons)]
    heads += [f"CPU ms, {name}" for name in comparison.daemons]
    for name in others:
        heads += [f"speed to {name}", "CPU"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in comparison.steps:
        cells = [row.step, *(f"{median(row.samples[name]):.3f}" for name in comparison.daemons)]
        cells += [f"{median(row.cpu[name]) * 1e3:.0f}" for name in comparison.daemons]
        for name in others:
            cells += [_cell(row.speed(first, name), LEAST_STEP), f"{row.cpu_ratio(first, name):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if others:
        cells = ["geometric mean", *[""] * (2 * len(comparison.daemons))]
        for name in others:
            mean = geometric_mean(row.speed(first, name) for row in comparison.steps)
            cells.append(_cell(mean, LEAST_MEAN))
            cells.append(f"{geometric_mean(row.cpu_ratio(first, name) for row in comparison.steps):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(path: Path) -> str:
    """Return what `guest-compare --json` kept, with where it ran, for the document."""
    comparison = GuestComparison.load(path)
    where = comparison.machine
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    return f"On {where['file system']}; {where['guest']} on {facts}\n\n{table(comparison)}\n"
