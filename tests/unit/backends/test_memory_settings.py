"""A mount of type `memory` takes tmpfs's keys, sizes with units and permissions in octal."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest

from vhostfs.backends.memory import MemoryFilesystem, MemorySettings
from vhostfs.config.model import FilesystemSettings
from vhostfs.config.schema import parse
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import ROOT, Caller

CALLER = Caller(0, 0, 1)


def settings(keys: str) -> MemorySettings:
    """Return the settings of a mount with these keys."""
    text = f"devices:\n  - socket: {{path: /run/s}}\n    mounts:\n      /: {{type: memory{keys}}}\n"
    (device,) = parse(text, "f").devices
    mount = device.mounts[PurePosixPath("/")]
    assert isinstance(mount, FilesystemSettings)
    assert isinstance(mount.backend, MemorySettings)
    return mount.backend


@pytest.mark.parametrize(
    ("written", "size"),
    [("0", 0), ("8192", 8192), ("64K", 65536), ("64KiB", 65536), ("'3 MiB'", 3 << 20), ("2G", 2 << 30)],
)
def test_a_size_may_have_a_unit(written: str, size: int) -> None:
    assert settings(f", size: {written}").size == size


@pytest.mark.parametrize("written", ["0750", "'750'", "0o750", "750"])
def test_permissions_are_octal(written: str) -> None:
    assert settings(f", mode: {written}").mode == 0o750


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("size: -1", "size: should be a number of bytes, such as 1048576 or 64MiB"),
        ("size: 1.5G", "size: should be a number of bytes, such as 1048576 or 64MiB"),
        ("size: lots", "size: should be a number of bytes, such as 1048576 or 64MiB"),
        ("size: true", "size: should be a number of bytes, such as 1048576 or 64MiB"),
        ("inodes: 0", "inodes: "),
        ("mode: 0888", "mode: should be permission bits in octal, such as 0755"),
        ("mode: 010000", "mode: should be permission bits in octal, such as 0755"),
        ("uid: -1", "uid: "),
        ("gid: 4294967295", "gid: "),
        ("nr_inodes: 5", "nr_inodes: unknown key"),
    ],
)
def test_what_is_no_such_value_is_told_with_its_place(keys: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings(f", {keys}")
    assert str(raised.value).startswith("f:4:")
    assert f": devices[0].mounts./.{reason}" in str(raised.value)


def test_the_root_is_as_it_was_asked_for() -> None:
    filesystem = settings(", size: 5000, inodes: 10, mode: 01750, uid: 7, gid: 8").open()
    assert isinstance(filesystem, MemoryFilesystem)
    about = filesystem.getattr(CALLER, ROOT, None)
    assert (about.mode & 0o7777, about.uid, about.gid) == (0o1750, 7, 8)
    figures = filesystem.statfs(CALLER, ROOT)
    assert (figures.blocks, figures.bsize, figures.files, figures.ffree) == (2, 4096, 10, 9)


def test_it_holds_half_of_the_memory_unless_told_otherwise() -> None:
    filesystem = settings("").open()
    assert isinstance(filesystem, MemoryFilesystem)
    figures = filesystem.statfs(CALLER, ROOT)
    pages = os.sysconf("SC_PHYS_PAGES") // 2 * os.sysconf("SC_PAGE_SIZE") // 4096
    assert figures.blocks == figures.files == pages
    assert filesystem.getattr(CALLER, ROOT, None).mode & 0o7777 == 0o1777
