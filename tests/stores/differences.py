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
        ("obstore on ministack",),
        "a copy does not heed whether there is something at its target",
        "ministack does not, and obstore does not compare; the client of S3 does",
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
    "no-odd-keys": Difference(
        ("obstore in memory", "obstore on ministack"),
        "keys with an empty segment, `.` or `..` are refused",
        "obstore has no such paths",
    ),
    "no-lost-buckets": Difference(
        ("obstore in memory", "obstore on ministack"),
        "that there is no bucket is not told from that there is no object",
        "obstore does not tell; where nothing is found, that is so in both cases",
    ),
    "no-signatures": Difference(
        ("ministack", "obstore in memory", "obstore on ministack"),
        "any signature is right",
        "these are made for tests of programs, not of their credentials",
    ),
}
"""By the key that tests ask for."""


def differences(store: str) -> frozenset[str]:
    """Return the keys of what is otherwise in a store."""
    return frozenset(key for key, each in DIFFERENCES.items() if store in each.stores)
