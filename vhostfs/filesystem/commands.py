"""What whoever runs a file system may ask of it, and tell it, while it serves: its commands.

The daemon's control socket carries them. A command is a coroutine on the event loop that the file system is
served on; what it returns is told to who gave the command, as JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

type Value = bool | int | float | str | list[Value] | dict[str, Value] | None
"""What a command answers."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Order:
    """A command, as it was given."""

    arguments: Mapping[str, str]
    descriptors: Sequence[int]
    """Open files that came with it; they are closed when it has been answered."""
    report: Callable[[Progress], None]
    """Tells who waits how far it is; may be called often, and costs little."""


type Command = Callable[[Order], Awaitable[Value]]
"""Carries out an order; it is cancelled where nobody waits any more.

Raises OSError or ValueError, with a sentence for who gave it.
"""
