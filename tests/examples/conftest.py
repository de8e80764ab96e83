"""Examples run on an event loop of asyncio's."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Name the loop."""
    return "asyncio"
