"""What is asked of a large directory: everything that `ls -l` shows."""

from __future__ import annotations

import os
import time

from benchmarks.s3 import objects
from benchmarks.s3.contestants import Mounted
from benchmarks.s3.measuring import Measured, WrongResultError, measured
from benchmarks.s3.writing import PATIENCE, TooSlowError


def list_all(mounted: Mounted, *, posix: bool) -> tuple[float, Measured]:
    """List the large directory with the attributes of each entry; return seconds.

    With posix each must have its own mode, owner and time, else its size.
    """
    found_of: dict[str, os.stat_result] = {}
    with measured(mounted) as found:
        deadline = time.monotonic() + PATIENCE
        with os.scandir(mounted.path / "listed") as entries:
            for entry in entries:
                found_of[entry.name] = entry.stat(follow_symlinks=False)
                if time.monotonic() > deadline:
                    raise TooSlowError
    for number in range(objects.LISTED):
        about = found_of.get(objects.listed(number).rpartition("/")[2])
        if about is None or about.st_size != objects.LISTED_SIZE:
            raise WrongResultError(f"{mounted.name}: {objects.listed(number)} is missing, or of another size")
        if posix and not _right(number, about):
            raise WrongResultError(
                f"{mounted.name}: {objects.listed(number)} has other attributes than its own"
            )
    return found.seconds, found


def _right(number: int, about: os.stat_result) -> bool:
    mode = objects.MODES[number % len(objects.MODES)]
    mine = (about.st_mode & 0o777, about.st_uid, about.st_gid, about.st_mtime_ns)
    return mine == (mode, number % 7, number % 5, (objects.LISTED_MTIME + number) * 10**9)
