"""Locks that the host holds: seen by its processes, owned by the guest's, given back when they must be."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.shares import HOST_LOCKS, Mount, Shares, remounted
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.flags import LockFlags, ReleaseFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import FileLock, LkIn

END = (1 << 63) - 1
ALICE, BOB = 0x1111, 0x2222


def write_lock(start: int = 0, end: int = END) -> FileLock:
    return FileLock(start, end, fcntl.F_WRLCK, 100)


def read_lock(start: int = 0, end: int = END) -> FileLock:
    return FileLock(start, end, fcntl.F_RDLCK, 100)


def unlock(start: int = 0, end: int = END) -> FileLock:
    return FileLock(start, end, fcntl.F_UNLCK, 100)


@pytest.fixture
def locking(shares: Shares) -> Iterator[Mount]:
    """Provide a mounted share with host locks and one file."""
    with shares.mounted(*HOST_LOCKS) as mount:
        (mount.directory / "file").write_bytes(b"content")
        yield mount


def host_is_locked_out(path: Path, start: int = 0, length: int = 0) -> bool:
    """Tell whether a process of the host fails to lock a range of a file for writing."""
    with path.open("r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        except BlockingIOError:
            return True
        return False


def host_is_flocked(path: Path) -> bool:
    """Tell whether a process of the host fails to lock a whole file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def open_file(mount: Mount, flags: int = os.O_RDWR) -> tuple[int, int]:
    """Open the file once more; return its node and the handle."""
    node = mount.node("file")
    return node, mount.client.open(node, flags).fh


def test_a_guests_lock_keeps_the_host_out(locking: Mount) -> None:
    node, fh = open_file(locking)
    locking.client.setlk(node, fh, ALICE, write_lock(10, 19))
    path = locking.directory / "file"
    assert host_is_locked_out(path, 10, 1)
    assert host_is_locked_out(path, 19, 1)
    assert not host_is_locked_out(path, 0, 10)
    assert not host_is_locked_out(path, 20, 100)
    locking.client.setlk(node, fh, ALICE, unlock(10, 19))
    assert not host_is_locked_out(path)


def test_the_hosts_lock_keeps_a_guest_out(locking: Mount) -> None:
    node, fh = open_file(locking)
    with (locking.directory / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 5, 2)
        assert errno_of(lambda: locking.client.setlk(node, fh, ALICE, write_lock())) == errno.EAGAIN
        found = locking.client.getlk(node, fh, ALICE, write_lock())
        assert (found.type, found.start, found.end) == (fcntl.F_WRLCK, 2, 6)
        locking.client.setlk(node, fh, ALICE, write_lock(7, END))
    locking.client.setlk(node, fh, ALICE, write_lock())


