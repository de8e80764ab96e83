"""A layer that writes a line of JSON for each operation: who asked for what, and what came of it.

Lines wait in memory for a thread that writes them, at most `pending` of them. A guest is never held up for
them: what comes while so many wait is left out, and a line says how many are missing. So an audit costs
memory within bounds and no waiting, and shows its own gaps.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from pydantic import Field

from vhostfs.backends.contract import Layer
from vhostfs.filesystem import Caller, Filesystem, settled
from vhostfs.layers.interception import Intercepted
from vhostfs.layers.selection import EVERYWHERE, Selection

logger: Final = logging.getLogger("vhostfs.audit")

_DATA: Final = frozenset({"read", "write", "copy_file_range"})
_BATCH: Final = 1024
_TOGETHER_SECONDS: Final = 0.01
"""How long lines wait for others to be written with them: to wake the thread costs more than a line."""
_COMPLAINTS_SECONDS: Final = 60
_PATIENCE_SECONDS: Final = 5.0

type Write = Callable[[list[str]], None]
"""Writes lines, which may take its time; raises OSError."""


class Lines:
    """Lines on their way to a file, or to the log: from the event loop, by a thread of their own."""

    def __init__(self, write: Write, pending: int) -> None:
        self._write = write
        self._pending = pending
        self._many = min(_BATCH, (pending + 1) // 2)
        self._lines: deque[str] = deque()
        self._missing = 0
        self._busy = False
        self._flushing = 0
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._complained = -float(_COMPLAINTS_SECONDS)

    def add(self, line: str) -> None:
        """Have a line written soon, or count it as missing. Never waits for a disk."""
        with self._changed:
            waiting = len(self._lines)
            if waiting >= self._pending:
                self._missing += 1
                return
            self._lines.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vhostfs-audit", daemon=True)
                self._thread.start()
            elif waiting in {0, self._many - 1}:
                self._changed.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until all lines are written, or until the time is over."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._lines and not self._busy and not self._missing, seconds)
            self._flushing -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._missing)
                self._changed.wait_for(self._is_time, _TOGETHER_SECONDS)
                self._busy = True
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), _BATCH))]
                missing = 0
                if not self._lines:
                    missing, self._missing = self._missing, 0
            if missing:
                batch.append(json.dumps({"time": time.time(), "missing": missing}))
            try:
                self._write(batch)
            except OSError as error:
                self._lost(len(batch), error)

    def _is_time(self) -> bool:
        return self._flushing > 0 or len(self._lines) >= self._many

    def _lost(self, count: int, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAINTS_SECONDS:
            self._complained = now
            logger.warning("%d lines of an audit could not be written: %s", count, error.strerror)


def to_descriptor(descriptor: int) -> Write:
    """Return what writes to a file that is open for appending."""

    def write(lines: list[str]) -> None:
        data = memoryview("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(descriptor, data) :]

    return write


def to_log(lines: list[str]) -> None:
    """Write to the log of vhostfs.audit, at the level `info`."""
    for line in lines:
        logger.info("%s", line)


class Audit[H](Intercepted[H]):
    """Writes a line for each operation of a selection. `name` stands in every line."""

    def __init__(self, inner: Filesystem[H], lines: Lines, selection: Selection, name: str = "") -> None:
        """Write the lines of what is selected."""
        self._operations = selection.operations
        self._selection = selection
        self._mount = f', "mount": {_quoted(name)}' if name else ""
        self._lines = lines
        super().__init__(inner)

    def before(
        self, operation: str, caller: Caller, arguments: tuple[Any, ...]
    ) -> tuple[int, tuple[str, ...]] | None:
        """Note the time, and what the operation's files are called now."""
        if operation not in self._operations:
            return None
        paths = self.subjects(operation, arguments)
        matches = self._selection.matches_path
        if matches(paths[0]) or (len(paths) > 1 and matches(paths[1])):
            return time.perf_counter_ns(), paths
        return None

    def after(
        self,
        operation: str,
        caller: Caller,
        arguments: tuple[Any, ...],
        context: tuple[int, tuple[str, ...]] | None,
        answer: Any,
    ) -> None:
        """Write a line."""
        if context is None:
            return
        begun, paths = context
        to = f', "to": {_quoted(paths[1])}' if len(paths) > 1 else ""
        count = ""
        if operation in _DATA and not isinstance(answer, BaseException):
            count = f', "bytes": {answer if isinstance(answer, int) else memoryview(answer).nbytes}'
        # Put together by hand, which takes a fifth of what json.dumps does.
        self._lines.add(
            f'{{"time": {time.time()!r}, "operation": "{operation}", "path": {_quoted(paths[0])}'
            f'{self._mount}{to}, "uid": {caller.uid}, "gid": {caller.gid}, "pid": {caller.pid}, '
            f'"result": "{_result(answer)}"{count}, '
            f'"microseconds": {(time.perf_counter_ns() - begun) // 1000}}}'
        )

    async def destroy(self) -> None:
        """End, and see the lines written, if that takes no more than seconds."""
        await settled(super().destroy())
        await asyncio.to_thread(self._lines.flush, _PATIENCE_SECONDS)


def _result(answer: Any) -> str:
    if not isinstance(answer, BaseException):
        return "ok"
    if isinstance(answer, OSError):
        return errno.errorcode.get(answer.errno or errno.EIO, str(answer.errno))
    if isinstance(answer, asyncio.CancelledError):
        return "EINTR"
    return "EIO"


@dataclass(frozen=True, slots=True)
class AuditSettings(Layer):
    """A line of JSON for each operation."""

    file: PurePosixPath | None = None
    """Where lines are appended, made with mode 0600 where it is not there; None: the log."""
    operations: tuple[str, ...] = ("any",)
    paths: tuple[str, ...] = EVERYWHERE
    name: str = ""
    """Stands in every line as `mount`."""
    pending: Annotated[int, Field(ge=1, le=1_000_000)] = 65_536
    """The most lines that wait to be written."""
    _selection: Selection = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the selection."""
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("file should be an absolute path")
        object.__setattr__(self, "_selection", Selection(self.operations, self.paths))

    def wrap(self, inner: Filesystem[Any]) -> Audit[Any]:
        """Open the file, which stays open as long as the daemon runs; OSError where that fails."""
        write: Write = to_log
        if self.file is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
            write = to_descriptor(os.open(self.file, flags, 0o600))
        return Audit(inner, Lines(write, self.pending), self._selection, self.name)
