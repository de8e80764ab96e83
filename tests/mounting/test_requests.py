"""Requests of this host's kernel for a file system in Python: interrupted, forgotten, many at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.refusals import refused
from tests.mounting.board import Board, Sleeper
from tests.mounting.mounts import PATIENCE, daemon, on_thread, unmount

READ_AND_TELL = (
    "import signal, sys\n"
    "def told(*_): raise KeyboardInterrupt\n"
    "signal.signal(signal.SIGUSR1, told)\n"
    "try: open(sys.argv[1], 'rb').read()\n"
    "except KeyboardInterrupt: sys.exit(7)\n"
)


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGUSR1, 7)],
)
def test_a_signal_ends_a_request_that_sleeps(
    mountpoint: Path, number: signal.Signals, status: int, threads: int | None
) -> None:
    sleeper = Sleeper()
    with on_thread(sleeper, mountpoint, threads=threads):
        reader = subprocess.Popen([sys.executable, "-c", READ_AND_TELL, str(mountpoint / "asleep")])
        assert sleeper.began.wait(PATIENCE)
        reader.send_signal(number)
        assert reader.wait(PATIENCE) == status
        assert sleeper.cancelled.wait(PATIENCE)
        assert (mountpoint / "awake").read_bytes() == b"awake"


@pytest.mark.parametrize("threads", [None, 1])
def test_a_mount_ends_though_requests_sleep(mountpoint: Path, threads: int | None) -> None:
    sleeper = Sleeper()
    with ThreadPoolExecutor() as readers:
        with on_thread(sleeper, mountpoint, threads=threads):
            reading = readers.submit((mountpoint / "asleep").read_bytes)
            assert sleeper.began.wait(PATIENCE)
        assert sleeper.cancelled.is_set()
        told = reading.exception(PATIENCE)
        assert isinstance(told, OSError)
        # Who was interrupted asks again, and of a ring that ends the kernel cancels what is new.
        assert told.errno in {errno.EINTR, errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED}


@pytest.mark.parametrize("threads", [None, 1])
def test_a_mount_ends_though_the_kernel_waits_to_be_told_something(
    mountpoint: Path, threads: int | None
) -> None:
    """A notification waits for a lock that is held for a request that sleeps, and for those before it."""
    sleeper = Sleeper()
    with ThreadPoolExecutor() as makers:
        with on_thread(sleeper, mountpoint, threads=threads) as served:
            making = [makers.submit((mountpoint / "one").mkdir)]
            assert sleeper.began.wait(PATIENCE)
            making.append(makers.submit((mountpoint / "two").mkdir))
            await_sleepers(1)
            served.call(lambda: sleeper.session.invalidate_entry(1, "awake"))
            await_sleepers(2)
        for one in making:
            assert isinstance(one.exception(PATIENCE), OSError)


def await_sleepers(count: int) -> None:
    """Wait until so many threads of this process sleep for a lock of the kernel's, which tells nobody."""
    while count > sum(is_asleep(task) for task in Path("/proc/self/task").iterdir()):
        time.sleep(0.001)


