"""Compare virtio-fs daemons by everyday work in a guest with a real kernel, User-Mode Linux.

One guest has a share of each daemon mounted. Each step runs in one share after another, several times, the
share mounted anew each time; the host then looks whether the step did what it should. A step that did not
ends the comparison: no table is printed. Ratios of neighbouring runs and the daemons' CPU time hold better
than seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from benchmarks.comparison import machine, named_apart
from benchmarks.daemons import Kind, NoDaemonError, RunningDaemon, find, running
from benchmarks.guest_inputs import Sizes, make_inputs, write_pattern
from benchmarks.guest_report import GuestComparison, StepSamples, table
from benchmarks.guest_steps import GUEST_INPUTS, STEPS, Place, Step, WrongResultError, fio_seconds
from tests.guests.agent import CommandFailedError, LostGuestError
from tests.guests.guest import Guest
from tests.guests.images import GuestImages, MissingImageError
from tests.guests.uml import UmlGuest

STEP_SECONDS: Final = 300.0
TIMER: Final = Path(__file__).with_name("guest_timer.py")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A daemon that runs, and where in the guest and on the host its steps work."""

    kind: Kind
    daemon: RunningDaemon
    guest: Guest
    tag: str
    place: Place

    def measure(self, step: Step) -> tuple[float, float]:
        """Run a step on a share that is mounted anew; return its seconds, and the daemon's CPU seconds.

        Raises WrongResultError, LostGuestError where the guest has died.
        """
        self.guest.mount(self.tag)
        words = [str(self.place.guest), step.source(self.place), *step.command(self.place)]
        before = self.daemon.cpu_nanoseconds()
        finished = self.guest.try_run(_timed(self.place.python, words), timeout=STEP_SECONDS)
        spent = self.daemon.cpu_nanoseconds() - before
        self.guest.unmount(self.tag)
        if finished.status:
            raise WrongResultError(f"{step.name}: {finished.output[-2000:]}")
        result = json.loads(finished.output)
        try:
            step.verify(self.place, result["status"], result["output"])
        except WrongResultError as error:
            raise WrongResultError(f"{self.kind.name}: {error}") from error
        seconds = fio_seconds(result["output"]) if step.timed_by_itself else result["seconds"]
        return seconds, spent / 1e9

    def clear(self) -> None:
        """Make the place as it is before the first step: empty, but for files that fio writes over."""
        shutil.rmtree(self.place.host, ignore_errors=True)
        self.place.host.mkdir()
        for name, size in (("write4k", 1 << 18), ("write1m", 1 << 20)):
            whole = self.place.inputs.sizes.mebibytes * size
            write_pattern(self.place.host / name, whole, whole)


def _timed(python: str, words: Sequence[str]) -> str:
    return shlex.join([python, "-I", f"{GUEST_INPUTS}/{TIMER.name}", *words])


@contextmanager
def contestants(kinds: Sequence[Kind], directory: Path, sizes: Sizes) -> Iterator[list[Contestant]]:
    """Start all daemons on one directory, and a guest with a device of each; end them all.

    Raises NoDaemonError, MissingImageError, LostGuestError.
    """
    image = GuestImages().user_mode_linux()
    # The guest has the host's programs, but not a virtual environment below /tmp.
    python = os.path.realpath(sys.executable)
    with (
        tempfile.TemporaryDirectory(prefix="vhostfs-benchmark-", dir=directory) as work,
        ExitStack() as stack,
    ):
        share = Path(work) / "share"
        inputs = make_inputs(share / "inputs", sizes, python)
        shutil.copy(TIMER, inputs.directory)
        daemons = []
        for number, kind in enumerate(kinds):
            socket, log = Path(work) / f"socket-{number}", Path(work) / f"log-{number}"
            daemons.append(stack.enter_context(running(kind, socket, share, log, f"share{number}")))
        guest = stack.enter_context(
            closing(UmlGuest(image, [daemon.socket for daemon in daemons], Path(work) / "guest"))
        )
        found = []
        for number, (kind, daemon) in enumerate(zip(kinds, daemons, strict=True)):
            tag = f"share{number}"
            place = Place(share / tag, PurePosixPath("/mnt") / tag / tag, inputs, python)
            found.append(Contestant(kind, daemon, guest, tag, place))
        _copy_inputs(guest, found[0].tag)
        yield found


def _copy_inputs(guest: Guest, tag: str) -> None:
    """Give the guest its own copy of what steps read beside the share."""
    place = guest.mount(tag)
    names = ("tree.tar", "repository.git", "insert.sql", "query.sql", TIMER.name)
    sources = " ".join(f"{place}/inputs/{name}" for name in names)
    guest.run(f"mkdir {GUEST_INPUTS} && cp -r {sources} {GUEST_INPUTS}/", timeout=STEP_SECONDS)
    guest.unmount(tag)


def compare(ones: Sequence[Contestant], rounds: int) -> list[StepSamples]:
    """Run all steps in turn so many times; who begins changes from round to round.

    A round before them does not count: it brings programs into the guest's memory.
    """
    names = [one.kind.name for one in ones]
    rows = [StepSamples(step.name, {n: [] for n in names}, {n: [] for n in names}) for step in STEPS]
    for number in range(-1, rounds):
        for one in ones:
            one.clear()
        for step, row in zip(STEPS, rows, strict=True):
            first = number % len(ones)
            for one in (*ones[first:], *ones[:first]):
                seconds, cpu = one.measure(step)
                if number >= 0:
                    row.samples[one.kind.name].append(seconds)
                    row.cpu[one.kind.name].append(cpu)
    return rows


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="guest-compare", description=__doc__.split("\n\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "daemon",
        nargs="*",
        default=["vhostfs", "virtiofsd"],
        help="vhostfs, virtiofsd (an installed one, or what VHOSTFS_BENCHMARK_VIRTIOFSD names), or a program",
    )
    parser.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="where the share is made")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each step a daemon")
    parser.add_argument("--files", type=int, default=Sizes().files, help="files of the tree")
    parser.add_argument("--transactions", type=int, default=Sizes().transactions, help="of 100 rows each")
    parser.add_argument("--mebibytes", type=int, default=Sizes().mebibytes, help="what fio moves in order")
    parser.add_argument("--json", type=Path, help="keep all samples in a file")
    return parser.parse_args(argv)


def _fits(kind: Kind) -> bool:
    """Tell whether a User-Mode Linux takes the daemon's device, and say so where not."""
    if kind.legacy:
        sys.stderr.write(f"{kind.name} is left out: it tells no tag, which User-Mode Linux asks it for\n")
    return not kind.legacy


def main(argv: Sequence[str]) -> int:
    """Compare, print the table, and return the exit status."""
    options = arguments(argv)
    sizes = Sizes(options.files, options.transactions, options.mebibytes)
    where = machine(options.directory)
    try:
        kinds = [kind for kind in named_apart([find(name) for name in options.daemon]) if _fits(kind)]
        with contestants(kinds, options.directory, sizes) as ones:
            where["guest"] = f"User-Mode Linux {ones[0].guest.release}"
            rows = compare(ones, options.rounds)
    except (NoDaemonError, MissingImageError, WrongResultError, CommandFailedError, LostGuestError) as error:
        sys.stderr.write(f"guest-compare: {error}\n")
        return 1
    comparison = GuestComparison(where, [kind.name for kind in kinds], rows)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in where.items()) + "\n")
    sys.stdout.write(table(comparison) + "\n")
    if options.json:
        comparison.save(options.json)
    return 0


if __name__ == "__main__":
    # So that an end in between takes guest, daemons and share along.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
