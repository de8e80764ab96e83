"""Count the instructions that the daemon needs for a request, and hold them to recorded bounds.

Times on shared machines tell nothing within tens of percent; instructions in user space are the same within
one. The daemon runs under callgrind, at depth 32 and without polling, so that it hardly ever sleeps. What the
kernel does for it is not counted: the system calls are held by tests of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.daemons import Kind, RunningDaemon, running
from benchmarks.guest import Guest, PageFile
from benchmarks.share import make_share
from benchmarks.workloads import BY_NAME

BOUNDS: Final = Path(__file__).with_suffix(".json")
ROOM: Final = 1.05
COUNTED: Final = ("getattr", "lookup", "read4k", "write4k", "create", "readdirplus")
DEPTH: Final = 32
SECONDS: Final = 1.0
DUMP_SECONDS: Final = 20.0
CONFIGURATION: Final = """
sandbox: {{mode: none}}
devices:
  - tag: {tag}
    socket: {{path: {socket}}}
    poll_microseconds: 0
    mounts:
      /: {{type: passthrough, shared_dir: {directory}, xattr: true}}
"""


@dataclass(frozen=True, slots=True)
class _Counted(Kind):
    """The daemon under callgrind, which counts nothing until it is told to."""

    counts: Path = Path()

    def command(self, socket: Path, directory: Path, tag: str = "share") -> list[str]:
        configuration = self.counts.with_suffix(".yaml")
        configuration.write_text(CONFIGURATION.format(socket=socket, directory=directory, tag=tag))
        callgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        daemon = [str(Path(sys.executable).with_name("vhostfs")), "serve", "--config", str(configuration)]
        return [*callgrind, f"--callgrind-out-file={self.counts}", sys.executable, *daemon]


def _tell_callgrind(daemon: RunningDaemon, *orders: str) -> None:
    command = ["callgrind_control", *orders, str(daemon.process.pid)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _dumped(daemon: RunningDaemon, counts: Path) -> int:
    """Have what was counted written to a file of its own, wait for its last line, and return the total."""
    before = set(counts.parent.glob(f"{counts.name}.*"))
    _tell_callgrind(daemon, "--dump")
    deadline = time.monotonic() + DUMP_SECONDS
    while time.monotonic() < deadline:
        for dump in set(counts.parent.glob(f"{counts.name}.*[0-9]")) - before:
            *_, last = ["", *dump.read_text().splitlines()]
            if last.startswith("totals:"):
                return int(last.split()[1])
        time.sleep(0.05)
    raise TimeoutError("callgrind wrote nothing")


@contextmanager
def _counted_daemon(work: Path) -> Iterator[tuple[RunningDaemon, Guest]]:
    share = make_share(work / "share")
    kind = _Counted("vhostfs", (), counts=work / "counts")
    with (
        running(kind, work / "socket", share.directory, work / "log") as daemon,
        PageFile() as pages,
        Guest(daemon.socket, share, 1, pages) as guest,
    ):
        yield daemon, guest


def count(names: Sequence[str]) -> dict[str, int]:
    """Return the instructions a cycle of each workload."""
    found = {}
    with (
        tempfile.TemporaryDirectory(prefix="vhostfs-instructions-", dir="/dev/shm") as work,
        _counted_daemon(Path(work)) as (daemon, guest),
    ):
        for name in names:
            workload = BY_NAME[name]
            guest.run(workload, depth=DEPTH, queues=1, seconds=SECONDS / 4)
            _tell_callgrind(daemon, "--instr=on")
            guest.run(workload, depth=DEPTH, queues=1, seconds=SECONDS / 4)
            _tell_callgrind(daemon, "--zero")
            outcome = guest.run(workload, depth=DEPTH, queues=1, seconds=SECONDS)
            total = _dumped(daemon, Path(work) / "counts")
            _tell_callgrind(daemon, "--instr=off")
            found[name] = round(total / outcome.cycles)
    return found


def main(argv: Sequence[str]) -> int:
    """Count, and compare with the bounds or record them."""
    parser = argparse.ArgumentParser(prog="instructions", description="Count instructions a request.")
    parser.add_argument("--record", action="store_true", help="make what is counted the bounds from now on")
    options = parser.parse_args(argv)
    os.environ["PYTHONHASHSEED"] = "0"
    found = count(COUNTED)
    if options.record:
        BOUNDS.write_text(json.dumps(found, indent=4) + "\n")
    bounds = json.loads(BOUNDS.read_text())
    exceeded = False
    for name, instructions in found.items():
        allowed = bounds[name] * ROOM
        exceeded = exceeded or instructions > allowed
        verdict = "" if instructions <= allowed else f"  more than {bounds[name]:,} and {ROOM - 1:.0%}"
        sys.stdout.write(f"{name:12} {instructions:9,} instructions, recorded {bounds[name]:9,}{verdict}\n")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