def is_asleep(task: Path) -> bool:
    """Tell whether a thread waits for a lock of the kernel's, and no signal would end that."""
    try:
        return "D" in (task / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_slow_requests_hold_up_no_others(mountpoint: Path) -> None:
    sleeper = Sleeper()
    with ThreadPoolExecutor(max_workers=50) as readers, on_thread(sleeper, mountpoint, threads=1) as served:
        reading = [readers.submit((mountpoint / "asleep").read_bytes) for _ in range(50)]
        assert sleeper.began.wait(PATIENCE)
        for _ in range(100):
            assert (mountpoint / "awake").read_bytes() == b"awake"
        served.call(sleeper.wake)
        assert {one.result(PATIENCE) for one in reading} == {b"asleep"}


def test_every_lookup_is_forgotten(mountpoint: Path) -> None:
    board = Board({f"file{i}": b"" for i in range(500)})
    with on_thread(board, mountpoint):
        for _ in range(3):
            assert len(list(mountpoint.iterdir())) == 500
            for i in range(500):
                (mountpoint / f"file{i}").stat()
        held = Counter(line for line in board.asked if line.startswith("lookup"))
        assert len(held) == 500
        unmount(mountpoint)
        # DESTROY is not sent here: the end of the connection is what forgets.
    assert sorted(board.forgotten) == sorted(board.nodes.values())


def test_names_and_values_of_any_size_arrive(mountpoint: Path) -> None:
    with on_thread(Board({"n" * 255: b"x"}), mountpoint):
        assert (mountpoint / ("n" * 255)).read_bytes() == b"x"
        refused(errno.ENAMETOOLONG, (mountpoint / ("n" * 256)).stat)
        refused(errno.ENOENT, (mountpoint / "missing").stat)


@pytest.mark.parametrize("threads", [1, 4])
def test_many_programs_work_at_once(tmp_path: Path, mountpoint: Path, threads: int) -> None:
    file = tmp_path / "vhostfs.yaml"
    file.write_text("devices: [{socket: {path: /run/none}, mounts: {/: {type: memory, size: 67108864}}}]\n")

    def work(number: int) -> None:
        for turn in range(30):
            path = mountpoint / f"{number}-{turn}"
            data = bytes([number]) * (1 + turn * 20_000)
            path.write_bytes(data)
            assert path.read_bytes() == data
            path.rename(mountpoint / f"{number}-done")
            assert (mountpoint / f"{number}-done").stat().st_size == len(data)
            os.setxattr(mountpoint / f"{number}-done", "user.note", b"v" * 60_000)
            assert os.getxattr(mountpoint / f"{number}-done", "user.note") == b"v" * 60_000
            (mountpoint / f"{number}-done").unlink()

    with daemon(file, mountpoint, "--threads", threads) as mount:
        with ThreadPoolExecutor(max_workers=8) as workers:
            for done in [workers.submit(work, number) for number in range(8)]:
                done.result(PATIENCE)
        assert list(mountpoint.iterdir()) == []
        mount.process.terminate()
        assert mount.ended() == 0


@pytest.fixture
def locking(tmp_path: Path, share: Path) -> Path:
    """Provide a configuration of the share, whose locks are the host's."""
    file = tmp_path / "vhostfs.yaml"
    file.write_text(
        f"devices: [{{socket: {{path: /run/none}}, mounts: {{/: {{type: passthrough, shared_dir: {share},"
        " locks: {posix: host, flock: host}}}}]\n"
    )
    return file


def test_many_wait_for_one_lock_and_each_gets_it(locking: Path, mountpoint: Path) -> None:
    """They ask at once: what the unlocking waits for must not be one of the others."""
    count = 100
    ready = threading.Barrier(count)

    def lock_in_turn() -> None:
        with (mountpoint / "file").open("rb") as file:
            ready.wait(PATIENCE)
            for _ in range(3):
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.flock(file, fcntl.LOCK_UN)

    with daemon(locking, mountpoint), ThreadPoolExecutor(max_workers=count) as lockers:
        for one in [lockers.submit(lock_in_turn) for _ in range(count)]:
            one.result(PATIENCE)


def await_waiting_for(file: Path, count: int) -> None:
    """Wait until so many wait for locks of a file: by a ring, Linux forgets a signal that comes before."""
    inode = f":{file.stat().st_ino}"
    while count > sum(
        fields[1] == "->" and fields[6].endswith(inode)
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines())
    ):
        time.sleep(0.001)


def test_locks_that_wait_are_given_up_for_a_signal_and_given_in_turn(
    locking: Path, share: Path, mountpoint: Path
) -> None:
    locker = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "print('wants', flush=True)\n"
        "fcntl.{call}(file, fcntl.LOCK_EX)\n"
        "print('has', flush=True)\n"
    )
    with daemon(locking, mountpoint):
        for call in ("lockf", "flock"):
            with (mountpoint / "file").open("r+b") as mine:
                getattr(fcntl, call)(mine, fcntl.LOCK_EX)
                waiting = [
                    subprocess.Popen(
                        [sys.executable, "-c", locker.format(call=call), str(mountpoint / "file")],
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    for _ in range(2)
                ]
                for one in waiting:
                    assert one.stdout is not None
                    assert one.stdout.readline() == "wants\n"
                await_waiting_for(share / "file", 2)
                waiting[0].kill()
                assert waiting[0].wait(PATIENCE) == -signal.SIGKILL
                assert waiting[1].poll() is None
            output, _ = waiting[1].communicate(timeout=PATIENCE)
            assert output == "has\n"
            waiting[0].communicate()


def test_a_tree_of_file_systems_is_mounted_whole(share: Path, mountpoint: Path) -> None:
    board = Board({"note": b"on the board"})
    with on_thread({"/": share, "/in/the/middle": board}, mountpoint):
        assert (mountpoint / "file").read_bytes() == b"content"
        assert (mountpoint / "in/the/middle/note").read_bytes() == b"on the board"
        refused(errno.EXDEV, lambda: (mountpoint / "file").rename(mountpoint / "in/the/middle/file"))
    with on_thread({"/only/here": share}, mountpoint):
        assert [path.name for path in mountpoint.iterdir()] == ["only"]
        assert (mountpoint / "only/here/file").read_bytes() == b"content"
