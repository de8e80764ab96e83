"""What the steps of the guest benchmark work on, and what they should make of it."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILES_A_DIRECTORY: Final = 50
ROWS_A_TRANSACTION: Final = 100
NEEDLE: Final = "needle"
LEAST_FOUND: Final = 1000
"""Find looks for files of more bytes than this, which it must ask the size of."""

WORDS: Final = ("daemon", "ring", "guest", "kernel", "queue", "share", "handle", "request", "reply", "node")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do: files of the tree, transactions of the database, MiB that fio moves."""

    files: int = 2000
    transactions: int = 60
    mebibytes: int = 128

    @property
    def modules(self) -> int:
        """How many of the files are Python's."""
        return max(1, self.files // 10)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A directory of inputs, in every daemon's share: a tree, as an archive and a repository, and data."""

    directory: Path
    sizes: Sizes
    digest: str
    """Of the tree."""
    found: int
    """How many files are larger than LEAST_FOUND."""
    needles: int
    """How many files hold the needle."""
    compiled: str
    """Digest of what Python compiles of the modules."""


def digest(directory: Path, *, compiled: bool = False) -> str:
    """Return a checksum of all names and contents below a directory, or of what Python has compiled there."""
    total = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and ".git" not in path.parts):
        if (path.parent.name == "__pycache__") == compiled:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(directory)} {content}\n".encode())
    return total.hexdigest()


def pattern(offset: int, block: int) -> bytes:
    """Return a block of data as fio's pattern %o makes it: its offset in the file, over and over."""
    return struct.pack("<Q", offset) * (block // 8)


def write_pattern(path: Path, size: int, block: int) -> None:
    """Write a file in which each block says where it is."""
    with path.open("wb") as file:
        for offset in range(0, size, block):
            file.write(pattern(offset, block))


def holds_pattern(path: Path, size: int, block: int) -> bool:
    """Tell whether each block of a file says where it is."""
    with path.open("rb") as file:
        return path.stat().st_size == size and all(
            file.read(block) == pattern(offset, block) for offset in range(0, size, block)
        )


def compile_command(python: str) -> list[str]:
    """Return the command that compiles the modules of the tree in the working directory, always the same."""
    mode = ("--invalidation-mode", "unchecked-hash")
    return [python, "-I", "-m", "compileall", "-q", *mode, "tree/modules"]


def _texts(source: random.Random, count: int) -> Iterator[str]:
    for number in range(count):
        words = source.choices(WORDS, k=source.choice((5, 20, 100, 400, 2000)))
        if number % 10 == 0:
            words.append(NEEDLE)
        yield " ".join(words) + "\n"


def _module(number: int) -> str:
    functions = (f"def function_{n}(value):\n    return value + {number * n}\n" for n in range(5))
    return "\n\n".join(functions)


def _make_tree(tree: Path, sizes: Sizes) -> tuple[int, int]:
    """Make files of text and modules; return how many are to be found, and how many hold the needle."""
    contents = dict(enumerate(_texts(random.Random(3), sizes.files - sizes.modules)))
    files = {
        f"texts-{number // FILES_A_DIRECTORY:03}/text-{number:05}.txt": content
        for number, content in contents.items()
    }
    files |= {
        f"modules/package{number // FILES_A_DIRECTORY}/module{number}.py": _module(number)
        for number in range(sizes.modules)
    }
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    found = sum(len(content) > LEAST_FOUND for content in files.values())
    return found, sum(NEEDLE in content for content in files.values())


def _make_repository(tree: Path, bare: Path) -> None:
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    own = ["git", f"--git-dir={bare}", f"--work-tree={tree}", *identity]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for command in (
        ["git", "init", "-q", "--bare", "-b", "main", str(bare)],
        [*own, "add", "."],
        [*own, "commit", "-q", "-m", "All"],
        ["git", f"--git-dir={bare}", "gc", "-q"],
    ):
        subprocess.run(command, check=True, capture_output=True, env=environment)


def _make_statements(directory: Path, transactions: int) -> None:
    rows = iter(range(transactions * ROWS_A_TRANSACTION))
    lines = ["CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, text TEXT);"]
    lines.append("CREATE INDEX item_name ON item (name);")
    for _ in range(transactions):
        lines.append("BEGIN;")
        for _ in range(ROWS_A_TRANSACTION):
            row = next(rows)
            name = f"name-{row * 7919 % 10007:05}"
            lines.append(f"INSERT INTO item VALUES ({row}, '{name}', '{'text ' * 40}');")
        lines.append("COMMIT;")
    (directory / "insert.sql").write_text("\n".join(lines) + "\n")
    queries = [f"SELECT count(*) FROM item WHERE name = 'name-{n * 131:05}';" for n in range(50)]
    queries.append("SELECT count(*), sum(id), sum(length(text)) FROM item;")
    (directory / "query.sql").write_text("\n".join(queries) + "\n")


def make_inputs(directory: Path, sizes: Sizes, python: str) -> Inputs:
    """Make all inputs in a new directory. CalledProcessError where git or Python fails."""
    directory.mkdir(parents=True)
    tree = directory / "tree"
    found, needles = _make_tree(tree, sizes)
    with tarfile.open(directory / "tree.tar", "w") as archive:
        archive.add(tree, "tree")
    _make_repository(tree, directory / "repository.git")
    _make_statements(directory, sizes.transactions)
    write_pattern(directory / "read4k", sizes.mebibytes << 18, 4 << 10)
    write_pattern(directory / "read1m", sizes.mebibytes << 20, 1 << 20)
    whole = digest(tree)
    subprocess.run(compile_command(python), cwd=directory, check=True, stdin=subprocess.DEVNULL)
    return Inputs(directory, sizes, whole, found, needles, digest(tree, compiled=True))
