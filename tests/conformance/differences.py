"""Where file systems differ from what is promised, each with its reason: the table of docs/conformance.md."""

from __future__ import annotations

from typing import Final

DIFFERENCES: Final[dict[str, tuple[str, str]]] = {
    "no-zero-range": ("fallocate(2) refuses FALLOC_FL_ZERO_RANGE", "Linux's tmpfs does not have it"),
}
"""What is otherwise, and why, by the key that a Place lists in `differences`."""
