"""The tests' end of the line to ``scripts/guest/agent``, which runs commands inside a guest."""

from __future__ import annotations

import base64
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

# What a guest on a busy machine may take longer than a command's own time before it counts as lost.
_GRACE_SECONDS = 30.0


class LostGuestError(Exception):
    """Raised when a guest has died, has started anew unasked, or does not answer; shows its console's end."""


class CommandFailedError(AssertionError):
    """Raised when a command in a guest ends with another status than 0, 137 if its time was up."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command in the guest ended: its exit status (137 if its time was up), and all that it printed."""

    status: int
    output: str


class Agent:
    """A line to the agent: a readable and a writable descriptor, both owned by the caller.

    One command at a time; not for several threads. Each method raises LostGuestError; after that nothing
    more is to be had from the guest.
    """

    __slots__ = ("_console_tail", "_number", "_reader", "_received", "_writer")

    def __init__(self, reader: int, writer: int, console_tail: Callable[[], str]) -> None:
        self._reader = reader
        self._writer = writer
        self._console_tail = console_tail
        self._received = b""
        self._number = 0

    def wait_ready(self, timeout: float) -> str:
        """Wait for the greeting of a guest that starts, dropping all before it; return its boot id."""
        deadline = time.monotonic() + timeout
        while True:
            words = self._line(deadline, "to start").split()
            if len(words) == 2 and words[0] == b"ready":
                return words[1].decode()

    def run(self, command: str, *, root: str, timeout: float) -> Finished:
        """Run a shell script in a root directory of the guest, for ``timeout`` seconds at most."""
        self._number += 1
        encoded = base64.b64encode(command.encode()).decode()
        request = f"{self._number} {max(1, round(timeout))} {root} {encoded}\n".encode()
        deadline = time.monotonic() + timeout + _GRACE_SECONDS
        purpose = f"to answer {command!r}"
        while request:
            _, writable, _ = select.select([], [self._writer], [], max(0.0, deadline - time.monotonic()))
            if not writable:
                raise self._lost(f"took no request in time ({purpose})")
            try:
                # A guest's tty takes no more than 4096 bytes at once, and drops the rest.
                request = request[os.write(self._writer, request[:2048]) :]
            except OSError as error:
                raise self._lost(f"is gone ({error}; {purpose})") from error
        words = self._line(deadline, purpose).split()
        if len(words) != 4 or words[:2] != [b"done", str(self._number).encode()]:
            raise self._lost(f"said {words} where it was {purpose}")
        output = self._bytes(int(words[3]), deadline, purpose)
        return Finished(int(words[2]), output.decode(errors="backslashreplace"))

    def _line(self, deadline: float, purpose: str) -> bytes:
        while b"\n" not in self._received:
            self._receive(deadline, purpose)
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _bytes(self, size: int, deadline: float, purpose: str) -> bytes:
        while len(self._received) < size:
            self._receive(deadline, purpose)
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self, deadline: float, purpose: str) -> None:
        readable, _, _ = select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise self._lost(f"did not come {purpose} in time")
        try:
            data = os.read(self._reader, 65536)
        except OSError as error:
            raise self._lost(f"is gone ({error}; it was {purpose})") from error
        if not data:
            raise self._lost(f"is gone (it was {purpose})")
        self._received += data

    def _lost(self, what: str) -> LostGuestError:
        return LostGuestError(f"the guest {what}; its console ends with:\n{self._console_tail()}")
