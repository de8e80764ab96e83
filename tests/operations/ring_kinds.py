"""The kinds of rings that a guest may choose, as parameters of tests."""

from __future__ import annotations

from itertools import product

import pytest

from tests.frontend.frontend import FrontendOptions

KINDS = [
    FrontendOptions(packed=packed, event_idx=event_idx, indirect=indirect)
    for packed, event_idx, indirect in product((False, True), repeat=3)
]


def name_of(options: FrontendOptions) -> str:
    """Return what a test's id says of a ring."""
    words = ["packed" if options.packed else "split"]
    words += ["indirect"] if options.indirect else []
    words += ["event_idx"] if options.event_idx else []
    return " ".join(words)


BY_KIND = pytest.mark.parametrize("options", KINDS, ids=name_of)
SPLIT_OR_PACKED = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
