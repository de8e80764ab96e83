"""Whatever a front-end says, the daemon lives, leaks nothing, says what was wrong, and serves the next."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import tempfile
import threading
from pathlib import Path

import pytest

from tests.connections.served import CONTENT, Served, eventually, read_file, serving_many
from tests.frontend.frontend import Frontend
from tests.frontend.memory import PAGE
from tests.frontend.messages import (
    HEADER,
    NEED_REPLY,
    NO_DESCRIPTOR,
    U64,
    VERSION,
    BackendGoneError,
    FrontendSocket,
    RefusedError,
    Request,
)
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import GetattrIn

BREACHES = [
    (b"\0" * 12, "version 0 instead of 1"),
    (HEADER.pack(1, 0x7, 0), "version 3 instead of 1"),
    (HEADER.pack(1, 0x5, 0), "a reply to GET_FEATURES"),
    (HEADER.pack(5, 0x1, 0xFFFFFFFF), "SET_MEM_TABLE announces 4294967295 bytes"),
    (HEADER.pack(2, 0x1, 4) + b"abcd", "payload has 4 bytes where 8 belong"),
    (HEADER.pack(2, 0x9, 8) + U64.pack(1 << 63), "features that were not offered"),
    (HEADER.pack(16, 0x9, 8) + U64.pack(1 << 16), "protocol features that were not offered"),
    (HEADER.pack(5, 0x1, 8) + struct.pack("<II", 9, 0), "shorter than it says"),
    (HEADER.pack(12, 0x1, 8) + U64.pack(0), "0 descriptors where 1 belong"),
    (HEADER.pack(31, 0x1, 24) + bytes(24), "was not offered, and waits for a reply"),
]


@pytest.mark.parametrize(("data", "sentence"), BREACHES, ids=[sentence for _, sentence in BREACHES])
def test_a_breach_ends_the_connection_and_says_why(served: Served, data: bytes, sentence: str) -> None:
    mark = served.daemon.lines_said
    with FrontendSocket(served.socket) as connection:
        connection.raw.sendall(data)
        connection.wait_for_end()
    assert "connection ended" in served.daemon.wait_for_line(sentence, after=mark)


def test_a_breach_while_a_guest_works_ends_only_that_connection(served: Served) -> None:
    with served.mounted() as (frontend, client):
        client.getattr(1)
        frontend.socket.raw.sendall(b"\xff" * 12)
        frontend.socket.wait_for_end()


def test_descriptors_that_nobody_asked_for_are_closed(served: Served) -> None:
    served.touch_all_rings()
    before = len(served.open_descriptors())
    reader, writer = os.pipe()
    for request in (1, 3, 17, 99, 38):
        with FrontendSocket(served.socket) as connection, contextlib.suppress(BackendGoneError):
            connection.send(request, b"", (writer,) * 7, flags=VERSION | NEED_REPLY)
            connection.receive()
    with FrontendSocket(served.socket) as connection:
        connection.raw.sendmsg(
            [HEADER.pack(5, 1, 8)[:7]], [(1, 1, struct.pack("=4i", writer, writer, writer, writer))]
        )
    os.close(writer)
    # The pipe's end is seen here once no copy of the writer is open anywhere.
    assert os.read(reader, 1) == b""
    os.close(reader)
    served.settle()
    eventually(lambda: len(served.open_descriptors()) <= before + 1, "descriptors stayed open")


@pytest.mark.parametrize("seed", range(6))
def test_no_talk_at_random_hurts_the_daemon(served: Served, seed: int) -> None:
    chance = random.Random(seed)
    served.touch_all_rings()
    before = len(served.open_descriptors())
    for _ in range(40):
        with Frontend.connect(served.socket) as frontend:
            if chance.random() < 0.7:
                frontend.negotiate()
                frontend.share_memory()
                frontend.create_queues()
                frontend.start_queues()
            try:
                for _ in range(60):
                    speak_at_random(chance, frontend)
                    for queue in frontend.queues:
                        queue.kick()
                frontend.socket.send(Request.GET_QUEUE_NUM)
                while frontend.socket.receive().request != Request.GET_QUEUE_NUM:
                    pass
            except BackendGoneError:
                pass
        assert served.daemon.alive(), served.daemon.log()
    served.settle()
    eventually(lambda: len(served.open_descriptors()) <= before + 1, "descriptors stayed open")
    assert served.mappings_of_guests() == []


def test_a_guest_works_on_while_another_device_is_attacked(tmp_path: Path) -> None:
    with serving_many(tmp_path, ("attacked", "working")) as (attacked, working):
        enough = threading.Event()
        talks = 0

        def attack() -> None:
            nonlocal talks
            chance = random.Random(7)
            while not enough.is_set():
                talks += 1
                with Frontend.start(attacked.socket) as frontend, contextlib.suppress(BackendGoneError):
                    for _ in range(40):
                        speak_at_random(chance, frontend)

        attacking = threading.Thread(target=attack)
        attacking.start()
        try:
            with working.mounted() as (frontend, client):
                while talks < 20:
                    assert read_file(client) == CONTENT
                    frontend.start_queues(frontend.stop_queues())
        finally:
            enough.set()
            attacking.join()
        attacked.check()


STATE, NUMBER, ADDRESSES, REGION = 8, 8, 40, 32
SHAPES: dict[int, tuple[int, int]] = {
    Request.GET_FEATURES: (0, 0),
    Request.SET_FEATURES: (NUMBER, 0),
    Request.SET_MEM_TABLE: (8 + REGION, 1),
    Request.SET_LOG_BASE: (16, 1),
    Request.SET_VRING_NUM: (STATE, 0),
    Request.SET_VRING_ADDR: (ADDRESSES, 0),
    Request.SET_VRING_BASE: (STATE, 0),
    Request.GET_VRING_BASE: (STATE, 0),
    Request.SET_VRING_KICK: (NUMBER, 1),
    Request.SET_VRING_CALL: (NUMBER, 1),
    Request.SET_VRING_ERR: (NUMBER, 1),
    Request.SET_VRING_ENABLE: (STATE, 0),
    Request.SET_BACKEND_REQ_FD: (0, 1),
    Request.GET_CONFIG: (16, 0),
    Request.RESET_DEVICE: (0, 0),
    Request.ADD_MEM_REG: (8 + REGION, 1),
    Request.REM_MEM_REG: (8 + REGION, 0),
    99: (8, 0),
}
"""The payload's size and the descriptors of the messages that change something."""


