"""The steps of the guest benchmark: what runs in the guest, and how the host sees that it did its work."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from benchmarks.guest_inputs import (
    LEAST_FOUND,
    NEEDLE,
    ROWS_A_TRANSACTION,
    Inputs,
    compile_command,
    digest,
    holds_pattern,
)

GUEST_INPUTS: Final = PurePosixPath("/tmp/inputs")
"""Where the guest has what it must not read from the share: in its memory."""

CHANGED: Final = "texts-000/text-00003.txt"
"""The file of the clone that the host changes before git looks for what has changed."""

EMPTY: Final = "/dev/null"


class WrongResultError(Exception):
    """Raised when a step failed, or did not do what it should: what it took means nothing then."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one daemon's steps work: a directory as the host sees it, and as the guest does."""

    host: Path
    guest: PurePosixPath
    inputs: Inputs
    python: str


@dataclass(frozen=True, slots=True)
class Step:
    """A command that runs in the place, and a check of what it printed and left; an empty string is right."""

    name: str
    command: Callable[[Place], list[str]]
    wrong: Callable[[Place, str], str]
    source: Callable[[Place], str] = lambda place: EMPTY
    timed_by_itself: bool = False
    """The seconds are those in its output, fio's: its start is not what is measured."""

    def verify(self, place: Place, status: int, output: str) -> None:
        """Raise WrongResultError unless the step did what it should."""
        reason = self.wrong(place, output) if status == 0 else f"it ended with {status}: {output[:2000]}"
        if reason:
            raise WrongResultError(f"{self.name}: {reason}")


def _same_tree(name: str) -> Callable[[Place, str], str]:
    def wrong(place: Place, output: str) -> str:
        same = digest(place.host / name) == place.inputs.digest
        return output if same else f"the files in {name} are not those of the input"

    return wrong


def _wrong_clone(place: Place, output: str) -> str:
    reason = _same_tree("clone")(place, output)
    if not reason:
        checked = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", place.host / "clone", "fsck"],
            capture_output=True,
            text=True,
            check=False,
        )
        reason = checked.stderr if checked.returncode else ""
        with (place.host / "clone" / CHANGED).open("a") as file:
            file.write("changed\n")
        # Git reads files again that are no older than its index, which some would be by the clock's chance.
        later = time.time() + 60
        os.utime(place.host / "clone/.git/index", (later, later))
    return reason


def _printed(expected: Callable[[Place], str]) -> Callable[[Place, str], str]:
    def wrong(place: Place, output: str) -> str:
        return "" if output == expected(place) else f"it printed {output[-2000:]!r}, not {expected(place)!r}"

    return wrong


def _lines(expected: Callable[[Place], int]) -> Callable[[Place, str], str]:
    def wrong(place: Place, output: str) -> str:
        count = len(set(output.splitlines()))
        return "" if count == expected(place) else f"{count} files, not {expected(place)}"

    return wrong


def _wrong_bytecode(place: Place, output: str) -> str:
    same = digest(place.host / "tree", compiled=True) == place.inputs.compiled
    return output if same else "what is compiled is not what the host compiles"


def _rows(place: Place) -> int:
    return place.inputs.sizes.transactions * ROWS_A_TRANSACTION


def _wrong_database(place: Place, output: str) -> str:
    with closing(sqlite3.connect(f"file:{place.host / 'database'}?mode=ro", uri=True)) as database:
        [count, total] = database.execute("SELECT count(*), sum(id) FROM item").fetchone()
        [state] = database.execute("PRAGMA integrity_check").fetchone()
    rows = _rows(place)
    right = (count, total, state) == (rows, rows * (rows - 1) // 2, "ok")
    return output if right else f"{count} rows, ids {total} in all; {state}"


def _answers(place: Place) -> str:
    rows = _rows(place)
    names = [row * 7919 % 10007 for row in range(rows)]
    counts = [names.count(number * 131) for number in range(50)]
    return "".join(f"{count}\n" for count in counts) + f"{rows}|{rows * (rows - 1) // 2}|{rows * 200}\n"


def _left(place: Place, output: str) -> str:
    left = [name for name in ("tree", "clone") if (place.host / name).exists()]
    return f"{left} are still there" if left else output


def fio_seconds(output: str) -> float:
    """Return what fio's requests took by its report."""
    job = json.loads(output)["jobs"][0]
    sides = (job["read"], job["write"])
    return float(sum(side["lat_ns"]["mean"] * side["total_ios"] for side in sides) / 1e9)


def _fio(kind: str, size: int, block: int) -> Step:
    writes = "write" in kind
    name = f"{'write' if writes else 'read'}{'4k' if block == 4096 else '1m'}"

    def moved(place: Place) -> int:
        return place.inputs.sizes.mebibytes * size

    def command(place: Place) -> list[str]:
        file = (place.guest if writes else place.guest.parent / "inputs") / name
        verify = ["--verify=pattern", "--verify_pattern=%o", "--do_verify=0", "--verify_fatal=1"]
        return [
            *("fio", "--name=job", f"--filename={file}", f"--rw={kind}", f"--bs={block}"),
            *(f"--size={moved(place)}", "--ioengine=psync", "--thread", "--output-format=json"),
            *("--verify_state_save=0", *verify),
        ]

    def wrong(place: Place, output: str) -> str:
        job = json.loads(output)["jobs"][0]
        count = job["write" if writes else "read"]["io_bytes"]
        if job["error"] or count != moved(place):
            return f"error {job['error']}, {count} bytes of {moved(place)}"
        whole = not writes or holds_pattern(place.host / name, moved(place), block)
        return "" if whole else "the file does not hold what was written"

    title = f"fio, {'random' if 'rand' in kind else 'sequential'} {'write' if writes else 'read'}"
    return Step(f"{title} of {'4 KiB' if block == 4096 else '1 MiB'}", command, wrong, timed_by_itself=True)


STEPS: Final = (
    Step(
        "untar",
        lambda place: ["tar", "xf", str(GUEST_INPUTS / "tree.tar")],
        _same_tree("tree"),
    ),
    Step(
        "git clone",
        lambda place: ["git", "clone", "-q", "--no-hardlinks", str(GUEST_INPUTS / "repository.git"), "clone"],
        _wrong_clone,
    ),
    Step(
        "git status",
        lambda place: ["git", "-c", "safe.directory=*", "-C", "clone", "status", "--porcelain"],
        _printed(lambda place: f" M {CHANGED}\n"),
    ),
    Step(
        "find",
        lambda place: ["find", "tree", "-type", "f", "-size", f"+{LEAST_FOUND}c"],
        _lines(lambda place: place.inputs.found),
    ),
    Step(
        "grep -r", lambda place: ["grep", "-rl", NEEDLE, "tree"], _lines(lambda place: place.inputs.needles)
    ),
    Step("compileall", lambda place: compile_command(place.python), _wrong_bytecode),
    Step(
        "sqlite, inserts",
        lambda place: ["sqlite3", "database"],
        _wrong_database,
        lambda place: str(GUEST_INPUTS / "insert.sql"),
    ),
    Step(
        "sqlite, queries",
        lambda place: ["sqlite3", "database"],
        _printed(_answers),
        lambda place: str(GUEST_INPUTS / "query.sql"),
    ),
    _fio("randread", 1 << 18, 4 << 10),
    _fio("randwrite", 1 << 18, 4 << 10),
    _fio("read", 1 << 20, 1 << 20),
    _fio("write", 1 << 20, 1 << 20),
    Step("rm -rf", lambda place: ["rm", "-rf", "tree", "clone"], _left),
)
"""In the order in which they run: each may need what those before it left."""
