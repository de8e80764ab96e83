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
