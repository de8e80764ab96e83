"""What holds for all tests: hypothesis asserts no durations, as machines that run tests are slow at times.

Tests that need a guest, or a Ceph cluster, say so by a marker: lanes choose them by it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("vhostfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vhostfs")


def pytest_configure(config: pytest.Config) -> None:
    """Register a marker for each kind of guest, and for Ceph."""
    config.addinivalue_line("markers", "uml: runs on User-Mode Linux")
    config.addinivalue_line("markers", "qemu: runs on the host's QEMU")
    config.addinivalue_line("markers", "qemu_sid: runs on Debian sid's QEMU")
    config.addinivalue_line("markers", "ceph: needs Debian sid's Ceph")
