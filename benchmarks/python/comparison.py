"""Compare file systems in Python that answer from memory: through a ring, and mounted on this host.

Through the ring the project's load generator asks ours, with `def` and with `async def`. On this host
threads in C call what programs call, on ours and on those of pyfuse3 and mfusepy, one after another, several
rounds. A result that is wrong in any way ends the comparison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks import comparison
from benchmarks.comparison import Plan
from benchmarks.daemons import NoDaemonError
from benchmarks.guest import WrongReplyError
from benchmarks.python import contestants
from benchmarks.python.report import CallSamples, PythonComparison, RingSamples, tables
from benchmarks.share import make_share
from benchmarks.workloads import BY_NAME

RING: Final = ("getattr", "lookup", "lookup-none", "read4k", "write4k", "readdirplus")
RING_DEPTHS: Final = (1, 4, 32)
CALLS: Final = (
    ("getattr", 1, 4096),
    ("lookup, missing", 2, 4096),
    ("read 4K", 3, 4096),
    ("read 128K", 3, 128 << 10),
    ("read 1M", 3, 1 << 20),
    ("write 128K", 4, 128 << 10),
    ("readdir, 1,000 entries", 5, 4096),
)
"""Title, enum call, and block of what is called on this host."""
THREADS: Final = (1, 8)
WARM_UP: Final = 0.25


def through_ring(place: Path, rounds: int, seconds: float) -> list[RingSamples]:
    """Measure ours through a ring."""
    with comparison.contestants(contestants.SERVED, place, 1) as running:
        rows = {
            (workload, depth): RingSamples(workload, depth, {each.kind.name: [] for each in running})
            for workload in RING
            for depth in RING_DEPTHS
            if depth in BY_NAME[workload].depths
        }
        for _ in range(rounds):
            for (workload, depth), row in rows.items():
                for each in running:
                    sample = comparison.measure(each, Plan(BY_NAME[workload], depth, 1), seconds)
                    row.samples[each.kind.name].append((sample.rate, sample.cpu))
    return list(rows.values())


def on_this_host(place: Path, rounds: int, seconds: float) -> list[CallSamples]:
    """Measure all, mounted."""
    with tempfile.TemporaryDirectory(prefix="vhostfs-benchmark-", dir=place) as work, ExitStack() as stack:
        share = make_share(Path(work) / "share")
        mounts = [
            stack.enter_context(
                contestants.mounted(kind, share, Path(work) / f"mount-{number}", Path(work) / f"log-{number}")
            )
            for number, kind in enumerate(contestants.mountables())
        ]
        rows = [
            CallSamples(title, threads, {mount.name: [] for mount in mounts})
            for title, _, _ in CALLS
            for threads in THREADS
        ]
        settings = [(call, block, threads) for _, call, block in CALLS for threads in THREADS]
        for _ in range(rounds):
            for row, (call, block, threads) in zip(rows, settings, strict=True):
                for mount in mounts:
                    mount.run(call, block, threads, seconds * WARM_UP)
                    row.samples[mount.name].append(mount.run(call, block, threads, seconds))
        contestants.check_written(share)
    return rows


def main(argv: Sequence[str]) -> int:
    """Compare, print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python-compare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    parser.add_argument("--seconds", type=float, default=0.2, help="how long a run takes")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the share is made")
    parser.add_argument("--json", type=Path, help="keep all samples in a file")
    options = parser.parse_args(argv)
    where = comparison.machine(options.directory)
    try:
        found = PythonComparison(
            where,
            through_ring(options.directory, options.rounds, options.seconds),
            on_this_host(options.directory, options.rounds, options.seconds),
        )
    except (NoDaemonError, WrongReplyError) as error:
        sys.stderr.write(f"python-compare: {error}\n")
        return 1
    if options.json:
        found.save(options.json)
    sys.stdout.write(tables(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
