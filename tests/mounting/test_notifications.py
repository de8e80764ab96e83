"""What a file system tells the kernel unasked: to forget, that a name is gone, what a file holds."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.refusals import refused
from tests.mounting.board import Board
from tests.mounting.mounts import OnThread, on_thread
from vhostfs.filesystem import ROOT, Caller, Entry

_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_DELETE_SELF = 0x400


class Told:
    """A mounted board, and what the kernel is told of it."""

    def __init__(self, board: Board, served: OnThread, mountpoint: Path) -> None:
        self.board = board
        self._served = served
        self._mountpoint = mountpoint

    def tell(self, say: Callable[[], None]) -> None:
        """Say something to the kernel, and wait until it has taken it: it takes one thing after the other."""
        (self._mountpoint / "marker").stat()
        asked = self.board.asked.count("lookup marker")

        def both() -> None:
            say()
            self.board.session.invalidate_entry(ROOT, "marker")

        self._served.call(both)
        while self.board.asked.count("lookup marker") == asked:
            (self._mountpoint / "marker").stat()
            time.sleep(0.001)


@pytest.fixture
def told(mountpoint: Path) -> Iterator[Told]:
    """Mount a board."""
    board = Board({"marker": b"", "file": b"a" * 4096})
    with on_thread(board, mountpoint) as served:
        mountpoint.stat()
        yield Told(board, served, mountpoint)


def test_invalid_nodes_are_asked_for_again(told: Told, mountpoint: Path) -> None:
    board, file = told.board, mountpoint / "file"
    assert file.read_bytes() == b"a" * 4096
    file.stat()
    board.files["file"] = b"b" * 5000
    assert file.stat().st_size == 4096
    assert file.read_bytes() == b"a" * 4096
    told.tell(lambda: board.session.invalidate_node(board.nodes["file"]))
    assert file.stat().st_size == 5000
    assert file.read_bytes() == b"b" * 5000


def test_attributes_are_invalidated_without_the_data(told: Told, mountpoint: Path) -> None:
    board, file = told.board, mountpoint / "file"
    assert file.read_bytes() == b"a" * 4096
    reads = board.asked.count("read 3")
    asked = board.asked.count("getattr 3")
    told.tell(lambda: board.session.invalidate_node(board.nodes["file"], -1, 0))
    assert file.read_bytes() == b"a" * 4096
    assert board.asked.count("getattr 3") > asked
    assert board.asked.count("read 3") == reads


def test_invalid_names_are_looked_up_again(told: Told, mountpoint: Path) -> None:
    board = told.board
    refused(errno.ENOENT, (mountpoint / "later").stat)
    board.nodes["later"] = 10
    board.files["later"] = b"here now"
    refused(errno.ENOENT, (mountpoint / "later").stat)
    told.tell(lambda: board.session.invalidate_entry(ROOT, "later"))
    assert (mountpoint / "later").read_bytes() == b"here now"
    del board.files["file"]
    told.tell(lambda: board.session.invalidate_entry(ROOT, "file"))
    refused(errno.ENOENT, (mountpoint / "file").stat)


def test_stored_data_is_read_without_asking(told: Told, mountpoint: Path) -> None:
    board, file = told.board, mountpoint / "file"
    assert file.stat().st_size == 4096
    board.files["file"] = b"s" * 4096 + b"t" * (3 << 20)
    told.tell(lambda: board.session.store(board.nodes["file"], 0, b"s" * 4096))
    with file.open("rb") as opened:
        assert opened.read(4096) == b"s" * 4096
    assert "read 3" not in board.asked
    told.tell(lambda: board.session.store(board.nodes["file"], 4096, memoryview(b"t" * (3 << 20))))
    assert file.stat().st_size == 4096 + (3 << 20)
    assert file.read_bytes()[4096:] == b"t" * (3 << 20)
    assert "read 3" not in board.asked


def test_who_watches_a_file_learns_that_it_was_deleted(told: Told, mountpoint: Path) -> None:
    board = told.board
    (mountpoint / "file").stat()
    watch = _LIBC.inotify_init1(os.O_CLOEXEC)
    assert _LIBC.inotify_add_watch(watch, os.fsencode(mountpoint / "file"), _IN_DELETE_SELF) > 0
    del board.files["file"]
    told.tell(lambda: board.session.entry_deleted(ROOT, board.nodes["file"], "file"))
    event = os.read(watch, 4096)
    os.close(watch)
    _, mask, _, _ = struct.unpack_from("<iIII", event)
    assert mask == _IN_DELETE_SELF
    refused(errno.ENOENT, (mountpoint / "file").stat)


def test_names_that_the_kernel_does_not_know_are_told_in_vain(told: Told, mountpoint: Path) -> None:
    board = told.board
    told.tell(lambda: board.session.invalidate_entry(ROOT, "never heard of"))
    (mountpoint / "file").stat()
    told.tell(lambda: board.session.entry_deleted(ROOT, board.nodes["file"], "never heard of"))
    assert (mountpoint / "file").read_bytes() == b"a" * 4096


def test_nodes_that_the_kernel_does_not_hold_are_no_entry(told: Told) -> None:
    session = told.board.session
    for say in (
        lambda: session.invalidate_node(12345),
        lambda: session.invalidate_entry(12345, "x"),
        lambda: session.entry_deleted(ROOT, 12345, "file"),
        lambda: session.store(12345, 0, b"x"),
    ):
        refused(errno.ENOENT, say)


class Restless(Board):
    """Tells the kernel to forget a name while that is looked up."""

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        self.session.invalidate_entry(ROOT, name)
        self.session.invalidate_node(ROOT)
        return super().lookup(caller, parent, name)


def test_operations_may_tell_of_what_the_kernel_holds_for_them(mountpoint: Path) -> None:
    board = Restless({"file": b"x"})
    with on_thread(board, mountpoint):
        for _ in range(100):
            assert (mountpoint / "file").read_bytes() == b"x"
            refused(errno.ENOENT, (mountpoint / "missing").stat)