def speak_at_random(chance: random.Random, frontend: Frontend) -> None:
    """Send a message that is mostly well-formed, about rings and memory that mostly exist."""
    request = chance.choice(list(SHAPES))
    size, count = SHAPES[request]
    region = frontend.memory.regions[0]
    near = [region.gpa, region.user_address, region.gpa + region.size - PAGE, region.user_address + PAGE]
    odd = [0, 1, 255, 4096, 2**31, 2**32 - 1, 2**63, 2**64 - PAGE, 2**64 - 1, chance.getrandbits(64)]
    words = [chance.choice(near if chance.random() < 0.7 else odd) for _ in range(8)]
    index, number = chance.choice([0, 1, 1, 2, 63, 64]), chance.choice([0, 1, 1, 2, 128, 1024, 32768, 7])
    match request:
        case Request.SET_FEATURES:
            words[0] = chance.choice([0x170000000, 0x174000000, 0x150000000, 0x130000000])
        case Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR:
            words[0] = index | (0 if count else NO_DESCRIPTOR)
        case Request.SET_MEM_TABLE:
            words[0], words[2] = 1, region.size
        case Request.ADD_MEM_REG | Request.REM_MEM_REG | Request.SET_LOG_BASE:
            words[chance.choice([0, 2])] = chance.choice([PAGE, region.size, 16 * PAGE])
        case Request.GET_CONFIG:
            words[0], words[1] = chance.choice([0, 40, 250, 2**32 - 1]) | 4 << 32, 0
        case _:
            words[0] = index | number << 32
    payload = struct.pack("=8Q", *words)[:size]
    if chance.random() < 0.003:
        payload += b"x"
    if chance.random() < 0.003:
        count += 1
    files = [region.descriptor, *(queue.call_descriptor for queue in frontend.queues)]
    files += [queue.kick_descriptor for queue in frontend.queues]
    descriptors = tuple(chance.choice(files) for _ in range(count))
    # Most ask for an acknowledgement, which nobody reads: a refusal does not end the talk then.
    flags = VERSION | (NEED_REPLY if chance.random() < 0.95 else 0)
    frontend.socket.send(request, payload, descriptors, flags=flags)


def full_eventfd() -> int:
    """Return an eventfd whose next writer waits for a reader who never comes."""
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(descriptor, 2**64 - 2)
    return descriptor


def test_a_call_descriptor_that_blocks_its_writer_costs_its_own_guest_alone(served: Served) -> None:
    descriptor = full_eventfd()
    with served.mounted() as (frontend, client):
        frontend.socket.send(Request.SET_VRING_CALL, U64.pack(1), (descriptor,))
        for _ in range(3):
            client.start(Opcode.GETATTR, 1, GetattrIn(), out_size=104)
        frontend.socket.send(Request.SET_VRING_CALL, U64.pack(1), (descriptor,))
        client.start(Opcode.GETATTR, 1, GetattrIn(), out_size=104)
    served.settle()
    os.close(descriptor)


def test_an_error_descriptor_that_blocks_its_writer_costs_its_own_guest_alone(served: Served) -> None:
    descriptor = full_eventfd()
    with served.mounted() as (frontend, client):
        frontend.tell(Request.SET_VRING_ERR, U64.pack(1), (descriptor,))
        ring = client.queue.ring
        # avail.idx leaps further than the ring is long: that breaks it.
        frontend.memory.write(ring.addresses.driver + 2, struct.pack("<H", 0x7000))
        client.queue.kick()
        frontend.enable(client.queue, on=False)
        frontend.get_u64(Request.GET_QUEUE_NUM)
    served.settle()
    os.close(descriptor)


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_rings_are_signalled_through_eventfds_and_sockets_alone(served: Served, request_: Request) -> None:
    with served.mounted() as (frontend, _), tempfile.TemporaryFile() as file, pytest.raises(RefusedError):
        frontend.tell(request_, U64.pack(1), (file.fileno(),))


def test_a_kick_descriptor_that_is_never_dry_costs_its_own_guest_alone(served: Served) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):
                ours.send(bytes(65536))

    flooding = threading.Thread(target=flood)
    with served.mounted() as (frontend, client), theirs:
        frontend.stop_queue(client.queue)
        flooding.start()
        try:
            frontend.tell(Request.SET_VRING_KICK, U64.pack(1), (theirs.fileno(),))
            for _ in range(10):
                frontend.enable(client.queue, on=False)
                frontend.enable(client.queue)
            frontend.get_u64(Request.GET_QUEUE_NUM)
        finally:
            stop.set()
            flooding.join()
    ours.close()
    served.settle()
