"""Whatever a guest sends, the session lives on, and each request is answered exactly once."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Buffer
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.session.everything import Everything, later
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.opcodes import UNANSWERED, Opcode
from vhostfs.session import RecordKind, Session, State
from vhostfs.session.channel import RECORD
from vhostfs.testing import MemoryChannel

SMALL = st.integers(0, 4)
NUMBERS = st.one_of(SMALL, st.integers(0, 2**64 - 1), st.sampled_from([100, 103, 2**63, 2**48, 4096]))
OPCODES = st.one_of(st.sampled_from([int(each) for each in Opcode]), st.integers(0, 2**32 - 1))


def words(values: list[int]) -> bytes:
    """Return words as arguments."""
    return b"".join(struct.pack("<Q", value) for value in values)


ARGUMENTS = st.builds(
    lambda numbers, text, cut: (words(numbers) + text)[: cut if cut else None],
    st.lists(NUMBERS, max_size=11),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"file\0", b"directory\0", b"a\0b\0", b".\0", b"..\0..\0", b"\0", b"x" * 300 + b"\0"]
        ),
    ),
    st.integers(0, 30),
)

REQUESTS = st.tuples(OPCODES, NUMBERS, ARGUMENTS, st.sampled_from([0, 16, 128, 4096]), st.integers(0, 64))
STEPS = st.lists(
    st.one_of(REQUESTS, st.sampled_from(["begin", "end", "cancel", "turn", "short"])), min_size=1, max_size=40
)


class CountingChannel(MemoryChannel):
    """Counts how often each token is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: Counter[int] = Counter()

    def reply(self, token: int, payload: Buffer) -> None:
        self.answers[token] += 1
        super().reply(token, payload)

    def reply_stored(self, token: int, size: int) -> None:
        self.answers[token] += 1
        super().reply_stored(token, size)

    def reply_error(self, token: int, error: int) -> None:
        self.answers[token] += 1
        super().reply_error(token, error)


async def played(kind: Any, steps: list[Any], mount: int) -> None:
    """Play what a guest does; raise AssertionError where a request is not answered exactly once."""
    channel = CountingChannel()
    filesystem = kind()
    session = Session(filesystem, channel, mount=mount)
    channel.connect(session.receive)
    channel.record(int(session.init_flags & ~InitFlags.INIT_RESERVED), RecordKind.BEGIN, room=45)
    for _ in range(3):
        await asyncio.sleep(0)
    assert session.state is State.SERVING
    tokens: list[int] = []
    for number, step in enumerate(steps):
        if step == "begin":
            channel.record(int(session.init_flags), RecordKind.BEGIN, room=45)
        elif step == "end":
            channel.record(0, RecordKind.END)
        elif step == "cancel":
            channel.record(tokens[-1] if tokens else 1, RecordKind.CANCEL)
        elif step == "turn":
            await asyncio.sleep(0)
        elif step == "short":
            tokens.append(channel.request(bytes(number), room=16).token)
        else:
            opcode, nodeid, arguments, room, data = step
            header = struct.pack(
                "<IIQQIIIHH", 40 + len(arguments), opcode, number % 5, nodeid, 0, 0, 0, number % 3, 0
            )
            answered = opcode not in UNANSWERED
            request = channel.request(header + arguments, room=room, data=bytes(data), answered=answered)
            if answered:
                tokens.append(request.token)
    channel.record(0, RecordKind.END)
    await asyncio.wait_for(session.close(), 30)
    assert channel.answers == Counter(tokens)
    assert session.faults == 0, "what a guest sends is no fault of the file system's"
    assert not filesystem.handles


@pytest.mark.parametrize("kind", [Everything, later(Everything)], ids=["def", "async def"])
@example(steps=[(int(Opcode.RELEASE), 1, words([0, 0, 0]), 16, 0)], mount=0)
@given(steps=STEPS, mount=st.sampled_from([0, 0, 0, 7]))
def test_every_request_is_answered_exactly_once(kind: Any, steps: list[Any], mount: int) -> None:
    asyncio.run(played(kind, steps, mount))


@given(batch=st.binary(max_size=400))
def test_no_bytes_make_receive_raise(batch: bytes) -> None:
    async def receive() -> None:
        session = Session(Everything(), MemoryChannel())
        session.receive(memoryview(RECORD.pack(0, RecordKind.BEGIN, 0, 45, 0)))
        session.receive(memoryview(batch))
        await session.close()

    asyncio.run(receive())


@pytest.mark.parametrize("opcode", sorted(set(Opcode) - set(UNANSWERED)))
def test_arguments_cut_anywhere_are_answered(opcode: Opcode) -> None:
    full = words([1] * 11) + b"name\0other\0"
    steps = [(int(opcode), 1, full[:length], 4096, 0) for length in range(len(full) + 1)]
    asyncio.run(played(Everything, steps, 0))
