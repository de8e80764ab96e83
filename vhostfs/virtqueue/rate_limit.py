"""Limits of the data plane: so many requests and bytes a second, for one mount or for several together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from vhostfs._core import ffi, lib
from vhostfs.virtqueue.device import Device

LARGEST_RATE: Final = 10**12
"""A second; what is faster is no limit."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a limit allows a second, and at once after a pause; 0: any number, for a rate."""

    requests: int = 0
    requests_burst: int = 0
    bytes: int = 0
    bytes_burst: int = 0


class RateLimit:
    """Two token buckets (csrc/rate_limit.h). May be used from any thread, and by several mounts."""

    def __init__(self, rates: Rates) -> None:
        """Make full buckets; ValueError for numbers that are none or too large."""
        numbers = (rates.requests, rates.requests_burst, rates.bytes, rates.bytes_burst)
        if not all(0 <= number <= LARGEST_RATE for number in numbers):
            raise ValueError(f"rates and bursts are numbers from 0 to {LARGEST_RATE}")
        options = ffi.new(
            "struct vhostfs_rate_limit_options *",
            {
                "requests": rates.requests,
                "requests_burst": rates.requests_burst,
                "bytes": rates.bytes,
                "bytes_burst": rates.bytes_burst,
            },
        )
        made = ffi.new("vhostfs_rate_limit **")
        result: int = lib.vhostfs_rate_limit_create(options, made)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        self.rates: Final = rates
        self.handle: Final[Any] = ffi.gc(made[0], lib.vhostfs_rate_limit_put)
        self._take = lib.vhostfs_rate_limit_take

    def take(self, size: int = 0) -> float:
        """Take a request with so many bytes and return 0; or take nothing and return seconds to wait."""
        nanoseconds: int = self._take(self.handle, size)
        return nanoseconds / 1e9 if nanoseconds else 0


def limit_mount(device: Device, mount: int, limit: RateLimit) -> None:
    """Have a mount's requests keep to a limit from now on, in their rings; OSError ENOSPC beyond four."""
    result: int = lib.vhostfs_device_limit_mount(device.handle, mount, limit.handle)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    device.limits.append(limit)
