"""Places for tests, that fsspec can open: all answer on this machine."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"
