"""Every message of vhost-user that a file-system device can meet, in both directions, as it is on the wire.

A message is a header of twelve bytes, a payload, and the descriptors that ride on the header's first byte.
All numbers have the byte order of the host. construct declares the payloads; `Layout` is the one place that
touches it, and what leaves this module are frozen dataclasses.

`FRONTEND_MESSAGES` and `BACKEND_MESSAGES` say for each message what it carries, how many descriptors come
with it, and what its own reply is, if it has one. What a message means is the business of
vhostfs.vhost_user.state.

Source: vhost-user specification, "Message specification", with the sizes that front-ends really send.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import Any, Final

import construct as wire

from vhostfs.errors import ProtocolError

VERSION: Final = 1
VERSION_MASK: Final = 0x3
MAX_DESCRIPTORS: Final = 253
"""SCM_MAX_FD: what Linux lets one message carry."""
MAX_CONFIG_SIZE: Final = 256
"""VHOST_USER_MAX_CONFIG_SIZE: the most of a configuration space that one message carries."""
NO_DESCRIPTOR_BIT: Final = 0x100
"""Set in the number of SET_VRING_KICK, _CALL and _ERR when no descriptor comes with it."""
VRING_INDEX_MASK: Final = 0xFF


class HeaderFlag(IntFlag):
    """The bits of a header's flags, above the two of the version."""

    REPLY = 1 << 2
    NEED_REPLY = 1 << 3


REPLY_FLAGS: Final = VERSION | HeaderFlag.REPLY
"""The flags of every reply. Front-ends compare them for equality, so no other bit may be set."""


class FrontendRequest(IntEnum):
    """The messages that a front-end sends."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44
    GET_VRING_BASE_SKIP_DRAIN = 45


class BackendRequest(IntEnum):
    """The messages that a back-end sends, over the socket of SET_BACKEND_REQ_FD."""

    IOTLB_MSG = 1
    CONFIG_CHANGE = 2
    VRING_HOST_NOTIFIER = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


@dataclass(frozen=True, slots=True)
class Header:
    """The first twelve bytes of a message; `size` counts the payload alone."""

    request: int
    flags: int
    size: int

    @property
    def version(self) -> int:
        """Return the protocol version that the sender speaks."""
        return self.flags & VERSION_MASK

    @property
    def is_reply(self) -> bool:
        """Tell whether the message answers another one."""
        return bool(self.flags & HeaderFlag.REPLY)

    @property
    def needs_reply(self) -> bool:
        """Tell whether the sender waits for an acknowledgement."""
        return bool(self.flags & HeaderFlag.NEED_REPLY)


@dataclass(frozen=True, slots=True)
class Empty:
    """No payload."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number of 64 bits: features, a count, a ring with its NO_DESCRIPTOR_BIT, an outcome."""

    value: int


@dataclass(frozen=True, slots=True)
class VringState:
    """A ring and one number about it: size, base, or whether it is enabled."""

    index: int
    number: int


@dataclass(frozen=True, slots=True)
class VringAddresses:
    """Where a ring lies, in addresses of the front-end's process; `log` is a guest physical address."""

    index: int
    flags: int
    descriptor: int
    used: int
    available: int
    log: int

    LOG_FLAG = 1
    """VHOST_VRING_F_LOG: mark the writes to the used ring in the dirty log, at `log`."""


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A piece of guest memory, `size` bytes at `offset` of the descriptor that comes with it."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    @property
    def guest_end(self) -> int:
        """Return the guest physical address behind the region."""
        return self.guest_address + self.size


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """All of guest memory, one descriptor for each region, in this order."""

    regions: tuple[MemoryRegion, ...]


@dataclass(frozen=True, slots=True)
class SingleRegion:
    """One region of guest memory that comes or goes."""

    region: MemoryRegion


@dataclass(frozen=True, slots=True)
class LogArea:
    """The dirty log: `size` bytes at `offset` of the descriptor that comes with it."""

    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class ConfigWindow:
    """A piece of the device's configuration space; `data` has `size` bytes, or none where a read failed."""

    offset: int
    size: int
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class IotlbMessage:
    """A translation of an I/O address that is missing, updated or gone."""

    io_address: int
    size: int
    user_address: int
    permission: int
    kind: int


@dataclass(frozen=True, slots=True)
class InflightArea:
    """The shared memory that outlives a back-end and tells which requests it had taken."""

    mapped_size: int
    mapped_offset: int
    queues: int
    queue_size: int


@dataclass(frozen=True, slots=True)
class SharedObject:
    """The name of a buffer that devices share."""

    uuid: bytes


@dataclass(frozen=True, slots=True)
class DeviceStateTransfer:
    """A transfer of the device's state: direction 0 saves and 1 loads, phase 0 is a stopped device."""

    direction: int
    phase: int


