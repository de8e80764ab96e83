"""Users, who mount by fusermount3."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounting.mounts import device_of, mount_line, on_thread, unmount
from tests.mounting.users import NOBODY, as_user
from vhostfs.errors import StartError
from vhostfs.transports.fuse_device import MountOptions


@pytest.fixture
def home(share: Path, mountpoint: Path) -> Iterator[Path]:
    """Provide a directory of a user's, with `share` and `mnt` in it, and a file of its own."""
    # The modules that a mount takes, imported while they can be read.
    with on_thread(share, mountpoint):
        pass
    directory = Path(tempfile.mkdtemp(prefix="home"))
    for path in (directory, directory / "share", directory / "mnt"):
        path.mkdir(exist_ok=True)
        os.chown(path, NOBODY, NOBODY)
    (directory / "share/file").write_bytes(b"content")
    os.chown(directory / "share/file", NOBODY, NOBODY)
    yield directory
    while device_of(directory / "mnt") is not None:
        unmount(directory / "mnt", "-l")
    shutil.rmtree(directory)


def test_a_user_mounts_and_unmounts_a_directory(home: Path) -> None:
    place = home / "mnt"

    def act() -> None:
        with on_thread(home / "share", place, MountOptions(source="with, comma")) as served:
            fields = mount_line(place).split()
            assert fields[0] == "with,\\040comma"
            assert {"nosuid", "nodev", f"user_id={NOBODY}"} <= set(fields[3].split(","))
            assert (place / "file").read_bytes() == b"content"
            (place / "made").write_bytes(b"made")
            with (place / "made").open("r+b") as file:
                file.write(b"M")
            assert (home / "share/made").read_bytes() == b"Made"
            assert not served.mount.ended
        assert device_of(place) is None

    as_user(NOBODY, act)


def test_a_user_unmounts_by_fusermount(home: Path) -> None:
    place = home / "mnt"

    def act() -> None:
        with on_thread(home / "share", place):
            (place / "file").stat()
            subprocess.run(["fusermount3", "-u", str(place)], check=True)
            assert device_of(place) is None

    as_user(NOBODY, act)


def test_what_fusermount_refuses_is_told_in_its_words(home: Path) -> None:
    def act() -> None:
        with (
            pytest.raises(StartError, match="user_allow_other"),
            on_thread(home / "share", home / "mnt", MountOptions(allow_other=True)),
        ):
            pass
        with (
            pytest.raises(StartError, match="no write access to mountpoint /usr"),
            on_thread(home / "share", Path("/usr")),
        ):
            pass

    as_user(NOBODY, act)


def test_a_host_without_fusermount_is_told_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with (
            pytest.raises(StartError, match="install the package fuse3"),
            on_thread(home / "share", home / "mnt"),
        ):
            pass

    as_user(NOBODY, act)
