"""The documentation tells every difference between file systems, and every one that it tells is checked."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.conftest import WAYS
from tests.conformance.differences import DIFFERENCES, differences, table

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs/filesystems.md"


def test_the_users_guide_lists_all_differences_and_no_others() -> None:
    section = GUIDE.read_text().partition("## How alike they are\n")[2].partition("\n## ")[0]
    (told,) = re.findall(r"(?m)(?:^\|.*\n)+", section)
    assert told.strip() == table()


def test_each_difference_is_checked_where_the_promise_is_made() -> None:
    asked = {
        key
        for path in HERE.glob("test_*.py")
        for key in re.findall(r"""differs\("([^"]+)"\)""", path.read_text())
    }
    assert asked == set(DIFFERENCES)


def test_each_difference_belongs_to_a_file_system_that_is_checked() -> None:
    seen = {key for each in WAYS for key in differences(*each.split(" by "))}
    assert seen == set(DIFFERENCES)
