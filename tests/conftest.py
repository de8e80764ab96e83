"""What holds for all tests: hypothesis asserts no durations, as machines that run tests are slow at times."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("vhostfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vhostfs")
