"""Hostile chains cost what is hostile alone: a request, or a ring that makes no sense; never the daemon."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from tests.connections.served import Served
from tests.frontend.client import FuseClient
from tests.frontend.frontend import Frontend, FrontendOptions
from tests.frontend.queue import RingStoppedError
from tests.frontend.rings import INDIRECT, NEXT, WRITE, Buffer, PackedRing, SplitRing
from tests.operations.ring_kinds import BY_KIND, SPLIT_OR_PACKED
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.opcodes import ROOT_ID, Opcode
from vhostfs.fuse_abi.structures import GetattrIn, InHeader


def header(opcode: int, size: int, nodeid: int = ROOT_ID) -> bytes:
    """Return a request's header with a unique that a reply must carry."""
    return InHeader(size, opcode, 0xABCDE, nodeid).pack()


class HostileChain:
    """Buffers for one hand-made chain: a GETATTR in front, room for its reply behind."""

    def __init__(self, frontend: Frontend) -> None:
        self.memory = frontend.memory
        self.readable = self.memory.allocate(4096)
        self.writable = self.memory.allocate(4096)
        self.request = header(Opcode.GETATTR, 56) + GetattrIn().pack()
        self.memory.write(self.readable, self.request)

    def reply(self) -> tuple[int, int, int]:
        """Return length, error and unique of what lies in the writable buffer."""
        length, error, unique = struct.unpack("=IiQ", self.memory.read(self.writable, 16))
        return length, error, unique


def chains(hostile: HostileChain, frontend: Frontend) -> dict[str, list[Buffer]]:
    """Return chains that are wrong but whole: the ring itself makes sense."""
    readable, writable = hostile.readable, hostile.writable
    region = frontend.memory.regions[0]
    good, room = Buffer(readable, 56), Buffer(writable, 4000, writable=True)
    return {
        "readable behind writable": [good, room, Buffer(readable, 10)],
        "writable first": [room, good],
        "nothing readable": [room],
        "header cut short": [Buffer(readable, 39), room],
        "argument cut short": [Buffer(readable, 48), room],
        "an empty readable buffer": [Buffer(readable, 0), room],
        "readable in no region": [Buffer(0xDEAD_0000_0000, 56), room],
        "writable in no region": [good, Buffer(0xDEAD_0000_0000, 4000, writable=True)],
        "address that wraps": [Buffer((1 << 64) - 8, 56), room],
        "reply at an address that wraps": [good, Buffer((1 << 64) - 8, 4000, writable=True)],
        "beyond the end of a region": [Buffer(region.gpa + region.size - 20, 56), room],
        "reply beyond the end of a region": [good, Buffer(region.gpa + region.size - 20, 400, writable=True)],
        "four gigabytes": [Buffer(readable, 0xFFFFFFFF), room],
        "reply of four gigabytes": [good, Buffer(writable, 0xFFFFFFFF, writable=True)],
        "no room for a header": [good, Buffer(writable, 15, writable=True)],
        "no room for the reply": [good, Buffer(writable, 16 + 50, writable=True)],
        "no room at all": [good],
    }


HOSTILE_CHAINS = [
    "readable behind writable",
    "writable first",
    "nothing readable",
    "header cut short",
    "argument cut short",
    "an empty readable buffer",
    "readable in no region",
    "writable in no region",
    "address that wraps",
    "reply at an address that wraps",
    "beyond the end of a region",
    "reply beyond the end of a region",
    "four gigabytes",
    "reply of four gigabytes",
    "no room for a header",
    "no room for the reply",
    "no room at all",
]


@BY_KIND
@pytest.mark.parametrize("which", HOSTILE_CHAINS)
def test_a_hostile_chain_fails_alone(which: str, options: FrontendOptions, served: Served) -> None:
    """It is returned, empty or with an error, and the ring goes on."""
    with served.mounted(options) as (frontend, client):
        hostile = HostileChain(frontend)
        queue = frontend.queues[1]
        token = queue.submit(chains(hostile, frontend)[which])
        used = queue.wait(token)
        assert used in {0, 16}
        if used and which != "reply beyond the end of a region":
            length, error, unique = hostile.reply()
            assert (length, unique in {0xABCDE, 0}) == (16, True)
            assert -512 < error < 0
        assert client.getattr(ROOT_ID).attr.ino


LENGTHS = [0, 1, 39, 41, 55, 57, 4096, 1 << 31, (1 << 32) - 1]


@SPLIT_OR_PACKED
@pytest.mark.parametrize("length", LENGTHS)
def test_a_header_that_lies_about_its_length_fails_alone(length: int, packed: bool, served: Served) -> None:
    with served.mounted(FrontendOptions(packed=packed)) as (_, client):
        pending = client.start(Opcode.GETATTR, ROOT_ID, GetattrIn(), out_size=104, length=length)
        assert errno_of(pending.result) in {errno.EIO, errno.EINVAL}
        assert client.getattr(ROOT_ID).attr.ino


