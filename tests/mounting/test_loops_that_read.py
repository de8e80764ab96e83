"""A loop that reads the requests of its mount by itself, and sleeps for the next one, misses nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounting.board import Board
from tests.mounting.mounts import PATIENCE, on_thread
from vhostfs.filesystem import Caller, Entry
from vhostfs.virtqueue import handoff

pytestmark = pytest.mark.usefixtures("sleeping_for_ever")

type Schedule = Callable[[asyncio.AbstractEventLoop, Callable[[], None]], object]


@pytest.fixture
def sleeping_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loop sleep for the next request as long as a test has patience, and longer."""
    monkeypatch.setattr(handoff, "PATIENCE_MILLISECONDS", 10 * PATIENCE * 1000)


class Scheduler(Board):
    """A lookup schedules something on its loop."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__({})
        self.done = threading.Event()
        self._schedule = schedule

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        self._schedule(asyncio.get_running_loop(), self.done.set)
        return super().lookup(caller, parent, name)


async def call_soon(done: Callable[[], None]) -> None:
    """Call at the task's first step."""
    done()


def on_another_thread(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    """Call on the loop when a thread has slept for a moment."""
    threading.Timer(0.05, loop.call_soon_threadsafe, [done]).start()


def by_a_socket(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    """Call when a socket has become readable."""
    ours, theirs = socket.socketpair()

    def readable() -> None:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
        done()

    loop.add_reader(ours, readable)
    threading.Timer(0.05, theirs.send, [b"x"]).start()


@pytest.mark.parametrize(
    "schedule",
    [
        lambda loop, done: loop.call_soon(done),
        lambda loop, done: loop.call_later(0.05, done),
        lambda loop, done: loop.create_task(call_soon(done)),
        on_another_thread,
        by_a_socket,
    ],
    ids=["call_soon", "call_later", "create_task", "call_soon_threadsafe", "add_reader"],
)
def test_what_a_method_schedules_is_done_though_no_request_comes(
    mountpoint: Path, schedule: Schedule
) -> None:
    scheduler = Scheduler(schedule)
    with on_thread(scheduler, mountpoint):
        assert not (mountpoint / "missing").exists()
        assert scheduler.done.wait(PATIENCE)


def test_what_others_schedule_is_done_while_requests_come_without_end(mountpoint: Path) -> None:
    over = threading.Event()

    def ask() -> None:
        number = 0
        while not over.is_set():
            number += 1
            assert not (mountpoint / f"missing-{number}").exists()

    with on_thread(Board({}), mountpoint) as served:
        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(20):
            served.call(lambda: None)
        over.set()
        asking.join(PATIENCE)
        assert not asking.is_alive()
