"""Sessions run on asyncio alone."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"
