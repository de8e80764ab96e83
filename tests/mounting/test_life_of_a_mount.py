"""`vhostfs mount`: how a mount comes to be, and all the ways in which it ends."""

from __future__ import annotations

import errno
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conformance.refusals import refused
from tests.mounting.mounts import (
    PATIENCE,
    abort,
    command,
    daemon,
    device_of,
    mount_line,
    on_thread,
    open_fuse_descriptors,
    unmount,
)
from vhostfs.backends.contract import Backend
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.cli import main
from vhostfs.control.client import add_mount, list_mounts
from vhostfs.errors import StartError
from vhostfs.transports import fuse_device
from vhostfs.transports.fuse_device import MountOptions
from vhostfs.virtqueue import Device


def memory() -> MemoryFilesystem:
    return MemoryFilesystem(size=16 << 20, inodes=100, mode=0o755)


def test_a_directory_appears_and_both_sides_see_what_the_other_does(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount:
        assert (mountpoint / "file").read_bytes() == b"content"
        (mountpoint / "made").write_bytes(b"through the mount")
        (mountpoint / "dir").mkdir()
        (mountpoint / "made").rename(mountpoint / "dir/moved")
        assert (share / "dir/moved").read_bytes() == b"through the mount"
        (share / "new").symlink_to("file")
        assert sorted(path.name for path in mountpoint.iterdir()) == ["dir", "file", "new"]
        assert mount_line(mountpoint).split()[2:4] == [
            "fuse.vhostfs",
            "rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions",
        ]
        unmount(mountpoint)
        assert mount.ended() == 0


def test_in_the_background_the_command_returns_when_the_mount_can_be_used(
    share: Path, mountpoint: Path
) -> None:
    done = command(share, mountpoint)
    assert done.returncode == 0, done.stderr
    assert (mountpoint / "file").read_bytes() == b"content"
    unmount(mountpoint)
    assert device_of(mountpoint) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends(share: Path, mountpoint: Path, number: signal.Signals) -> None:
    with daemon(share, mountpoint) as mount:
        mount.process.send_signal(number)
        assert mount.ended() == 0
        assert device_of(mountpoint) is None
        assert list(mountpoint.iterdir()) == []


def test_a_signal_unmounts_what_is_in_use(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount, (mountpoint / "file").open("rb"):
        inside = os.open(mountpoint, os.O_RDONLY)
        mount.process.terminate()
        assert mount.ended() == 0
        assert device_of(mountpoint) is None
        refused(errno.ENOTCONN, lambda: os.stat("unknown", dir_fd=inside))
        os.close(inside)


def test_a_daemon_that_is_killed_leaves_a_mount_which_the_next_start_tells_of(
    share: Path, mountpoint: Path
) -> None:
    with daemon(share, mountpoint) as mount:
        mount.process.kill()
        mount.ended()
    refused(errno.ENOTCONN, mountpoint.stat)
    again = command(share, mountpoint)
    assert again.returncode == 1
    assert f"a file system whose daemon has died is mounted there; umount {mountpoint}" in again.stderr
    assert "Traceback" not in again.stderr
    unmount(mountpoint)
    assert command(share, mountpoint).returncode == 0
    unmount(mountpoint)


def test_an_aborted_connection_ends_the_daemon_and_leaves_no_mount(
    share: Path, mountpoint: Path, tmp_path: Path
) -> None:
    with daemon(share, mountpoint) as mount:
        inside = os.open(mountpoint, os.O_RDONLY)
        abort(mountpoint, tmp_path)
        assert mount.ended() == 0
        assert device_of(mountpoint) is None
        refused(errno.ENOTCONN, lambda: os.stat("unknown", dir_fd=inside))
        os.close(inside)
        assert "the connection to the kernel was aborted" in mount.log


def test_a_lazy_unmount_by_another_ends_the_daemon_with_the_last_use(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount:
        with (mountpoint / "file").open("rb") as file:
            unmount(mountpoint, "-l")
            assert file.read() == b"content"
            assert mount.process.poll() is None
        assert mount.ended() == 0


def test_what_is_mounted_over_it_stays_and_so_does_what_it_covers(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as below, on_thread(memory(), mountpoint):
        (mountpoint / "above").write_bytes(b"")
        below.process.terminate()
        assert below.ended() == 0
        assert [path.name for path in mountpoint.iterdir()] == ["above"]
    assert device_of(mountpoint) is not None  # the one below, whose daemon has gone


def test_a_directory_can_be_mounted_upon_itself(share: Path) -> None:
    with daemon(share, share) as mount:
        assert device_of(share) is not None
        assert (share / "file").read_bytes() == b"content"
        mount.process.terminate()
        assert mount.ended() == 0
    assert device_of(share) is None


def test_wrong_mountpoints_are_told_in_a_sentence(share: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (share / "inside").mkdir()
    for place, sentence in (
        (tmp_path / "missing", f"{tmp_path}/missing: No such file or directory"),
        (tmp_path / "plain", f"{tmp_path}/plain is no directory"),
        (tmp_path / "plain/x", f"{tmp_path}/plain/x: Not a directory"),
        (share / "inside", f"{share}/inside lies in {share}, which would contain itself"),
    ):
        with pytest.raises(StartError) as told, on_thread(share, place):
            pass
        assert str(told.value) == sentence
    done = command(share, tmp_path / "plain")
    assert (done.returncode, done.stderr) == (1, f"vhostfs: {tmp_path}/plain is no directory\n")


def test_wrong_sources_are_told_in_a_sentence(tmp_path: Path, mountpoint: Path) -> None:
    several = tmp_path / "several.yaml"
    several.write_text(
        "devices:\n"
        + "".join(
            f"  - {{tag: {tag}, socket: {{path: /run/{tag}}}, mounts: {{/: {{type: memory}}}}}}\n"
            for tag in ("one", "two")
        )
    )
    for source, sentence in (
        ("/nowhere", "/nowhere: there is no such directory or file"),
        ("no.such.module:fs", "there is no module no"),
        ("1x:fs", "'1x:fs' should be MODULE:NAME"),
        (several, "one device can be mounted, and there are several: one, two"),
    ):
        done = command(source, mountpoint)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    assert device_of(mountpoint) is None


def test_a_host_without_fuse_is_told_what_to_do(
    share: Path, mountpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse_device, "FUSE_DEVICE", tmp_path / "missing")
    with (
        pytest.raises(StartError, match="is missing: load the kernel's module fuse"),
        on_thread(share, mountpoint),
    ):
        pass


def test_options_are_those_of_mount(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint, "-o", "ro,noexec,allow_other,suid", "-o", "fsname=my share,subtype=s"):
        fields = mount_line(mountpoint).split()
        assert fields[0] == "my\\040share"
        assert fields[2] == "fuse.s"
        assert {"ro", "nodev", "noexec", "allow_other"} <= set(fields[3].split(","))
        assert "nosuid" not in fields[3]
        refused(errno.EROFS, lambda: (mountpoint / "file").write_bytes(b"x"))


@pytest.mark.parametrize("arguments", [["-o", "colour=red"], ["-o", "loop"], ["--threads", "0"]])
def test_unknown_options_are_refused(share: Path, mountpoint: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as told:
        main(["mount", *arguments, str(share), str(mountpoint)])
    assert told.value.code == 2


def test_a_configuration_file_is_mounted_as_a_guest_would_see_it(tmp_path: Path, mountpoint: Path) -> None:
    file = tmp_path / "vhostfs.yaml"
    file.write_text(
        f"control: {{path: {tmp_path}/control}}\n"
        "devices:\n"
        "  - tag: work\n"
        "    socket: {path: /run/work.sock}\n"
        "    mounts: {/: {type: memory, size: 1048576}}\n"
    )
    with daemon(file, mountpoint) as mount:
        (mountpoint / "file").write_bytes(b"in memory")
        assert (mountpoint / "file").read_bytes() == b"in memory"
        assert os.statvfs(mountpoint).f_blocks * os.statvfs(mountpoint).f_frsize == 1 << 20
        assert [line.type for line in list_mounts(tmp_path / "control")] == ["memory"]
        with pytest.raises(StartError, match="the mounts stay as they are here"):
            add_mount(tmp_path / "control", None, "/more", "type: memory")
        unmount(mountpoint)
        assert mount.ended() == 0
    assert not (tmp_path / "control").exists()


def test_several_threads_read_each_with_a_descriptor_of_its_own(share: Path, mountpoint: Path) -> None:
    with daemon("--threads", 5, share, mountpoint) as mount:
        tasks = Path(f"/proc/{mount.process.pid}/task")
        names = sorted((task / "comm").read_text().strip() for task in tasks.iterdir())
        assert [name for name in names if "-fuse" in name] == [f"vhostfs-fuse{i}" for i in range(5)]
        # One that was mounted with, its duplicate for orders, the one for notifications, and the threads'.
        assert open_fuse_descriptors(mount.process.pid) == 8
        unmount(mountpoint)
        assert mount.ended() == 0


def test_a_program_mounts_and_unmounts_again_and_again(mountpoint: Path) -> None:
    before = open_fuse_descriptors(os.getpid())
    filesystem = memory()
    for _ in range(5):
        with on_thread(filesystem, mountpoint, MountOptions(allow_other=True)) as mount:
            (mountpoint / "file").write_bytes(b"x")
        assert mount.mount.ended
        assert device_of(mountpoint) is None
    assert open_fuse_descriptors(os.getpid()) == before


def test_a_device_is_closed_only_when_it_serves_no_longer(
    share: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends first: who has unmounted it, whose end takes its time, or the program."""
    entered, leave = threading.Event(), threading.Event()
    order: list[str] = []
    detach, close = Device.detach_fuse, Device.close

    def detach_slowly(device: Device) -> None:
        entered.set()
        leave.wait(PATIENCE)
        detach(device)
        order.append("detached")

    def close_now(device: Device) -> None:
        order.append("closed")
        leave.set()
        close(device)

    monkeypatch.setattr(Device, "detach_fuse", detach_slowly)
    monkeypatch.setattr(Device, "close", close_now)
    with on_thread(share, mountpoint) as served:
        mountpoint.stat()
        unmount(mountpoint)
        assert entered.wait(PATIENCE)
        served.loop.call_soon_threadsafe(served.loop.call_later, 0.05, leave.set)
    assert order == ["detached", "closed"]


@dataclass(frozen=True, slots=True)
class FarAway(Backend):
    """A mount that comes from the network."""

    network: ClassVar[bool] = True

    def open(self) -> MemoryFilesystem:
        return memory()


@pytest.mark.parametrize(("source", "kibibytes"), [(FarAway(), "512"), (memory(), "128")])
def test_what_comes_from_the_network_is_read_ahead_in_larger_requests(
    mountpoint: Path, source: Backend | MemoryFilesystem, kibibytes: str
) -> None:
    with on_thread(source, mountpoint):
        device = device_of(mountpoint)
        assert device is not None
        told = Path(f"/sys/class/bdi/{device[0]}/read_ahead_kb")
        while told.read_text().strip() != kibibytes:
            mountpoint.stat()
