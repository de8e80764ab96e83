"""Guests that stop, start anew and go away, in the middle of what they do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.guests.images import GuestImages
from tests.integration.fio import fio
from tests.integration.lanes import UML, Lane, QemuLane, on_qemu

_WAIT_SECONDS = 60.0
# Each file is synchronised before it gets its name: one that has its name was acknowledged.
_WRITE_FOR_EVER = """
number=0
while :; do
    number=$((number + 1))
    printf '%04096d' $number >{place}/.part && sync {place}/.part && mv {place}/.part {place}/file-$number
done
"""


def _wait_for_files(directory: Path, count: int) -> None:
    """Wait until a guest that writes has finished so many files."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while _finished_files(directory) < count:
        assert time.monotonic() < deadline, f"the guest writes nothing more into {directory}"
        time.sleep(0.02)


def _finished_files(directory: Path) -> int:
    return len(list(directory.glob("file-*")))


def _check_files(directory: Path) -> None:
    """Check that each finished file holds its number, and that none is missing between."""
    for number in range(1, _finished_files(directory) + 1):
        assert (directory / f"file-{number}").read_text() == f"{number:04096}"


@on_qemu
def test_a_guest_that_is_reset_while_it_writes_finds_its_files_again(qemu: QemuLane, tmp_path: Path) -> None:
    """After a reset amid writing the same daemon serves the guest on, and nothing acknowledged is lost."""
    directory = tmp_path / "share"
    directory.mkdir()
    with Daemon(tmp_path, directory, "share") as daemon, qemu.own_guest([daemon]) as guest:
        for _ in range(2):
            place = guest.mount("share")
            guest.start(_WRITE_FOR_EVER.format(place=place))
            _wait_for_files(directory, 20)
            guest.reset()
            _check_files(directory)
            place = guest.mount("share")
            assert guest.run(f"cat {place}/file-20") == f"{20:04096}"
            guest.run(f"rm {place}/*")
            guest.unmount("share")
            assert _finished_files(directory) == 0


@on_qemu
def test_a_guest_that_is_paused_while_it_works_goes_on_as_if_nothing_had_been(
    qemu: QemuLane, tmp_path: Path
) -> None:
    """Stopped and continued again and again over QMP, fio still finds each block as it wrote it."""
    directory = tmp_path / "share"
    directory.mkdir()
    with Daemon(tmp_path, directory, "share") as daemon, qemu.guest_with([daemon]) as guest:
        place = guest.mount("share")
        job = guest.start(fio(str(place), "--rw=randrw --bs=4k --size=16m --ioengine=psync"))
        for _ in range(10):
            guest.pause()
            assert guest.monitor.execute("query-status")["running"] is False
            guest.resume()
            assert guest.run("echo still here") == "still here\n"
        job.wait()
        writer = guest.start(
            _WRITE_FOR_EVER.format(place=place).replace("while :", "while [ $number -lt 100 ]")
        )
        _wait_for_files(directory, 10)
        guest.pause()
        guest.resume()
        writer.wait()
        assert _finished_files(directory) == 100
        _check_files(directory)


def test_the_same_daemon_serves_the_next_guest_when_one_is_gone(lane: Lane, tmp_path: Path) -> None:
    """A daemon whose front-end goes away, in order or by force, serves the next and leaks nothing."""
    directory = tmp_path / "share"
    directory.mkdir()
    with Daemon(tmp_path, directory, "share") as daemon:
        for boot in range(4):
            with (lane.own_guest if boot % 2 else lane.guest_with)([daemon]) as guest:
                place = guest.mount("share")
                guest.run(f"echo {boot} >{place}/boot-{boot} && ls -lR {place}")
                assert guest.run(f"cat {place}/*").split() == [str(number) for number in range(boot + 1)]
                if boot % 2:
                    # The power is cut while files are open and the share is mounted.
                    guest.run(f"tail -f {place}/boot-0 >/dev/null 2>&1 &")
            daemon.wait_logged("the front-end left", times=boot + 1)
            if boot == 0:
                # The threads of its queues, once started, wait for the next front-end.
                after_one = daemon.open_files()
            daemon.wait_open_files(after_one)


