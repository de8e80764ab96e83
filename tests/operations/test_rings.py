"""The same work gives the same result through every kind of ring, on every queue."""

from __future__ import annotations

import errno
import random
import struct
from dataclasses import replace

import pytest

from tests.connections.served import Served
from tests.frontend.client import FuseClient
from tests.frontend.frontend import FrontendOptions
from tests.frontend.memory import SCATTERED
from tests.frontend.messages import Features
from tests.operations.ring_kinds import BY_KIND, SPLIT_OR_PACKED
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.opcodes import ROOT_ID, Opcode
from vhostfs.fuse_abi.structures import GetattrIn


def work(client: FuseClient, name: bytes) -> None:
    """Do a bit of everything in a directory of the given name, and leave nothing behind."""
    directory = client.mkdir(ROOT_ID, name).nodeid
    entry, opened = client.create(directory, b"file")
    data = random.Random(name).randbytes(200_000)
    for offset in range(0, len(data), 50_000):
        assert client.write(entry.nodeid, opened.fh, data[offset : offset + 50_000], offset) == 50_000
    assert client.read(entry.nodeid, opened.fh, 1 << 18) == data
    assert {each.name for each in client.list_directory(directory, plus=True)} == {b".", b"..", b"file"}
    assert errno_of(lambda: client.rmdir(ROOT_ID, name)) == errno.ENOTEMPTY
    client.release(entry.nodeid, opened.fh)
    client.unlink(directory, b"file")
    client.rmdir(ROOT_ID, name)
    client.batch_forget([(entry.nodeid, 2), (directory, 1)])


@BY_KIND
def test_the_ring_is_of_the_kind_that_was_asked_for(options: FrontendOptions, served: Served) -> None:
    with served.mounted(options) as (frontend, _):
        assert (Features.RING_PACKED in frontend.features) == options.packed
        assert (Features.EVENT_IDX in frontend.features) == options.event_idx
        assert (Features.INDIRECT_DESC in frontend.features) == options.indirect


@BY_KIND
@pytest.mark.parametrize("size", [8, 128, 1024])
def test_every_kind_of_ring_carries_the_same_work(
    options: FrontendOptions, size: int, served: Served
) -> None:
    with served.mounted(replace(options, queue_size=size, layout=SCATTERED)) as (_, client):
        for turn in range(4):
            work(client, b"dir%d" % turn)


@BY_KIND
def test_rings_wrap_many_times_under_load(options: FrontendOptions, served: Served) -> None:
    with served.mounted(replace(options, queue_size=32)) as (_, client):
        for _ in range(100):
            pending = [client.start(Opcode.GETATTR, ROOT_ID, GetattrIn(), out_size=104) for _ in range(7)]
            assert all(len(each.result()) == 104 for each in pending)


@SPLIT_OR_PACKED
@pytest.mark.parametrize("size", [7, 24, 100, 333])
def test_descriptors_may_be_cut_anywhere(packed: bool, size: int, served: Served) -> None:
    options = FrontendOptions(packed=packed, queue_size=1024)
    with served.mounted(options) as (_, client):
        client.piece = size
        node = client.lookup(ROOT_ID, b"file").nodeid
        fh = client.open(node).fh
        assert client.read(node, fh, 4000, 256 * 3 + 5) == (bytes(range(256)) * 20)[5:4005]
        assert len(client.list_directory(ROOT_ID, size=2048)) == 3


def test_work_on_four_queues_at_once_does_not_mix(served: Served) -> None:
    with served.mounted(FrontendOptions(request_queues=4)) as (_, client):
        clients = [client.on_queue(index) for index in range(1, 5)]
        node = client.lookup(ROOT_ID, b"file").nodeid
        fh = client.open(node).fh
        for _ in range(50):
            pending = [
                each.start(
                    Opcode.READ, node, struct.pack("=QQIIQII", fh, 256 * i, 256, 0, 0, 0, 0), out_size=256
                )
                for i, each in enumerate(clients * 5)
            ]
            assert all(each.result() == bytes(range(256)) for each in pending)
        for index, each in enumerate(clients):
            work(each, b"queue%d" % index)


def test_a_forget_may_come_on_a_request_queue(served: Served) -> None:
    with served.mounted() as (_, client):
        node = client.lookup(ROOT_ID, b"file").nodeid
        client.start(Opcode.FORGET, node, struct.pack("=Q", 1), out_size=-1).result()
        assert errno_of(lambda: client.getattr(node)) == errno.ESTALE


def test_requests_may_come_on_the_hiprio_queue(served: Served) -> None:
    with served.mounted() as (_, client):
        assert client.on_queue(0).getattr(ROOT_ID).attr.ino