@dataclass(frozen=True, slots=True)
class HostNotifier:
    """A page through which a guest rings the device without leaving guest mode."""

    number: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class SharedMemoryMap:
    """A window of a file for the guest's shared memory region `region`; flag 1 makes it writable."""

    region: int
    descriptor_offset: int
    region_offset: int
    size: int
    flags: int


@dataclass(frozen=True, slots=True)
class SharedMemoryConfig:
    """How many shared memory regions the device has, and the size of each of the 256 possible ones."""

    count: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VirtioFsConfig:
    """The configuration space of a file-system device (virtio 1.3, section 5.11.4)."""

    tag: str
    request_queues: int
    notification_size: int = 0

    SIZE = 44

    def to_bytes(self) -> bytes:
        """Return the 44 bytes of struct virtio_fs_config, numbers little-endian as virtio has them.

        Raises ValueError for a tag that is not 1 to 36 bytes of UTF-8.
        """
        tag = self.tag.encode()
        if not 1 <= len(tag) <= 36:
            raise ValueError(f"the tag {self.tag!r} has {len(tag)} bytes, but a tag has 1 to 36")
        return (
            tag.ljust(36, b"\0")
            + self.request_queues.to_bytes(4, "little")
            + self.notification_size.to_bytes(4, "little")
        )


Payload = (
    Empty
    | Number
    | VringState
    | VringAddresses
    | MemoryTable
    | SingleRegion
    | LogArea
    | ConfigWindow
    | IotlbMessage
    | InflightArea
    | SharedObject
    | DeviceStateTransfer
    | HostNotifier
    | SharedMemoryMap
    | SharedMemoryConfig
)


class Layout[P]:
    """How a payload of type P lies on the wire; the only user of construct.

    `smallest` and `largest` bound the bytes that a front-end may send for it. Bytes behind what the
    declaration reads are padding: User-Mode Linux sends room for regions that it has not filled.
    """

    def __init__(self, kind: type[P], declaration: Any, smallest: int, largest: int | None = None) -> None:
        self.kind = kind
        self.smallest = smallest
        self.largest = smallest if largest is None else largest
        self._declaration = declaration
        self._names = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]

    def parse(self, data: bytes) -> P:
        """Return the payload in `data`; raise ProtocolError if its size or its inner counts are wrong."""
        if not self.smallest <= len(data) <= self.largest:
            expected = (
                str(self.smallest) if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
            )
            raise ProtocolError(f"its payload has {len(data)} bytes where {expected} belong")
        try:
            parsed = self._declaration.parse(data)
        except wire.ConstructError as error:
            raise ProtocolError(f"its payload of {len(data)} bytes is shorter than it says") from error
        return self.kind(**{name: _plain(parsed[name]) for name in self._names})

    def build(self, payload: P) -> bytes:
        """Return the bytes of a payload."""
        built: bytes = self._declaration.build({name: _wired(getattr(payload, name)) for name in self._names})
        return built


def _plain(value: Any) -> Any:
    """Turn what construct parsed into what the dataclasses hold."""
    if isinstance(value, wire.ListContainer):
        return tuple(_plain(item) for item in value)
    if isinstance(value, wire.Container):
        return MemoryRegion(**{field.name: value[field.name] for field in fields(MemoryRegion)})
    return value


def _wired(value: Any) -> Any:
    """Turn what the dataclasses hold into what construct builds from."""
    if isinstance(value, tuple):
        return [_wired(item) for item in value]
    if isinstance(value, MemoryRegion):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value


_u8, _u16, _u32, _u64 = wire.Byte, wire.Int16un, wire.Int32un, wire.Int64un

_REGION = wire.Struct(
    "guest_address" / _u64,
    "size" / _u64,
    "user_address" / _u64,
    "offset" / _u64,
)
_CONFIG_HEADER = ("offset" / _u32, "size" / _u32, "flags" / _u32)