@on_qemu
def test_packed_rings_carry_a_share_and_survive_a_pause(qemu: QemuLane, tmp_path: Path) -> None:
    """A device with packed=on serves by packed rings, also after the machine was stopped and continued."""
    directory = tmp_path / "share"
    directory.mkdir()
    with Daemon(tmp_path, directory, "share", packed=True) as daemon, qemu.guest_with([daemon]) as guest:
        place = guest.mount("share")
        # VIRTIO_F_RING_PACKED is bit 34; the guest's Debian is on a device with split rings.
        packed = guest.run("cut -c 35 /sys/bus/virtio/drivers/virtiofs/virtio*/features").split()
        assert sorted(packed) == ["0", "1"]
        guest.run(fio(str(place), "--rw=randrw --bs=4k --size=4m --ioengine=psync"), timeout=240)
        guest.pause()
        guest.resume()
        guest.run(f"seq 2000 | split -l 1 - {place}/line- && cat {place}/line-* >{place}/whole")
        assert (directory / "whole").read_text() == "".join(f"{line}\n" for line in range(1, 2001))


@on_qemu
def test_a_guest_with_four_processors_uses_four_request_queues(
    qemu: QemuLane, images: GuestImages, tmp_path: Path
) -> None:
    """With num-request-queues=4 a recent kernel has a queue a processor, and the daemon serves them all."""
    directory = tmp_path / "share"
    directory.mkdir()
    with (
        Daemon(tmp_path, directory, "share") as daemon,
        qemu.own_guest([daemon], kernel=images.kernel("sid"), processors=4, queues=4) as guest,
    ):
        place = guest.mount("share")
        device = guest.run("dirname $(grep -lx share /sys/fs/virtiofs/*/tag)").strip()
        queues = ["hiprio", "requests.0", "requests.1", "requests.2", "requests.3"]
        assert sorted(guest.run(f"cat {device}/mqs/*/name").split()) == queues
        guest.run(
            fio(
                str(place),
                "--rw=randrw --bs=4k --size=4m --ioengine=psync --direct=1"
                " --numjobs=4 --cpus_allowed=0-3 --cpus_allowed_policy=split",
            ),
            timeout=240,
        )
        interrupts = guest.run(
            f"grep $(basename $(readlink {device}/device))-requests /proc/interrupts"
        ).splitlines()
        assert len(interrupts) == 4
        for line in interrupts:
            assert sum(map(int, line.split()[1:5])) > 0, f"no request went through {line}"


@pytest.mark.parametrize("lane", [UML], indirect=True)
def test_a_driver_may_let_the_device_go_and_take_it_again(lane: Lane, tmp_path: Path) -> None:
    """User-Mode Linux sets its rings up anew without having stopped them; the guest mounts and works."""
    directory = tmp_path / "share"
    directory.mkdir()
    driver = "/sys/bus/virtio/drivers/virtiofs"
    with Daemon(tmp_path, directory, "share") as daemon, lane.own_guest([daemon]) as guest:
        for turn in range(3):
            place = guest.mount("share")
            guest.run(f"echo {turn} >{place}/file-{turn}")
            assert guest.run(f"cat {place}/*").split() == [str(number) for number in range(turn + 1)]
            guest.unmount("share")
            guest.run(
                f"device=$(basename $(echo {driver}/virtio*)) &&"
                f" echo $device >{driver}/unbind && echo $device >{driver}/bind"
            )


@on_qemu
def test_memory_plugged_into_a_running_guest_serves_its_share(qemu: QemuLane, tmp_path: Path) -> None:
    """Data goes into memory that the guest was given while it ran as into any other."""
    directory = tmp_path / "share"
    directory.mkdir()
    with Daemon(tmp_path, directory, "share") as daemon, qemu.own_guest([daemon]) as guest:
        place = guest.mount("share")
        guest.run(f"echo before >{place}/file")
        guest.add_memory(256)
        guest.run(fio(str(place), "--rw=randrw --bs=64k --size=32m --ioengine=psync"), timeout=120)
        movable = guest.run("sed -n '/zone *Movable/,/nr_zone_unevictable/p' /proc/zoneinfo")
        cached = sum(int(line.split()[1]) for line in movable.splitlines() if "active_file" in line)
        assert cached * 4096 > 16 << 20, "the file is not in the memory that was plugged in"
        assert guest.run(f"cat {place}/file") == "before\n"
