"""Nodes: a nodeid stays what it is until it is forgotten, and one that nobody gave out is stale."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.structures import SetattrIn


def test_a_file_has_one_node_by_all_its_names(mount: Mount) -> None:
    (mount.directory / "a").touch()
    os.link(mount.directory / "a", mount.directory / "b")
    first, second = mount.client.lookup(1, b"a"), mount.client.lookup(1, b"b")
    assert (first.nodeid, first.generation) == (second.nodeid, second.generation)
    assert first.attr.nlink == 2


def test_two_files_have_two_nodes(mount: Mount) -> None:
    for name in ("a", "b"):
        (mount.directory / name).touch()
    assert mount.node("a") != mount.node("b")
    assert 1 not in {mount.node("a"), mount.node("b")}


def test_the_root_is_node_1_by_dot_and_dot_dot(mount: Mount) -> None:
    """LOOKUP of '.' and '..' serves NFS exports in the guest; the share's root is its own parent."""
    (mount.directory / "dir").mkdir()
    directory = mount.node("dir")
    assert mount.client.lookup(1, b".").nodeid == 1
    assert mount.client.lookup(1, b"..").nodeid == 1
    assert mount.client.lookup(directory, b".").nodeid == directory
    assert mount.client.lookup(directory, b"..").nodeid == 1


def test_the_root_has_generation_0_as_linux_has_it(mount: Mount) -> None:
    """At another one a recent kernel warns, and an older one takes its own root for stale and gives it up."""
    (mount.directory / "dir").mkdir()
    assert mount.client.lookup(1, b".").generation == 0
    assert mount.client.lookup(mount.node("dir"), b"..").generation == 0


def test_dot_dot_leads_to_a_parent_that_the_guest_has_forgotten(mount: Mount) -> None:
    (mount.directory / "a" / "b").mkdir(parents=True)
    outer = mount.client.lookup(1, b"a")
    inner = mount.client.lookup(outer.nodeid, b"b")
    mount.client.forget(outer.nodeid)
    found = mount.client.lookup(inner.nodeid, b"..")
    assert found.attr.ino == (mount.directory / "a").stat().st_ino


def test_a_node_lives_until_its_last_lookup_is_forgotten(mount: Mount) -> None:
    (mount.directory / "file").touch()
    for _ in range(3):
        node = mount.node("file")
    mount.client.forget(node, 2)
    mount.client.getattr(node)
    mount.client.forget(node, 1)
    assert errno_of(lambda: mount.client.getattr(node)) == errno.ESTALE


def test_batch_forget_forgets_all_that_it_names(mount: Mount) -> None:
    names = [f"file{index}" for index in range(100)]
    for name in names:
        (mount.directory / name).touch()
    nodes = [mount.node(name) for name in names]
    mount.client.batch_forget([(node, 1) for node in nodes[:50]])
    assert all(errno_of(partial(mount.client.getattr, node)) == errno.ESTALE for node in nodes[:50])
    for node in nodes[50:]:
        mount.client.getattr(node)


