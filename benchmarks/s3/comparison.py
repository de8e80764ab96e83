"""Compare buckets that are mounted on this host: vhostfs, s3fs and rclone, on one store as far away as S3.

The store is the project's own, 15 ms from each request to its answer and 90 MB/s on each connection. Each
work is done by one contestant after another, each on a mount of its own that knows nothing yet, and all of
that again in each round. A wrong result of vhostfs ends the comparison; one of a peer stands in the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from benchmarks import comparison
from benchmarks.daemons import NoDaemonError
from benchmarks.s3 import store
from benchmarks.s3.contestants import Contestant, Place, mounted
from benchmarks.s3.figures import VHOSTFS, WORKS, Inputs, Sample, Work
from benchmarks.s3.measuring import WrongResultError
from benchmarks.s3.report import S3Comparison, table
from benchmarks.s3.store import Store
from benchmarks.s3.writing import PATIENCE, TooSlowError, make_archive, make_repository


def _run(work: Work, contestant: Contestant, place: Place, inputs: Inputs) -> Sample:
    try:
        with mounted(contestant, place) as there:
            value, found = work.run(there, inputs)
    except TooSlowError:
        return Sample(failure=f"> {PATIENCE:g} s")
    except (WrongResultError, OSError) as error:
        if contestant.name == VHOSTFS.name:
            raise
        sys.stderr.write(f"{work.name}: {error}\n")
        return Sample(failure="wrong" if isinstance(error, WrongResultError) else "fails")
    requests = sum(found.counts.requests.values())
    return Sample(value, found.seconds, found.cpu, found.peak, found.counts.sent, requests, found.closed)


def compare(
    running: Store, directory: Path, peers: Path, works: Sequence[Work], names: Sequence[str], rounds: int
) -> dict[str, dict[str, list[Sample]]]:
    """Do all works in all rounds; WrongResultError and NoDaemonError end it."""
    numbers = count()
    archive, repository = make_archive(directory), make_repository(directory)
    samples: dict[str, dict[str, list[Sample]]] = {work.name: {} for work in works}
    for turn in range(rounds):
        for work in works:
            if work.once and turn:
                continue
            for contestant in work.contestants:
                if names and contestant.name not in names:
                    continue
                for _ in range(2 if work.again and contestant.name == VHOSTFS.name else 1):
                    number = next(numbers)
                    inputs = Inputs(archive, repository, number)
                    place = Place(running, directory / f"mount-{number}", directory / f"work-{number}", peers)
                    sample = _run(work, contestant, place, inputs)
                samples[work.name].setdefault(contestant.name, []).append(sample)
                sys.stderr.write(
                    f"{work.name}: {contestant.name}: {sample.failure or f'{sample.value:.2f}'}\n"
                )
                running.remove(f"{inputs.directory}/")
    return samples


def main(argv: Sequence[str]) -> int:
    """Compare, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="s3-compare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="where s3fs and rclone are")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, in turn")
    parser.add_argument("--works", default=",".join(work.name for work in WORKS), help="default: %(default)s")
    parser.add_argument("--contestants", default="", help="names, as the table has them; default: all")
    parser.add_argument("--directory", type=Path, default=Path("/tmp"), help="where caches and mounts are")
    parser.add_argument("--json", type=Path, help="keep all samples in a file")
    options = parser.parse_args(argv)
    wanted = options.works.split(",")
    works = [work for work in WORKS if work.name in wanted]
    names = [name for name in options.contestants.split("/") if name]
    where = comparison.machine(options.directory)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vhostfs-benchmark-", dir=options.directory) as directory,
            store.running() as running,
        ):
            samples = compare(running, Path(directory), options.peers, works, names, options.rounds)
    except (WrongResultError, NoDaemonError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    found = S3Comparison(where, samples)
    if options.json is not None:
        found.save(options.json)
    sys.stdout.write(table(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
