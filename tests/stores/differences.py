"""Where a store keeps a promise otherwise, or not at all.

A test of such a promise asks `place.differs(key)`, and checks what is so there instead: a store that has
learnt it fails the test, and the entry goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Difference:
    """What is otherwise, and why it is left so."""

    stores: tuple[str, ...]
    what: str
    why: str


DIFFERENCES: Final[dict[str, Difference]] = {
    "no-conditional-copy": Difference(
        ("ministack", "ceph"),
        "a copy does not heed If-None-Match on its target",
        "AWS has had it since 2025 only; `conditional_copy` is set to false for such a store",
    ),
    "no-conditional-copy-part": Difference(
        ("ceph",),
        "a part that is copied does not heed If-Match on its source",
        "Ceph overlooks it; with `conditional_copy_part` false, ranges are copied only where the completion"
        " has a condition",
    ),
    "deletes-nothing-gladly": Difference(
        ("ceph",),
        "deleting what is not there is no error even with If-Match",
        "the object is gone, which is what was asked for",
    ),
    "completes-what-is-gone-late": Difference(
        ("ceph",),
        "completing an upload that was given up is a server's error, which is tried again until it is told",
        "Ceph takes it for one that is being completed at the same time",
    ),
    "no-signatures": Difference(
        ("ministack",),
        "any signature is right",
        "it is made for tests of programs, not of their credentials",
    ),
}
"""By the key that tests ask for."""


def differences(store: str) -> frozenset[str]:
    """Return the keys of what is otherwise in a store."""
    return frozenset(key for key, each in DIFFERENCES.items() if store in each.stores)
