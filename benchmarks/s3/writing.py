"""What is written: small files by themselves, an archive, a clone of a repository.

Seconds end when the store has all of it. What it has then is compared with what was written.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Final

from benchmarks.s3.contestants import Mounted
from benchmarks.s3.measuring import Measured, WrongResultError, measured, side_by_side

CREATED: Final = 1000
CREATED_SIZE: Final = 4096
SECONDS: Final = 2.0
PATIENCE: Final = 25.0
"""How long a clone or an archive may take; what takes longer is told as that."""
FILES: Final = 300
DIRECTORIES: Final = 20


class TooSlowError(Exception):
    """Raised where the patience is over."""


def create(mounted: Mounted, threads: int, directory: str) -> tuple[float, Measured]:
    """Create small files in a new directory; return files a second, until the store has them."""
    place = mounted.path / directory
    place.mkdir()
    content = random.Random(directory).randbytes(CREATED_SIZE)

    def create_file(number: int) -> None:
        with (place / f"{number:04}").open("xb", buffering=0) as file:
            file.write(content)

    with measured(mounted) as found:
        began = time.monotonic()
        done = side_by_side(threads, CREATED, SECONDS, create_file)
        found.closed = time.monotonic() - began
        expected = (CREATED_SIZE, hashlib.md5(content, usedforsecurity=False).hexdigest())
        deadline = time.monotonic() + PATIENCE
        while True:
            there = mounted.store.objects(f"{directory}/")
            if sum(each == expected for each in there.values()) == done:
                break
            if time.monotonic() > deadline:
                raise WrongResultError(f"{mounted.name}: of {done} files {len(there)} are in the store")
            time.sleep(0.05)
    return done / found.seconds, found


def make_archive(place: Path) -> Path:
    """Return an archive of files with modes and times, directories and symbolic links."""
    file = place / "archive.tar"
    generator = random.Random(300)
    with tarfile.open(file, "w") as archive:
        for number in range(FILES):
            entry = tarfile.TarInfo(f"archive/{number % DIRECTORIES:02}/{number:03}")
            entry.mtime, entry.mode = 1_700_000_000 + number, (0o644, 0o755)[number % 2]
            if number % 10 == 9:
                entry.type, entry.linkname = tarfile.SYMTYPE, f"../{number % DIRECTORIES:02}/{number - 1:03}"
                archive.addfile(entry)
                continue
            content = generator.randbytes(generator.randrange(200, 12_000))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def untar(mounted: Mounted, archive: Path, directory: str) -> tuple[float, Measured]:
    """Unpack the archive; return the seconds until tar has ended."""
    place = mounted.path / directory
    place.mkdir()
    with measured(mounted) as found:
        _run(["tar", "-xf", str(archive), "-C", str(place)])
    with tarfile.open(archive) as opened:
        for entry in opened:
            path = place / entry.name
            if entry.issym():
                right = path.is_symlink() and os.readlink(path) == entry.linkname  # noqa: PTH115
            else:
                about, source = path.stat(), opened.extractfile(entry)
                assert source is not None
                right = (about.st_mode & 0o777, int(about.st_mtime)) == (entry.mode, entry.mtime)
                right = right and path.read_bytes() == source.read()
            if not right:
                raise WrongResultError(f"{mounted.name}: {entry.name} is not what is in the archive")
    return found.seconds, found


def make_repository(place: Path) -> Path:
    """Return a repository of one commit of files."""
    tree, bare = place / "tree", place / "repository.git"
    generator = random.Random(41)
    for number in range(FILES):
        file = tree / f"{number % DIRECTORIES:02}" / f"{number:03}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(generator.randbytes(generator.randrange(200, 8000)))
    who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", str(tree), *arguments], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(tree), str(bare)], check=True)
    return bare


def clone(mounted: Mounted, repository: Path, directory: str) -> tuple[float, Measured]:
    """Clone the repository; return the seconds until git has ended. A status that is not clean is wrong."""
    place = mounted.path / directory
    with measured(mounted) as found:
        _run(["git", "clone", "-q", f"file://{repository}", str(place)])
    status = _run(["git", "-c", "safe.directory=*", "-C", str(place), "status", "--porcelain"])
    if status:
        lines = status.decode(errors="replace").splitlines()
        raise WrongResultError(f"{mounted.name}: git status tells of {len(lines)} files: {lines[0]}")
    return found.seconds, found


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise TooSlowError from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise WrongResultError(f"{command[0]} failed: {said[0] if said else done.returncode}")
    return done.stdout
