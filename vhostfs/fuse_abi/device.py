"""What only /dev/fuse and /dev/cuse know (7.45): character devices, backing files, io_uring."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

from vhostfs.fuse_abi.layout import S32, U16, U32, U64, Structure, structure

DEV_IOC_CLONE: Final = 0x8004E500
"""Join the session of the descriptor that the argument points to (FUSE_DEV_IOC_CLONE)."""

DEV_IOC_BACKING_OPEN: Final = 0x4010E501
"""Register a backing file and return its id (FUSE_DEV_IOC_BACKING_OPEN)."""

DEV_IOC_BACKING_CLOSE: Final = 0x4004E502
"""Forget a backing file by its id (FUSE_DEV_IOC_BACKING_CLOSE)."""

DEV_IOC_SYNC_INIT: Final = 0xE503
"""Let mount(2) wait for INIT (FUSE_DEV_IOC_SYNC_INIT)."""

CUSE_INIT_INFO_MAX: Final = 4096
"""The most bytes of a character device's description."""


class UringCommand(IntEnum):
    """What a submission entry asks of /dev/fuse (enum fuse_uring_cmd)."""

    INVALID = 0
    REGISTER = 1
    COMMIT_AND_FETCH = 2


@structure("cuse_init_in")
class CuseInitIn(Structure):
    """CUSE_INIT."""

    major: U32 = 0
    minor: U32 = 0
    unused: U32 = 0
    flags: U32 = 0


@structure("cuse_init_out")
class CuseInitOut(Structure):
    """Answer CUSE_INIT, before the device description."""

    major: U32 = 0
    minor: U32 = 0
    unused: U32 = 0
    flags: U32 = 0
    max_read: U32 = 0
    max_write: U32 = 0
    dev_major: U32 = 0
    dev_minor: U32 = 0
    spare: Annotated[bytes, "40s"] = bytes(40)


@structure("fuse_backing_map")
class BackingMap(Structure):
    """The argument of DEV_IOC_BACKING_OPEN."""

    fd: S32 = 0
    flags: U32 = 0
    padding: U64 = 0


@structure("fuse_uring_ent_in_out")
class UringEntInOut(Structure):
    """What a ring entry holds beside the request."""

    flags: U64 = 0
    commit_id: U64 = 0
    payload_sz: U32 = 0
    padding: U32 = 0
    reserved: U64 = 0


@structure("fuse_uring_req_header")
class UringReqHeader(Structure):
    """The header area of a ring entry: in and out headers, the arguments of the opcode, the entry."""

    in_out: Annotated[bytes, "128s"] = bytes(128)
    op_in: Annotated[bytes, "128s"] = bytes(128)
    ring_ent_in_out: UringEntInOut = UringEntInOut()


@structure("fuse_uring_cmd_req")
class UringCmdReq(Structure):
    """The command area of a submission entry."""

    flags: U64 = 0
    commit_id: U64 = 0
    qid: U16 = 0
    padding: Annotated[bytes, "6s"] = bytes(6)
