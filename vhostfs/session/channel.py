"""What a session and whoever brings it requests agree upon: batches of requests in, replies out.

A batch is one buffer of records, each aligned to 8 bytes: RECORD, then `size` bytes of the FUSE request as
the kernel wrote it (header and arguments; the data of a WRITE stays where it is), then padding. The buffer
is good until `receive` returns.
"""

from __future__ import annotations

from collections.abc import Buffer, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, Protocol

from vhostfs.fuse_abi.opcodes import NotifyCode

RECORD: Final = Struct("<QIIQQ")
"""token, kind, size, room, data.

`token` names the request until it is answered; 0 for one that gets no answer. `room` counts the bytes of
payload that an answer has room for, `data` those of a WRITE. For kind BEGIN `token` holds the negotiated
INIT flags and `room` the minor version; for kind CANCEL, `token` names the request to be cancelled.
"""


class RecordKind(IntEnum):
    """What a record is (enum vhostfs_handoff_kind)."""

    REQUEST = 0
    BEGIN = 1
    """A FUSE session begins: INIT was answered. One before it has ended, whether or not END said so."""
    END = 2
    """It has ended: DESTROY, a new INIT, or no connection. Requests under way are still to be answered.

    `token` names the DESTROY that is to be answered, with nothing, when `destroy` has returned; or is 0.
    """
    CANCEL = 3
    """Nobody waits for a request any more: its ring is to be stopped."""


class Channel(Protocol):
    """The way back: for the event loop alone, at once, and without effect on what is answered already.

    A reply is seen by the guest after `flush`, or earlier.
    """

    def reply(self, token: int, payload: Buffer) -> None:
        """Answer with these bytes, at most `room`; EIO where they are more."""

    def reply_stored(self, token: int, size: int) -> None:
        """Answer with the first `size` bytes of what was stored in the payload's room."""

    def reply_error(self, token: int, error: int) -> None:
        """Answer with an errno, 1 to 511."""

    def flush(self) -> None:
        """Let the guest see what was answered."""

    def reply_segments(self, token: int, size: int) -> Sequence[memoryview]:
        """Return writable views of the first `size` bytes of the payload's room."""

    def data_segments(self, token: int) -> Sequence[memoryview]:
        """Return read-only views of the data of a WRITE."""

    def store(self, token: int, offset: int, data: Buffer) -> int:
        """Copy bytes into the payload's room at an offset; return how many there was room for."""

    def load(self, token: int, offset: int, target: Buffer) -> int:
        """Copy the data of a WRITE from an offset on into writable memory; return how many bytes."""

    def read_from_fd(self, token: int, position: int, size: int, descriptor: int, offset: int) -> int:
        """Read from a file into the payload's room at a position; return how many bytes. Raises OSError.

        May be called by any thread while the request is not answered; lets other threads of Python run.
        """

    def write_to_fd(self, token: int, descriptor: int, offset: int) -> int:
        """Write the data of a WRITE to a file; return how many bytes. Raises OSError. Threads as above."""

    def notify(self, code: NotifyCode, payload: Sequence[Buffer]) -> None:
        """Tell the kernel something unasked, soon: in vain where it does not know the node or name.

        OSError: ENOSYS where it cannot be told, ENOBUFS where too much waits to be told.
        """
