"""The log lines about one device: a bounded number a minute, as guests and front-ends cause them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

LINES_A_MINUTE: Final = 600
"""The most lines of each level about one device; enough for any fault, too few to fill a disk."""


class Journal:
    """Writes lines about a device to a logger; what exceeds the bound is counted, and the count told."""

    def __init__(
        self, logger: logging.Logger, device: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._device = device
        self._clock = clock
        self._minute = clock()
        self._written: dict[int, int] = {}
        self._left_out = 0

    def write(self, level: int, text: str) -> None:
        """Write a line, or count it where there were too many in this minute."""
        now = self._clock()
        if now - self._minute >= 60:
            self._minute = now
            self._written.clear()
            if self._left_out:
                self._log(logging.WARNING, f"{self._left_out} lines were left out: too many in a minute")
                self._left_out = 0
        written = self._written.get(level, 0)
        if written >= LINES_A_MINUTE:
            self._left_out += 1
            return
        self._written[level] = written + 1
        self._log(level, text)

    def _log(self, level: int, text: str) -> None:
        self._logger.log(level, "%s: %s", self._device, text)
