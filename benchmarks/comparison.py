"""Compare virtio-fs daemons: run each workload on one after another, several times, and print the medians.

Rates depend on what else the machine does; ratios of neighbouring runs and CPU time a request hold better. A
reply that is wrong in any way ends the comparison: no table is printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.daemons import Kind, NoDaemonError, RunningDaemon, find, running
from benchmarks.guest import Guest, Outcome, PageFile, WrongReplyError, bare_cost
from benchmarks.share import make_share
from benchmarks.workloads import BY_NAME, WORKLOADS, Workload

HANG_SECONDS: Final = 120
"""No single run may take longer: then a daemon hangs."""

UNCACHED_SECONDS: Final = 0.04
"""The longest run of reads from the disk: in a longer one much of the file has been read before."""

WARM_UP: Final = 0.25
"""Which part of a run's time a run before it takes, which does not count."""

STANDARD_ERROR: Final = 2
"""By number: what stands for sys.stderr need not be a file."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. Times are microseconds; rate counts cycles a second, cpu the daemon's CPU time a cycle."""

    rate: float
    cpu: float
    median: float
    percentile_99: float
    worst: float
    calls: float
    """Calls (interrupts) a request."""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload at one depth: a list of samples for each daemon, taken in turn."""

    workload: str
    depth: int
    queues: int
    bare: float
    samples: dict[str, list[Sample]]

    def middle(self, daemon: str, figure: str) -> float:
        """Return the median of a figure of one daemon."""
        return float(median(getattr(sample, figure) for sample in self.samples[daemon]))

    def ratio(self, daemon: str, other: str, figure: str) -> float:
        """Return the median ratio of neighbouring runs, the first daemon's figure over the other's."""
        pairs = zip(self.samples[daemon], self.samples[other], strict=True)
        ratios = (getattr(one, figure) / max(getattr(two, figure), 1e-9) for one, two in pairs)
        return float(median(ratios))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A daemon that runs, and the guest that asks it."""

    kind: Kind
    daemon: RunningDaemon
    guest: Guest


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    workload: Workload
    depth: int
    queues: int


def measure(contestant: Contestant, plan: Plan, seconds: float) -> Sample:
    """Run a workload once, after a shorter run that does not count."""
    guest, daemon, workload, depth = contestant.guest, contestant.daemon, plan.workload, plan.depth
    queues = min(plan.queues, guest.queues)
    if workload.uncached:
        seconds = min(seconds, UNCACHED_SECONDS)
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=STANDARD_ERROR)
    try:
        if workload.uncached:
            guest.share.drop_cached_data()
        else:
            guest.run(workload, depth=depth, queues=queues, seconds=seconds * WARM_UP)
        before = daemon.cpu_nanoseconds()
        outcome = guest.run(workload, depth=depth, queues=queues, seconds=seconds)
        spent = daemon.cpu_nanoseconds() - before
        guest.verify()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return _sample(workload, outcome, spent)


def _sample(workload: Workload, outcome: Outcome, spent: int) -> Sample:
    cycles = max(1, outcome.cycles) * workload.divisor
    return Sample(
        rate=cycles / outcome.seconds,
        cpu=spent / 1e3 / cycles,
        median=outcome.median,
        percentile_99=outcome.percentile_99,
        worst=outcome.worst,
        calls=outcome.calls / outcome.requests,
    )


@contextmanager
def contestants(kinds: Sequence[Kind], place: Path, queues: int) -> Iterator[list[Contestant]]:
    """Start all daemons on one share, each with a guest of its own; the guests share their pages."""
    with tempfile.TemporaryDirectory(prefix="vhostfs-benchmark-", dir=place) as work, ExitStack() as stack:
        found = []
        share = make_share(Path(work) / "share")
        pages = stack.enter_context(PageFile())
        for number, kind in enumerate(kinds):
            socket, log = Path(work) / f"socket-{number}", Path(work) / f"log-{number}"
            daemon = stack.enter_context(running(kind, socket, share.directory, log))
            guest = stack.enter_context(Guest(daemon.socket, share, min(queues, kind.queues), pages))
            found.append(Contestant(kind, daemon, guest))
        yield found


@contextmanager
def kept_apart(contestants: Sequence[Contestant], processors: int) -> Iterator[None]:
    """Keep the daemons on one processor and ourselves on the same or another, ahead of all else."""
    own = os.sched_getaffinity(0)
    if len(own) < processors:
        raise NoDaemonError(f"there are no {processors} processors")
    *_, ours, theirs = sorted(own) if processors > 1 else (max(own), max(own))
    real_time = os.sched_param(1)
    threads = [thread for contestant in contestants for thread in contestant.daemon.threads()]
    for thread in threads:
        os.sched_setaffinity(thread, {theirs})
        os.sched_setscheduler(thread, os.SCHED_RR, real_time)
    os.sched_setaffinity(0, {ours})
    os.sched_setscheduler(0, os.SCHED_RR, real_time)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, own)


def compare(
    contestants: Sequence[Contestant], plans: Sequence[Plan], options: argparse.Namespace
) -> list[Row]:
    """Measure each plan on all daemons in turn, and all plans again in each round.

    What disturbs the machine for some seconds meets one round of some plans, which their medians leave out.
    """
    names = [contestant.kind.name for contestant in contestants]
    samples: dict[Plan, dict[str, list[Sample]]] = {plan: {name: [] for name in names} for plan in plans}
    bare: dict[Plan, list[float]] = {plan: [] for plan in plans}
    began = time.monotonic()
    for number in range(options.rounds):
        for done, plan in enumerate(plans, 1):
            for contestant in contestants:
                samples[plan][contestant.kind.name].append(measure(contestant, plan, options.seconds))
                if options.processors != "any":
                    # Whatever else runs here gets as much: the kernel would throttle us otherwise.
                    time.sleep(options.seconds * (1 + WARM_UP))
            bare[plan].append(_bare(contestants[0].guest, plan.workload, options.seconds))
            part = (number + done / len(plans)) / options.rounds
            _tell(plan, samples[plan], part, time.monotonic() - began)
    return [
        Row(plan.workload.name, plan.depth, plan.queues, float(median(bare[plan])), samples[plan])
        for plan in plans
    ]


