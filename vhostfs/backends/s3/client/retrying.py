"""What is tried again, when, and how often.

Delays are drawn from the whole range up to a bound that doubles ("full jitter"), or are what the server asked
for. All retries of a client spend from one budget that successes fill again: a store that is down is not
asked several times as often as one that works.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

RETRY_COST: Final = 5
"""What a retry takes from the budget; a success gives 1 back."""

RETRIED_STATUSES: Final = frozenset((429, 500, 502, 503, 504))

RETRIED_CODES: Final = frozenset(
    ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling")
)


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How often and how long is tried."""

    attempts: int = 6
    base_seconds: float = 0.1
    longest_seconds: float = 10.0
    budget: int = 500


class RetryBudget:
    """What all retries of a client share."""

    __slots__ = ("_left", "_options")

    def __init__(self, options: RetryOptions) -> None:
        """A full budget."""
        self._options = options
        self._left = options.budget

    def delay(self, attempt: int, wanted: float | None) -> float | None:
        """Return the seconds to wait before another attempt, or None when there shall be none.

        `attempt` counts from 1 those that were made; `wanted` is what the server asked for (Retry-After).
        """
        if attempt >= self._options.attempts or self._left < RETRY_COST:
            return None
        self._left -= RETRY_COST
        bound = min(self._options.longest_seconds, self._options.base_seconds * 2.0 ** (attempt - 1))
        drawn = random.uniform(0, bound)
        return drawn if wanted is None else min(wanted, self._options.longest_seconds) + drawn

    def succeeded(self) -> None:
        """Take note of a success."""
        if self._left < self._options.budget:
            self._left += 1


def wanted_delay(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; its form with a date is left alone."""
    return float(header) if header is not None and header.strip().isdecimal() else None
