"""How a store stands: whether it answers, and lets us in. Told in the log when it changes, and not again.

A store that is away fails every request; one sentence about it is enough, and one when it is back. Where it
comes and goes, that is told once a minute at most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from vhostfs.backends.s3.store import (
    BrokenAnswerError,
    BucketError,
    DeniedError,
    StoreError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

QUIET_SECONDS: Final = 60.0
"""For how long the same trouble is not told again."""

CREDENTIALS: Final = frozenset(
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed")
)
"""The codes of refusals that any request would meet."""


class Standing:
    """Whether a store answers. For one event loop."""

    __slots__ = ("_clock", "_last_told", "_told", "name", "trouble", "unreachable")

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Expect the best of a store of this name."""
        self.name, self._clock = name, clock
        self._last_told: dict[str, float] = {}
        self._told = False
        self.trouble: str | None = None
        """What is wrong, a sentence; None while nothing is."""
        self.unreachable = False
        """Nobody answers: there is no use in trying again and again."""

    def answered(self) -> None:
        """Take note that a request was answered as it should be."""
        if self.trouble is None:
            return
        if self._told:
            logger.info("%s: the store answers again", self.name)
        self.trouble, self.unreachable = None, False

    def failed(self, operation: str, error: StoreError) -> None:
        """Take note that an operation has failed for good.

        Most failures say that the store does well: there is no such object, somebody else has written.
        """
        if isinstance(error, BucketError):
            kind, answer = "there is no such bucket", "EIO"
        elif isinstance(error, DeniedError) and (
            error.code in CREDENTIALS or not error.status or operation == "ListObjectsV2"
        ):
            kind, answer = "the store denies access", "EACCES"
        elif isinstance(error, UnavailableError):
            kind = "the store is not able to answer" if error.status else "the store does not answer"
            answer, self.unreachable = "EIO", not error.status
        elif isinstance(error, BrokenAnswerError):
            kind, answer = "the store's answers cannot be understood", "EIO"
        else:
            if error.status and not isinstance(error, DeniedError):
                self.answered()
            return
        if self.trouble is not None:
            return
        self.trouble = f"{kind}: {error.strerror}"
        now = self._clock()
        self._told = now - self._last_told.get(kind, float("-inf")) >= QUIET_SECONDS
        if self._told:
            self._last_told[kind] = now
            logger.warning("%s: %s; until that is mended, %s is answered", self.name, self.trouble, answer)