def _bare(guest: Guest, workload: Workload, seconds: float) -> float:
    """Return the microseconds of the bare system calls of a cycle; 0 where there are none to compare with."""
    if workload.name == "unknown" or workload.uncached:
        return 0.0
    return bare_cost(guest.share, workload, seconds / 2) / workload.divisor


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return all rows as a Markdown table; ratios are those of the first daemon to each other one."""
    first, others = names[0], names[1:]
    heads = ["workload", "depth", "bare µs"]
    for name in names:
        heads += [f"{name}: per s", "p50 / p99 µs", "CPU µs", "calls"]
    for name in others:
        heads += [f"rate to {name}", "CPU"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        depth = f"{row.depth}" if row.queues == 1 else f"{row.depth}, {row.queues} queues"
        cells = [BY_NAME[row.workload].title, depth, f"{row.bare:.2f}" if row.bare else "-"]
        for name in names:
            cells += [
                f"{row.middle(name, 'rate'):,.0f}",
                f"{row.middle(name, 'median'):.1f} / {row.middle(name, 'percentile_99'):.1f}",
                f"{row.middle(name, 'cpu'):.2f}",
                f"{row.middle(name, 'calls'):.2f}",
            ]
        for name in others:
            cells += [f"{row.ratio(first, name, 'rate'):.2f}", f"{row.ratio(first, name, 'cpu'):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(place: Path) -> dict[str, str]:
    """Describe where this ran."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if place.resolve().is_relative_to(mount[1])]
    kind = max(holding, key=lambda mount: len(mount[1]))[2]
    return {
        "processor": f"{os.cpu_count()} of {model}",
        "kernel": platform.release(),
        "file system": kind,
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__.split("\n\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "daemon",
        nargs="*",
        default=["vhostfs", "virtiofsd"],
        help="vhostfs, virtiofsd (an installed one, or what VHOSTFS_BENCHMARK_VIRTIOFSD names), or a program",
    )
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the shares are made")
    parser.add_argument("--workload", action="append", choices=sorted(BY_NAME), help="only these")
    parser.add_argument(
        "--depth", action="append", type=int, choices=range(1, 33), metavar="N", help="only these"
    )
    parser.add_argument("--queues", action="append", type=int, choices=(1, 2, 4), help="request queues used")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each daemon a workload")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a run takes")
    parser.add_argument(
        "--processors",
        choices=("any", "one", "two"),
        default="any",
        help="one: everything on one, under SCHED_RR; two: daemons on one, the load on another",
    )
    parser.add_argument("--json", type=Path, help="keep all samples in a file")
    return parser.parse_args(argv)


def chosen_workloads(names: Sequence[str] | None, place: str) -> list[Workload]:
    """Return the workloads asked for; by default those that mean something on the file system."""
    if names:
        return [BY_NAME[name] for name in names]
    on_disk = place != "tmpfs"
    return [workload for workload in WORKLOADS if on_disk or not (workload.uncached or workload.background)]


def main(argv: Sequence[str]) -> int:
    """Compare, print the table, and return the exit status."""
    options = arguments(argv)
    where = machine(options.directory)
    try:
        kinds = named_apart([find(name) for name in options.daemon])
        rows = _rows(options, kinds, where["file system"])
    except (NoDaemonError, WrongReplyError) as error:
        sys.stderr.write(f"compare: {error}\n")
        return 1
    names = [kind.name for kind in kinds]
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in where.items()) + "\n")
    sys.stdout.write(table(rows, names) + "\n")
    if options.json:
        options.json.write_text(
            json.dumps({"machine": where, "daemons": names, "rows": [asdict(row) for row in rows]}, indent=1)
        )
    return 0


def named_apart(kinds: Sequence[Kind]) -> list[Kind]:
    """Number daemons of one name."""
    names = [kind.name for kind in kinds]
    return [
        replace(kind, name=f"{kind.name} ({names[:at].count(kind.name) + 1})")
        if kind.name in names[:at]
        else kind
        for at, kind in enumerate(kinds)
    ]


def _rows(options: argparse.Namespace, kinds: Sequence[Kind], file_system: str) -> list[Row]:
    queues = options.queues or [1]
    plans = [
        Plan(workload, depth, count)
        for workload in chosen_workloads(options.workload, file_system)
        for depth in options.depth or workload.depths
        for count in queues
    ]
    with ExitStack() as stack:
        running_ones = stack.enter_context(contestants(kinds, options.directory, max(queues)))
        if options.processors != "any":
            stack.enter_context(kept_apart(running_ones, 2 if options.processors == "two" else 1))
        return compare(running_ones, plans, options)


def _tell(plan: Plan, samples: Mapping[str, Sequence[Sample]], done: float, elapsed: float) -> None:
    """Say what was measured last, and how long the rest takes if it takes as long."""
    if sys.stderr.isatty() or os.environ.get("VHOSTFS_BENCHMARK_VERBOSE"):
        figures = ", ".join(f"{name} {taken[-1].cpu:.2f} µs" for name, taken in samples.items())
        left = elapsed / done * (1 - done)
        sys.stderr.write(f"[{done:.0%}, {left:.0f} s left] {plan.workload.name} {plan.depth}: {figures}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
