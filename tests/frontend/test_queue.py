"""What the tests' own driver promises to the tests: whoever waits for a chain hears of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.frontend.memory import GuestMemory
from tests.frontend.queue import Queue
from tests.frontend.rings import Buffer, SplitRing, needs_event


class _RingWithDevice(SplitRing):
    """A split ring that plays the device, too: it returns chains, and tells who is to be called."""

    def __init__(self, memory: GuestMemory) -> None:
        super().__init__(memory, 8, event_idx=True, indirect=False)
        self.before_armed: list[int] = []
        """Chains that are returned just before the device sees that the driver wants to be called."""

    def complete(self, head: int) -> bool:
        """Return one chain. True: the driver is to be called."""
        index = self.device[1]
        self.device[2 + 4 * (index % self.size)] = head
        self.device[1] = index + 1
        return needs_event(self.driver[2 + self.size], index + 1, index)

    def arm(self) -> None:
        while self.before_armed:
            assert not self.complete(self.before_armed.pop())
        super().arm()


class _QueueWithDevice(Queue):
    """A queue whose device returns one more chain as soon as the driver sleeps."""

    def __init__(self, ring: _RingWithDevice) -> None:
        super().__init__(0, ring)
        self.device = ring
        self.while_asleep: list[int] = []

    def complete(self, head: int) -> None:
        """Return one chain and call the driver where it wants that."""
        if self.device.complete(head):
            self.call()

    def call(self) -> None:
        """Call the driver, as the device does."""
        os.eventfd_write(self.call_descriptor, 1)

    def _wait_for_call(self, token: int, deadline: float) -> None:
        while self.while_asleep:
            self.complete(self.while_asleep.pop())
        super()._wait_for_call(token, deadline)


@pytest.fixture
def queue() -> Iterator[_QueueWithDevice]:
    memory = GuestMemory()
    queue = _QueueWithDevice(_RingWithDevice(memory))
    yield queue
    queue.close()
    memory.close()


def test_a_chain_is_called_for_behind_others_that_nobody_called_for(queue: _QueueWithDevice) -> None:
    buffer = [Buffer(0x10_0000, 8)]
    heads = [queue.ring.add(buffer) for _ in range(3)]
    queue.complete(heads[0])
    queue.drain_calls()
    queue.device.before_armed = [heads[1]]
    queue.while_asleep = [heads[2]]
    assert queue.wait(heads[2], timeout=1) == 0
