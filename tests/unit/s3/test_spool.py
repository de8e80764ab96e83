"""The spool's files: used again when they are given up, and never with another's bytes in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostfs.backends.s3.spool import SPARE_SIZE_MAXIMUM, SPARES, Spool, SpoolFile


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path)
    yield made
    made.close()


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_is_used_again_is_empty(tmp_path: Path, spool: Spool, named: bool) -> None:
    first = SpoolFile(spool, "first" if named else None)
    os.pwrite(first.descriptor, b"secret", 10)
    number = os.fstat(first.descriptor).st_ino
    first.discard()
    second = SpoolFile(spool, "second" if named else None)
    assert second.read(0, 100) == b""
    assert os.fstat(second.descriptor).st_ino == number
    assert names(tmp_path) == (["second"] if named else [])
    second.discard()


def test_a_file_that_is_written_to_again_is_nobody_elses(tmp_path: Path, spool: Spool) -> None:
    first, second, third = (SpoolFile(spool, name) for name in ("first", "second", "third"))
    os.pwrite(first.descriptor, b"1", 0)
    os.pwrite(second.descriptor, b"2", 0)
    first.discard()
    second.discard()
    os.pwrite(first.descriptor, b"one", 0)
    os.pwrite(third.descriptor, b"three", 0)
    os.pwrite(second.descriptor, b"two", 0)
    for file in (first, second, third):
        file.rest()
    assert [file.read(0, 10) for file in (first, second, third)] == [b"one", b"two", b"three"]
    assert names(tmp_path) == ["first", "second", "third"]


def test_a_file_that_was_found_has_its_bytes(tmp_path: Path, spool: Spool) -> None:
    spare = SpoolFile(spool, "spare")
    os.pwrite(spare.descriptor, b"other", 0)
    spare.discard()
    (tmp_path / "found").write_bytes(b"promised")
    found = SpoolFile(spool, "found", is_there=True)
    assert found.read(0, 100) == b"promised"
    found.leave()


def test_large_files_and_too_many_are_deleted(tmp_path: Path, spool: Spool) -> None:
    files = [SpoolFile(spool, f"{number:03}") for number in range(SPARES + 10)]
    for file in files:
        assert file.descriptor >= 0
    os.ftruncate(files[0].descriptor, SPARE_SIZE_MAXIMUM + 1)
    files[0].rest()
    for file in files:
        file.discard()
    assert names(tmp_path) == [f"{number:03}" for number in range(1, SPARES + 1)]


def test_nothing_is_left_of_a_spool_that_is_closed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    file = SpoolFile(spool, "file")
    assert file.descriptor >= 0
    file.discard()
    spool.close()
    assert names(tmp_path) == []
