"""SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR: what the host stores, with the host's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.frontend.client import LINUX_7_2_FLAGS
from tests.operations.shares import Mount, Shares
from tests.operations.twins import Case, compare, errno_of
from vhostfs.fuse_abi.flags import InitFlags

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


def on(
    path: str,
    name: str,
    host: Callable[[Path], object],
    guest: Callable[[Mount, int], object],
) -> Case:
    return Case(
        f"{name} {path}",
        lambda directory: host(directory / path),
        lambda mount: guest(mount, mount.node(path)),
    )


def set_attribute(path: str, name: str, value: bytes, flags: int = 0) -> Case:
    return on(
        path,
        f"set {name[:30]} {len(value)} {flags}",
        lambda file: os.setxattr(file, name, value, flags, follow_symlinks=False),
        lambda mount, node: mount.client.setxattr(node, name.encode(), value, flags),
    )


def get_attribute(path: str, name: str) -> Case:
    return on(
        path,
        f"get {name[:30]}",
        lambda file: os.getxattr(file, name, follow_symlinks=False),
        lambda mount, node: mount.client.getxattr(node, name.encode()),
    )


def remove_attribute(path: str, name: str) -> Case:
    return on(
        path,
        f"remove {name[:30]}",
        lambda file: os.removexattr(file, name, follow_symlinks=False),
        lambda mount, node: mount.client.removexattr(node, name.encode()),
    )


CASES = [
    set_attribute("file", "user.new", b"value"),
    set_attribute("dir", "user.new", b"value"),
    set_attribute("file", "user.new", b""),
    set_attribute("file", "user.new", b"v" * 1000),
    set_attribute("file", "user.new", b"v" * 65536),
    set_attribute("file", "user." + "n" * 250, b"value"),
    set_attribute("file", "user.new", b"value", CREATE),
    set_attribute("file", "user.new", b"value", REPLACE),
    set_attribute("file", "user.new", b"value", CREATE | REPLACE),
    set_attribute("file", "user.new", b"value", 0x80),
    set_attribute("link", "user.new", b"value"),
    set_attribute("fifo", "user.new", b"value"),
    set_attribute("device", "user.new", b"value"),
    set_attribute("file", "nonsense.new", b"value"),
    set_attribute("file", "user.", b"value"),
    get_attribute("file", "user.missing"),
    get_attribute("link", "user.missing"),
    get_attribute("file", "nonsense.missing"),
    remove_attribute("file", "user.missing"),
    remove_attribute("file", "nonsense.missing"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_outcome_is_the_hosts(case: Case, mount: Mount, tmp_path: Path) -> None:
    compare(case, tmp_path / "host", mount)


@pytest.fixture
def file(mount: Mount) -> Path:
    """Provide a file of the share with two attributes."""
    path = mount.directory / "file"
    path.touch()
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", b"x" * 200)
    return path


def test_values_are_read_and_their_size_is_told(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    assert mount.client.getxattr(node, b"user.two") == b"x" * 200
    assert mount.client.getxattr_size(node, b"user.two") == 200
    assert mount.client.getxattr(node, b"user.two", 200) == b"x" * 200


def test_a_buffer_too_small_is_out_of_range(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    assert errno_of(lambda: mount.client.getxattr(node, b"user.two", 199)) == errno.ERANGE
    assert errno_of(lambda: mount.client.listxattr(node, 5)) == errno.ERANGE


def test_names_are_listed(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    names = mount.client.listxattr(node)
    assert {b"user.one", b"user.two"} <= set(names)
    assert sorted(names) == sorted(os.fsencode(name) for name in os.listxattr(file))
    assert mount.client.listxattr_size(node) == sum(len(name) + 1 for name in names)


def test_changes_reach_the_host(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    mount.client.setxattr(node, b"user.one", b"new", REPLACE)
    mount.client.removexattr(node, b"user.two")
    assert os.getxattr(file, "user.one") == b"new"
    assert os.listxattr(file) == ["user.one"]


def test_existing_attributes_are_not_created_again(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    assert errno_of(lambda: mount.client.setxattr(node, b"user.one", b"", CREATE)) == errno.EEXIST


def test_a_removed_file_keeps_its_attributes(file: Path, mount: Mount) -> None:
    node = mount.node("file")
    mount.client.unlink(1, b"file")
    assert mount.client.getxattr(node, b"user.one") == b"1"
    mount.client.setxattr(node, b"user.one", b"2")
    assert mount.client.getxattr(node, b"user.one") == b"2"


def test_without_the_extension_the_short_request_is_understood(shares: Shares) -> None:
    with shares.mounted("--xattr", flags=LINUX_7_2_FLAGS & ~InitFlags.SETXATTR_EXT) as mount:
        (mount.directory / "file").touch()
        mount.client.setxattr(mount.node("file"), b"user.one", b"value", setxattr_flags=None)
        assert os.getxattr(mount.directory / "file", "user.one") == b"value"


def test_without_the_option_the_guest_is_told_to_stop_asking(shares: Shares) -> None:
    with shares.mounted() as mount:
        (mount.directory / "file").touch()
        node, client = mount.node("file"), mount.client
        assert errno_of(lambda: client.setxattr(node, b"user.a", b"")) == errno.ENOSYS
        assert errno_of(lambda: client.getxattr(node, b"user.a")) == errno.ENOSYS
        assert errno_of(lambda: client.listxattr(node)) == errno.ENOSYS
        assert errno_of(lambda: client.removexattr(node, b"user.a")) == errno.ENOSYS
