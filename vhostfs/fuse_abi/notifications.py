"""What a server sends unasked (7.45): OutHeader with unique 0 and a NotifyCode for error, then these."""

from __future__ import annotations

from vhostfs.fuse_abi.layout import S64, U32, U64, Structure, structure


@structure("fuse_notify_poll_wakeup_out")
class NotifyPollWakeupOut(Structure):
    """POLL: wake who polls with the handle kh."""

    kh: U64 = 0


@structure("fuse_notify_inval_inode_out")
class NotifyInvalInodeOut(Structure):
    """INVAL_INODE: drop the attributes of a node and the cached data of a range; len 0 is up to the end."""

    ino: U64 = 0
    off: S64 = 0
    len: S64 = 0


@structure("fuse_notify_inval_entry_out")
class NotifyInvalEntryOut(Structure):
    """INVAL_ENTRY: drop a name. namelen bytes and a NUL follow; flags are InvalEntryFlags."""

    parent: U64 = 0
    namelen: U32 = 0
    flags: U32 = 0


@structure("fuse_notify_delete_out")
class NotifyDeleteOut(Structure):
    """DELETE: drop a name if it still leads to child. namelen bytes and a NUL follow."""

    parent: U64 = 0
    child: U64 = 0
    namelen: U32 = 0
    padding: U32 = 0


@structure("fuse_notify_store_out")
class NotifyStoreOut(Structure):
    """STORE: put size bytes, which follow, into the page cache."""

    nodeid: U64 = 0
    offset: U64 = 0
    size: U32 = 0
    padding: U32 = 0


@structure("fuse_notify_retrieve_out")
class NotifyRetrieveOut(Structure):
    """RETRIEVE: ask for cached data, which NOTIFY_REPLY brings."""

    notify_unique: U64 = 0
    nodeid: U64 = 0
    offset: U64 = 0
    size: U32 = 0
    padding: U32 = 0


@structure("fuse_notify_retrieve_in")
class NotifyRetrieveIn(Structure):
    """NOTIFY_REPLY, before the data."""

    dummy1: U64 = 0
    offset: U64 = 0
    size: U32 = 0
    dummy2: U32 = 0
    dummy3: U64 = 0
    dummy4: U64 = 0


@structure("fuse_notify_prune_out")
class NotifyPruneOut(Structure):
    """PRUNE: ask the kernel to let go of count unused nodes, whose 64-bit nodeids follow."""

    count: U32 = 0
    padding: U32 = 0
    spare: U64 = 0
