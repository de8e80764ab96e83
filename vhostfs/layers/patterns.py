"""Patterns of paths: which a path matches, and which something below it may match.

A pattern is an absolute path from the root of the mount, in which `*` stands for anything within a name, `?`
for one character, `[abc]` for one of several, and `**` for any number of names, none included: `/etc/**` is
/etc and all below it. Matching takes time in proportion to the path's and the pattern's names, whatever a
guest calls its files.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Final

_ANY_NAMES: Final = "**"

type States = frozenset[int]
"""How far into a pattern the names of a path may have come."""


class PathPattern:
    """One pattern."""

    def __init__(self, text: str) -> None:
        """Read a pattern; ValueError where it is none."""
        if not text.startswith("/"):
            raise ValueError(f"the pattern {text!r} should begin with /")
        names = [name for name in text.split("/") if name]
        for name in names:
            if name in {".", ".."} or (_ANY_NAMES in name and name != _ANY_NAMES):
                raise ValueError(f"the pattern {text!r} should hold no . or .., and ** only as a whole name")
        self.text: Final = text
        self._names = [
            None if name == _ANY_NAMES else re.compile(fnmatch.translate(name)).match for name in names
        ]
        self._end = len(names)

    def _reached(self, states: Iterable[int]) -> States:
        found = set()
        for state in states:
            at = state
            found.add(at)
            while at < self._end and self._names[at] is None:
                at += 1
                found.add(at)
        return frozenset(found)

    def states(self, names: Iterable[str]) -> States:
        """Return how far a path leads into the pattern: two that lead equally far match alike, below too."""
        states = self._reached((0,))
        for name in names:
            following = []
            for state in states:
                if state == self._end:
                    continue
                match = self._names[state]
                if match is None:
                    following.append(state)
                elif match(name):
                    following.append(state + 1)
            states = self._reached(following)
            if not states:
                break
        return states

    def matches(self, names: Iterable[str]) -> bool:
        """Tell whether the pattern describes a path."""
        return self._end in self.states(names)

    def matches_below(self, states: States) -> bool:
        """Tell whether it may describe something below a path that leads this far."""
        return any(state < self._end for state in states)


def names_of(path: str) -> list[str]:
    """Return the names that make a path from the root."""
    return [name for name in path.split("/") if name]