def test_forgetting_more_than_was_looked_up_does_no_harm(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    mount.client.forget(node, 1 << 40)
    mount.client.forget(node, 1)
    mount.client.forget(1, 1 << 63)
    mount.client.forget(123456, 1)
    mount.client.forget(node, 0)
    mount.client.getattr(1)
    assert mount.client.getattr(mount.node("file")).attr.size == 0


@pytest.mark.parametrize("node", [0, 2, 12345, 1 << 48, (1 << 48) | 1, 5 << 48, 1 << 63, (1 << 64) - 1])
def test_an_invented_nodeid_is_stale(node: int, mount: Mount) -> None:
    client = mount.client
    calls = [
        lambda: client.getattr(node),
        lambda: client.lookup(node, b"file"),
        lambda: client.open(node),
        lambda: client.opendir(node),
        lambda: client.mkdir(node, b"dir"),
        lambda: client.unlink(node, b"file"),
        lambda: client.setattr(node, SetattrIn()),
        lambda: client.readlink(node),
        lambda: client.statfs(node),
        lambda: client.getxattr(node, b"user.a"),
        lambda: client.rename(1, b"a", node, b"b"),
        lambda: client.link(node, 1, b"b"),
    ]
    (mount.directory / "a").touch()
    for call in calls:
        assert errno_of(call) in {errno.ESTALE, errno.EXDEV}
    assert [path.name for path in mount.directory.iterdir()] == ["a"]


def test_a_removed_file_stays_readable_by_its_handle_and_its_node(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    mount.client.unlink(1, b"file")
    assert mount.client.read(node, fh, 100) == b"content"
    assert mount.client.write(node, fh, b"C") == 1
    assert mount.client.getattr(node).attr.nlink == 0
    assert mount.client.getattr(node, fh).attr.nlink == 0
    again = mount.client.open(node).fh
    assert mount.client.read(node, again, 100) == b"Content"


def test_a_removed_directory_stays_but_takes_no_entries(mount: Mount) -> None:
    (mount.directory / "dir").mkdir()
    node = mount.node("dir")
    mount.client.rmdir(1, b"dir")
    assert mount.client.getattr(node).attr.nlink == 0
    assert errno_of(lambda: mount.client.mkdir(node, b"sub")) == errno.ENOENT
    assert errno_of(lambda: mount.client.create(node, b"file")) == errno.ENOENT
    assert errno_of(lambda: mount.client.walk(b"x", node)) == errno.ENOENT


def test_a_node_follows_its_file_when_the_guest_renames_it(mount: Mount) -> None:
    (mount.directory / "dir").mkdir()
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    mount.client.rename(1, b"file", mount.node("dir"), b"moved")
    assert mount.client.read(node, mount.client.open(node).fh, 10) == b"content"
    assert mount.node("dir/moved") == node
    mount.client.truncate(node, 3)
    assert (mount.directory / "dir" / "moved").read_bytes() == b"con"


def test_a_node_follows_its_directory_when_the_guest_renames_it(mount: Mount) -> None:
    (mount.directory / "a" / "b").mkdir(parents=True)
    (mount.directory / "a" / "b" / "file").write_bytes(b"content")
    (mount.directory / "c").mkdir()
    node = mount.node("a/b/file")
    mount.client.rename(mount.node("a"), b"b", mount.node("c"), b"d")
    assert mount.client.read(node, mount.client.open(node).fh, 10) == b"content"
    assert mount.node("c/d/file") == node


@pytest.mark.parametrize("held", ["file", "dir/file"])
def test_an_open_file_stays_itself_when_the_host_renames_it(held: str, mount: Mount) -> None:
    """fstat(2) and the like reach the daemon by node, not by handle."""
    (mount.directory / "dir").mkdir()
    (mount.directory / held).write_bytes(b"content")
    node = mount.node(held)
    mount.client.open(node)
    (mount.directory / held).rename(mount.directory / "moved")
    assert mount.client.getattr(node).attr.size == 7
    assert mount.client.read(node, mount.client.open(node).fh, 10) == b"content"


def test_a_file_that_the_host_replaces_is_another_node(mount: Mount) -> None:
    path = mount.directory / "file"
    path.write_bytes(b"old")
    old = mount.client.lookup(1, b"file")
    fh = mount.client.open(old.nodeid).fh
    (mount.directory / "new").write_bytes(b"new content")
    (mount.directory / "new").rename(path)
    new = mount.client.lookup(1, b"file")
    assert new.nodeid != old.nodeid
    assert new.attr.size == 11
    assert mount.client.read(old.nodeid, fh, 100) == b"old"
    assert mount.client.read(new.nodeid, mount.client.open(new.nodeid).fh, 100) == b"new content"


def test_an_inode_number_that_the_host_uses_again_is_another_node(mount: Mount) -> None:
    path = mount.directory / "file"
    seen: set[tuple[int, int]] = set()
    for _ in range(20):
        path.write_bytes(b"x")
        entry = mount.client.lookup(1, b"file")
        assert (entry.nodeid, entry.generation) not in seen
        seen.add((entry.nodeid, entry.generation))
        assert mount.client.getattr(entry.nodeid).attr.ino == path.stat().st_ino
        path.unlink()


def test_exchanged_files_keep_their_nodes(mount: Mount) -> None:
    for name in ("a", "b"):
        (mount.directory / name).write_text(name)
    first, second = mount.node("a"), mount.node("b")
    mount.client.rename2(1, b"a", 1, b"b", 2)
    assert (mount.node("a"), mount.node("b")) == (second, first)
    assert mount.client.read(first, mount.client.open(first).fh, 1) == b"a"


def test_a_second_connection_starts_from_nothing(shares: Shares) -> None:
    with shares.mounted("--xattr") as mount:
        (mount.directory / "file").touch()
        node = mount.node("file")
    with shares.mounted("--xattr") as mount:
        assert errno_of(lambda: mount.client.getattr(node)) == errno.ESTALE


def escape_points(directory: Path) -> None:
    """Plant what might lead out of a share."""
    (directory / "up").symlink_to("..")
    (directory / "absolute").symlink_to("/etc")
    (directory / "passwd").symlink_to("/etc/passwd")
    (directory / "dir").mkdir()
    (directory / "dir" / "up").symlink_to("../..")


def test_symbolic_links_are_never_followed_by_the_daemon(mount: Mount) -> None:
    escape_points(mount.directory)
    for name in ("up", "absolute", "passwd", "dir/up"):
        entry = mount.client.walk(name.encode())
        assert entry.attr.mode & 0o170000 == 0o120000
        node, client = entry.nodeid, mount.client
        assert errno_of(partial(client.lookup, node, b"passwd")) == errno.ENOTDIR
        assert errno_of(partial(client.open, node)) is not None
        assert errno_of(partial(client.opendir, node)) is not None
        assert errno_of(partial(client.truncate, node, 0)) is not None
        assert errno_of(partial(client.create, node, b"x")) is not None


def test_a_directory_that_the_host_swaps_for_a_link_leads_nowhere_else(mount: Mount) -> None:
    (mount.directory / "dir").mkdir()
    (mount.directory / "dir" / "passwd").write_text("inside")
    directory = mount.node("dir")
    (mount.directory / "dir").rename(mount.directory / "moved")
    (mount.directory / "dir").symlink_to("/etc")
    entry = mount.client.lookup(directory, b"passwd")
    assert mount.client.read(entry.nodeid, mount.client.open(entry.nodeid).fh, 100) == b"inside"
    mount.client.create(directory, b"new")
    assert (mount.directory / "moved" / "new").exists()


@pytest.mark.parametrize("held", ["file", "dir/file", "dir"])
def test_what_the_guest_looked_up_stays_itself_when_the_host_renames_it(held: str, mount: Mount) -> None:
    """A guest's working directory may be such a node."""
    (mount.directory / "dir").mkdir()
    for name in ("file", "dir/file"):
        (mount.directory / name).write_bytes(b"content")
    node = mount.node(held)
    expected = (mount.directory / held).stat().st_ino
    (mount.directory / held).rename(mount.directory / "moved")
    assert mount.client.getattr(node).attr.ino == expected
    if held == "dir":
        assert {entry.name for entry in mount.client.list_directory(node)} == {b".", b"..", b"file"}
    else:
        assert mount.client.read(node, mount.client.open(node).fh, 10) == b"content"
