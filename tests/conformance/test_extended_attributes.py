"""Extended attributes: namespaces, flags and limits."""

from __future__ import annotations

import errno
import os
import stat
import struct

import pytest

from tests.conformance.place import Place
from tests.conformance.refusals import refused


@pytest.mark.parametrize("name", ["user.a", "trusted.a", "security.a", "user." + "n" * 250])
@pytest.mark.parametrize("value", [b"", b"value", bytes(range(250)) * 4, b"\0\xff" * 1000, b"x" * 65536])
def test_values_are_kept(place: Place, name: str, value: bytes) -> None:
    place.write("file")
    if place.differs("no-trusted-attributes") and not name.startswith("user."):
        refused(errno.EPERM, lambda: place.setxattr("file", name, value))
        return
    if place.differs("little-metadata") and len(value) > 1300:
        place.setxattr("file", name, b"kept")
        refused(errno.ENOSPC, lambda: place.setxattr("file", name, value))
        assert place.getxattr("file", name) == b"kept"
        return
    place.setxattr("file", name, value)
    assert place.getxattr("file", name) == value
    assert name in place.listxattr("file")
    place.setxattr("file", name, b"another")
    assert place.getxattr("file", name) == b"another"
    place.removexattr("file", name)
    refused(errno.ENODATA, lambda: place.getxattr("file", name))
    assert name not in place.listxattr("file")


def test_flags_say_whether_an_attribute_is_new(place: Place) -> None:
    place.write("file")
    refused(errno.ENODATA, lambda: place.setxattr("file", "user.a", b"1", os.XATTR_REPLACE))
    place.setxattr("file", "user.a", b"1", os.XATTR_CREATE)
    refused(errno.EEXIST, lambda: place.setxattr("file", "user.a", b"2", os.XATTR_CREATE))
    place.setxattr("file", "user.a", b"3", os.XATTR_REPLACE)
    assert place.getxattr("file", "user.a") == b"3"
    refused(errno.EINVAL, lambda: place.setxattr("file", "user.a", b"4", 8))


def test_what_is_no_name_or_too_large_is_refused(place: Place) -> None:
    place.write("file")
    refused(errno.EOPNOTSUPP, lambda: place.setxattr("file", "nowhere.a", b"1"))
    refused(errno.EOPNOTSUPP, lambda: place.getxattr("file", "nowhere.a"))
    refused(errno.EINVAL, lambda: place.setxattr("file", "user.", b"1"))
    refused(errno.ERANGE, lambda: place.setxattr("file", "user." + "n" * 251, b"1"))
    refused(errno.E2BIG, lambda: place.setxattr("file", "user.a", b"x" * 65537))
    refused(errno.ENODATA, lambda: place.removexattr("file", "user.a"))


def test_users_attributes_are_for_files_and_directories(place: Place) -> None:
    place.mkdir("dir")
    place.symlink("x", "link")
    place.mknod("fifo", stat.S_IFIFO | 0o644)
    place.setxattr("dir", "user.a", b"1")
    assert place.getxattr("dir", "user.a") == b"1"
    for path in ("link", "fifo"):
        refused(errno.EPERM, lambda path=path: place.setxattr(path, "user.a", b"1"))  # type: ignore[misc]
        refused(errno.ENODATA, lambda path=path: place.getxattr(path, "user.a"))  # type: ignore[misc]
        if not place.differs("no-trusted-attributes"):
            place.setxattr(path, "trusted.a", b"1")
            assert place.getxattr(path, "trusted.a") == b"1"


def test_attributes_belong_to_the_file_not_the_name(place: Place) -> None:
    place.write("file")
    place.setxattr("file", "user.a", b"1")
    place.rename("file", "new")
    assert place.getxattr("new", "user.a") == b"1"
    if place.differs("no-second-names"):
        refused(errno.EPERM, lambda: place.link("new", "again"))
        return
    place.link("new", "again")
    place.removexattr("again", "user.a")
    refused(errno.ENODATA, lambda: place.getxattr("new", "user.a"))


LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in [
        (1, 6, 2**32 - 1),
        (2, 4, 1000),
        (4, 4, 2**32 - 1),
        (16, 4, 2**32 - 1),
        (32, 0, 2**32 - 1),
    ]
)
"""An access control list: user::rw-, user:1000:r--, group::r--, mask::r--, other::---."""


def test_access_control_lists_are_kept(place: Place) -> None:
    place.write("file")
    if place.differs("no-lists"):
        refused(errno.EOPNOTSUPP, lambda: place.setxattr("file", "system.posix_acl_access", LIST))
        return
    place.setxattr("file", "system.posix_acl_access", LIST)
    assert place.getxattr("file", "system.posix_acl_access") == LIST
    assert place.stat("file").mode & 0o777 == 0o640


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""A security.capability of cap_net_bind_service=ep."""


@pytest.mark.parametrize("change", ["write", "truncate", "chown"])
def test_changes_drop_the_capabilities_of_a_program(place: Place, change: str) -> None:
    place.write("file", b"content")
    place.setxattr("file", "security.capability", CAPABILITY)
    assert place.getxattr("file", "security.capability") == CAPABILITY
    if change == "write":
        with place.open("file", os.O_WRONLY) as file:
            file.write(b"new")
    elif change == "truncate":
        place.truncate("file", 3)
    else:
        place.chown("file", 5, 5)
    refused(errno.ENODATA, lambda: place.getxattr("file", "security.capability"))
