"""vhost-user as a front-end speaks it: message numbers, the framing, and a socket that carries descriptors.

Written apart from vhostfs.vhost_user on purpose: a test's peer must not share the mistakes of what it tests.
"""

from __future__ import annotations

import array
import socket
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Self

HEADER = Struct("<III")
U64 = Struct("<Q")
VRING_STATE = Struct("<II")
VRING_ADDRESS = Struct("<IIQQQQ")
REGION = Struct("<QQQQ")
LOG = Struct("<QQ")

VERSION = 0x1
REPLY = 0x4
NEED_REPLY = 0x8

NO_DESCRIPTOR = 1 << 8
"""In SET_VRING_KICK, CALL and ERR: no descriptor comes with the message."""


class Request(IntEnum):
    """What a front-end may ask of a back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class Features(IntFlag):
    """Virtio and vhost feature bits that matter to a file-system device."""

    NONE = 0
    LOG_ALL = 1 << 26
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34


class ProtocolFeatures(IntFlag):
    """vhost-user protocol feature bits that matter to a file-system device."""

    NONE = 0
    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the back-end, with the descriptors that came along."""

    request: int
    flags: int
    payload: bytes
    descriptors: tuple[int, ...] = ()


class BackendGoneError(Exception):
    """Raised when the back-end closed the connection."""


class RefusedError(Exception):
    """Raised when the back-end acknowledged a message with an error."""


class FrontendSocket:
    """A connection to a back-end. Every wait ends after timeout seconds with TimeoutError."""

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.raw.settimeout(timeout)
        try:
            self.raw.connect(str(path))
        except OSError:
            self.raw.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()

    def send(
        self,
        request: int,
        payload: bytes = b"",
        descriptors: tuple[int, ...] = (),
        *,
        flags: int = VERSION,
        size: int | None = None,
    ) -> None:
        """Send one message; size overrides the length that the header claims."""
        message = HEADER.pack(request, flags, len(payload) if size is None else size) + payload
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
        try:
            sent = self.raw.sendmsg([message], ancillary)
            self.raw.sendall(message[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise BackendGoneError(f"the back-end left before message {request}") from error

    def receive(self) -> Message:
        """Wait for one message of the back-end."""
        header, descriptors = self._receive_exactly(HEADER.size)
        request, flags, size = HEADER.unpack(header)
        payload, more = self._receive_exactly(size)
        return Message(request, flags, payload, (*descriptors, *more))

    def call(self, request: int, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> Message:
        """Send a message that has a reply of its own and return the reply, its framing checked."""
        self.send(request, payload, descriptors)
        return self._reply_to(request)

    def acknowledged(self, request: int, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """Send a message that has no reply, ask for an acknowledgement; RefusedError if it is bad."""
        self.send(request, payload, descriptors, flags=VERSION | NEED_REPLY)
        reply = self._reply_to(request)
        if U64.unpack(reply.payload)[0] != 0:
            raise RefusedError(f"the back-end refused message {request}")

    def wait_for_end(self) -> None:
        """Wait until the back-end closes the connection; replies that come before are dropped."""
        try:
            while self.raw.recv(65536):
                pass
        except ConnectionResetError:
            pass

    def _reply_to(self, request: int) -> Message:
        reply = self.receive()
        assert reply.request == request, f"message {request} was answered by {reply.request}"
        assert reply.flags == VERSION | REPLY, f"the reply to message {request} has flags {reply.flags:#x}"
        return reply

    def _receive_exactly(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        data = b""
        descriptors = array.array("i")
        while len(data) < size:
            try:
                part, ancillary, _, _ = self.raw.recvmsg(
                    size - len(data), socket.CMSG_SPACE(8 * descriptors.itemsize)
                )
            except ConnectionResetError as error:
                raise BackendGoneError("the back-end reset the connection") from error
            if not part:
                raise BackendGoneError("the back-end closed the connection")
            data += part
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content)
        return data, tuple(descriptors)
