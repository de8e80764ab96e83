"""Which operations on which paths a rule is about, as the configuration says it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from vhostfs.filesystem import OPERATIONS
from vhostfs.layers.patterns import PathPattern, names_of
from vhostfs.layers.read_only import CHANGING_OPERATIONS

GROUPS: Final[dict[str, frozenset[str]]] = {
    "any": frozenset(OPERATIONS),
    "changes": CHANGING_OPERATIONS,
    "makes": frozenset({"mknod", "mkdir", "symlink", "link", "create", "tmpfile"}),
}
"""Names for several operations: all; those that change something; those that make a file or a name."""

EVERYWHERE: Final = ("/**",)


def operations_of(names: Iterable[str]) -> frozenset[str]:
    """Return the operations that names and groups stand for; ValueError for what is neither."""
    found: set[str] = set()
    for name in names:
        if name in GROUPS:
            found |= GROUPS[name]
        elif name in OPERATIONS:
            found.add(name)
        else:
            close = difflib.get_close_matches(name, (*GROUPS, *OPERATIONS), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name!r} is no operation{hint}")
    return frozenset(found)


def errno_of(name: str) -> int:
    """Return the number of an errno by its name; ValueError where there is none."""
    number = getattr(errno, name, None)
    if not name.startswith("E") or not isinstance(number, int):
        raise ValueError(f"{name!r} is no errno, such as EIO")
    return number


class Selection:
    """Operations, and paths by patterns."""

    def __init__(self, operations: Iterable[str], paths: Iterable[str]) -> None:
        """Read what a rule says; ValueError where it names no operation, or no pattern."""
        self.operations: Final = operations_of(operations)
        self.patterns: Final = tuple(PathPattern(path) for path in paths)
        self.is_everywhere: Final = any(pattern.text == EVERYWHERE[0] for pattern in self.patterns)
        self.matches_path: Final = lru_cache(4096)(self._matches_path)

    def _matches_path(self, path: str) -> bool:
        names = names_of(path)
        return self.is_everywhere or any(pattern.matches(names) for pattern in self.patterns)
