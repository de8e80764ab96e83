"""What a server does wrong when it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto


class Kind(Enum):
    """How a request fails, or an answer is broken."""

    STATUS = auto()
    """Refused with a status and a code, nothing done."""
    LATE_STATUS = auto()
    """Done, and then answered with a status: nobody can tell."""
    DROP = auto()
    """The connection ends before anything was done."""
    LATE_DROP = auto()
    """Done, and the connection ends without an answer."""
    CUT = auto()
    """The body ends in the middle, and the connection with it."""
    SLOW = auto()
    """The first byte comes late."""
    SILENT = auto()
    """Nothing comes at all."""
    LONGER = auto()
    """More bytes come than the head says."""
    WRONG_BYTES = auto()
    """The body is another one of the same length."""
    NOT_XML = auto()
    """A document ends in the middle, though all its bytes come."""
    ENDLESS_HEAD = auto()
    ENDLESS_BODY = auto()
    DRIP = auto()
    """The body comes byte by byte, and has no end."""
    NO_LENGTH = auto()
    """The body has no length, and ends with the connection."""
    CHUNKED = auto()
    """The body comes in chunks; that is no fault, but rare."""
    WHOLE = auto()
    """The range is not heeded."""


@dataclass(slots=True)
class Fault:
    """A fault of the next `times` requests of an operation, or of any."""

    kind: Kind
    operation: str | None = None
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
