"""What a user may not do is refused: by Linux, which looks at the owners and modes that it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.conformance.conftest import WAYS
from tests.conformance.place import Place
from tests.conformance.refusals import refused

pytestmark = pytest.mark.parametrize(
    "place", [way for way in WAYS if way == "tmpfs" or way.endswith("/dev/fuse")], indirect=True
)


def plant(place: Place) -> None:
    """Make what is root's and what is user 1000's, in a directory where all may write but none may remove."""
    place.write("file", b"content")
    place.write("secret", b"content", 0o600)
    place.mkdir("closed", 0o700)
    place.write("closed/file")
    place.mkdir("sticky")
    place.chmod("sticky", 0o1777)
    place.write("sticky/file")
    place.write("own", b"content")
    place.chown("own", 1000, 1000)
    place.write("group", b"content", 0o660)
    place.chown("group", 0, 1001)
    place.symlink("file", "link")


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (errno.EACCES, lambda user: user.write("new")),
        (errno.EACCES, lambda user: user.mkdir("new")),
        (errno.EACCES, lambda user: user.mknod("new", 0o100644)),
        (errno.EACCES, lambda user: user.symlink("x", "new")),
        (errno.EACCES, lambda user: user.link("own", "new")),
        (errno.EACCES, lambda user: user.unlink("own")),
        (errno.EACCES, lambda user: user.rmdir("closed")),
        (errno.EACCES, lambda user: user.rename("own", "new")),
        (errno.EACCES, lambda user: user.rename("own", "sticky/new")),
        (errno.EACCES, lambda user: user.tmpfile("", os.O_RDWR)),
        (errno.EACCES, lambda user: user.open("file", os.O_WRONLY)),
        (errno.EACCES, lambda user: user.open("file", os.O_RDONLY | os.O_TRUNC)),
        (errno.EACCES, lambda user: user.open("secret", os.O_RDONLY)),
        (errno.EACCES, lambda user: user.open("group", os.O_RDONLY)),
        (errno.EACCES, lambda user: user.truncate("file", 0)),
        (errno.EACCES, lambda user: user.stat("closed/file")),
        (errno.EACCES, lambda user: user.names("closed")),
        (errno.EACCES, lambda user: user.setxattr("file", "user.a", b"1")),
        (errno.EACCES, lambda user: user.getxattr("secret", "user.a")),
        (errno.EPERM, lambda user: user.chmod("file", 0o666)),
        (errno.EPERM, lambda user: user.chown("file", 1000)),
        (errno.EPERM, lambda user: user.chown("own", 0)),
        (errno.EPERM, lambda user: user.chown("own", gid=7)),
        (errno.EPERM, lambda user: user.utime("file", 1, 1)),
        (errno.EPERM, lambda user: user.open("file", os.O_RDONLY | os.O_NOATIME)),
        (errno.EPERM, lambda user: user.unlink("sticky/file")),
        (errno.EPERM, lambda user: user.rename("sticky/file", "sticky/new")),
        (errno.EPERM, lambda user: user.mknod("sticky/device", 0o020644, os.makedev(1, 3))),
    ],
)
def test_what_a_user_may_not_do_is_refused(
    place: Place, number: int, call: Callable[[Place], object]
) -> None:
    plant(place)
    refused(number, lambda: call(place.as_user(1000, 1000)))
    assert place.read("file") == place.read("own") == b"content"
    assert sorted(place.names("sticky")) == ["file"]


def test_what_a_user_may_do_succeeds(place: Place) -> None:
    plant(place)
    user = place.as_user(1000, 1001)
    assert user.read("file") == user.read("group") == b"content"
    user.write("group", b"changed")
    user.write("own", b"changed")
    user.chmod("own", 0o640)
    user.utime("own", 1, 1)
    user.setxattr("own", "user.a", b"1")
    user.chown("own", gid=1001)
    user.mkdir("sticky/dir")
    user.write("sticky/dir/new", b"content")
    user.rename("sticky/dir/new", "sticky/new")
    user.rmdir("sticky/dir")
    about = place.stat("sticky/new")
    assert (about.uid, about.gid) == (1000, 1001)
    user.unlink("sticky/new")
