"""Locks of ranges and of whole files: who keeps out whom, who waits, and when they are given back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fcntl import F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN
from functools import partial

import pytest

from tests.conformance.conftest import WAYS
from tests.conformance.differences import differences
from tests.conformance.place import OpenFile, Place
from tests.conformance.refusals import refused

kept = pytest.mark.parametrize(
    "place",
    [way for way in WAYS if "no-locks" not in differences(*way.split(" by "))],
    indirect=True,
)
"""Wherever locks are kept: by the file system, or by this host's kernel."""


@pytest.fixture
def one(place: Place) -> Iterator[OpenFile]:
    """Provide a file that is open for reading and writing."""
    with place.open("file", os.O_RDWR | os.O_CREAT) as file:
        yield file


@pytest.fixture
def other(place: Place, one: OpenFile) -> Iterator[OpenFile]:
    """Provide the same file, open once more."""
    with place.open("file", os.O_RDWR) as file:
        yield file


def test_who_keeps_no_locks_says_so(place: Place, one: OpenFile) -> None:
    if place.differs("no-locks"):
        refused(errno.ENOSYS, lambda: one.lock(F_WRLCK))
        refused(errno.ENOSYS, lambda: one.lock_in_the_way(F_WRLCK))
        refused(errno.ENOSYS, lambda: one.flock(LOCK_EX | LOCK_NB))
    else:
        assert one.lock_in_the_way(F_WRLCK) is None


@kept
def test_a_writer_keeps_others_out_of_its_range_alone(one: OpenFile, other: OpenFile) -> None:
    one.lock(F_WRLCK, 10, 10)
    one.lock(F_WRLCK, 10, 10)
    for kind in (F_RDLCK, F_WRLCK):
        refused(errno.EAGAIN, partial(other.lock, kind, 19, 1))
        refused(errno.EAGAIN, partial(other.lock, kind))
    other.lock(F_WRLCK, 0, 10)
    other.lock(F_WRLCK, 20)
    refused(errno.EAGAIN, lambda: one.lock(F_RDLCK, 1 << 40, 1))


@kept
def test_readers_share_and_keep_writers_out(one: OpenFile, other: OpenFile) -> None:
    one.lock(F_RDLCK)
    other.lock(F_RDLCK)
    refused(errno.EAGAIN, lambda: one.lock(F_WRLCK, 5, 1))
    other.lock(F_UNLCK)
    one.lock(F_WRLCK, 5, 1)
    refused(errno.EAGAIN, lambda: other.lock(F_RDLCK, 5, 1))
    other.lock(F_RDLCK, 6, 1)


@kept
def test_the_lock_in_the_way_is_told(one: OpenFile, other: OpenFile) -> None:
    assert other.lock_in_the_way(F_WRLCK) is None
    one.lock(F_RDLCK, 100, 50)
    assert other.lock_in_the_way(F_WRLCK, 120, 1) == (F_RDLCK, 100, 50)
    assert other.lock_in_the_way(F_RDLCK, 120, 1) is None
    assert other.lock_in_the_way(F_WRLCK, 150) is None
    assert one.lock_in_the_way(F_WRLCK) is None
    one.lock(F_WRLCK, 200)
    assert other.lock_in_the_way(F_RDLCK, 300, 1) == (F_WRLCK, 200, 0)


@kept
def test_a_range_can_be_given_back_in_part(one: OpenFile, other: OpenFile) -> None:
    one.lock(F_WRLCK, 0, 100)
    one.lock(F_UNLCK, 40, 20)
    other.lock(F_WRLCK, 40, 20)
    assert other.lock_in_the_way(F_WRLCK, 0, 40) == (F_WRLCK, 0, 40)
    assert other.lock_in_the_way(F_WRLCK, 60) == (F_WRLCK, 60, 40)


@kept
def test_closing_gives_locks_back(place: Place, one: OpenFile, other: OpenFile) -> None:
    with place.open("file", os.O_RDWR) as third:
        third.lock(F_WRLCK)
        refused(errno.EAGAIN, lambda: one.lock(F_RDLCK))
    one.lock(F_WRLCK)


@kept
def test_who_waits_gets_the_lock_when_it_is_given_back(one: OpenFile, other: OpenFile) -> None:
    one.lock(F_WRLCK, 0, 10)
    wait = other.wait_for_lock(F_WRLCK, 5, 10)
    one.lock(F_UNLCK, 0, 10)
    wait()
    assert one.lock_in_the_way(F_WRLCK) == (F_WRLCK, 5, 10)


@kept
def test_whole_files_are_locked_shared_or_alone(one: OpenFile, other: OpenFile) -> None:
    one.flock(LOCK_SH | LOCK_NB)
    other.flock(LOCK_SH | LOCK_NB)
    refused(errno.EAGAIN, lambda: one.flock(LOCK_EX | LOCK_NB))
    other.flock(LOCK_UN)
    one.flock(LOCK_EX | LOCK_NB)
    refused(errno.EAGAIN, lambda: other.flock(LOCK_SH | LOCK_NB))
    one.flock(LOCK_UN)
    other.flock(LOCK_EX | LOCK_NB)


@kept
def test_closing_gives_the_lock_of_a_whole_file_back(place: Place, one: OpenFile, other: OpenFile) -> None:
    with place.open("file", os.O_RDWR) as third:
        third.flock(LOCK_EX | LOCK_NB)
        refused(errno.EAGAIN, lambda: one.flock(LOCK_SH | LOCK_NB))
    one.flock(LOCK_EX | LOCK_NB)


@kept
def test_locks_of_ranges_and_of_whole_files_do_not_meet(one: OpenFile, other: OpenFile) -> None:
    one.flock(LOCK_EX | LOCK_NB)
    other.lock(F_WRLCK)
    assert one.lock_in_the_way(F_WRLCK) == (F_WRLCK, 0, 0)
