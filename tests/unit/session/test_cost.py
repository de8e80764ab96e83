"""What the requests that come most cost: calls of functions, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Buffer
from typing import Any

import pytest

from vhostfs.filesystem import Attr, Caller, Entry, Filesystem, ReadBuffer, WriteBuffer, WriteFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import GetattrIn, InHeader, ReadIn, WriteIn
from vhostfs.session import RecordKind, Session
from vhostfs.session.channel import RECORD

pytestmark = pytest.mark.anyio

REQUESTS = 32


class Ready(Filesystem[None]):
    """Answers with what was made before."""

    entry = Entry(Attr.file(2, 4096))
    data = bytes(4096)

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry:
        return self.entry

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        return self.entry.attr

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        return self.data

    def write(
        self, caller: Caller, node: int, handle: None, offset: int, data: WriteBuffer, flags: WriteFlags
    ) -> int:
        return data.size


class Nowhere:
    """A channel whose answers go nowhere."""

    answers = 0

    def reply(self, token: int, payload: Buffer) -> None:
        self.answers += 1

    def reply_stored(self, token: int, size: int) -> None:
        raise AssertionError

    def reply_error(self, token: int, error: int) -> None:
        raise AssertionError(error)

    def flush(self) -> None: ...


def record(token: int, opcode: Opcode, node: int, arguments: bytes, data: int = 0) -> bytes:
    """Return a request's record."""
    header = InHeader(InHeader.SIZE + len(arguments) + data, opcode, 2 * token, node).pack()
    message = header + arguments
    return RECORD.pack(token, 0, len(message), 8192, data) + message + bytes(-len(message) % 8)


@pytest.mark.parametrize(
    ("opcode", "node", "arguments", "data", "most"),
    [
        (Opcode.GETATTR, 2, GetattrIn().pack(), 0, 8),
        (Opcode.LOOKUP, 1, b"name\0", 0, 13),
        (Opcode.READ, 2, ReadIn(0, 0, 4096).pack(), 0, 13),
        (Opcode.WRITE, 2, WriteIn(0, 0, 4096).pack(), 4096, 12),
    ],
    ids=["getattr", "lookup", "read", "write"],
)
async def test_a_request_takes_few_calls(
    opcode: Opcode, node: int, arguments: bytes, data: int, most: int
) -> None:
    channel: Any = Nowhere()
    session = Session(Ready(), channel)
    session.receive(memoryview(RECORD.pack(0, RecordKind.BEGIN, 0, 45, 0)))
    session.receive(memoryview(record(1, Opcode.LOOKUP, 1, b"name\0")))
    batch = memoryview(b"".join(record(each + 1, opcode, node, arguments, data) for each in range(REQUESTS)))
    session.receive(batch)
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    channel.answers = 0
    sys.setprofile(count)
    try:
        session.receive(batch)
    finally:
        sys.setprofile(None)
    assert channel.answers == REQUESTS
    assert calls // REQUESTS <= most
