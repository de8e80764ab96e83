"""Every difference of a store is checked where the promise is made."""

from __future__ import annotations

import re
from pathlib import Path

from tests.stores.differences import DIFFERENCES


def test_each_difference_is_checked() -> None:
    asked = {
        key
        for path in Path(__file__).parent.glob("test_*.py")
        for key in re.findall(r"""differs\("([^"]+)"\)""", path.read_text())
    }
    assert asked == set(DIFFERENCES)
