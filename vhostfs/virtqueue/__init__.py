"""Guest memory and rings as Python objects: thin wrappers over the data plane."""

from vhostfs.virtqueue.device import (
    Device,
    DeviceEvent,
    DeviceEventKind,
    DeviceOptions,
    Region,
    SessionOptions,
    initialise_core,
)

__all__ = [
    "Device",
    "DeviceEvent",
    "DeviceEventKind",
    "DeviceOptions",
    "Region",
    "SessionOptions",
    "initialise_core",
]
