"""GETATTR, SETATTR, STATX, ACCESS, STATFS: guests see what hosts know, hosts what guests change."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.operations.host_calls import STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID, statx
from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import Attr, SetattrIn

NANOSECONDS = 1_000_000_000


def assert_equal_attributes(attr: Attr, path: Path) -> None:
    """Check every field of attributes against lstat(2)."""
    about = path.lstat()
    assert attr.ino == about.st_ino
    assert attr.size == about.st_size
    assert attr.blocks == about.st_blocks
    assert attr.atime * NANOSECONDS + attr.atimensec == about.st_atime_ns
    assert attr.mtime * NANOSECONDS + attr.mtimensec == about.st_mtime_ns
    assert attr.ctime * NANOSECONDS + attr.ctimensec == about.st_ctime_ns
    assert attr.mode == about.st_mode
    assert attr.nlink == about.st_nlink
    assert (attr.uid, attr.gid) == (about.st_uid, about.st_gid)
    assert (
        os.makedev(attr.rdev >> 8 & 0xFFF, (attr.rdev & 0xFF) | (attr.rdev >> 12 & 0xFFF00)) == about.st_rdev
    )
    assert attr.blksize == about.st_blksize
    assert attr.flags == 0


def plant(directory: Path) -> list[str]:
    """Create a file of each kind with telling attributes; return their names."""
    (directory / "file").write_bytes(b"x" * 12345)
    os.chown(directory / "file", 1234, 5678)
    (directory / "file").chmod(0o4751)
    os.utime(directory / "file", ns=(1_111_111_111_123_456_789, 999_999_999_987_654_321))
    (directory / "dir").mkdir(0o2750)
    (directory / "link").symlink_to("file")
    os.mknod(directory / "device", 0o060640, os.makedev(0x123, 0x45678))
    os.mkfifo(directory / "fifo")
    os.utime(directory / "fifo", ns=(-5_000_000_001, 0))
    return ["file", "dir", "link", "device", "fifo"]


def test_lookup_and_getattr_tell_what_the_host_knows(mount: Mount) -> None:
    for name in plant(mount.directory):
        entry = mount.client.lookup(1, name.encode())
        signed = entry.attr.atime - (1 << 64) if entry.attr.atime >> 63 else entry.attr.atime
        assert signed == mount.directory.joinpath(name).lstat().st_atime_ns // NANOSECONDS
        if signed >= 0:
            assert_equal_attributes(entry.attr, mount.directory / name)
            assert_equal_attributes(mount.client.getattr(entry.nodeid).attr, mount.directory / name)
    assert_equal_attributes(mount.client.getattr(1).attr, mount.directory)


def test_getattr_by_handle_tells_of_the_open_file(mount: Mount) -> None:
    plant(mount.directory)
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    mount.client.write(node, fh, b"more", 12345)
    assert mount.client.getattr(node, fh).attr.size == 12349
    assert_equal_attributes(mount.client.getattr(node, fh).attr, mount.directory / "file")


def test_statx_tells_what_the_host_knows(mount: Mount) -> None:
    mask = STATX_BASIC_STATS | STATX_BTIME
    for name in plant(mount.directory):
        reply = mount.client.statx(mount.node(name), mask)
        assert reply.attr_valid <= 86400
        expected = statx(mount.directory / name)
        assert reply.stat.mask & mask == mask
        for field in ("blksize", "nlink", "uid", "gid", "mode", "ino", "size", "blocks"):
            assert getattr(reply.stat, field) == getattr(expected, field), field
        for field in ("atime", "btime", "ctime", "mtime", "rdev_major", "rdev_minor"):
            assert getattr(reply.stat, field) == getattr(expected, field), field


def test_statx_by_handle_and_with_a_strange_mask(mount: Mount) -> None:
    plant(mount.directory)
    node = mount.node("file")
    fh = mount.client.open(node).fh
    assert mount.client.statx(node, STATX_BASIC_STATS, fh).stat.size == 12345
    assert mount.client.statx(node, 0).stat.mode == (mount.directory / "file").stat().st_mode
    mount.client.statx(node, STATX_MNT_ID | STATX_BASIC_STATS)
    assert errno_of(lambda: mount.client.statx(node, 1 << 31)) in {None, errno.EINVAL}


def test_setattr_changes_all_that_it_names_at_once(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    valid = (
        SetattrValid.MODE
        | SetattrValid.UID
        | SetattrValid.GID
        | SetattrValid.SIZE
        | SetattrValid.ATIME
        | SetattrValid.MTIME
    )
    message = SetattrIn(
        valid=valid, mode=0o100640, uid=11, gid=22, size=3, atime=1000, atimensec=1, mtime=2000, mtimensec=2
    )
    reply = mount.client.setattr(mount.node("file"), message)
    assert_equal_attributes(reply.attr, mount.directory / "file")
    about = (mount.directory / "file").stat()
    assert (about.st_mode, about.st_uid, about.st_gid, about.st_size) == (0o100640, 11, 22, 3)
    assert (about.st_atime_ns, about.st_mtime_ns) == (1000 * NANOSECONDS + 1, 2000 * NANOSECONDS + 2)


def test_setattr_leaves_what_it_does_not_name(mount: Mount) -> None:
    plant(mount.directory)
    before = (mount.directory / "file").stat()
    mount.client.setattr(mount.node("file"), SetattrIn(valid=SetattrValid.MTIME, mtime=77))
    after = (mount.directory / "file").stat()
    assert after.st_mtime_ns == 77 * NANOSECONDS
    assert (after.st_mode, after.st_uid, after.st_size, after.st_atime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_size,
        before.st_atime_ns,
    )


def test_setattr_of_nothing_answers_the_attributes(mount: Mount) -> None:
    plant(mount.directory)
    reply = mount.client.setattr(mount.node("file"), SetattrIn())
    assert_equal_attributes(reply.attr, mount.directory / "file")


@pytest.mark.parametrize("name", ["file", "dir", "fifo", "link"])
def test_times_can_be_now(name: str, mount: Mount) -> None:
    plant(mount.directory)
    before = time.time_ns() - NANOSECONDS
    valid = SetattrValid.ATIME | SetattrValid.ATIME_NOW | SetattrValid.MTIME | SetattrValid.MTIME_NOW
    mount.client.setattr(mount.node(name), SetattrIn(valid=valid, atime=5, mtime=5))
    about = (mount.directory / name).lstat()
    assert before < about.st_atime_ns < before + 60 * NANOSECONDS
    assert before < about.st_mtime_ns < before + 60 * NANOSECONDS


def test_times_before_the_epoch_and_of_links_are_set(mount: Mount) -> None:
    plant(mount.directory)
    valid = SetattrValid.ATIME | SetattrValid.MTIME
    message = SetattrIn(valid=valid, atime=(1 << 64) - 100, mtime=5, mtimensec=999_999_999)
    mount.client.setattr(mount.node("link"), message)
    about = (mount.directory / "link").lstat()
    assert about.st_atime_ns == -100 * NANOSECONDS
    assert about.st_mtime_ns == 5_999_999_999


def test_impossible_times_are_refused(mount: Mount) -> None:
    plant(mount.directory)
    message = SetattrIn(valid=SetattrValid.MTIME, mtime=5, mtimensec=NANOSECONDS)
    assert errno_of(lambda: mount.client.setattr(mount.node("file"), message)) == errno.EINVAL


def test_setattr_by_handle_reaches_a_file_without_a_name(mount: Mount) -> None:
    entry, opened = mount.client.create(1, b"file")
    mount.client.unlink(1, b"file")
    valid = SetattrValid.FH | SetattrValid.MODE | SetattrValid.SIZE
    reply = mount.client.setattr(entry.nodeid, SetattrIn(valid=valid, fh=opened.fh, mode=0o100601, size=5))
    assert (reply.attr.mode, reply.attr.size) == (0o100601, 5)


def test_setattr_by_a_foreign_handle_is_refused(mount: Mount) -> None:
    plant(mount.directory)
    valid = SetattrValid.FH | SetattrValid.SIZE
    message = SetattrIn(valid=valid, fh=987654321, size=0)
    assert errno_of(lambda: mount.client.setattr(mount.node("file"), message)) == errno.EBADF
    assert (mount.directory / "file").stat().st_size == 12345


def test_statfs_tells_the_hosts_figures(mount: Mount) -> None:
    figures, expected = mount.client.statfs(), os.statvfs(mount.directory)
    assert (figures.blocks, figures.files) == (expected.f_blocks, expected.f_files)
    assert (figures.bsize, figures.frsize) == (expected.f_bsize, expected.f_frsize)
    assert figures.namelen == expected.f_namemax
    assert figures.bavail <= figures.bfree <= figures.blocks
    (mount.directory / "file").touch()
    assert mount.client.statfs(mount.node("file")).blocks == expected.f_blocks


@pytest.mark.parametrize("mask", [os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK])
def test_access_answers_as_for_root(mask: int, mount: Mount) -> None:
    """Guests mount with default_permissions and never send ACCESS; sent all the same it must not mislead."""
    plant(mount.directory)
    (mount.directory / "file").chmod(0o600)
    allowed = os.access(mount.directory / "file", mask)
    assert (errno_of(lambda: mount.client.access(mount.node("file"), mask)) is None) == allowed


def test_a_change_on_the_host_is_seen_at_once_when_asked_for(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"1")
    node = mount.node("file")
    for size in (10, 0, 5000):
        os.truncate(mount.directory / "file", size)
        assert mount.client.getattr(node).attr.size == size


@pytest.mark.parametrize(
    ("options", "entry", "attributes", "negative"),
    [
        (("--cache=never",), 0, 0, 0),
        (("--cache=metadata",), 86400, 86400, 1),
        (("--cache=auto",), 1, 1, 1),
        (("--cache=always",), 86400, 86400, 1),
    ],
)
def test_timeouts_follow_the_cache_mode(
    options: tuple[str, ...], entry: int, attributes: int, negative: int, shares: Shares
) -> None:
    with shares.mounted(*options) as mount:
        (mount.directory / "file").touch()
        found = mount.client.lookup(1, b"file")
        assert (found.entry_valid, found.entry_valid_nsec) == (entry, 0)
        assert (found.attr_valid, found.attr_valid_nsec) == (attributes, 0)
        reply = mount.client.getattr(found.nodeid)
        assert (reply.attr_valid, reply.attr_valid_nsec) == (attributes, 0)
        made = mount.client.mkdir(1, b"dir")
        assert (made.entry_valid, made.attr_valid) == (entry, attributes)
        if negative:
            missing = mount.client.lookup(1, b"missing")
            assert (missing.nodeid, missing.entry_valid) == (0, negative)
        else:
            assert errno_of(lambda: mount.client.lookup(1, b"missing")) == errno.ENOENT
