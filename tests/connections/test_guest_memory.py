"""Guest memory lies wherever a front-end puts it, changes while guests work, and may vanish."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.connections.served import CONTENT, Served, read_file
from tests.frontend.frontend import ALL_PROTOCOL_FEATURES, FrontendOptions
from tests.frontend.memory import PAGE, SCATTERED, RegionSpec
from tests.frontend.messages import REGION, U64, ProtocolFeatures, RefusedError, Request
from tests.frontend.rings import Buffer
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import InHeader, OutHeader, ReadIn

BY_TABLE = ALL_PROTOCOL_FEATURES & ~ProtocolFeatures.CONFIGURE_MEM_SLOTS
ELSEWHERE = RegionSpec(0x2_0000_0000, 1 << 20, offset=0x3000)
ADJACENT = (RegionSpec(0x10_0000, 4 << 20), RegionSpec(0x50_0000, 4 << 20, offset=0x10_0000))


def read_request(node: int, handle: int, size: int, unique: int = 1000) -> bytes:
    """Return the bytes of a READ from the file's beginning."""
    body = ReadIn(fh=handle, offset=0, size=size).pack()
    return InHeader(InHeader.SIZE + len(body), Opcode.READ, unique, node, 0, 0, 1, 0).pack() + body


@pytest.mark.parametrize("protocol_features", [ALL_PROTOCOL_FEATURES, BY_TABLE], ids=["slots", "table"])
@pytest.mark.parametrize("layout", [SCATTERED, ADJACENT], ids=["scattered", "adjacent"])
def test_memory_may_lie_anywhere(
    served: Served, layout: tuple[RegionSpec, ...], protocol_features: ProtocolFeatures
) -> None:
    with served.mounted(FrontendOptions(layout=layout, protocol_features=protocol_features)) as (_, client):
        assert read_file(client) == CONTENT


@pytest.mark.parametrize("request_at", [-20, -60, 0])
def test_a_buffer_may_straddle_regions(served: Served, request_at: int) -> None:
    border = ADJACENT[1].gpa
    with served.mounted(FrontendOptions(layout=ADJACENT)) as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        request = read_request(node, handle, 8192)
        answer = border - 2 * PAGE
        at = border + 0x10000 + request_at if request_at == 0 else border + request_at
        if request_at:
            answer = border + 0x1000
        frontend.memory.write(at, request)
        size = OutHeader.SIZE + 8192
        token = client.queue.submit([Buffer(at, len(request)), Buffer(answer, size, True)])
        assert client.queue.wait(token) == size
        assert frontend.memory.read(answer, size)[OutHeader.SIZE :] == CONTENT[:8192]