HEADER = Layout(Header, wire.Struct("request" / _u32, "flags" / _u32, "size" / _u32), 12)
EMPTY = Layout(Empty, wire.Struct(), 0)
NUMBER = Layout(Number, wire.Struct("value" / _u64), 8)
VRING_STATE = Layout(VringState, wire.Struct("index" / _u32, "number" / _u32), 8)
VRING_ADDRESSES = Layout(
    VringAddresses,
    wire.Struct(
        "index" / _u32,
        "flags" / _u32,
        "descriptor" / _u64,
        "used" / _u64,
        "available" / _u64,
        "log" / _u64,
    ),
    40,
)
MEMORY_TABLE = Layout(
    MemoryTable,
    wire.Struct(
        "count" / wire.Rebuild(_u32, lambda context: len(context.regions)),
        wire.Padding(4),
        "regions" / wire.Array(lambda context: context.count, _REGION),
    ),
    8,
    8 + 32 * MAX_DESCRIPTORS,
)
SINGLE_REGION = Layout(SingleRegion, wire.Struct(wire.Padding(8), "region" / _REGION), 40)
LOG_AREA = Layout(LogArea, wire.Struct("size" / _u64, "offset" / _u64), 16)
CONFIG_WINDOW = Layout(
    ConfigWindow, wire.Struct(*_CONFIG_HEADER, "data" / wire.GreedyBytes), 12, 12 + MAX_CONFIG_SIZE
)
IOTLB_MESSAGE = Layout(
    IotlbMessage,
    wire.Struct(
        "io_address" / _u64,
        "size" / _u64,
        "user_address" / _u64,
        "permission" / _u8,
        "kind" / _u8,
        wire.Padding(6),
    ),
    32,
)
INFLIGHT_AREA = Layout(
    InflightArea,
    wire.Struct(
        "mapped_size" / _u64,
        "mapped_offset" / _u64,
        "queues" / _u16,
        "queue_size" / _u16,
        wire.Optional(wire.Padding(4)),
    ),
    20,
    24,
)
SHARED_OBJECT = Layout(SharedObject, wire.Struct("uuid" / wire.Bytes(16)), 16)
DEVICE_STATE_TRANSFER = Layout(DeviceStateTransfer, wire.Struct("direction" / _u32, "phase" / _u32), 8)
HOST_NOTIFIER = Layout(HostNotifier, wire.Struct("number" / _u64, "size" / _u64, "offset" / _u64), 24)
SHARED_MEMORY_MAP = Layout(
    SharedMemoryMap,
    wire.Struct(
        "region" / _u8,
        wire.Padding(7),
        "descriptor_offset" / _u64,
        "region_offset" / _u64,
        "size" / _u64,
        "flags" / _u64,
    ),
    40,
)
SHARED_MEMORY_CONFIG = Layout(
    SharedMemoryConfig, wire.Struct("count" / _u32, wire.Padding(4), "sizes" / wire.Array(256, _u64)), 2056
)
CRYPTO_SESSION_LIMIT: Final = 4096
"""More than the session structures that QEMU sends for a crypto device; none of it concerns a file system."""

MAX_PAYLOAD: Final = MEMORY_TABLE.largest
"""The most bytes behind a header; a message that announces more breaks the protocol."""


@dataclass(frozen=True, slots=True)
class MessageShape:
    """What a message carries.

    `descriptors` are the counts that may come with it; `None` says that the payload decides. `reply` is the
    message's own reply; a message without one is acknowledged by a Number where its sender asks for that.
    """

    payload: Layout[Any]
    descriptors: range | None = range(1)
    reply: Layout[Any] | None = None


_ONE_DESCRIPTOR = range(1, 2)
_MAYBE_ONE_DESCRIPTOR = range(2)
_OPAQUE = Layout(Empty, wire.Struct(), 0, CRYPTO_SESSION_LIMIT)

