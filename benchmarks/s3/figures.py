"""What is measured and what is aimed at: each work with who does it, each figure with its goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.s3 import naming, objects, reading, writing
from benchmarks.s3.contestants import PEERS, RCLONE, RCLONE_TUNED, S3FS, Contestant, Mounted, vhostfs
from benchmarks.s3.measuring import Measured

VHOSTFS: Final = vhostfs()
WRITEBACK: Final = vhostfs(write="writeback")
EVERYBODY: Final = (VHOSTFS, *PEERS)
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run works on, beside the bucket: the archive, the repository, a name that is not taken."""

    archive: Path
    repository: Path
    number: int

    @property
    def directory(self) -> str:
        """Return the name of a directory for what this run makes."""
        return f"made-{self.number:03}"


@dataclass(frozen=True, slots=True)
class Work:
    """Something that is done on a fresh mount: what its first figure is, and who does it."""

    name: str
    run: Callable[[Mounted, Inputs], tuple[float, Measured]]
    contestants: Sequence[Contestant] = EVERYBODY
    once: bool = False
    """It takes so long, and so much longer for some than for others, that one round says enough."""
    again: bool = False
    """Ours does it on another mount before: what it leaves in the bucket is there when it is measured."""


@dataclass(slots=True)
class Sample:
    """What one run gave; `failure` says why there is no value."""

    value: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    sent: int = 0
    requests: int = 0
    closed: float = 0.0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table."""

    title: str
    work: str
    of: Callable[[Sample], float] = lambda sample: sample.value
    less_is_better: bool = False
    digits: int = 0
    ratio: float | None = None
    """At least so many times as good as the best peer."""
    bound: float | None = None
    """At most, whatever the others take."""


def _create_16(mounted: Mounted, inputs: Inputs) -> tuple[float, Measured]:
    return writing.create(mounted, 16, inputs.directory)


def _posix(mounted: Mounted, inputs: Inputs) -> tuple[float, Measured]:
    return naming.list_all(mounted, posix=True)


def _untar(mounted: Mounted, inputs: Inputs) -> tuple[float, Measured]:
    return writing.untar(mounted, inputs.archive, inputs.directory)


def _clone(mounted: Mounted, inputs: Inputs) -> tuple[float, Measured]:
    return writing.clone(mounted, inputs.repository, inputs.directory)


WORKS: Final = (
    Work("stream", lambda mounted, _: reading.streams(mounted, 1)),
    Work("streams", lambda mounted, _: reading.streams(mounted, objects.STREAMS)),
    Work("scattered", lambda mounted, inputs: reading.scattered(mounted, 1, inputs.number)),
    Work("scattered-16", lambda mounted, inputs: reading.scattered(mounted, 16, inputs.number)),
    Work("small", lambda mounted, _: reading.small_files(mounted, 1)),
    Work("small-16", lambda mounted, _: reading.small_files(mounted, 16)),
    Work("create", lambda mounted, inputs: writing.create(mounted, 1, inputs.directory), (VHOSTFS, S3FS)),
    Work("create-16", _create_16, (VHOSTFS, S3FS)),
    Work("create-writeback", _create_16, (WRITEBACK, RCLONE, RCLONE_TUNED)),
    Work(
        "list",
        lambda mounted, _: naming.list_all(mounted, posix=False),
        (vhostfs(metadata="none"), RCLONE_TUNED),
    ),
    Work("list-posix", _posix, (vhostfs(metadata="full"),), once=True),
    Work("list-index", _posix, (vhostfs(metadata="full"), S3FS), once=True, again=True),
    Work("untar", _untar, (VHOSTFS, S3FS), once=True),
    Work("untar-writeback", _untar, (WRITEBACK,)),
    Work("clone", _clone, (VHOSTFS, S3FS), once=True),
    Work("clone-writeback", _clone, (WRITEBACK, RCLONE_TUNED)),
)


def _fetched(sample: Sample) -> float:
    return sample.sent / max(1.0, sample.value * sample.seconds) / 1024


FIGURES: Final = (
    Figure("sequential read, 256 MiB, MiB/s", "stream", ratio=1.8),
    Figure(
        "the same, CPU s a GiB",
        "stream",
        lambda sample: sample.cpu / (objects.STREAM_SIZE / GIB),
        less_is_better=True,
        digits=2,
        bound=0.8,
    ),
    Figure("four sequential readers, MiB/s", "streams"),
    Figure(
        "the same, most memory, MiB",
        "streams",
        lambda sample: sample.peak / 2**20,
        less_is_better=True,
        bound=400,
    ),
    Figure("random read of 4 KiB, 1 thread, per s", "scattered"),
    Figure("random read of 4 KiB, 16 threads, per s", "scattered-16", ratio=10),
    Figure("the same, KiB fetched a read", "scattered-16", _fetched, less_is_better=True, bound=64),
    Figure(
        "the same, CPU µs a read",
        "scattered-16",
        lambda sample: sample.cpu / max(1.0, sample.value * sample.seconds) * 1e6,
        less_is_better=True,
    ),
    Figure("list, read 1,000 of 4 KiB, 1 thread, files/s", "small"),
    Figure("list, read 1,000 of 4 KiB, 16 threads, files/s", "small-16", ratio=3),
    Figure("create of 4 KiB, `sync`, 1 thread, files/s", "create"),
    Figure("create of 4 KiB, `sync`, 16 threads, files/s", "create-16", ratio=5),
    Figure(
        "the same, requests a file",
        "create-16",
        lambda sample: sample.requests / max(1.0, sample.value * sample.seconds),
        less_is_better=True,
        digits=2,
    ),
    Figure(
        "create of 4 KiB, `writeback`, 16 threads, closed files/s",
        "create-writeback",
        lambda sample: sample.value * sample.seconds / max(1e-9, sample.closed),
    ),
    Figure("the same, files/s that the store has", "create-writeback"),
    Figure("`ls -l` of 10,000 as listed, s", "list", less_is_better=True, digits=2),
    Figure(
        "`ls -l` of 10,000, own attributes, for the first time, s",
        "list-posix",
        less_is_better=True,
        digits=2,
    ),
    Figure("`ls -l` of 10,000, own attributes, s", "list-index", less_is_better=True, digits=2, ratio=20),
    Figure("untar of 300, `sync`, s", "untar", less_is_better=True, digits=2),
    Figure("untar of 300, `writeback`, s", "untar-writeback", less_is_better=True, digits=2),
    Figure("git clone of 300, `sync`, s", "clone", less_is_better=True, digits=2, bound=15),
    Figure("git clone of 300, `writeback`, s", "clone-writeback", less_is_better=True, digits=2, bound=4),
)

Samples = Mapping[str, Mapping[str, Sequence[Sample]]]
"""By work, then by contestant, in the order of the rounds."""
