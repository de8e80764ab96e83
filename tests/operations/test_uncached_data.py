"""Data that the host has not in its page cache: the same with io_uring and without."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connections.served import CONTENT, Served, serving
from tests.frontend.client import FuseClient, Pending
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import ReadIn

RING = "anon_inode:[io_uring]"
PAGE = 4096


@pytest.fixture(scope="module", params=["auto", "never"])
def setting(request: pytest.FixtureRequest) -> str:
    """Name the value of the key io_uring."""
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def daemon_of_setting(setting: str, disk: Path) -> Iterator[Served]:
    """Provide a daemon whose share lies on a disk."""
    place = disk / setting
    place.mkdir()
    with serving(place, keys=f"io_uring: {setting}") as served:
        yield served


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty directory of a file system whose files can be dropped from the page cache."""
    directory = tmp_path_factory.mktemp("disk")
    path = directory / "file"
    path.write_bytes(CONTENT)
    if stays_in_memory(path):
        pytest.skip("temporary files lie in memory here, and are never read from a disk")
    return directory


@pytest.fixture
def served(daemon_of_setting: Served) -> Iterator[Served]:
    """Provide the daemon; nothing of its file is in the page cache, and it serves on afterwards."""
    drop(daemon_of_setting.directory / "file")
    yield daemon_of_setting
    daemon_of_setting.check()


def drop(path: Path) -> None:
    """Drop a file from the page cache, and have nothing read ahead."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stays_in_memory(path: Path) -> bool:
    """Return whether a file cannot be dropped from the page cache."""
    drop(path)
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(PAGE)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # and it is read ahead from now on
            return False
        except OSError:
            return True
        return True


def opened(client: FuseClient) -> tuple[int, int]:
    node = client.walk(b"file").nodeid
    return node, client.open(node).fh


def test_uncached_reads_give_what_is_in_the_file(served: Served) -> None:
    with served.mounted() as (_, client):
        node, fh = opened(client)
        for size in (1, 100, PAGE, PAGE + 1, 65536, 131072, 131073, len(CONTENT)):
            for offset in (0, 1, PAGE, 5 * PAGE + 77):
                drop(served.directory / "file")
                assert client.read(node, fh, size, offset) == CONTENT[offset : offset + size]


def test_uncached_reads_end_where_the_file_does(served: Served) -> None:
    path = served.directory / "odd"
    data = os.urandom(5 * PAGE + 123)
    path.write_bytes(data)
    try:
        with served.mounted() as (_, client):
            node = client.walk(b"odd").nodeid
            fh = client.open(node).fh
            for offset in (len(data) - 1, len(data) - 123, len(data) - PAGE, 0, len(data), len(data) + 5):
                for size in (PAGE, 65536):
                    drop(path)
                    assert client.read(node, fh, size, offset) == data[offset : offset + size]
    finally:
        path.unlink()


def test_many_uncached_reads_under_way_do_not_mix(served: Served) -> None:
    with served.mounted() as (_, client):
        node, fh = opened(client)
        for _ in range(20):
            drop(served.directory / "file")
            calls = [
                client.start(Opcode.READ, node, ReadIn(fh, page * PAGE + page, PAGE, 0, 0, 0), out_size=PAGE)
                for page in range(32)
            ]
            for page, call in enumerate(calls):
                assert call.result() == CONTENT[page * PAGE + page :][:PAGE]


def test_the_setting_decides_whether_the_kernel_is_asked(served: Served, setting: str) -> None:
    with served.mounted() as (_, client):
        node, fh = opened(client)
        assert RING not in served.open_descriptors(), "nothing has waited for the disk yet"
        assert client.read(node, fh, PAGE) == CONTENT[:PAGE]
        has_ring = RING in served.open_descriptors()
    assert has_ring == (setting == "auto" and host_allows_io_uring())
    served.settle()
    assert RING not in served.open_descriptors()


def host_allows_io_uring() -> bool:
    """Return whether the daemon may be expected to use it: Linux 6.1, and nothing forbids it."""
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    switch = Path("/proc/sys/kernel/io_uring_disabled")
    return release >= (6, 1) and (not switch.exists() or int(switch.read_text()) == 0)


def test_rings_stop_while_reads_are_under_way(served: Served) -> None:
    for _ in range(20):
        drop(served.directory / "file")
        with served.mounted() as (_, client):
            node, fh = opened(client)
            for page in range(32):
                client.start(Opcode.READ, node, ReadIn(fh, page * PAGE, PAGE, 0, 0, 0), out_size=PAGE)
        served.settle()


def outcome(call: Pending) -> bytes | int:
    """Return what was answered, or its errno."""
    try:
        return call.result()
    except OSError as error:
        return error.errno or 0


def test_a_handle_may_be_closed_while_it_is_read(served: Served) -> None:
    with served.mounted() as (_, client):
        for _ in range(20):
            node, fh = opened(client)
            drop(served.directory / "file")
            read = client.start(Opcode.READ, node, ReadIn(fh, 0, PAGE, 0, 0, 0), out_size=PAGE)
            client.release(node, fh)
            # Where a thread of the pool comes to it late, the handle is gone.
            assert outcome(read) in (CONTENT[:PAGE], errno.EBADF)
