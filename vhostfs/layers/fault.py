"""A layer that lets operations fail, or take their time, by rules: for tests of what stands above it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from vhostfs.backends.contract import Layer
from vhostfs.filesystem import Caller, Filesystem
from vhostfs.filesystem.refusals import refused
from vhostfs.layers.interception import GIVING_UP, Intercepted
from vhostfs.layers.selection import EVERYWHERE, Selection, errno_of


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What happens to which operations: an error, a delay, or an error after a delay."""

    operations: tuple[str, ...] = ("any",)
    paths: tuple[str, ...] = EVERYWHERE
    error: str | None = None
    """The name of an errno."""
    delay: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    """Seconds."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    nth: Annotated[int, Field(ge=1)] | None = None
    """Only the nth of those that the rule is about, counted from 1."""
    times: Annotated[int, Field(ge=1)] | None = None
    """So often at most."""


class _Rule:
    """A rule, and how often it was met and acted."""

    def __init__(self, rule: FaultRule) -> None:
        self.selection = Selection(rule.operations, rule.paths)
        self.error = None if rule.error is None else errno_of(rule.error)
        self.rule = rule
        self.met = 0
        self.acted = 0

    def strikes(self, chance: random.Random) -> bool:
        rule = self.rule
        self.met += 1
        if rule.nth is not None and self.met != rule.nth:
            return False
        if rule.times is not None and self.acted >= rule.times:
            return False
        if rule.probability < 1 and chance.random() >= rule.probability:
            return False
        self.acted += 1
        return True


class Faulty[H](Intercepted[H]):
    """Does to an operation what the first rule says that is about it and strikes.

    The operation is not passed on where it fails. What gives something up (release, releasedir, flush) may be
    slow, and does not fail. With the same seed and the same operations, the same faults happen.
    """

    def __init__(self, inner: Filesystem[H], rules: Iterable[FaultRule], seed: int = 0) -> None:
        """Take rules; ValueError for an operation, a pattern or an errno that is none."""
        self._rules = [_Rule(rule) for rule in rules]
        self._chance = random.Random(seed)
        super().__init__(inner)

    def before(self, operation: str, caller: Caller, arguments: tuple[Any, ...]) -> Any:
        """Fail, or wait."""
        paths: tuple[str, ...] | None = None
        for each in self._rules:
            if operation not in each.selection.operations:
                continue
            if paths is None:
                paths = self.subjects(operation, arguments)
            if any(each.selection.matches_path(path) for path in paths) and each.strikes(self._chance):
                error = None if operation in GIVING_UP else each.error
                if each.rule.delay:
                    return _delayed(each.rule.delay, error)
                if error is not None:
                    raise refused(error)
                return None
        return None


async def _delayed(seconds: float, error: int | None) -> None:
    await asyncio.sleep(seconds)
    if error is not None:
        raise refused(error)


@dataclass(frozen=True, slots=True)
class FaultSettings(Layer):
    """Errors and delays by rules."""

    rules: tuple[FaultRule, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse rules that are none."""
        for rule in self.rules:
            _Rule(rule)
            if rule.error is None and rule.delay == 0:
                raise ValueError("a rule needs an error, a delay, or both")

    def wrap(self, inner: Filesystem[Any]) -> Faulty[Any]:
        """Return the layer."""
        return Faulty(inner, self.rules, self.seed)
