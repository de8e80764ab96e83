"""The front-end works: QEMU's own daemon, written by others, serves it with every option that it has."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import QEMU_VIRTIOFSD, running_qemu_virtiofsd
from tests.frontend.frontend import ALL_PROTOCOL_FEATURES, Frontend, FrontendOptions
from tests.frontend.memory import SCATTERED
from tests.frontend.messages import ProtocolFeatures
from vhostfs.fuse_abi.opcodes import ROOT_ID

pytestmark = [
    pytest.mark.skipif(not QEMU_VIRTIOFSD.exists(), reason=f"{QEMU_VIRTIOFSD} is not installed"),
    pytest.mark.skipif(os.getuid() != 0, reason="QEMU's virtiofsd runs as root only"),
]

WITHOUT_SLOTS = ALL_PROTOCOL_FEATURES & ~ProtocolFeatures.CONFIGURE_MEM_SLOTS

OPTIONS = {
    "indirect descriptors": FrontendOptions(),
    "direct descriptors": FrontendOptions(indirect=False),
    "no event index": FrontendOptions(event_idx=False),
    "scattered memory": FrontendOptions(layout=SCATTERED),
    "one memory table": FrontendOptions(layout=SCATTERED, protocol_features=WITHOUT_SLOTS),
    "no acknowledgements": FrontendOptions(protocol_features=ProtocolFeatures.NONE),
}


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Provide a directory to share."""
    directory = tmp_path / "share"
    directory.mkdir()
    return directory


@pytest.fixture
def socket(share: Path, tmp_path: Path) -> Iterator[Path]:
    """Provide the socket of a daemon that serves the share."""
    with running_qemu_virtiofsd(share, tmp_path / "socket") as daemon:
        yield daemon.socket


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_files_are_written_and_read_back(share: Path, socket: Path, options: FrontendOptions) -> None:
    with Frontend.start(socket, options) as frontend:
        client = FuseClient(frontend)
        client.init()
        entry, opened = client.create(ROOT_ID, b"file")
        data = bytes(range(256)) * 64
        assert client.write(entry.nodeid, opened.fh, data, 100) == len(data)
        assert client.read(entry.nodeid, opened.fh, 1 << 16, 100) == data
        client.release(entry.nodeid, opened.fh)
        client.forget(entry.nodeid)
    assert (share / "file").read_bytes() == bytes(100) + data


@pytest.mark.parametrize("piece", [24, 1000, 4096])
def test_requests_may_be_cut_into_descriptors_anywhere(share: Path, socket: Path, piece: int) -> None:
    (share / "file").write_bytes(b"content")
    with Frontend.start(socket, FrontendOptions(queue_size=256)) as frontend:
        client = FuseClient(frontend, piece=piece)
        client.init()
        entry = client.lookup(ROOT_ID, b"file")
        assert client.read(entry.nodeid, client.open(entry.nodeid).fh, 2000) == b"content"


def test_many_requests_may_be_under_way(share: Path, socket: Path) -> None:
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        for _ in range(5):
            pending = [client.start(3, ROOT_ID, bytes(16), out_size=104) for _ in range(100)]
            assert all(len(each.result()) == 104 for each in reversed(pending))


def test_errors_arrive_as_oserror(socket: Path) -> None:
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        with pytest.raises(FileNotFoundError):
            client.lookup(ROOT_ID, b"missing")
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            client.read(ROOT_ID, 12345, 10)
        assert caught.value.errno == errno.EBADF


def test_a_stopped_queue_goes_on_where_it_stopped(share: Path, socket: Path) -> None:
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        client.getattr(ROOT_ID)
        bases = frontend.stop_queues()
        assert bases == [0, 2]
        frontend.start_queues(bases)
        client.getattr(ROOT_ID)


def test_the_dirty_log_names_the_pages_written(share: Path, socket: Path) -> None:
    (share / "file").write_bytes(bytes(9000))
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        entry = client.lookup(ROOT_ID, b"file")
        fh = client.open(entry.nodeid).fh
        log = frontend.start_logging()
        client.read(entry.nodeid, fh, 9000)
        assert len(log.take_pages()) >= 3
        frontend.stop_logging()
        client.read(entry.nodeid, fh, 9000)
        assert not log.take_pages()
