"""FUSE_PASSTHROUGH: the kernel reads and writes the files of a shared directory by itself."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.refusals import refused
from tests.mounting.mounts import Daemon, daemon
from tests.mounting.users import NOBODY, as_user


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    """Open a file, and write once: before a file's first write the kernel asks for its capabilities."""
    descriptor = os.open(path, flags)
    if flags & os.O_ACCMODE != os.O_RDONLY:
        os.pwrite(descriptor, b"c", 0)
    return descriptor


@contextmanager
def stopped(mount: Daemon) -> Iterator[None]:
    """Stop a daemon for a while. What asks it for something fails the test, when it goes on at last."""
    late = threading.Event()

    def go_on() -> None:
        late.set()
        mount.process.send_signal(signal.SIGCONT)

    timer = threading.Timer(10, go_on)
    mount.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, mount.process.pid, os.WSTOPPED)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        mount.process.send_signal(signal.SIGCONT)
    assert not late.is_set(), "the daemon was asked"


def leased(path: Path) -> bool:
    """Tell whether nobody has a file open for writing: then it can be leased."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return False
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True


def await_let_go(path: Path) -> None:
    """Wait until nobody has a file open for writing; the kernel tells nobody when."""
    while not leased(path):
        time.sleep(0.001)


def test_open_files_are_read_and_written_without_the_daemon(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount:
        made = opened(mountpoint / "made", os.O_RDWR | os.O_CREAT)
        file = opened(mountpoint / "file")
        with stopped(mount):
            assert os.pread(file, 100, 3) == b"tent"
            assert os.pwrite(file, b"x" * 100_000, 7) == 100_000
            assert os.pread(file, 5, 100_000) == b"xxxxx"
            assert os.write(made, b"made") == 4
        assert (share / "file").read_bytes() == b"content" + b"x" * 100_000
        assert os.fstat(file).st_size == 100_007
        assert (mountpoint / "file").stat().st_size == 100_007
        os.close(file)
        os.close(made)
        assert (share / "made").read_bytes() == b"made"


def test_a_file_is_let_go_with_its_last_handle(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount:
        for _ in range(20):
            first = opened(mountpoint / "file")
            second = opened(mountpoint / "file", os.O_WRONLY)
            third = os.open(mountpoint / "file", os.O_RDONLY)
            os.close(first)
            assert not leased(share / "file")
            with stopped(mount):
                assert os.pwrite(second, b"C", 0) == 1
                assert os.pread(third, 7, 0) == b"Content"
            os.close(third)
            os.close(second)
            await_let_go(share / "file")


def test_more_files_than_one_process_has_descriptors_are_opened_in_turn(
    share: Path, mountpoint: Path
) -> None:
    with daemon(share, mountpoint) as mount:
        kept = [opened(mountpoint / f"file{i}", os.O_RDWR | os.O_CREAT) for i in range(200)]
        with stopped(mount):
            for number, descriptor in enumerate(kept):
                os.write(descriptor, str(number).encode())
        for descriptor in reversed(kept):
            os.close(descriptor)
        for number in range(200):
            assert (share / f"file{number}").read_bytes() == str(number).encode()
            await_let_go(share / f"file{number}")


def test_names_may_change_and_go_while_files_are_open(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint) as mount:
        descriptor = opened(mountpoint / "file")
        os.link(mountpoint / "file", mountpoint / "linked")
        other = opened(mountpoint / "linked")
        (mountpoint / "file").rename(mountpoint / "moved")
        (mountpoint / "moved").unlink()
        (mountpoint / "linked").unlink()
        again = os.open(f"/proc/self/fd/{other}", os.O_RDONLY)
        with stopped(mount):
            os.pwrite(descriptor, b"C", 0)
            assert os.pread(other, 100, 0) == b"Content"
            assert os.pread(again, 100, 0) == b"Content"
        os.truncate(descriptor, 3)
        assert os.pread(again, 100, 0) == b"Con"
        for each in (descriptor, other, again):
            os.close(each)


def test_files_are_truncated_appended_and_mapped(share: Path, mountpoint: Path) -> None:
    with daemon(share, mountpoint):
        with (mountpoint / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:1] = b"C"
            mapped.flush()
            assert (share / "file").read_bytes() == b"Content"
            (share / "file").write_bytes(b"changed")
            assert mapped[:] == b"changed"
        with (mountpoint / "file").open("ab") as end:
            end.write(b" twice")
        assert (share / "file").read_bytes() == b"changed twice"
        with (mountpoint / "file").open("wb") as anew:
            assert os.fstat(anew.fileno()).st_size == 0
            anew.write(b"anew")
        assert (mountpoint / "file").read_bytes() == b"anew"


def test_set_user_id_goes_with_what_others_write() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        share, mountpoint = home / "share", home / "mnt"
        share.mkdir()
        mountpoint.mkdir()
        (share / "file").write_bytes(b"content")
        (share / "file").chmod(0o6777)

        def write() -> None:
            with (mountpoint / "file").open("r+b") as file:
                file.write(b"x")

        with daemon("-o", "allow_other", share, mountpoint) as mount:
            as_user(NOBODY, write)
            assert stat.S_IMODE((share / "file").stat().st_mode) == 0o777
            mount.process.terminate()
            assert mount.ended() == 0


def test_files_that_the_kernel_does_not_take_are_read_and_written_by_the_daemon(
    share: Path, mountpoint: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    with daemon(share, mountpoint), daemon(mountpoint, upper) as above:
        with (upper / "file").open("r+b", buffering=0) as file, (upper / "file").open("rb") as again:
            assert file.read() == b"content"
            file.write(b" and more")
            assert again.read() == b"content and more"
        (upper / "new").write_bytes(b"new")
        assert (share / "file").read_bytes() == b"content and more"
        assert (share / "new").read_bytes() == b"new"
        above.process.terminate()
        assert above.ended() == 0


def test_a_read_only_mount_is_read_without_the_daemon(share: Path, mountpoint: Path) -> None:
    with daemon("-o", "ro", share, mountpoint) as mount:
        refused(errno.EROFS, lambda: os.open(mountpoint / "file", os.O_RDWR))
        with (mountpoint / "file").open("rb", buffering=0) as file, stopped(mount):
            assert file.read(100) == b"content"


def read_by(mount: Daemon) -> int:
    """Return how many bytes a daemon has read."""
    lines = Path(f"/proc/{mount.process.pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def test_limited_mounts_are_read_by_the_daemon_which_counts(
    share: Path, mountpoint: Path, tmp_path: Path
) -> None:
    size = 1 << 20
    (share / "large").write_bytes(bytes(size))
    for limit, least, most in (
        ("", 0, size - 1),
        ("layers: [{type: rate_limit, bytes: 1GiB}]", size, 2 * size),
    ):
        file = tmp_path / "vhostfs.yaml"
        file.write_text(
            "devices:\n  - socket: {path: /run/none}\n    mounts:\n"
            f"      /: {{type: passthrough, shared_dir: {share}, {limit}}}\n"
        )
        with daemon(file, mountpoint) as mount:
            before = read_by(mount)
            assert (mountpoint / "large").read_bytes() == bytes(size)
            assert least <= read_by(mount) - before <= most
            mount.process.terminate()
            assert mount.ended() == 0
