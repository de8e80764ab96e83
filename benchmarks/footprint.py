"""Measure what a daemon takes beside its requests: time to start, memory, idle CPU time, and several queues.

Only vhostfs is measured; docs/benchmarks.md says how, in the words of `section`.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Final

from benchmarks.comparison import Contestant, Plan, contestants, machine, measure
from benchmarks.daemons import START_SECONDS, Kind, NoDaemonError, find
from benchmarks.guest import WrongReplyError
from benchmarks.instructions import BOUNDS
from benchmarks.workloads import BY_NAME
from vhostfs.fuse_abi.opcodes import ROOT_ID

STARTS: Final = 5
NODES: Final = 16_000
NODES_A_DIRECTORY: Final = 1000
IDLE_SECONDS: Final = 1.0
QUEUES: Final = 4
DEPTH: Final = 32
SCALED: Final = ("getattr", "lookup", "open", "create", "readdirplus", "mix", "read4k")

START_BOUND: Final = 0.4
RESIDENT_BOUND: Final = 45 << 20
NODE_BOUND: Final = 250
SCALING_BOUND: Final = 1.6


@dataclass(frozen=True, slots=True)
class Scaling:
    """A workload on one queue and on four: medians of CPU microseconds a cycle, and of rates' ratios."""

    workload: str
    depth: int
    cpu_one: float
    cpu_four: float
    rate: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What was measured: seconds, bytes, and CPU microseconds in a second without a request."""

    machine: dict[str, str]
    start: float
    resident: int
    node: float
    nodes: int
    idle: float
    scaling: list[Scaling]

    @classmethod
    def load(cls, path: Path) -> Footprint:
        """Read what main kept."""
        kept = json.loads(path.read_text())
        return cls(**{**kept, "scaling": [Scaling(**one) for one in kept["scaling"]]})


def start_seconds(kind: Kind, work: Path) -> float:
    """Return the seconds from starting a daemon until its socket takes a connection."""
    path = work / "started"
    path.unlink(missing_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(
        kind.command(path, work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() < began + START_SECONDS:
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(path))
                except (FileNotFoundError, ConnectionRefusedError):
                    time.sleep(0.001)
                else:
                    return time.monotonic() - began
        raise NoDaemonError(f"{kind.name} does not listen")
    finally:
        process.terminate()
        process.wait(10)


def _anonymous_bytes(process: int) -> int:
    """Return a process's memory without that of files and of the guest, which it maps."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def node_bytes(contestant: Contestant, count: int) -> float:
    """Return what each file that the guest has looked up costs in memory.

    The mean from so many files to twice as many: tables double as they fill, so that one count alone would
    say how full they happen to be.
    """
    guest, process = contestant.guest, contestant.daemon.process.pid
    before = _anonymous_bytes(process)
    found = []
    for first in range(0, 2 * count, NODES_A_DIRECTORY):
        name = f"many-{first:06}"
        directory = guest.share.directory / name
        directory.mkdir()
        parent = guest.lookup(ROOT_ID, name)
        known = min(first + NODES_A_DIRECTORY, 2 * count)
        for number in range(known - first):
            (directory / f"file-{number:05}").touch()
            guest.lookup(parent, f"file-{number:05}")
        if known > count:
            found.append((_anonymous_bytes(process) - before) / known)
    return mean(found)


def idle_microseconds(contestant: Contestant) -> float:
    """Return the CPU microseconds that the daemon uses in a second in which nothing is asked."""
    time.sleep(IDLE_SECONDS)
    before = contestant.daemon.cpu_nanoseconds()
    time.sleep(IDLE_SECONDS)
    return (contestant.daemon.cpu_nanoseconds() - before) / 1e3 / IDLE_SECONDS


def scaling(contestant: Contestant, name: str, rounds: int, seconds: float) -> Scaling:
    """Measure a workload on one queue and on four in turn, at depth 32 on each queue."""
    workload = BY_NAME[name]
    depth = min(DEPTH, max(workload.depths))
    pairs = [
        [measure(contestant, Plan(workload, depth, queues), seconds) for queues in (1, QUEUES)]
        for _ in range(rounds)
    ]
    return Scaling(
        name,
        depth,
        median(one.cpu for one, _ in pairs),
        median(four.cpu for _, four in pairs),
        median(four.rate / one.rate for one, four in pairs),
    )


