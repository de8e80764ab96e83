"""What an exception of a file system means for the guest, and what of it the log is told."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Final

MAX_ERRNO: Final = 511
"""The largest errno that Linux takes from a reply: ERESTARTSYS and beyond are its own."""

TRACEBACKS_A_MINUTE: Final = 60

ERRNO_OF_CLASS: Final[dict[type[BaseException], int]] = {
    BlockingIOError: errno.EAGAIN,
    BrokenPipeError: errno.EPIPE,
    ChildProcessError: errno.ECHILD,
    ConnectionAbortedError: errno.ECONNABORTED,
    ConnectionRefusedError: errno.ECONNREFUSED,
    ConnectionResetError: errno.ECONNRESET,
    FileExistsError: errno.EEXIST,
    FileNotFoundError: errno.ENOENT,
    InterruptedError: errno.EINTR,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    PermissionError: errno.EACCES,
    ProcessLookupError: errno.ESRCH,
    TimeoutError: errno.ETIMEDOUT,
}
"""What the classes of PEP 3151 stand for, where they were raised without an errno."""


def errno_of(error: OSError) -> int:
    """Return the errno that a guest is answered, 1 to 511: EIO where the error has none such."""
    number = error.errno
    if number is None:
        known = (ERRNO_OF_CLASS[kind] for kind in type(error).__mro__ if kind in ERRNO_OF_CLASS)
        return next(known, errno.EIO)
    return number if isinstance(number, int) and 0 < number <= MAX_ERRNO else errno.EIO


class Faults:
    """Counts what a file system does wrong, and logs a bounded number of tracebacks a minute."""

    def __init__(
        self, logger: logging.Logger, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = 0
        self._logger = logger
        self._prefix = f"{name}: " if name else ""
        self._clock = clock
        self._minute = clock()
        self._written = 0
        self._summed_up = 0

    def report(self, operation: str, error: BaseException) -> None:
        """Count an exception that no operation may raise, and log it with its traceback."""
        self._report(f"{operation} failed: {type(error).__name__}: {error}", error)

    def blame(self, operation: str, text: str) -> None:
        """Count what is wrong with an answer, and log it."""
        self._report(f"{operation} {text}", None)

    def _report(self, text: str, error: BaseException | None) -> None:
        self.count += 1
        now = self._clock()
        if now - self._minute >= 60:
            left_out = self._written - TRACEBACKS_A_MINUTE
            self._minute, self._written = now, 0
            if left_out > 0:
                self._logger.error("%s%d more faults were not logged", self._prefix, left_out)
        self._written += 1
        if self._written <= TRACEBACKS_A_MINUTE:
            self._logger.error("%s%s", self._prefix, text, exc_info=error)

    def sum_up(self) -> None:
        """Tell at the end of a session how many faults there were in it, if any."""
        new, self._summed_up = self.count - self._summed_up, self.count
        if new:
            self._logger.info("%sfaults of the file system in the session that ended: %d", self._prefix, new)

    def warn(self, text: str) -> None:
        """Log something that is nobody's fault."""
        self._logger.warning("%s%s", self._prefix, text)


def is_cancellation(error: BaseException) -> bool:
    """Tell whether an operation ended because it was cancelled."""
    return isinstance(error, asyncio.CancelledError)
