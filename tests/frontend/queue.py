"""A virtqueue with its descriptors for kicks, calls and errors, as a driver uses it."""

from __future__ import annotations

import os
import select
import time
from itertools import count

from tests.frontend.rings import Buffer, Ring

DEFAULT_TIMEOUT = 20.0


class RingStoppedError(Exception):
    """Raised when the back-end signalled the error descriptor while a completion was awaited."""


class Queue:
    """One virtqueue. Completions may come in any order; each is kept until its token is asked for."""

    def __init__(self, index: int, ring: Ring) -> None:
        self.index = index
        self.ring = ring
        self.kick_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.error_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.calls = 0
        """How often the back-end has called, as far as waits have noticed."""
        self.errors = 0
        """How often the back-end has signalled an error, as far as waits have noticed."""
        self._numbers = count(1 << 32)
        self._under_way: dict[int, int] = {}
        self._written: dict[int, int] = {}

    def close(self) -> None:
        """Close the three descriptors."""
        for descriptor in (self.kick_descriptor, self.call_descriptor, self.error_descriptor):
            os.close(descriptor)

    def submit(self, chain: list[Buffer]) -> int:
        """Offer a chain, kick if the back-end wants it, and return the token to wait for.

        The ring takes its own tokens again as soon as a chain is used; this one is never taken again. A chain
        that a test wrote into the ring by hand is waited for by the ring's token.
        """
        token = next(self._numbers)
        self._under_way[self.ring.add(chain)] = token
        self.kick_if_needed()
        return token

    def kick_if_needed(self) -> None:
        """Kick unless the back-end said that it looks by itself."""
        if self.ring.needs_kick():
            self.kick()

    def kick(self) -> None:
        """Kick in any case."""
        os.eventfd_write(self.kick_descriptor, 1)

    def completed(self, token: int) -> bool:
        """Tell whether the device has used a chain, without waiting."""
        self._collect()
        return token in self._written

    def wait(self, token: int, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Wait until the device has used a chain and return how many bytes it says to have written.

        TimeoutError after timeout seconds; RingStoppedError when the back-end signals an error first.
        """
        deadline = time.monotonic() + timeout
        while not self.completed(token):
            self.ring.arm()
            # What came before the device saw that told nobody, and the next is called for behind it only.
            if not self._collect():
                self._wait_for_call(token, deadline)
        return self._written.pop(token)

    def wait_for_error(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Wait until the back-end signals the error descriptor."""
        if not select.select([self.error_descriptor], [], [], timeout)[0]:
            raise TimeoutError(f"queue {self.index} signalled no error")
        self.errors += os.eventfd_read(self.error_descriptor)

    def drain_calls(self) -> int:
        """Take all calls that were signalled until now, and return how many."""
        try:
            calls = os.eventfd_read(self.call_descriptor)
        except BlockingIOError:
            return 0
        self.calls += calls
        return calls

    def _collect(self) -> int:
        """Note what the device has used since this was asked last, and return how many chains that were."""
        chains = 0
        for used, written in self.ring.used():
            self._written[self._under_way.pop(used, used)] = written
            chains += 1
        return chains

    def _wait_for_call(self, token: int, deadline: float) -> None:
        remaining = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([self.call_descriptor, self.error_descriptor], [], [], remaining)
        if not ready:
            raise TimeoutError(f"queue {self.index} did not complete chain {token}")
        if self.call_descriptor in ready:
            self.drain_calls()
        elif self.error_descriptor in ready:
            self.errors += os.eventfd_read(self.error_descriptor)
            raise RingStoppedError(f"queue {self.index} reported an error")
