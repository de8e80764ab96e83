"""What a measurement is made of: threads that work side by side until all is done or the time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from benchmarks.s3.contestants import Mounted
from benchmarks.s3.store import Counts


class WrongResultError(Exception):
    """Raised where what was read, or lies in the store, is not what it should be; the text says what."""


@dataclass(slots=True)
class Measured:
    """What a stretch of work took: seconds, CPU seconds of the daemon, and what the store was asked."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    closed: float = 0.0
    """Seconds until all files that are written were closed."""
    counts: Counts = field(default_factory=lambda: Counts({}, 0))


@contextmanager
def measured(mounted: Mounted) -> Iterator[Measured]:
    """Measure what is done inside."""
    found = Measured()
    before, cpu = mounted.store.counts(), mounted.cpu_seconds()
    began = time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    found.cpu = mounted.cpu_seconds() - cpu
    found.counts = mounted.store.counts().since(before)
    found.peak = mounted.peak_resident_bytes()


def side_by_side(threads: int, most: int, seconds: float, work: Callable[[int], None]) -> int:
    """Do a piece of work for each number below `most`, in order, until the time is over; return how many."""
    numbers, lock = count(), threading.Lock()
    deadline = time.monotonic() + seconds

    def run() -> int:
        done = 0
        while time.monotonic() < deadline:
            with lock:
                number = next(numbers)
            if number >= most:
                break
            work(number)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(each.result() for each in [pool.submit(run) for _ in range(threads)])