@SPLIT_OR_PACKED
def test_a_chain_of_as_many_descriptors_as_the_ring_has_is_served(packed: bool, served: Served) -> None:
    options = FrontendOptions(packed=packed, indirect=False, queue_size=64)
    with served.mounted(options) as (frontend, client):
        hostile = HostileChain(frontend)
        chain = [Buffer(hostile.readable + index, 1) for index in range(56)]
        chain += [Buffer(hostile.writable + 15 * index, 15, writable=True) for index in range(8)]
        queue = frontend.queues[1]
        assert queue.wait(queue.submit(chain)) == 16 + 104
        assert hostile.reply() == (120, 0, 0xABCDE)
        assert client.getattr(ROOT_ID).attr.ino


def expect_broken(frontend: Frontend, client: FuseClient, served: Served, mark: int) -> None:
    """Expect that queue 1 has stopped with a signal and a line in the log, and that queue 2 goes on."""
    frontend.queues[1].wait_for_error()
    served.daemon.wait_for_line("ring 1 is stopped", after=mark)
    assert client.on_queue(2).getattr(ROOT_ID).attr.ino
    client.forget(12345)


def split_ring(frontend: Frontend) -> SplitRing:
    """Return the ring of the first request queue."""
    ring = frontend.queues[1].ring
    assert isinstance(ring, SplitRing)
    return ring


TWO_QUEUES = FrontendOptions(request_queues=2, indirect=True)


@pytest.mark.parametrize("head", [128, 0xFFFF])
def test_a_head_outside_of_the_table_breaks_that_ring_alone(head: int, served: Served) -> None:
    with served.mounted(TWO_QUEUES) as (frontend, client):
        mark = served.daemon.lines_said
        split_ring(frontend).publish(head)
        frontend.queues[1].kick()
        expect_broken(frontend, client, served, mark)


def test_more_chains_than_the_ring_holds_break_that_ring_alone(served: Served) -> None:
    with served.mounted(TWO_QUEUES) as (frontend, client):
        mark = served.daemon.lines_said
        ring = split_ring(frontend)
        ring.driver[1] = (ring.driver[1] + 129) & 0xFFFF
        frontend.queues[1].kick()
        expect_broken(frontend, client, served, mark)


def test_a_broken_ring_works_again_when_it_is_set_up_anew(served: Served) -> None:
    with served.mounted(TWO_QUEUES) as (frontend, _):
        ring = split_ring(frontend)
        ring.publish(0xFFFF)
        frontend.queues[1].kick()
        frontend.queues[1].wait_for_error()
        frontend.stop_queues()
        for queue in frontend.queues:
            queue.close()
        frontend.queues.clear()
        frontend.create_queues()
        frontend.start_queues()
        anew = FuseClient(frontend)
        anew.init()
        assert anew.getattr(ROOT_ID).attr.ino


def descriptor_chains(
    hostile: HostileChain, ring_gpa: int
) -> dict[str, list[tuple[int, int, int, int, int]]]:
    """Return hand-made tables (index, gpa, size, flags, next); index 0 is the head."""
    readable, writable = hostile.readable, hostile.writable
    return {
        "a loop": [(0, readable, 56, NEXT, 1), (1, readable, 10, NEXT, 0)],
        "a loop of one": [(0, readable, 56, NEXT, 0)],
        "a writable loop": [(0, readable, 56, NEXT, 1), (1, writable, 100, NEXT | WRITE, 1)],
        "next outside of the table": [(0, readable, 56, NEXT, 128)],
        "next far outside": [(0, readable, 56, NEXT, 0xFFFF)],
        "an indirect table that goes on": [
            (0, readable, 16, INDIRECT | NEXT, 1),
            (1, writable, 100, WRITE, 0),
        ],
        "an indirect table of no size": [(0, readable, 0, INDIRECT, 0)],
        "an indirect table of an odd size": [(0, readable, 17, INDIRECT, 0)],
        "an indirect table in no region": [(0, 0xDEAD_0000_0000, 32, INDIRECT, 0)],
        "an indirect table of four gigabytes": [(0, readable, 0xFFFFFFF0, INDIRECT, 0)],
        "an indirect table that is the ring": [(0, ring_gpa, 16 * 128, INDIRECT, 0)],
    }


DESCRIPTOR_CHAINS = [
    "a loop",
    "a loop of one",
    "a writable loop",
    "next outside of the table",
    "next far outside",
    "an indirect table that goes on",
    "an indirect table of no size",
    "an indirect table of an odd size",
    "an indirect table in no region",
    "an indirect table of four gigabytes",
    "an indirect table that is the ring",
]


@pytest.mark.parametrize("which", DESCRIPTOR_CHAINS)
def test_a_chain_that_leads_nowhere_is_returned_or_breaks_its_ring(which: str, served: Served) -> None:
    with served.mounted(TWO_QUEUES) as (frontend, client):
        hostile = HostileChain(frontend)
        queue, ring = frontend.queues[1], split_ring(frontend)
        for index, gpa, size, flags, follower in descriptor_chains(hostile, ring.addresses.descriptors)[
            which
        ]:
            ring.write_descriptor(index, gpa, size, flags, follower)
        ring.publish(0)
        queue.kick()
        assert_returned_or_broken(frontend, client, token=0)


