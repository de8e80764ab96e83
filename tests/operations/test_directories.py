"""READDIR and READDIRPLUS: every entry once, resumed anywhere, in buffers of any size."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial

import pytest

from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of

BOTH = pytest.mark.parametrize("plus", [False, True], ids=["readdir", "readdirplus"])


def fill(mount: Mount, count: int) -> set[bytes]:
    """Create files with names of many lengths; return all names that a listing has."""
    names = {f"{index:05}{'x' * (index % 40)}" for index in range(count)}
    for name in names:
        (mount.directory / name).touch()
    return {name.encode() for name in names} | {b".", b".."}


@BOTH
def test_a_listing_holds_every_name_once(plus: bool, mount: Mount) -> None:
    names = fill(mount, 500)
    listed = [entry.name for entry in mount.client.list_directory(1, plus=plus)]
    assert len(listed) == len(names)
    assert set(listed) == names


@BOTH
def test_an_empty_directory_holds_dot_and_dot_dot(plus: bool, mount: Mount) -> None:
    assert {entry.name for entry in mount.client.list_directory(1, plus=plus)} == {b".", b".."}


@BOTH
def test_entries_carry_inode_number_and_type(plus: bool, mount: Mount) -> None:
    (mount.directory / "file").touch()
    (mount.directory / "dir").mkdir()
    (mount.directory / "link").symlink_to("x")
    os.mkfifo(mount.directory / "fifo")
    os.mknod(mount.directory / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    kinds = {b"file": stat.S_IFREG, b"dir": stat.S_IFDIR, b"link": stat.S_IFLNK, b"fifo": stat.S_IFIFO}
    kinds[b"device"] = stat.S_IFCHR
    listed = {entry.name: entry for entry in mount.client.list_directory(1, plus=plus)}
    for name, kind in kinds.items():
        assert listed[name].ino == (mount.directory / name.decode()).lstat().st_ino
        assert listed[name].type == kind >> 12
    assert listed[b"."].type == stat.S_IFDIR >> 12


@BOTH
@pytest.mark.parametrize("size", [280, 512, 1000, 4096, 65536, 1 << 20])
def test_buffers_of_any_size_list_all(size: int, plus: bool, mount: Mount) -> None:
    names = fill(mount, 60)
    listed = [entry.name for entry in mount.client.list_directory(1, plus=plus, size=size)]
    assert sorted(listed) == sorted(names)


@BOTH
def test_a_buffer_too_small_for_the_next_entry_is_an_error_or_empty(plus: bool, mount: Mount) -> None:
    """A record must never be cut; Linux takes an empty reply for the end, so EINVAL is the better answer."""
    (mount.directory / ("n" * 255)).touch()
    fh = mount.client.opendir(1).fh
    read = mount.client.readdirplus if plus else mount.client.readdir
    offset = 0
    while entries := read(1, fh, 1024, offset):
        if entries[0].name == b"n" * 255:
            assert errno_of(partial(read, 1, fh, 64, offset)) in {None, errno.EINVAL}
            return
        offset = entries[0].off
    pytest.fail("the long name was never listed")


@BOTH
def test_a_listing_resumes_behind_any_entry(plus: bool, mount: Mount) -> None:
    fill(mount, 100)
    listed = mount.client.list_directory(1, plus=plus)
    fh = mount.client.opendir(1).fh
    read = mount.client.readdirplus if plus else mount.client.readdir
    for position in (0, 50, 3, 99, 101, 7):
        following = read(1, fh, 8192, listed[position].off)
        expected = [entry.name for entry in listed[position + 1 :]]
        assert [entry.name for entry in following] == expected[: len(following)]
        assert bool(following) == bool(expected)


@BOTH
def test_a_listing_can_be_rewound(plus: bool, mount: Mount) -> None:
    fill(mount, 20)
    fh = mount.client.opendir(1).fh
    read = mount.client.readdirplus if plus else mount.client.readdir
    first = [entry.name for entry in read(1, fh, 65536)]
    (mount.directory / "late").touch()
    again = [entry.name for entry in read(1, fh, 65536)]
    assert set(again) == {*first, b"late"}


@BOTH
def test_two_handles_list_independently(plus: bool, mount: Mount) -> None:
    names = fill(mount, 200)
    handles = [mount.client.opendir(1).fh for _ in range(2)]
    read = mount.client.readdirplus if plus else mount.client.readdir
    seen: list[list[bytes]] = [[], []]
    offsets = [0, 0]
    for _ in range(400):
        for which in range(2):
            entries = read(1, handles[which], 600, offsets[which])
            if entries:
                seen[which] += [entry.name for entry in entries]
                offsets[which] = entries[-1].off
    assert set(seen[0]) == set(seen[1]) == names
    assert len(seen[0]) == len(seen[1]) == len(names)


@BOTH
def test_entries_removed_while_listing_do_no_harm(plus: bool, mount: Mount) -> None:
    names = fill(mount, 300)
    fh = mount.client.opendir(1).fh
    read = mount.client.readdirplus if plus else mount.client.readdir
    listed: list[bytes] = []
    offset = 0
    while entries := read(1, fh, 1024, offset):
        listed += [entry.name for entry in entries]
        offset = entries[-1].off
        for entry in entries:
            if entry.name not in {b".", b".."}:
                mount.client.unlink(1, entry.name)
    assert len(listed) == len(set(listed))
    assert set(listed) == names
    assert list(mount.directory.iterdir()) == []


def test_readdirplus_looks_every_entry_up(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    (mount.directory / "dir").mkdir()
    listed = {entry.name: entry.entry for entry in mount.client.list_directory(1, plus=True)}
    found = listed[b"file"]
    assert found is not None
    assert found.attr.size == 7
    assert mount.client.getattr(found.nodeid).attr.size == 7
    assert mount.node("file") == found.nodeid
    mount.client.forget(found.nodeid, 1)
    mount.client.getattr(found.nodeid)
    mount.client.forget(found.nodeid, 1)
    assert errno_of(lambda: mount.client.getattr(found.nodeid)) == errno.ESTALE


def test_readdirplus_counts_no_lookup_of_dot_and_dot_dot(mount: Mount) -> None:
    (mount.directory / "dir").mkdir()
    node = mount.node("dir")
    for _ in range(3):
        mount.client.list_directory(node, plus=True)
    mount.client.forget(node, 1)
    assert errno_of(lambda: mount.client.getattr(node)) == errno.ESTALE


def test_readdirplus_counts_only_the_entries_that_it_returned(mount: Mount) -> None:
    for index in range(10):
        (mount.directory / f"file{index}").touch()
    fh = mount.client.opendir(1).fh
    returned = mount.client.readdirplus(1, fh, 400)
    nodes = [entry.entry.nodeid for entry in returned if entry.entry and entry.entry.nodeid > 1]
    rest = {f"file{index}".encode() for index in range(10)} - {entry.name for entry in returned}
    for node in nodes:
        mount.client.forget(node, 1)
        assert errno_of(partial(mount.client.getattr, node)) == errno.ESTALE
    for name in rest:
        node = mount.client.lookup(1, name).nodeid
        mount.client.forget(node, 1)
        assert errno_of(partial(mount.client.getattr, node)) == errno.ESTALE


def test_fsyncdir_reaches_the_host(mount: Mount) -> None:
    fh = mount.client.opendir(1).fh
    mount.client.fsyncdir(1, fh)
    mount.client.fsyncdir(1, fh, 1)


def test_handles_of_another_kind_or_of_nobody_are_refused(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    file_handle = mount.client.open(node).fh
    directory_handle = mount.client.opendir(1).fh
    assert errno_of(lambda: mount.client.readdir(1, file_handle)) in {errno.EBADF, errno.ENOTDIR}
    assert errno_of(lambda: mount.client.read(1, directory_handle, 10)) in {errno.EBADF, errno.EISDIR}
    assert errno_of(lambda: mount.client.readdir(1, 0xDEAD)) == errno.EBADF
    assert errno_of(lambda: mount.client.readdirplus(1, 0xDEAD)) == errno.EBADF
    assert errno_of(lambda: mount.client.fsyncdir(1, 0xDEAD)) == errno.EBADF
    mount.client.releasedir(1, directory_handle)
    assert errno_of(lambda: mount.client.readdir(1, directory_handle)) == errno.EBADF


def test_a_directory_may_be_cached_where_all_is(shares: Shares) -> None:
    with shares.mounted("--cache=always") as mount:
        assert mount.client.opendir(1).open_flags & 8
    with shares.mounted("--cache=never") as mount:
        assert not mount.client.opendir(1).open_flags & (8 | 2)