def test_plugged_memory_is_used_at_once_and_unplugged_memory_never_more(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        region = frontend.memory.add(ELSEWHERE, allocatable=False)
        frontend.share_region(region)
        at = ELSEWHERE.gpa
        request = read_request(node, handle, 4096)
        frontend.memory.write(at, request)
        chain = [Buffer(at, len(request)), Buffer(at + PAGE, OutHeader.SIZE + 4096, True)]
        assert client.queue.wait(client.queue.submit(chain)) == OutHeader.SIZE + 4096
        assert frontend.memory.read(at + PAGE, OutHeader.SIZE + 4096)[OutHeader.SIZE :] == CONTENT[:4096]

        frontend.forget_region(region)
        frontend.memory.write(at + PAGE, bytes(PAGE))
        assert client.queue.wait(client.queue.submit(chain)) == 0
        assert frontend.memory.read(at + PAGE, PAGE) == bytes(PAGE)
        assert read_file(client) == CONTENT


def test_an_answer_to_nowhere_fails_alone(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        request = read_request(node, handle, 4096)
        at = frontend.memory.allocate(len(request))
        frontend.memory.write(at, request)
        mark = served.daemon.lines_said
        for nowhere in (0x7777_0000_0000, 2**64 - PAGE, 0):
            chain = [Buffer(at, len(request)), Buffer(nowhere, OutHeader.SIZE + 4096, True)]
            assert client.queue.wait(client.queue.submit(chain)) == 0
        assert read_file(client) == CONTENT
        served.daemon.wait_for_line("does not share", after=mark)
        assert served.daemon.log(mark).count("does not share") == 1


def test_a_new_table_may_come_while_rings_run(served: Served) -> None:
    with served.mounted(FrontendOptions(layout=SCATTERED, protocol_features=BY_TABLE)) as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        read = ReadIn(fh=handle, offset=0, size=4096)
        for _ in range(30):
            pending = [client.start(Opcode.READ, node, read, out_size=4096) for _ in range(8)]
            frontend.set_memory_table()
            for each in pending:
                assert each.result() == CONTENT[:4096]


def test_regions_that_cannot_be_are_refused_and_the_rest_stays(served: Served) -> None:
    with served.mounted() as (frontend, client):
        first = frontend.memory.regions[0]
        for spec in (
            RegionSpec(first.gpa, PAGE),
            RegionSpec(first.gpa + first.size - PAGE, 2 * PAGE),
            RegionSpec(ELSEWHERE.gpa, 0),
            RegionSpec(2**64 - PAGE, 2 * PAGE),
            RegionSpec(ELSEWHERE.gpa, PAGE, offset=2**63),
            RegionSpec(ELSEWHERE.gpa, 2**62),
        ):
            payload = U64.pack(0) + REGION.pack(spec.gpa, spec.size, 0x1000, spec.offset)
            with pytest.raises(RefusedError):
                frontend.socket.acknowledged(Request.ADD_MEM_REG, payload, (first.descriptor,))
        assert read_file(client) == CONTENT


@pytest.mark.parametrize("path", ["/dev/null", "/", "/proc/self/status"])
def test_what_is_no_memory_is_refused(served: Served, path: str) -> None:
    with served.mounted() as (frontend, client):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            payload = U64.pack(0) + REGION.pack(ELSEWHERE.gpa, PAGE, 0x1000, 0)
            with pytest.raises(RefusedError):
                frontend.socket.acknowledged(Request.ADD_MEM_REG, payload, (descriptor,))
        finally:
            os.close(descriptor)
        assert read_file(client) == CONTENT


def test_all_announced_slots_can_be_used(served: Served) -> None:
    with served.mounted() as (frontend, client):
        slots = frontend.get_u64(Request.GET_MAX_MEM_SLOTS)
        assert slots >= 509
        region = frontend.memory.regions[0]
        for slot in range(slots - len(frontend.memory.regions)):
            gpa = ELSEWHERE.gpa + 2 * slot * PAGE
            payload = U64.pack(0) + REGION.pack(gpa, PAGE, gpa, 0)
            frontend.socket.acknowledged(Request.ADD_MEM_REG, payload, (region.descriptor,))
        payload = U64.pack(0) + REGION.pack(0x9_0000_0000, PAGE, 0x9_0000_0000, 0)
        with pytest.raises(RefusedError):
            frontend.socket.acknowledged(Request.ADD_MEM_REG, payload, (region.descriptor,))
        assert read_file(client) == CONTENT


def test_memory_that_vanishes_under_a_request_costs_the_connection_alone(served: Served) -> None:
    with served.mounted() as (frontend, client):
        node = client.walk(b"file").nodeid
        handle = client.open(node).fh
        region = frontend.memory.add(replace(ELSEWHERE, offset=0), allocatable=False)
        frontend.share_region(region)
        request = read_request(node, handle, 65536)
        at = frontend.memory.allocate(len(request))
        frontend.memory.write(at, request)
        mark = served.daemon.lines_said
        client.queue.ring.add([Buffer(at, len(request)), Buffer(region.gpa, OutHeader.SIZE + 65536, True)])
        os.ftruncate(region.descriptor, 0)
        client.queue.kick()
        frontend.socket.wait_for_end()
        served.daemon.wait_for_line("vanished", after=mark)


def test_a_ring_that_vanishes_costs_the_connection_alone(served: Served) -> None:
    with served.mounted() as (frontend, client):
        client.getattr(1)
        mark = served.daemon.lines_said
        for region in frontend.memory.regions:
            os.ftruncate(region.descriptor, 0)
        client.queue.kick()
        frontend.socket.wait_for_end()
        served.daemon.wait_for_line("vanished", after=mark)


def test_a_ring_whose_memory_is_taken_away_answers_nothing_and_hurts_nobody(served: Served) -> None:
    with served.mounted() as (frontend, client):
        frontend.forget_region(frontend.memory.regions[0])
        client.queue.kick()
        frontend.get_u64(Request.GET_QUEUE_NUM)
        frontend.share_region(frontend.memory.regions[0])
        assert read_file(client) == CONTENT
