"""Compare reads and writes of a directory mounted by `vhostfs mount` with those of the directory itself.

The kernel reads and writes the files by itself (FUSE_PASSTHROUGH): what is told is what that costs. One
thread reads and writes one file, for some milliseconds by its own path and as long through the mount, again
and again: both meet the same pages of the page cache. A second is one of that thread's on a processor, which
no other thread takes part of; what else the machine does counts for nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.comparison import machine
from benchmarks.load import load

FILE_BYTES: Final = 128 << 20
AIM: Final = 0.9


@dataclass(frozen=True, slots=True)
class Job:
    """What is done to the file."""

    title: str
    writes: bool
    random: bool
    block: int


JOBS: Final = (
    Job("read 4K, random", writes=False, random=True, block=4 << 10),
    Job("read 128K, sequential", writes=False, random=False, block=128 << 10),
    Job("read 1M, sequential", writes=False, random=False, block=1 << 20),
    Job("write 4K, random", writes=True, random=True, block=4 << 10),
    Job("write 128K, sequential", writes=True, random=False, block=128 << 10),
    Job("write 1M, sequential", writes=True, random=False, block=1 << 20),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; 1 where a job falls short of what is aimed at."""
    parser = argparse.ArgumentParser(prog="benchmarks/passed-through", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("/dev/shm"))
    parser.add_argument("--turns", type=int, default=400, help="of each way (default: %(default)s)")
    parser.add_argument("--milliseconds", type=float, default=3, help="of a turn (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    where = machine(parsed.directory)
    facts = f"{where['processor']}, Linux {where['kernel']}; load average before: {where['load']}."
    _tell(f"On {where['file system']}; {facts}\n")
    _tell("| what | bare MB/s | mounted MB/s | rate to bare |\n|---|---|---|---|")
    short = False
    with _mounted(parsed.directory) as ways:
        for job in JOBS:
            pairs = [_pair(job, ways, parsed.milliseconds, turn) for turn in range(parsed.turns)]
            ratio = median(there / here for here, there in pairs)
            short = short or ratio < AIM
            rates = (median(pair[side] for pair in pairs) / 1e6 for side in (0, 1))
            cells = [job.title, *(f"{rate:,.0f}" for rate in rates)]
            _tell(f"| {' | '.join(cells)} | {_marked(ratio)} |")
    return int(short)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _marked(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= AIM else f"**{ratio:.2f}**"


@contextmanager
def _mounted(directory: Path) -> Iterator[tuple[int, int]]:
    """Provide a file of a new directory there, open by its own path and through a mount."""
    with tempfile.TemporaryDirectory(dir=directory) as share, tempfile.TemporaryDirectory() as mountpoint:
        with (Path(share) / "file").open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        vhostfs = Path(sys.executable).with_name("vhostfs")
        subprocess.run([str(vhostfs), "mount", share, mountpoint], check=True)
        opened = [os.open(Path(place) / "file", os.O_RDWR) for place in (share, mountpoint)]
        try:
            yield opened[0], opened[1]
        finally:
            for descriptor in opened:
                os.close(descriptor)
            subprocess.run(["umount", "-l", mountpoint], check=True)


def _pair(job: Job, ways: tuple[int, int], milliseconds: float, turn: int) -> tuple[float, float]:
    """Return bytes a second by both ways, of which each goes first in every other turn."""
    rates = {way: _rate(job, way, milliseconds) for way in (ways if turn % 2 else reversed(ways))}
    return rates[ways[0]], rates[ways[1]]


def _rate(job: Job, descriptor: int, milliseconds: float) -> float:
    _, library = load()
    nanoseconds = int(milliseconds * 1e6)
    asked = int(job.writes), int(job.random), job.block, FILE_BYTES, nanoseconds
    rate: float = library.file_rate(descriptor, *asked)
    if rate < 0:
        raise OSError(int(-rate), os.strerror(int(-rate)))
    return rate


if __name__ == "__main__":
    sys.exit(main())
