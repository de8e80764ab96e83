"""What a back-end offers its front-end: features, protocol features, rings, configuration space.

What is not offered, and why. QEMU takes every protocol feature that it knows by name, whether or not it
does what that feature asks, so that offering one in vain is no harmless boast:

- INBAND_NOTIFICATIONS: User-Mode Linux would then use nothing else, an acknowledged message for each kick.
- XEN_MMAP: QEMU takes it and sends plain regions all the same.
- GPA_ADDRESSES: QEMU 11.1 gives ring addresses in another address space then, and has nothing to gain.
- STATUS: QEMU reports the driver's progress only as far as FEATURES_OK for this device.
- PAGEFAULT, DEVICE_STATE, INFLIGHT_SHMFD, SHMEM: there is no state to move, resume or map yet.
- RING_RESET (virtio): QEMU takes it, and its device has no hook for it.
- RING_PACKED (virtio) on request alone: some front-ends garble where a packed ring is to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vhostfs.vhost_user.features import ProtocolFeature, VirtioFeature
from vhostfs.vhost_user.messages import MAX_CONFIG_SIZE, VRING_INDEX_MASK

BASE_FEATURES: Final = (
    VirtioFeature.VERSION_1
    | VirtioFeature.PROTOCOL_FEATURES
    | VirtioFeature.EVENT_IDX
    | VirtioFeature.INDIRECT_DESC
    | VirtioFeature.LOG_ALL
)
BASE_PROTOCOL_FEATURES: Final = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a back-end offers to its front-end.

    `queues` is what GET_QUEUE_NUM tells, `queue_limit` how many rings are served if a front-end
    addresses more. `config` is the configuration space, empty if CONFIG is not to be offered (it makes QEMU
    7.1 to 8.0 crash, and only front-ends without a tag of their own need it). `memory_limit` bounds the
    bytes of all regions: address space is what the devices of a daemon share.
    """

    queues: int
    queue_limit: int
    config: bytes = b""
    packed: bool = False
    memory_slots: int = 509
    memory_limit: int = 1 << 44

    def __post_init__(self) -> None:
        if not 1 <= self.queues <= self.queue_limit <= VRING_INDEX_MASK + 1:
            raise ValueError(
                f"{self.queues} queues of at most {self.queue_limit}: 1 to 256 are possible, in this order"
            )
        if len(self.config) > MAX_CONFIG_SIZE:
            raise ValueError(f"a configuration space of {len(self.config)} bytes exceeds {MAX_CONFIG_SIZE}")

    @property
    def features(self) -> VirtioFeature:
        """Return the virtio features on offer."""
        return BASE_FEATURES | VirtioFeature.RING_PACKED if self.packed else BASE_FEATURES

    @property
    def protocol_features(self) -> ProtocolFeature:
        """Return the protocol features on offer."""
        return BASE_PROTOCOL_FEATURES | ProtocolFeature.CONFIG if self.config else BASE_PROTOCOL_FEATURES
