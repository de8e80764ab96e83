"""What a client of a store counts: requests, bytes, and what did not go well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """What a client has done so far."""

    requests: Counter[str] = field(default_factory=Counter)
    """By the operation's name in the S3 API, each attempt counted."""
    received: int = 0
    """Bytes of objects."""
    sent: int = 0
    """Bytes of requests' bodies."""
    retried: int = 0
    """Requests that were sent again."""
    throttled: int = 0
    """Answers that asked for fewer requests: status 429 or 503."""
    hedged: int = 0
    """Second requests beside slow ones."""
    errors: Counter[str] = field(default_factory=Counter)
    """Operations that failed for good, by the kind of StoreError: missing, denied, condition and so on."""