def nested_tables(hostile: HostileChain) -> dict[str, list[tuple[int, int, int, int]]]:
    """Return indirect tables (gpa, size, flags, next) that are wrong inside."""
    readable, writable = hostile.readable, hostile.writable
    return {
        "a table in a table": [(readable, 56, NEXT, 1), (readable, 16, INDIRECT, 0)],
        "a loop": [(readable, 56, NEXT, 1), (readable, 10, NEXT, 0)],
        "next outside of the table": [(readable, 56, NEXT, 7), (writable, 200, WRITE, 0)],
        "a last entry that goes on": [(readable, 56, NEXT, 1), (writable, 200, WRITE | NEXT, 2)],
        "unknown flags": [(readable, 56, NEXT | 0xFF00, 1), (writable, 200, WRITE, 0)],
        "readable behind writable": [(writable, 200, WRITE | NEXT, 1), (readable, 56, 0, 0)],
    }


NESTED_TABLES = [
    "a table in a table",
    "a loop",
    "next outside of the table",
    "a last entry that goes on",
    "unknown flags",
    "readable behind writable",
]


@pytest.mark.parametrize("which", NESTED_TABLES)
def test_a_table_that_leads_nowhere_is_returned_or_breaks_its_ring(which: str, served: Served) -> None:
    with served.mounted(TWO_QUEUES) as (frontend, client):
        hostile = HostileChain(frontend)
        queue, ring = frontend.queues[1], split_ring(frontend)
        entries = nested_tables(hostile)[which]
        table = frontend.memory.allocate(16 * len(entries))
        for index, entry in enumerate(entries):
            frontend.memory.write(table + 16 * index, struct.pack("<QIHH", *entry))
        ring.write_descriptor(0, table, 16 * len(entries), INDIRECT, 0)
        ring.publish(0)
        queue.kick()
        assert_returned_or_broken(frontend, client, token=0)


def assert_returned_or_broken(frontend: Frontend, client: FuseClient, token: int) -> None:
    """Expect that queue 1 has returned a chain or has stopped with a signal, and that queue 2 goes on."""
    queue = frontend.queues[1]
    try:
        assert queue.wait(token) <= 120
        assert client.getattr(ROOT_ID).attr.ino
    except RingStoppedError:
        assert queue.errors > 0
    assert client.on_queue(2).getattr(ROOT_ID).attr.ino


@pytest.mark.parametrize("indirect", [False, True])
def test_a_packed_list_longer_than_the_ring_breaks_that_ring_alone(indirect: bool, served: Served) -> None:
    options = FrontendOptions(packed=True, request_queues=2, indirect=indirect, queue_size=16)
    with served.mounted(options) as (frontend, client):
        mark = served.daemon.lines_said
        hostile = HostileChain(frontend)
        ring = frontend.queues[1].ring
        assert isinstance(ring, PackedRing)
        # INIT took the first slots: go on from there, once around, without an end.
        ring.write_slots([(hostile.readable, 1, index, NEXT) for index in range(16)])
        frontend.queues[1].kick()
        expect_broken(frontend, client, served, mark)


@pytest.mark.parametrize("seed", range(6))
def test_rings_at_random_do_no_harm(seed: int, served: Served) -> None:
    """Descriptors, indices and tables of noise, in memory that also holds valid requests."""
    chance = random.Random(seed)
    options = FrontendOptions(request_queues=2, packed=seed % 2 == 1, indirect=seed % 3 != 0)
    with served.mounted(options) as (frontend, _):
        ring = frontend.queues[1].ring
        region = frontend.memory.regions[0]
        hostile = HostileChain(frontend)
        for _ in range(60):
            for index in range(chance.randrange(1, 12)):
                gpa = chance.choice([hostile.readable, hostile.writable, region.gpa, chance.getrandbits(64)])
                size = chance.choice([0, 16, 56, 120, 4096, chance.getrandbits(32)])
                words = chance.getrandbits(16), chance.getrandbits(16)
                frontend.memory.write(
                    ring.addresses.descriptors + 16 * index,
                    struct.pack("<QIHH", gpa, size, words[0] & 0x87 | 1, words[1] & 0x8187),
                )
            if isinstance(ring, SplitRing):
                ring.publish(chance.randrange(12))
            frontend.queues[1].kick()
        assert served.daemon.alive()
        client = FuseClient(frontend, queue=2)
        client.getattr(ROOT_ID)


def test_files_hold_what_they_held(served: Served) -> None:
    """After all of the above, nothing has been written where nobody asked for it."""
    assert [path.name for path in served.directory.iterdir()] == ["file"]
    assert (served.directory / "file").stat().st_size == 256 * 1024
