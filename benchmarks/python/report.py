"""What a comparison of file systems in Python measured: how it is kept, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

MOST_CPU: Final = 8.0
"""What is aimed at through the ring at depth 32: CPU microseconds a getattr or read of 4 KiB."""
HELD: Final = (("getattr", 32), ("read4k", 32))

Sample = tuple[float, float]
"""Requests or calls a second, and CPU microseconds of the process for each."""


@dataclass(frozen=True, slots=True)
class RingSamples:
    """One workload at one depth: a list of samples for each file system, taken in turn."""

    workload: str
    depth: int
    samples: dict[str, list[Sample]]


@dataclass(frozen=True, slots=True)
class CallSamples:
    """One call by so many threads at once: likewise."""

    call: str
    threads: int
    samples: dict[str, list[Sample]]

    def ratio(self, name: str, other: str, figure: int) -> float:
        """Return one's figure (0: rate, 1: CPU) over the other's: the median of neighbouring runs."""
        pairs = zip(self.samples[name], self.samples[other], strict=True)
        return float(median(one[figure] / max(two[figure], 1e-9) for one, two in pairs))


@dataclass(frozen=True, slots=True)
class PythonComparison:
    """A comparison as it is kept."""

    machine: dict[str, str]
    ring: list[RingSamples]
    calls: list[CallSamples]

    @classmethod
    def load(cls, path: Path) -> PythonComparison:
        """Read a file of `python-compare --json`."""
        kept = json.loads(path.read_text())
        return cls(
            kept["machine"],
            [RingSamples(**row) for row in kept["ring"]],
            [CallSamples(**row) for row in kept["calls"]],
        )

    def save(self, path: Path) -> None:
        """Write what load reads."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def _rate(samples: Sequence[Sample]) -> str:
    return f"{median(rate for rate, _ in samples):,.0f}"


def _cpu(samples: Sequence[Sample]) -> str:
    return f"{median(cpu for _, cpu in samples):.1f}"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _names(rows: Sequence[RingSamples] | Sequence[CallSamples]) -> list[str]:
    samples: Mapping[str, list[Sample]] = rows[0].samples
    return list(samples)


def ring_table(rows: Sequence[RingSamples]) -> str:
    """Return what went through the ring as a Markdown table; in bold what is above its bound."""
    names = _names(rows)
    heads = ["through the ring", "depth"]
    for name in names:
        heads += [f"`{name}`: per s", "CPU µs"]
    lines = []
    for row in rows:
        cells = [row.workload, str(row.depth)]
        for name in names:
            above = (row.workload, row.depth) in HELD and median(
                cpu for _, cpu in row.samples[name]
            ) > MOST_CPU
            mark = "**" if above else ""
            cells += [_rate(row.samples[name]), f"{mark}{_cpu(row.samples[name])}{mark}"]
        lines.append(cells)
    return _rows(heads, lines)


def calls_table(rows: Sequence[CallSamples]) -> str:
    """Return what was called on this host as a Markdown table; in bold where a peer is ahead of ours."""
    names = _names(rows)
    ours = [name for name in names if name.startswith("vhostfs")]
    peers = [name for name in names if name not in ours]
    heads = ["call", "threads", *(f"CPU µs, {name}" for name in names), *(f"{name}: per s" for name in names)]
    for name in ours:
        for peer in peers:
            heads += [f"`{name.removeprefix('vhostfs, ')}` to {peer}: CPU", "rate"]
    lines = []
    for row in rows:
        cells = [row.call, str(row.threads)]
        cells += [_cpu(row.samples[name]) for name in names]
        cells += [_rate(row.samples[name]) for name in names]
        for name in ours:
            for peer in peers:
                cpu, rate = row.ratio(name, peer, 1), row.ratio(name, peer, 0)
                cells += [_marked(cpu, cpu <= 1), _marked(rate, rate >= 1)]
        lines.append(cells)
    return _rows(heads, lines)


def _marked(ratio: float, ahead: bool) -> str:
    return f"{ratio:.2f}" if ahead else f"**{ratio:.2f}**"


def tables(found: PythonComparison) -> str:
    """Return both tables."""
    return f"{ring_table(found.ring)}\n\n{calls_table(found.calls)}"


def section(path: Path) -> str:
    """Return what `python-compare --json` kept, with where it ran, for the document."""
    found = PythonComparison.load(path)
    where = found.machine
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    return f"{facts}\n\n{tables(found)}\n"
