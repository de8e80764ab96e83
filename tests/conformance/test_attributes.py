"""Attributes: permissions, owners, times, and what changes them."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

import pytest

from tests.conformance.place import Place
from tests.conformance.refusals import refused
from vhostfs.filesystem import Attr

LONG_AGO = 1_000_000_000_123_456_789

COARSE = 5
"""CLOCK_REALTIME_COARSE, which kernels take the times of files from and `time` does not name."""


def aged(place: Place, *paths: str) -> None:
    """Set times of access and modification of paths to long ago, and let the clock tick on.

    A kernel's clock may stand still for some milliseconds.
    """
    for path in paths:
        place.utime(path, LONG_AGO, LONG_AGO)
    before = max(place.stat(path).ctime_ns for path in paths)
    while time.clock_gettime_ns(COARSE) <= before:
        pass


def moved(before: Attr, after: Attr) -> str:
    """Return which times have moved: some of 'amc'."""
    return "".join(
        letter
        for letter, old, new in (
            ("a", before.atime_ns, after.atime_ns),
            ("m", before.mtime_ns, after.mtime_ns),
            ("c", before.ctime_ns, after.ctime_ns),
        )
        if new > old
    )


@pytest.mark.parametrize("mode", [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777])
def test_permissions_are_kept(place: Place, mode: int) -> None:
    place.write("file")
    place.mkdir("dir")
    for path, kind in (("file", stat.S_IFREG), ("dir", stat.S_IFDIR)):
        place.chmod(path, mode)
        assert place.stat(path).mode == kind | mode


def test_owners_change_one_by_one(place: Place) -> None:
    place.write("file")
    place.chown("file", 1000, 1001)
    place.chown("file", uid=7)
    place.chown("file", gid=8)
    assert (place.stat("file").uid, place.stat("file").gid) == (7, 8)
    place.symlink("file", "link")
    place.chown("link", 1, 2)
    assert (place.stat("link").uid, place.stat("link").gid) == (1, 2)
    place.chown("file", 2**32 - 2, 2**32 - 2)
    assert (place.stat("file").uid, place.stat("file").gid) == (2**32 - 2, 2**32 - 2)


@pytest.mark.parametrize(
    ("mode", "left"), [(0o4755, 0o755), (0o2755, 0o755), (0o2745, 0o2745), (0o6777, 0o777), (0o1777, 0o1777)]
)
def test_a_new_owner_drops_set_id_bits_of_programs(place: Place, mode: int, left: int) -> None:
    place.write("file")
    place.chmod("file", mode)
    place.chown("file", 5, 5)
    assert place.stat("file").mode & 0o7777 == left


def test_a_new_owner_of_a_directory_drops_nothing(place: Place) -> None:
    place.mkdir("dir")
    place.chmod("dir", 0o6775)
    place.chown("dir", 5, 5)
    assert place.stat("dir").mode & 0o7777 == 0o6775


@pytest.mark.parametrize(("mode", "left"), [(0o6777, 0o777), (0o4766, 0o766), (0o2767, 0o2767)])
@pytest.mark.parametrize("change", ["write", "truncate", "ftruncate", "open"])
def test_changes_by_a_user_drop_set_id_bits(place: Place, change: str, mode: int, left: int) -> None:
    place.write("file", b"content")
    place.chown("file", 1000, 1000)
    place.chmod("file", mode)
    user = place.as_user(1000, 1000)
    if change == "open":
        user.open("file", os.O_WRONLY | os.O_TRUNC).close()
    elif change == "truncate":
        user.truncate("file", 3)
    else:
        with user.open("file", os.O_WRONLY) as file:
            if change == "write":
                file.write(b"new")
            else:
                file.truncate(3)
    if place.differs("set-group-id-cleared"):
        left &= ~stat.S_ISGID
    assert place.stat("file").mode & 0o7777 == left


@pytest.mark.parametrize("change", ["write", "truncate", "open"])
def test_changes_by_root_drop_nothing(place: Place, change: str) -> None:
    place.write("file", b"content")
    place.chmod("file", 0o6777)
    if change == "open":
        place.open("file", os.O_WRONLY | os.O_TRUNC).close()
    elif change == "truncate":
        place.truncate("file", 3)
    else:
        with place.open("file", os.O_WRONLY) as file:
            file.write(b"new")
    left = 0o777 if change == "write" and place.differs("root-clears-set-id") else 0o6777
    assert place.stat("file").mode & 0o7777 == left


@pytest.mark.parametrize(
    "times", [(0, 1), (LONG_AGO, LONG_AGO + 1), (-1_500_000_000, -1), (2**34 * 10**9, 5)]
)
def test_times_are_kept_to_the_nanosecond(place: Place, times: tuple[int, int]) -> None:
    place.write("file")
    place.mkdir("dir")
    place.symlink("file", "link")
    for path in ("file", "dir", "link"):
        place.utime(path, *times)
        assert (place.stat(path).atime_ns, place.stat(path).mtime_ns) == times


def test_a_new_file_is_of_now(place: Place) -> None:
    before = time.clock_gettime_ns(COARSE)
    place.write("file")
    about = place.stat("file")
    for moment in (about.atime_ns, about.mtime_ns, about.ctime_ns):
        assert before <= moment <= time.time_ns()


def test_a_file_tells_when_it_was_born(place: Place) -> None:
    before = time.clock_gettime_ns(COARSE)
    place.write("file")
    born = place.born("file")
    if place.differs("no-times-of-birth"):
        assert born is None
        return
    assert born is not None
    assert before <= born <= time.time_ns()
    aged(place, "file")
    place.chmod("file", 0o600)
    place.rename("file", "new")
    assert place.born("new") == born


def write_some(place: Place) -> None:
    with place.open("file", os.O_WRONLY) as file:
        file.write(b"new")


def reserve_some(place: Place) -> None:
    with place.open("file", os.O_WRONLY) as file:
        file.fallocate(0, 0, 10000)


CHANGES: list[tuple[str, str, Callable[[Place], object], str]] = [
    ("file", "reading", lambda place: place.read("file"), "a"),
    ("file", "writing", write_some, "mc"),
    ("file", "reserving", reserve_some, "mc"),
    ("file", "truncating", lambda place: place.truncate("file", 2), "mc"),
    ("file", "opening to truncate", lambda p: p.open("file", os.O_WRONLY | os.O_TRUNC).close(), "mc"),
    ("file", "looking", lambda place: place.stat("file"), ""),
    ("file", "chmod", lambda place: place.chmod("file", 0o600), "c"),
    ("file", "chown", lambda place: place.chown("file", 1, 1), "c"),
    ("file", "linking", lambda place: place.link("file", "new"), "c"),
    ("file", "renaming", lambda place: place.rename("file", "new"), "c"),
    ("file", "setting an attribute", lambda place: place.setxattr("file", "user.a", b"1"), "c"),
    ("twice", "unlinking", lambda place: place.unlink("again"), "c"),
    ("twice", "replacing", lambda place: place.rename("file", "again"), "c"),
    ("", "making a file", lambda place: place.write("new"), "mc"),
    ("", "making a directory", lambda place: place.mkdir("new"), "mc"),
    ("", "making a link", lambda place: place.symlink("x", "new"), "mc"),
    ("", "linking", lambda place: place.link("file", "new"), "mc"),
    ("", "unlinking", lambda place: place.unlink("file"), "mc"),
    ("", "removing a directory", lambda place: place.rmdir("dir"), "mc"),
    ("", "renaming in it", lambda place: place.rename("file", "new"), "mc"),
    ("", "renaming out of it", lambda place: place.rename("file", "dir/new"), "mc"),
    ("dir", "renaming into it", lambda place: place.rename("file", "dir/new"), "mc"),
    ("", "listing", lambda place: place.names(), "a"),
    ("", "writing to a file in it", write_some, ""),
    ("link", "reading a link", lambda place: place.readlink("link"), "a"),
]


def expected_here(place: Place, path: str, what: str, expected: str) -> str:
    """Return which times move where some never do."""
    if place.differs("renaming-is-no-change") and what == "renaming":
        return ""
    if place.differs("no-second-names") and path == "twice":
        return ""  # the other name is another file's
    return expected.replace("a", "") if place.differs("no-times-of-access") else expected


@pytest.mark.parametrize(
    ("path", "what", "change", "expected"),
    CHANGES,
    ids=[f"{path or 'root'} {what}" for path, what, *_ in CHANGES],
)
def test_times_move_with_what_is_done(
    place: Place, path: str, what: str, change: Callable[[Place], object], expected: str
) -> None:
    place.write("file", b"content")
    place.write("twice")
    if place.differs("no-second-names"):
        place.write("again")
    else:
        place.link("twice", "again")
    place.mkdir("dir")
    place.symlink("file", "link")
    aged(place, "file", "twice", "dir", "link", "")
    before = place.stat(path)
    if place.differs("no-second-names") and what == "linking":
        refused(errno.EPERM, lambda: change(place))
        assert moved(before, place.stat(path)) == ""
        return
    change(place)
    renamed = {"renaming": "new", "replacing": "twice"}
    after = place.stat(renamed.get(what, path) if path else "")
    assert moved(before, after) == expected_here(place, path, what, expected)


def test_truncating_to_the_same_size_is_a_change_too(place: Place) -> None:
    place.write("file", b"content")
    aged(place, "file")
    before = place.stat("file")
    place.truncate("file", 7)
    assert moved(before, place.stat("file")) == "mc"


def test_the_time_of_access_moves_once_after_a_change(place: Place) -> None:
    place.write("file", b"content")
    aged(place, "file")
    place.read("file")
    first = place.stat("file").atime_ns
    assert (first == LONG_AGO) == place.differs("no-times-of-access")
    while time.clock_gettime_ns(COARSE) <= first:
        pass
    place.read("file")
    assert place.stat("file").atime_ns == first


def test_a_descriptor_may_leave_the_time_of_access(place: Place) -> None:
    place.write("file", b"content")
    aged(place, "file")
    with place.open("file", os.O_RDONLY | os.O_NOATIME) as file:
        file.read(10)
    assert (place.stat("file").atime_ns == LONG_AGO) == (not place.differs("no-noatime"))
