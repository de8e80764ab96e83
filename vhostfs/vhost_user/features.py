"""The bits that the two ends of a vhost-user connection negotiate.

VirtioFeature travels in GET_FEATURES and SET_FEATURES, ProtocolFeature in GET_PROTOCOL_FEATURES and
SET_PROTOCOL_FEATURES. Only bits that a file-system device or its ring can meet have a name here.
"""

from __future__ import annotations

from enum import IntFlag


class VirtioFeature(IntFlag):
    """Feature bits of a virtio device (virtio 1.3, section 6), and the two that vhost adds to them."""

    NOTIFY_ON_EMPTY = 1 << 24
    LOG_ALL = 1 << 26
    """vhost: mark every page that is written for the guest in the dirty log."""
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    """vhost-user: protocol features exist, and rings wait for SET_VRING_ENABLE. No guest sees this bit."""
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    NOTIFICATION_DATA = 1 << 38
    RING_RESET = 1 << 40


class ProtocolFeature(IntFlag):
    """Feature bits of the vhost-user protocol itself (vhost-user specification, "Protocol features")."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20
    GPA_ADDRESSES = 1 << 21
    SHMEM = 1 << 22
