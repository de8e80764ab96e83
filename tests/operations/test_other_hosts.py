"""What is promised holds on other host file systems, and for a daemon that may not open files by handle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.frontend.daemons import running_daemon
from tests.operations import test_extended_attributes, test_files_as_on_the_host, test_names_as_on_the_host
from tests.operations.shares import PEER, Mount, Share, Shares, daemon_command, remounted
from tests.operations.test_concurrency import FOUR_QUEUES, Guest, run
from tests.operations.twins import Case, compare

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def in_memory() -> Iterator[Path]:
    """Provide a directory on tmpfs."""
    if not MEMORY.is_dir():
        pytest.skip("this machine has no tmpfs at /dev/shm")
    with TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def memory_shares(in_memory: Path) -> Iterator[Shares]:
    """Provide daemons whose shares lie on tmpfs."""
    place = in_memory / "shares"
    place.mkdir()
    shares = Shares(place)
    yield shares
    assert {status for _, status in shares.stop()} <= {0}


ALL_CASES = [
    *test_names_as_on_the_host.CASES,
    *test_files_as_on_the_host.CASES,
    *test_extended_attributes.CASES,
]


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_on_tmpfs_the_outcome_is_the_hosts(case: Case, memory_shares: Shares, in_memory: Path) -> None:
    twin = in_memory / "host"
    with memory_shares.mounted("--xattr") as mount:
        try:
            compare(case, twin, mount)
        finally:
            shutil.rmtree(twin)


@contextmanager
def mounted_without_file_handles(place: Path, *options: str) -> Iterator[Mount]:
    """Provide a share whose daemon lacks CAP_DAC_READ_SEARCH, which open_by_handle_at(2) wants."""
    directory, socket = place / "shared", place / "socket"
    directory.mkdir()
    command = daemon_command(directory, socket, options)
    powerless = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search", *command]
    with (
        running_daemon(powerless, socket) as daemon,
        remounted(Share(directory, daemon), frontend=FOUR_QUEUES) as mount,
    ):
        yield mount


without_handles = pytest.mark.skipif(
    shutil.which("setpriv") is None or PEER is not None,
    reason="setpriv(1) is not installed, or a peer is tested, whose ways without file handles are its own",
)


@without_handles
def test_without_file_handles_2000_files_are_held_with_256_descriptors(tmp_path: Path) -> None:
    with mounted_without_file_handles(tmp_path, "--rlimit-nofile=256") as mount:
        client = mount.client
        held: dict[int, int] = {}
        for index in range(2000):
            directory = mount.directory / f"dir{index // 20}"
            directory.mkdir(exist_ok=True)
            (directory / f"file{index}").write_bytes(b"%d" % index)
            held[index] = mount.node(f"dir{index // 20}/file{index}")
        assert len(set(held.values())) == 2000
        for index in range(0, 100, 3):
            client.rename(1, b"dir%d" % index, 1, b"moved%d" % index)
        for index, node in held.items():
            opened = client.open(node)
            assert client.read(node, opened.fh, 10) == b"%d" % index
            client.release(node, opened.fh)
        descriptors = Path(f"/proc/{mount.daemon.process.pid}/fd")
        assert len(list(descriptors.iterdir())) <= 256


@without_handles
@pytest.mark.parametrize("options", [(), ("--rlimit-nofile=256",)], ids=["plenty", "256 descriptors"])
def test_without_file_handles_random_deeds_do_no_harm(options: tuple[str, ...], tmp_path: Path) -> None:
    with mounted_without_file_handles(tmp_path, *options) as mount:
        guest = Guest(mount, seed=len(options))
        for index in range(3):
            guest.directories.append(mount.client.mkdir(1, b"shared%d" % index).nodeid)
        run(guest, deeds=800, at_once=24)
        assert mount.client.getattr(1).attr.ino == mount.directory.stat().st_ino
        assert mount.daemon.alive()
