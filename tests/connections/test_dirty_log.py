"""While a guest migrates, each page that the device writes is marked in the log, and no write escapes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.connections.served import CONTENT, Served, read_file
from tests.frontend.frontend import Frontend, FrontendOptions
from tests.frontend.memory import PAGE, SCATTERED
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import GetattrIn


def pages(frontend: Frontend) -> dict[int, bytes]:
    """Return all of guest memory, by page number."""
    return {
        (region.gpa + at) // PAGE: bytes(region.view[at : at + PAGE])
        for region in frontend.memory.regions
        for at in range(0, region.size, PAGE)
    }


def forget_pages(path: Path) -> None:
    """Have the host read a file from its disk next time, which a thread of the pool then waits for."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("piece", [None, 1000])
@pytest.mark.parametrize("cold", [False, True], ids=["cached", "from the disk"])
def test_every_page_that_the_device_changes_is_marked(
    served: Served, event_idx: bool, piece: int | None, cold: bool
) -> None:
    options = FrontendOptions(layout=SCATTERED, event_idx=event_idx)
    with served.mounted(options) as (frontend, client):
        client.piece = piece
        log = frontend.start_logging()
        frontend.get_u64(17)
        log.take_pages()
        client.queue.ring.arm()
        used_page = client.queue.ring.addresses.device // PAGE
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        written: set[int] = set()
        allocate = frontend.memory.allocate

        def remember(size: int, **how: object) -> int:
            at: int = allocate(size, **how)  # type: ignore[arg-type]
            written.update(range(at // PAGE, (at + size - 1) // PAGE + 1))
            return at

        frontend.memory.allocate = remember  # type: ignore[method-assign]
        if cold:
            forget_pages(served.directory / "file")
        before = pages(frontend)
        assert client.read(node, handle, 65536, 0) == CONTENT[:65536]
        frontend.memory.allocate = allocate  # type: ignore[method-assign]
        changed = {number for number, content in pages(frontend).items() if content != before[number]}
        dirty = log.take_pages()
        own = {client.queue.ring.addresses.descriptors // PAGE, client.queue.ring.addresses.driver // PAGE}
        assert len(changed) > 16
        # The guest's own writes (its rings, its request and tables) are for the front-end to log.
        assert changed - own - written <= dirty
        assert used_page in dirty
        assert len(changed & dirty) > 16


def test_nothing_is_marked_when_the_log_is_off_again(served: Served) -> None:
    with served.mounted() as (frontend, client):
        log = frontend.start_logging()
        assert read_file(client) == CONTENT
        frontend.stop_logging()
        frontend.log = None
        for queue in frontend.queues:
            frontend.set_addresses(queue)
        log.take_pages()
        assert read_file(client) == CONTENT
        assert log.take_pages() == set()
        log.close()


def test_a_log_that_vanishes_costs_the_connection_alone(served: Served) -> None:
    with served.mounted() as (frontend, client):
        log = frontend.start_logging()
        mark = served.daemon.lines_said
        os.ftruncate(log.descriptor, 0)
        client.start(Opcode.GETATTR, 1, GetattrIn(), out_size=104)
        frontend.socket.wait_for_end()
        served.daemon.wait_for_line("vanished", after=mark)