def footprint(place: Path, rounds: int, seconds: float, nodes: int) -> Footprint:
    """Measure everything on a share in a directory."""
    kind = find("vhostfs")
    where = machine(place)
    with tempfile.TemporaryDirectory(prefix="vhostfs-footprint-", dir=place) as work:
        _tell("time to start")
        starts = [start_seconds(kind, Path(work)) for _ in range(STARTS)]
    with contestants([kind], place, QUEUES) as [contestant]:
        _tell("memory, and CPU time without requests")
        resident = contestant.daemon.resident_bytes() - _shared_bytes(contestant.daemon.process.pid)
        node = node_bytes(contestant, nodes)
        idle = idle_microseconds(contestant)
        found = []
        for number, name in enumerate(SCALED):
            _tell(f"{QUEUES} queues beside one, {BY_NAME[name].title} ({number + 1} of {len(SCALED)})")
            found.append(scaling(contestant, name, rounds, seconds))
    return Footprint(where, median(starts), resident, node, nodes, idle, found)


def _shared_bytes(process: int) -> int:
    """Return how much of the guest's memory a process has mapped."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssShmem:"))


def _tell(what: str) -> None:
    sys.stderr.write(f"footprint: {what}\n")


def _line(what: str, value: str, target: str, met: bool) -> str:
    return f"| {what} | {value if met else f'**{value}**'} | {target} |"


def section(path: Path) -> str:
    """Return what was measured, and how, for the document."""
    found = Footprint.load(path)
    where = found.machine
    resident = found.resident / (1 << 20)
    lines = [
        f"vhostfs alone, on {where['file system']}; {where['processor']}, Linux {where['kernel']}; "
        f"load average before: {where['load']}.",
        "In bold: falls short of its target.",
        "",
        "| what | measured | target |",
        "|---|---|---|",
        _line("start to a listening socket", f"{found.start:.2f} s", "< 0.4 s", found.start < START_BOUND),
        _line("resident memory, idle", f"{resident:.0f} MiB", "< 45 MiB", found.resident < RESIDENT_BOUND),
        _line("memory a known node", f"{found.node:.0f} bytes", "< 250 bytes", found.node < NODE_BOUND),
        _line("CPU time of an idle second", f"{found.idle:.0f} µs", "0", found.idle < 1),
        "",
        "| workload | depth on each queue | CPU µs, 1 queue | CPU µs, 4 queues "
        "| rate, 4 queues to 1 (target ≥ 1.6) |",
        "|---|---|---|---|---|",
    ]
    for one in found.scaling:
        rate = f"{one.rate:.2f}" if one.rate >= SCALING_BOUND else f"**{one.rate:.2f}**"
        title = BY_NAME[one.workload].title
        lines.append(f"| {title} | {one.depth} | {one.cpu_one:.2f} | {one.cpu_four:.2f} | {rate} |")
    counted = json.loads(BOUNDS.read_text())
    told = ", ".join(f"{BY_NAME[name].title} {count:,}" for name, count in counted.items())
    lines += [
        "",
        "Started five times, each until its socket takes a connection; the median. Resident: all but the",
        "guest's own memory, with a guest that knows 1,000 files. A node: the growth of anonymous memory",
        "while the guest looks up empty files, for each; the mean of what it is after each thousand,",
        f"from {found.nodes:,} to twice as many. Idle: with the guest connected, a second after its last",
        "request. One and four queues run in turn, with no processor set apart; the guest's threads, one a",
        "queue, share the processors with the daemon's.",
        "",
        f"Instructions in user space a cycle, which a lane of the tests holds to these bounds: {told}.",
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Measure, and keep the figures in a file."""
    parser = argparse.ArgumentParser(prog="footprint", description="Measure what vhostfs takes by itself.")
    parser.add_argument("file", type=Path, help="where the figures are kept")
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the share is made")
    parser.add_argument("--rounds", type=int, default=5, help="runs on each number of queues")
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a run takes")
    parser.add_argument("--nodes", type=int, default=NODES, help="files looked up")
    options = parser.parse_args(argv)
    try:
        found = footprint(options.directory, options.rounds, options.seconds, options.nodes)
    except (NoDaemonError, WrongReplyError) as error:
        sys.stderr.write(f"footprint: {error}\n")
        return 1
    options.file.write_text(json.dumps(asdict(found), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
