"""How an operation is refused: the OSError of an errno, with the words that the C library has for it."""

from __future__ import annotations

import os


def refused(number: int) -> OSError:
    """Return what to raise where a request is answered by an errno."""
    return OSError(number, os.strerror(number))
