"""Limits: what a file system of some size and inodes takes, and that it gets all of it back."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.conformance.conftest import WAYS
from tests.conformance.differences import differences
from tests.conformance.place import Place
from tests.conformance.refusals import refused
from vhostfs.fuse_abi.flags import FallocateFlags

pytestmark = pytest.mark.parametrize(
    "place", [way for way in WAYS if "no-limits" not in differences(*way.split(" by "))], indirect=True
)

MIB = 1 << 20

EMPTY = (64 * MIB, 999)
"""The bytes and inodes that are free at first: one is the root's."""

PATIENCE = 20.0
"""Seconds after which a promise has been waited for too long."""


def free(place: Place) -> tuple[int, int]:
    """Return the free bytes and inodes."""
    figures = place.statfs()
    return figures.bfree * figures.frsize, figures.ffree


def settles(place: Place, *expected: int) -> None:
    """Check that these bytes, and inodes where given, are free.

    What was the last one to let go of a file may be under way: a FORGET has no reply.
    """
    deadline = time.monotonic() + PATIENCE
    while (seen := free(place)[: len(expected)]) != expected and time.monotonic() < deadline:
        pass
    assert seen == expected


@pytest.fixture(autouse=True)
def _all_is_free(place: Place) -> None:
    """Wait until what the last promise left is gone."""
    settles(place, *EMPTY)


def fill(place: Place, path: str = "filler", leave: int = 0) -> None:
    """Reserve all space but some."""
    with place.open(path, os.O_WRONLY | os.O_CREAT) as file:
        file.fallocate(0, 0, free(place)[0] - leave)


def test_the_size_is_told(place: Place) -> None:
    figures = place.statfs()
    assert figures.blocks * figures.frsize == 64 * MIB
    assert figures.files == 1000
    assert figures.bavail == figures.bfree <= figures.blocks
    assert figures.namelen == 255


def test_data_takes_space_and_gives_it_back(place: Place) -> None:
    begin = EMPTY
    place.write("file", b"x" * 100_000)
    settles(place, begin[0] - 102_400, begin[1] - 1)
    with place.open("file", os.O_RDWR) as file:
        file.truncate(50_000)
        settles(place, begin[0] - 53_248)
        file.fallocate(FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE, 0, 4096)
        settles(place, begin[0] - 49_152)
        place.unlink("file")
        settles(place, begin[0] - 49_152)
    settles(place, *begin)


def test_a_full_file_system_says_so(place: Place) -> None:
    fill(place)
    place.write("file")
    with place.open("file", os.O_WRONLY) as file:
        refused(errno.ENOSPC, lambda: file.write(b"x"))
        refused(errno.ENOSPC, lambda: file.fallocate(0, 0, 1))
        assert file.stat().size == 0
        place.unlink("filler")
        settles(place, EMPTY[0])
        assert file.write(b"x") == 1


def test_a_write_takes_the_space_that_is_left(place: Place) -> None:
    fill(place, leave=10_000)
    with place.open("file", os.O_RDWR | os.O_CREAT) as file:
        assert file.write(b"x" * 20_000) == 8192
        refused(errno.ENOSPC, lambda: file.write(b"x", 8192))
        assert file.read(30_000) == b"x" * 8192


def test_reserved_space_is_there_when_it_is_needed(place: Place) -> None:
    with place.open("file", os.O_RDWR | os.O_CREAT) as file:
        file.fallocate(FallocateFlags.KEEP_SIZE, 0, 8192)
        fill(place)
        assert file.write(b"x" * 8192) == 8192
        refused(errno.ENOSPC, lambda: file.write(b"x", 8192))
        assert file.write(b"y" * 8192) == 8192


def test_reserving_more_than_there_is_reserves_nothing(place: Place) -> None:
    begin = EMPTY
    with place.open("file", os.O_RDWR | os.O_CREAT) as file:
        refused(errno.ENOSPC, lambda: file.fallocate(0, 0, begin[0] + 4096))
        assert (free(place)[0], file.stat().size) == (begin[0], 0)


def test_lengthening_a_file_takes_no_space(place: Place) -> None:
    fill(place)
    place.write("file")
    place.truncate("file", 1 << 40)
    assert place.stat("file").size == 1 << 40


def test_a_full_file_system_can_be_changed_and_emptied(place: Place) -> None:
    fill(place)
    place.mkdir("dir")
    place.rename("filler", "dir/filler")
    place.chmod("dir/filler", 0o600)
    place.unlink("dir/filler")
    place.rmdir("dir")
    assert place.names() == []


def test_every_file_and_every_name_takes_an_inode(place: Place) -> None:
    size, begin = EMPTY
    place.write("file")
    place.mkdir("dir")
    place.symlink("x", "link")
    settles(place, size, begin - 3)
    place.link("file", "again")
    settles(place, size, begin - 4)
    for name in ("again", "file", "link"):
        place.unlink(name)
    place.rmdir("dir")
    settles(place, size, begin)


def test_without_an_inode_nothing_can_be_made(place: Place) -> None:
    place.write("first")
    made = 0
    while True:
        try:
            place.write(f"{made}")
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            break
        made += 1
    assert made >= 900
    refused(errno.ENOSPC, lambda: place.mkdir("dir"))
    refused(errno.ENOSPC, lambda: place.symlink("x", "link"))
    refused(errno.ENOSPC, lambda: place.link("first", "again"))
    place.rename("first", "renamed")
    size, left = free(place)
    place.unlink("0")
    settles(place, size, left + 1)
    place.mkdir("dir")
    assert len(place.names()) == made + 1


def test_replaced_files_give_back_what_they_took(place: Place) -> None:
    begin = EMPTY
    for _ in range(3):
        place.write("new", b"x" * 100_000)
        place.rename("new", "file")
    place.unlink("file")
    settles(place, *begin)
