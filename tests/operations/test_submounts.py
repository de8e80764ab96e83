"""A mount of the host below a share: announced, told apart by its device, and never left through '..'."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.daemons import running_daemon
from tests.operations.shares import PEER, TAG, Mount, Share, remounted
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.flags import AttrFlags
from vhostfs.fuse_abi.structures import EntryOut

pytestmark = [
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare(1) is not installed"),
    pytest.mark.skipif(PEER is not None, reason="a peer cannot be started in a mount namespace here"),
]

SCRIPT = """
set -e
mount -t tmpfs submount "$1/mounted"
mkdir "$1/mounted/dir"
echo content >"$1/mounted/file"
shift
exec "$@"
"""


@contextmanager
def mounted_over_tmpfs(place: Path, *options: str) -> Iterator[Mount]:
    """Provide a share with a tmpfs at `mounted`, in a mount namespace of the daemon alone."""
    directory, socket = place / "shared", place / "socket"
    (directory / "mounted").mkdir(parents=True)
    (directory / "file").touch()
    daemon = str(Path(sys.executable).parent / "vhostfsd")
    arguments = [f"--socket-path={socket}", f"--shared-dir={directory}", f"--tag={TAG}", *options]
    inside = ["unshare", "--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh", str(directory), daemon]
    with (
        running_daemon([*inside, *arguments], socket) as running,
        remounted(Share(directory, running)) as mount,
    ):
        yield mount


@pytest.mark.parametrize("sandbox", ["none", "chroot", "namespace"])
def test_a_mount_is_announced_and_can_be_walked(sandbox: str, tmp_path: Path) -> None:
    with mounted_over_tmpfs(tmp_path, f"--sandbox={sandbox}") as mount:
        point = mount.client.lookup(1, b"mounted")
        assert point.attr.flags & AttrFlags.SUBMOUNT
        assert not mount.client.lookup(1, b"file").attr.flags & AttrFlags.SUBMOUNT
        inner = mount.client.lookup(point.nodeid, b"file")
        assert not inner.attr.flags & AttrFlags.SUBMOUNT
        assert mount.client.read(inner.nodeid, mount.client.open(inner.nodeid).fh, 100) == b"content\n"
        assert mount.client.statfs(point.nodeid).blocks != mount.client.statfs(1).blocks
        assert mount.client.lookup(point.nodeid, b"..").nodeid == 1
        inside = mount.client.lookup(point.nodeid, b"dir")
        assert mount.client.lookup(inside.nodeid, b"..").nodeid == point.nodeid


def test_a_mount_is_announced_in_listings_too(tmp_path: Path) -> None:
    with mounted_over_tmpfs(tmp_path, "--sandbox=none") as mount:
        for entry in mount.client.list_directory(1, plus=True):
            if entry.name in {b"mounted", b"file"} and entry.entry is not None and entry.entry.nodeid:
                announced = bool(entry.entry.attr.flags & AttrFlags.SUBMOUNT)
                assert announced == (entry.name == b"mounted")


def announced(mount: Mount) -> list[EntryOut]:
    """Return what a lookup and a listing say of the mount."""
    listed = {entry.name: entry.entry for entry in mount.client.list_directory(1, plus=True)}[b"mounted"]
    assert listed is not None
    return [mount.client.lookup(1, b"mounted"), listed]


def same(entry: EntryOut) -> tuple[int, int, int]:
    """Return what the guest compares, when it asks again, with what it was told first."""
    return entry.nodeid, entry.generation, entry.attr.flags


@pytest.mark.parametrize("options", [[], ["--rlimit-nofile=256"]])
def test_a_mount_is_the_same_whenever_the_guest_asks(options: list[str], tmp_path: Path) -> None:
    """Linux has such an inode as generation 0, and detaches what is mounted there at any other answer."""
    with mounted_over_tmpfs(tmp_path, "--sandbox=none", *options) as mount:
        for index in range(300):
            (mount.directory / f"dir{index}").mkdir()
        first = mount.client.lookup(1, b"mounted")
        expected = (first.nodeid, 0, AttrFlags.SUBMOUNT)
        assert same(first) == expected
        # With few descriptors, those before these go.
        for index in range(300):
            mount.client.lookup(1, f"dir{index}".encode())
        assert [same(entry) for entry in announced(mount)] == [expected, expected]
        mount.client.forget(first.nodeid, 2)
        assert [same(entry) for entry in announced(mount)] == [expected, expected]
        mount.client.forget(first.nodeid, 3)
        mount.client.lookup(1, b"file")
        again = announced(mount)
        assert same(again[0]) == same(again[1]) == (again[0].nodeid, 0, AttrFlags.SUBMOUNT)


def test_a_mount_is_not_announced_to_who_comes_from_inside(tmp_path: Path) -> None:
    """By '.' and '..' the guest finds the root of the mounted file system, which it has as generation 0."""
    with mounted_over_tmpfs(tmp_path, "--sandbox=none") as mount:
        point = mount.node("mounted")
        inside = mount.client.lookup(point, b"dir").nodeid
        assert same(mount.client.lookup(point, b".")) == (point, 0, 0)
        assert same(mount.client.lookup(inside, b"..")) == (point, 0, 0)


def test_a_mount_is_not_announced_where_that_is_not_wanted(tmp_path: Path) -> None:
    with mounted_over_tmpfs(tmp_path, "--sandbox=none", "--no-announce-submounts") as mount:
        point = mount.client.lookup(1, b"mounted")
        assert not point.attr.flags & AttrFlags.SUBMOUNT
        assert mount.client.walk(b"mounted/file").attr.size == 8


def test_files_do_not_move_or_link_across_mounts(tmp_path: Path) -> None:
    with mounted_over_tmpfs(tmp_path, "--sandbox=none") as mount:
        inside, client = mount.node("mounted"), mount.client
        assert errno_of(lambda: client.rename(1, b"file", inside, b"moved")) == errno.EXDEV
        assert errno_of(lambda: client.link(mount.node("file"), inside, b"linked")) == errno.EXDEV
        assert errno_of(lambda: client.rmdir(1, b"mounted")) == errno.EBUSY