FRONTEND_MESSAGES: Final[dict[FrontendRequest, MessageShape]] = {
    FrontendRequest.GET_FEATURES: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.SET_FEATURES: MessageShape(NUMBER),
    FrontendRequest.SET_OWNER: MessageShape(EMPTY),
    FrontendRequest.RESET_OWNER: MessageShape(EMPTY),
    FrontendRequest.SET_MEM_TABLE: MessageShape(MEMORY_TABLE, descriptors=None),
    FrontendRequest.SET_LOG_BASE: MessageShape(LOG_AREA, _ONE_DESCRIPTOR, NUMBER),
    FrontendRequest.SET_LOG_FD: MessageShape(EMPTY, _ONE_DESCRIPTOR),
    FrontendRequest.SET_VRING_NUM: MessageShape(VRING_STATE),
    FrontendRequest.SET_VRING_ADDR: MessageShape(VRING_ADDRESSES),
    FrontendRequest.SET_VRING_BASE: MessageShape(VRING_STATE),
    FrontendRequest.GET_VRING_BASE: MessageShape(VRING_STATE, reply=VRING_STATE),
    FrontendRequest.SET_VRING_KICK: MessageShape(NUMBER, descriptors=None),
    FrontendRequest.SET_VRING_CALL: MessageShape(NUMBER, descriptors=None),
    FrontendRequest.SET_VRING_ERR: MessageShape(NUMBER, descriptors=None),
    FrontendRequest.GET_PROTOCOL_FEATURES: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.SET_PROTOCOL_FEATURES: MessageShape(NUMBER),
    FrontendRequest.GET_QUEUE_NUM: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.SET_VRING_ENABLE: MessageShape(VRING_STATE),
    FrontendRequest.SEND_RARP: MessageShape(NUMBER),
    FrontendRequest.NET_SET_MTU: MessageShape(NUMBER),
    FrontendRequest.SET_BACKEND_REQ_FD: MessageShape(EMPTY, _ONE_DESCRIPTOR),
    FrontendRequest.IOTLB_MSG: MessageShape(IOTLB_MESSAGE),
    FrontendRequest.SET_VRING_ENDIAN: MessageShape(VRING_STATE),
    FrontendRequest.GET_CONFIG: MessageShape(CONFIG_WINDOW, reply=CONFIG_WINDOW),
    FrontendRequest.SET_CONFIG: MessageShape(CONFIG_WINDOW),
    FrontendRequest.CREATE_CRYPTO_SESSION: MessageShape(_OPAQUE, reply=_OPAQUE),
    FrontendRequest.CLOSE_CRYPTO_SESSION: MessageShape(NUMBER),
    FrontendRequest.POSTCOPY_ADVISE: MessageShape(EMPTY, reply=EMPTY),
    FrontendRequest.POSTCOPY_LISTEN: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.POSTCOPY_END: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.GET_INFLIGHT_FD: MessageShape(INFLIGHT_AREA, reply=INFLIGHT_AREA),
    FrontendRequest.SET_INFLIGHT_FD: MessageShape(INFLIGHT_AREA, _ONE_DESCRIPTOR),
    FrontendRequest.GPU_SET_SOCKET: MessageShape(EMPTY, _ONE_DESCRIPTOR),
    FrontendRequest.RESET_DEVICE: MessageShape(EMPTY),
    FrontendRequest.VRING_KICK: MessageShape(VRING_STATE),
    FrontendRequest.GET_MAX_MEM_SLOTS: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.ADD_MEM_REG: MessageShape(SINGLE_REGION, _ONE_DESCRIPTOR),
    FrontendRequest.REM_MEM_REG: MessageShape(SINGLE_REGION, _MAYBE_ONE_DESCRIPTOR),
    FrontendRequest.SET_STATUS: MessageShape(NUMBER),
    FrontendRequest.GET_STATUS: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.GET_SHARED_OBJECT: MessageShape(SHARED_OBJECT, reply=EMPTY),
    FrontendRequest.SET_DEVICE_STATE_FD: MessageShape(DEVICE_STATE_TRANSFER, _ONE_DESCRIPTOR, NUMBER),
    FrontendRequest.CHECK_DEVICE_STATE: MessageShape(EMPTY, reply=NUMBER),
    FrontendRequest.GET_SHMEM_CONFIG: MessageShape(EMPTY, reply=SHARED_MEMORY_CONFIG),
    FrontendRequest.GET_VRING_BASE_SKIP_DRAIN: MessageShape(VRING_STATE, reply=VRING_STATE),
}

BACKEND_MESSAGES: Final[dict[BackendRequest, MessageShape]] = {
    BackendRequest.IOTLB_MSG: MessageShape(IOTLB_MESSAGE),
    BackendRequest.CONFIG_CHANGE: MessageShape(EMPTY),
    BackendRequest.VRING_HOST_NOTIFIER: MessageShape(HOST_NOTIFIER, _MAYBE_ONE_DESCRIPTOR),
    BackendRequest.VRING_CALL: MessageShape(VRING_STATE),
    BackendRequest.VRING_ERR: MessageShape(VRING_STATE),
    BackendRequest.SHARED_OBJECT_ADD: MessageShape(SHARED_OBJECT),
    BackendRequest.SHARED_OBJECT_REMOVE: MessageShape(SHARED_OBJECT),
    BackendRequest.SHARED_OBJECT_LOOKUP: MessageShape(SHARED_OBJECT, reply=NUMBER),
    BackendRequest.SHMEM_MAP: MessageShape(SHARED_MEMORY_MAP, _ONE_DESCRIPTOR),
    BackendRequest.SHMEM_UNMAP: MessageShape(SHARED_MEMORY_MAP),
}


def build_request(
    request: FrontendRequest | BackendRequest, payload: Payload | None = None, *, need_reply: bool = False
) -> bytes:
    """Return the bytes of a message that asks for something."""
    table: dict[Any, MessageShape] = (
        FRONTEND_MESSAGES if isinstance(request, FrontendRequest) else BACKEND_MESSAGES
    )
    body = table[request].payload.build(Empty() if payload is None else payload)
    flags = VERSION | (HeaderFlag.NEED_REPLY if need_reply else 0)
    return HEADER.build(Header(request, flags, len(body))) + body


def build_reply(request: int, body: bytes) -> bytes:
    """Return the bytes of a reply to `request` with the payload `body`."""
    return HEADER.build(Header(request, REPLY_FLAGS, len(body))) + body
