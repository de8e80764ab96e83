"""What the users' guide shows runs as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from vhostfs.config.schema import parse
from vhostfs.testing import mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

GUIDE = Path(__file__).parents[2] / "docs/filesystems.md"


def blocks(language: str) -> list[str]:
    """Return the guide's pieces of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


async def test_the_guides_first_file_system_and_its_test_work_as_printed() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)  # noqa: S102
    test = next(block for block in blocks("python") if "async def test_" in block)
    exec(test, names)  # noqa: S102
    await names["test_the_greeting_can_be_read"]()
    async with mount(names["Hello"]()) as client:
        assert not await client.exists("/other")


def test_all_python_of_the_guide_is_python() -> None:
    for block in blocks("python"):
        compile(block, str(GUIDE), "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_all_configurations_of_the_guide_can_be_read() -> None:
    assert len(blocks("yaml")) > 5
    for block in blocks("yaml"):
        lines = block
        if lines.startswith("layers:"):
            lines = "mounts:\n  /:\n    type: memory\n" + indented(lines, 4)
        if lines.startswith("mounts:"):
            lines = "devices:\n  - socket: {path: /run/s}\n" + indented(lines, 4)
        if "my.module" not in lines and "type: clock" not in lines:
            assert parse(lines, "guide").devices


def indented(lines: str, spaces: int) -> str:
    """Return lines further to the right."""
    return textwrap.indent(lines, " " * spaces)
