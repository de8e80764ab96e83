"""Requests over io_uring, where the kernel has them enabled: which way they go.

This host seldom has. A guest of tests/integration runs these, and the other tests of mounts once more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mounting.board import Board
from tests.mounting.mounts import PATIENCE, daemon, on_thread, unmount

ENABLED = Path("/sys/module/fuse/parameters/enable_uring")

pytestmark = pytest.mark.skipif(
    not ENABLED.exists() or ENABLED.read_text().strip() != "Y",
    reason="the kernel has no requests over io_uring, or has them turned off (fuse.enable_uring)",
)

SAID = "requests go over io_uring"
BLOCK = 1 << 20


def threads(pid: int, name: str) -> list[Path]:
    """Return the threads of a process whose names begin so."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # others come and go
            if (task / "comm").read_text().startswith(name):
                found.append(task)
    return found


def reads_of_the_device(pid: int) -> int:
    """Count the reads of /dev/fuse that gave something, by all threads that read it."""
    return sum(
        int(line.split()[1])
        for task in threads(pid, "vhostfs-fuse")
        for line in (task / "io").read_text().splitlines()
        if line.startswith("syscr:")
    )


@pytest.fixture
def uncached(tmp_path: Path, share: Path) -> Path:
    """Provide a configuration of the share, of which the kernel keeps nothing and reads no file by itself."""
    file = tmp_path / "vhostfs.yaml"
    file.write_text(
        "devices: [{socket: {path: /run/none}, mounts: {/: {type: passthrough, cache: never,"
        f" shared_dir: {share}, layers: [{{type: rate_limit, bytes: 1GiB}}]}}}}}}]\n"
    )
    return file


def test_all_requests_of_a_directory_go_by_the_rings(uncached: Path, share: Path, mountpoint: Path) -> None:
    with daemon(uncached, mountpoint) as mount:
        assert (mountpoint / "file").exists()
        mount.await_line(SAID)
        before = reads_of_the_device(mount.process.pid)
        data = os.urandom(3 * BLOCK + 5)
        (mountpoint / "large").write_bytes(data)
        for _ in range(200):
            assert (mountpoint / "file").read_bytes() == b"content"
        assert (share / "large").read_bytes() == data
        assert (mountpoint / "large").read_bytes() == data
        assert {path.name for path in mountpoint.iterdir()} == {"file", "large"}
        assert not (mountpoint / "missing").exists()
        # What is forgotten, and no more, comes by it: two files at most.
        assert reads_of_the_device(mount.process.pid) - before <= 2
        assert len(threads(mount.process.pid, "vhostfs-ring")) >= (os.cpu_count() or 1)
        unmount(mountpoint)
        assert mount.ended() == 0


def await_rings(mountpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ask until an answer came by a ring: until all are prepared, requests go over the device."""
    deadline = time.monotonic() + PATIENCE
    while SAID not in caplog.text:
        assert not (mountpoint / "ready").exists()
        assert time.monotonic() < deadline, caplog.text


def test_requests_for_python_go_by_the_rings_where_threads_read(
    mountpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board({"file": b"content" * 100_000})
    with caplog.at_level(logging.INFO), on_thread(board, mountpoint, threads=1):
        await_rings(mountpoint, caplog)
        assert (mountpoint / "file").read_bytes() == b"content" * 100_000
        before = reads_of_the_device(os.getpid())
        with ThreadPoolExecutor(max_workers=8) as readers:
            reading = [readers.submit((mountpoint / f"missing{number}").exists) for number in range(100)]
            assert not any(one.result(PATIENCE) for one in reading)
        assert sum(asked.startswith("lookup missing") for asked in board.asked) == 100
        assert reads_of_the_device(os.getpid()) == before


def test_a_configuration_can_do_without(uncached: Path, mountpoint: Path) -> None:
    uncached.write_text(uncached.read_text().replace("devices: [{", "devices: [{io_uring: never, "))
    with daemon(uncached, mountpoint) as mount:
        assert (mountpoint / "file").read_bytes() == b"content"
        assert not threads(mount.process.pid, "vhostfs-ring")
        unmount(mountpoint)
        assert mount.ended() == 0
    assert SAID not in mount.log
