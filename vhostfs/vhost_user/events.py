"""What a front-end's messages ask of the device, one event a message.

Whoever gets an event carries it out and tells the machine how that went, by `Backend.succeeded` or
`Backend.failed`; `Answer` alone is finished already and needs only its bytes sent. An event owns the
descriptors in it: from the moment it is handed out, its receiver closes them or passes them on, also where
it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vhostfs.vhost_user.features import VirtioFeature
from vhostfs.vhost_user.messages import MemoryRegion


@dataclass(frozen=True, slots=True)
class Answer:
    """The machine settled a message by itself: send `data`, if any, and log `remark`, if any."""

    data: bytes
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class FeaturesSet:
    """The driver's choice of features, to be taken after the rings in `stop_first` are drained.

    Without PROTOCOL_FEATURES among them, all rings are enabled by that.
    """

    features: VirtioFeature
    stop_first: tuple[int, ...]
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemoryTableReplaced:
    """Guest memory is these regions and no others; rings may run meanwhile."""

    regions: tuple[MemoryRegion, ...]
    descriptors: tuple[int, ...]
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemoryRegionAdded:
    """One more region of guest memory."""

    region: MemoryRegion
    descriptor: int
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MemoryRegionRemoved:
    """A region of guest memory goes; it is equal to the one that was added."""

    region: MemoryRegion
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class LogSet:
    """The dirty log, to be used while LOG_ALL is among the features."""

    size: int
    offset: int
    descriptor: int
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class BackchannelSet:
    """The socket over which the back-end may ask the front-end for something."""

    descriptor: int
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class DeviceReset:
    """Stop and disable every ring after draining it; memory and protocol features stay."""

    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class QueueSizeSet:
    """A ring that is not enabled, though it may be kicked, has `size` entries."""

    index: int
    size: int
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueBaseSet:
    """Where a ring starts: split, the next available index; packed, both indices with their wrap counters."""

    index: int
    base: int
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueAddressesSet:
    """Where a ring lies, in the front-end's addresses; `log_address` is guest physical, for `log` alone."""

    index: int
    descriptor_table: int
    available_ring: int
    used_ring: int
    log: bool
    log_address: int
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueBaseRequested:
    """Stop a ring, drain it, drop its kick and call descriptors; succeed with its base (an int)."""

    index: int
    vital: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class QueueKickSet:
    """Start a ring that is woken through this descriptor, or must be polled if there is none."""

    index: int
    descriptor: int | None
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueCallSet:
    """The descriptor that tells the guest of used buffers; without one the guest polls."""

    index: int
    descriptor: int | None
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueErrorSet:
    """The descriptor that tells the front-end of a broken ring."""

    index: int
    descriptor: int | None
    vital: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class QueueEnabled:
    """A ring may be served, or no longer."""

    index: int
    enabled: bool
    vital: ClassVar[bool] = False


Work = (
    FeaturesSet
    | MemoryTableReplaced
    | MemoryRegionAdded
    | MemoryRegionRemoved
    | LogSet
    | BackchannelSet
    | DeviceReset
    | QueueSizeSet
    | QueueBaseSet
    | QueueAddressesSet
    | QueueBaseRequested
    | QueueKickSet
    | QueueCallSet
    | QueueErrorSet
    | QueueEnabled
)
"""The events that are to be carried out and reported back.

Where `vital` is true, a front-end that hears nothing would go on wrongly: if such an event fails and its
message asked for no acknowledgement, the connection ends.
"""

Event = Answer | Work
