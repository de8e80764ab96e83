"""Rings stop, go on and start anew as front-ends want it, and nothing that a guest asked for is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.connections.served import CONTENT, Served, eventually, read_file, serving
from tests.frontend.client import FuseClient, Pending
from tests.frontend.frontend import Frontend, FrontendOptions
from tests.frontend.messages import NO_DESCRIPTOR, U64, VRING_STATE, Features, FrontendSocket, Request
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import FileLock, GetattrIn, ReadIn

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
ROOT_ID = 1


@pytest.fixture(scope="module")
def packed_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("packed"), keys="packed: true") as served:
        yield served


def attributes(client: FuseClient) -> Pending:
    """Start a request for the root's attributes."""
    return client.start(Opcode.GETATTR, ROOT_ID, GetattrIn(), out_size=104)


def test_a_paused_guest_goes_on_with_its_open_files(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        for _ in range(3):
            frontend.start_queues(frontend.stop_queues())
            assert client.read(node, handle, 4096, 8192) == CONTENT[8192 : 8192 + 4096]


def test_what_is_under_way_is_answered_before_a_ring_has_stopped(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        read = ReadIn(fh=handle, offset=0, size=65536)
        frontend.start_queues(bases := frontend.stop_queues())
        begun = bases[1]
        for _ in range(5):
            pending = [client.start(Opcode.READ, node, read, out_size=65536) for _ in range(30)]
            bases = frontend.stop_queues()
            answered = sum(request.done() for request in pending)
            # What was taken from the ring is answered; the rest is still in it.
            assert (bases[1] - begun) % 65536 == answered
            frontend.start_queues(bases)
            for request in pending:
                assert request.result() == CONTENT[:65536]
            begun = (begun + len(pending)) % 65536


def test_a_lock_that_is_waited_for_does_not_hold_up_a_pause(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        mine, theirs = client.open(node, os.O_RDWR).fh, client.open(node, os.O_RDWR).fh
        whole = FileLock(0, 2**63 - 1, 1, 1)
        client.setlk(node, mine, 1, whole)
        waiting = client.start_setlkw(node, theirs, 2, whole)
        client.getattr(ROOT_ID)
        assert not waiting.done()
        bases = frontend.stop_queues()
        assert waiting.done()
        frontend.start_queues(bases)
        with pytest.raises((InterruptedError, BlockingIOError)):
            waiting.result()
        client.getattr(ROOT_ID)


def test_requests_from_before_a_ring_is_enabled_are_found_without_a_kick(served: Served) -> None:
    with served.mounted() as (frontend, client):
        bases = frontend.stop_queues()
        for queue in frontend.queues:
            frontend.start_queue(queue, bases[queue.index])
        pending = attributes(client)
        frontend.enable(frontend.queues[1])
        assert pending.result()


def test_a_disabled_ring_answers_nothing_until_it_is_enabled(served: Served) -> None:
    with served.mounted() as (frontend, client):
        frontend.enable(client.queue, on=False)
        frontend.get_u64(Request.GET_QUEUE_NUM)
        pending = attributes(client)
        # The hiprio ring runs on; when it has answered, the other would have had its time.
        client.on_queue(0).getattr(ROOT_ID)
        assert not pending.done()
        frontend.enable(client.queue)
        assert pending.result()


def test_a_ring_is_set_up_anew_without_having_been_stopped(served: Served) -> None:
    """User-Mode Linux disables its rings, and gives each a new call descriptor before all else."""
    with served.mounted() as (frontend, _):
        for _ in range(3):
            for queue in frontend.queues:
                frontend.enable(queue, on=False)
                queue.close()
            frontend.queues.clear()
            frontend.create_queues()
            frontend.tell(Request.SET_FEATURES, U64.pack(frontend.features))
            for queue in frontend.queues:
                frontend.tell(Request.SET_VRING_CALL, U64.pack(queue.index), (queue.call_descriptor,))
                frontend.tell(Request.SET_VRING_NUM, VRING_STATE.pack(queue.index, queue.ring.size))
                frontend.tell(Request.SET_VRING_BASE, VRING_STATE.pack(queue.index, 0))
                frontend.set_addresses(queue)
            for queue in frontend.queues:
                frontend.tell(Request.SET_VRING_KICK, U64.pack(queue.index), (queue.kick_descriptor,))
                frontend.enable(queue)
            client = FuseClient(frontend)
            client.init()
            assert read_file(client) == CONTENT


def test_a_reset_ends_the_session_and_keeps_the_memory(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        frontend.reset_device()
        for queue in frontend.queues:
            queue.close()
        frontend.queues.clear()
        frontend.create_queues()
        frontend.start_queues()
        again = FuseClient(frontend)
        again.init()
        with pytest.raises(OSError, match="Stale"):
            again.getattr(node)
        assert read_file(again) == CONTENT


def test_rings_run_at_once_for_a_front_end_that_knows_no_protocol_features(served: Served) -> None:
    with Frontend.connect(served.socket) as frontend:
        frontend.negotiate()
        frontend.features &= ~Features.PROTOCOL_FEATURES
        frontend.share_memory()
        frontend.create_queues()
        frontend.tell(Request.SET_FEATURES, U64.pack(frontend.features))
        for queue in frontend.queues:
            frontend.start_queue(queue, queue.ring.initial_base)
        client = FuseClient(frontend)
        client.init()
        assert read_file(client) == CONTENT


def test_more_queues_than_announced_are_served(served: Served) -> None:
    with served.mounted(FrontendOptions(request_queues=8)) as (frontend, client):
        assert frontend.queue_num() == 2
        for index in range(1, 9):
            assert client.on_queue(index).getattr(ROOT_ID).attr.ino


def test_a_queue_that_the_guest_never_set_up_may_be_enabled_and_stopped(served: Served) -> None:
    with served.mounted() as (frontend, client):
        for index in range(2, 5):
            frontend.tell(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1))
            frontend.socket.call(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0))
        assert read_file(client) == CONTENT


def test_a_guest_without_a_call_descriptor_polls(served: Served) -> None:
    with served.mounted() as (frontend, client):
        frontend.tell(Request.SET_VRING_CALL, U64.pack(1 | NO_DESCRIPTOR))
        client.queue.drain_calls()
        pending = attributes(client)
        eventually(lambda: bool(pending.done()), "the request was not answered")
        assert client.queue.drain_calls() == 0
        assert pending.result()
        frontend.tell(Request.SET_VRING_CALL, U64.pack(1), (client.queue.call_descriptor,))
        assert read_file(client) == CONTENT


def test_a_call_descriptor_may_be_replaced_at_any_time(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        read = ReadIn(fh=handle, offset=0, size=4096)
        for _ in range(50):
            pending = [client.start(Opcode.READ, node, read, out_size=4096) for _ in range(4)]
            frontend.tell(Request.SET_VRING_CALL, U64.pack(1), (client.queue.call_descriptor,))
            for request in pending:
                assert request.result() == CONTENT[:4096]


def test_a_front_end_that_dies_with_requests_under_way_leaves_nothing_behind(served: Served) -> None:
    served.touch_all_rings()
    before = served.open_descriptors()
    for _ in range(5):
        with served.mounted() as (_, client):
            node = client.walk(b"file").nodeid
            handle = client.open(node, os.O_RDWR).fh
            other = client.open(node, os.O_RDWR).fh
            client.setlk(node, handle, 1, FileLock(0, 2**63 - 1, 1, 1))
            client.start_setlkw(node, other, 2, FileLock(0, 2**63 - 1, 1, 1))
            for _ in range(50):
                client.start(Opcode.READ, node, ReadIn(fh=handle, offset=0, size=4096), out_size=4096)
    served.settle()
    eventually(lambda: len(served.open_descriptors()) <= len(before) + 1, "descriptors stayed open")
    assert served.mappings_of_guests() == []


def test_a_second_front_end_is_served_when_the_first_has_left(served: Served) -> None:
    with served.mounted() as (_, client), FrontendSocket(served.socket) as waiting:
        waiting.send(Request.GET_QUEUE_NUM)
        assert read_file(client) == CONTENT
        waiting.raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.receive()
    # Leaving the block closes both, in any order; the fixture sees to it that a third is served.


def test_a_daemon_for_one_connection_ends_with_it(tmp_path: Path) -> None:
    with serving(tmp_path, options=("--once",)) as once:
        with once.mounted() as (_, client):
            assert read_file(client) == CONTENT
        eventually(lambda: not once.daemon.alive(), "the daemon stayed")
        assert once.daemon.process.returncode == 0


@KINDS
def test_both_kinds_of_ring_go_on_where_they_stopped(packed_daemon: Served, packed: bool) -> None:
    options = FrontendOptions(packed=packed, queue_size=16)
    with packed_daemon.mounted(options) as (frontend, client):
        for _ in range(40):
            client.getattr(ROOT_ID)
            frontend.start_queues(frontend.stop_queues())
        assert read_file(client) == CONTENT