def test_owners_exclude_each_other_and_not_themselves(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    other_fh = client.open(node, os.O_RDWR).fh
    client.setlk(node, fh, ALICE, write_lock(0, 9))
    client.setlk(node, other_fh, ALICE, write_lock(0, 9))
    assert errno_of(lambda: client.setlk(node, fh, BOB, write_lock(9, 9))) == errno.EAGAIN
    client.setlk(node, fh, BOB, write_lock(10, 19))
    assert client.getlk(node, fh, ALICE, write_lock(10, 19)).type == fcntl.F_WRLCK
    assert client.getlk(node, fh, BOB, write_lock(10, 19)).type == fcntl.F_UNLCK


def test_readers_share_and_keep_writers_out(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    client.setlk(node, fh, ALICE, read_lock())
    client.setlk(node, fh, BOB, read_lock())
    assert errno_of(lambda: client.setlk(node, fh, BOB, write_lock())) == errno.EAGAIN
    client.setlk(node, fh, ALICE, unlock())
    client.setlk(node, fh, BOB, write_lock())


def test_closing_a_descriptor_drops_its_owners_locks_and_no_others(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    client.setlk(node, fh, ALICE, write_lock(0, 9))
    client.setlk(node, fh, BOB, write_lock(10, 19))
    other_fh = client.open(node).fh
    client.flush(node, other_fh, ALICE)
    assert not host_is_locked_out(locking.directory / "file", 0, 10)
    assert host_is_locked_out(locking.directory / "file", 10, 10)
    client.flush(node, fh, BOB)
    assert not host_is_locked_out(locking.directory / "file")


def test_a_blocking_lock_waits_and_comes_when_it_can(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    client.setlk(node, fh, ALICE, write_lock())
    waiting = client.start_setlkw(node, fh, BOB, write_lock())
    client.getattr(node)
    assert not waiting.done()
    client.setlk(node, fh, ALICE, unlock())
    waiting.result()
    assert client.getlk(node, fh, ALICE, write_lock()).type == fcntl.F_WRLCK


def test_waiting_locks_do_not_stop_the_queue(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    client.setlk(node, fh, ALICE, write_lock())
    waiting = [client.start_setlkw(node, fh, BOB + index, read_lock()) for index in range(20)]
    for _ in range(10):
        client.getattr(node)
        assert client.read(node, fh, 100) == b"content"
    assert not any(each.done() for each in waiting)
    client.setlk(node, fh, ALICE, unlock())
    for each in waiting:
        each.result()


def test_a_blocking_lock_is_cancelled_when_the_queue_stops(locking: Mount) -> None:
    """QEMU stops the rings for a pause; a lock that waited for ever would hang it."""
    client, frontend = locking.client, locking.frontend
    node, fh = open_file(locking)
    client.setlk(node, fh, ALICE, write_lock())
    waiting = client.start_setlkw(node, fh, BOB, write_lock())
    client.getattr(node)
    bases = frontend.stop_queues()
    frontend.start_queues(bases)
    assert errno_of(waiting.result) in {errno.EINTR, errno.EAGAIN}
    assert host_is_locked_out(locking.directory / "file")


def test_a_guest_that_goes_away_leaves_no_lock_behind(shares: Shares) -> None:
    with shares.mounted(*HOST_LOCKS) as mount:
        (mount.directory / "file").touch()
        node, fh = open_file(mount)
        mount.client.setlk(node, fh, ALICE, write_lock())
        mount.client.flock(node, fh, ALICE, fcntl.F_WRLCK)
        mount.client.start_setlkw(node, fh, BOB, write_lock())
        path = mount.directory / "file"
        assert host_is_locked_out(path)
        mount.frontend.close()
        # Whoever is served next knows that the last one's things are gone.
        with remounted(mount.share):
            assert not host_is_locked_out(path)
            assert not host_is_flocked(path)


def test_destroy_gives_all_locks_back(locking: Mount) -> None:
    node, fh = open_file(locking)
    locking.client.setlk(node, fh, ALICE, write_lock())
    locking.client.destroy()
    assert not host_is_locked_out(locking.directory / "file")


def test_impossible_locks_are_refused(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    assert errno_of(lambda: client.setlk(node, fh, ALICE, write_lock(10, 5))) == errno.EINVAL
    assert errno_of(lambda: client.setlk(node, fh, ALICE, FileLock(0, 1, 77))) == errno.EINVAL
    assert errno_of(lambda: client.getlk(node, fh, ALICE, FileLock(0, 1, 77))) == errno.EINVAL
    assert errno_of(lambda: client.setlk(node, 0xDEAD, ALICE, write_lock())) == errno.EBADF
    assert errno_of(lambda: client.getlk(node, 0xDEAD, ALICE, write_lock())) == errno.EBADF
    assert errno_of(lambda: client.setlk(node, fh, ALICE, FileLock(1 << 63, (1 << 64) - 1, 1))) is not None


def test_flock_excludes_other_handles_and_the_host(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    other_fh = client.open(node).fh
    client.flock(node, fh, ALICE, fcntl.F_WRLCK)
    assert errno_of(lambda: client.flock(node, other_fh, BOB, fcntl.F_RDLCK)) == errno.EAGAIN
    with (locking.directory / "file").open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        client.flock(node, fh, ALICE, fcntl.F_UNLCK)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert errno_of(lambda: client.flock(node, fh, ALICE, fcntl.F_RDLCK)) == errno.EAGAIN


def test_flock_can_wait(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    other_fh = client.open(node).fh
    client.flock(node, fh, ALICE, fcntl.F_WRLCK)
    waiting = client.start_setlkw(node, other_fh, BOB, FileLock(0, END, fcntl.F_WRLCK), LockFlags.FLOCK)
    client.getattr(node)
    assert not waiting.done()
    client.flock(node, fh, ALICE, fcntl.F_UNLCK)
    waiting.result()


def test_release_gives_a_flock_back(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    client.flock(node, fh, ALICE, fcntl.F_WRLCK)
    client.release(node, fh, 0, ReleaseFlags.FLOCK_UNLOCK, ALICE)
    with (locking.directory / "file").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_posix_locks_and_flocks_do_not_meet(locking: Mount) -> None:
    client = locking.client
    node, fh = open_file(locking)
    other_fh = client.open(node, os.O_RDWR).fh
    client.flock(node, fh, ALICE, fcntl.F_WRLCK)
    client.setlk(node, other_fh, BOB, write_lock())


def test_a_guest_that_keeps_its_locks_is_told_to(shares: Shares) -> None:
    """Without the options no lock request comes; one that does must not half work."""
    with shares.mounted("--xattr") as mount:
        (mount.directory / "file").touch()
        node, fh = open_file(mount)
        for opcode in (Opcode.SETLK, Opcode.SETLKW):
            message = LkIn(fh, ALICE, write_lock())
            assert errno_of(lambda: mount.client.request(opcode, node, message)) in {  # noqa: B023
                errno.ENOSYS,
                errno.EOPNOTSUPP,
            }
        assert not host_is_locked_out(mount.directory / "file")
