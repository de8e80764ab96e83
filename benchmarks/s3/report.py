"""What a comparison of mounted buckets measured: how it is kept, and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.s3.contestants import PEERS
from benchmarks.s3.figures import FIGURES, VHOSTFS, Figure, Sample


@dataclass(frozen=True, slots=True)
class S3Comparison:
    """A comparison as it is kept: samples by work, then by contestant, in the order of the rounds."""

    machine: dict[str, str]
    samples: dict[str, dict[str, list[Sample]]]

    @classmethod
    def load(cls, path: Path) -> S3Comparison:
        """Read a file of `s3-compare --json`."""
        kept = json.loads(path.read_text())
        samples = {
            work: {name: [Sample(**each) for each in found] for name, found in by_name.items()}
            for work, by_name in kept["samples"].items()
        }
        return cls(kept["machine"], samples)

    def save(self, path: Path) -> None:
        """Write what load reads."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def _middle(figure: Figure, samples: Sequence[Sample]) -> float | None:
    values = [figure.of(each) for each in samples if each.failure is None]
    return median(values) if values else None


def _told(figure: Figure, samples: Sequence[Sample]) -> str:
    value = _middle(figure, samples)
    if value is None:
        return (samples[0].failure or "-") if samples else "-"
    return f"{value:,.{figure.digits}f}"


def ratio(figure: Figure, by_name: dict[str, list[Sample]]) -> float | None:
    """Return how many times as good ours is as the best peer: the median of the rounds; None without any."""
    ratios = []
    for at, ours in enumerate(by_name.get(VHOSTFS.name, ())):
        peers = [
            figure.of(found[at])
            for name, found in by_name.items()
            if name != VHOSTFS.name and at < len(found) and found[at].failure is None
        ]
        if not peers or ours.failure is not None:
            continue
        mine = figure.of(ours)
        ratios.append(min(peers) / mine if figure.less_is_better else mine / max(peers))
    return median(ratios) if ratios else None


def table(found: S3Comparison) -> str:
    """Return the figures as a Markdown table; in bold what falls short of its goal."""
    peers = [peer.name for peer in PEERS]
    lines = [
        "| " + " | ".join(("what", VHOSTFS.name, *peers, "times the best peer", "goal")) + " |",
        "|---" * (len(peers) + 4) + "|",
    ]
    for figure in FIGURES:
        by_name = found.samples.get(figure.work, {})
        if VHOSTFS.name not in by_name:
            continue
        ours = _told(figure, by_name[VHOSTFS.name])
        times = ratio(figure, by_name)
        compared = "-" if times is None else f"{times:.2f}"
        goal = "-"
        if figure.bound is not None:
            goal = f"≤ {figure.bound:g}"
            value = _middle(figure, by_name[VHOSTFS.name])
            ours = ours if value is not None and value <= figure.bound else f"**{ours}**"
        if figure.ratio is not None:
            goal = f"≥ {figure.ratio:g} times"
            compared = compared if times is None or times >= figure.ratio else f"**{compared}**"
        cells = [
            figure.title,
            ours,
            *(_told(figure, by_name.get(name, [])) for name in peers),
            compared,
            goal,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(path: Path) -> str:
    """Return what `s3-compare --json` kept, with where it ran, for the document."""
    found = S3Comparison.load(path)
    where = found.machine
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    return f"{facts}\n\n{table(found)}\n"
