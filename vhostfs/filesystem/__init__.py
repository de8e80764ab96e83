"""The public API for file systems written in Python: a class to derive from, and what it is asked with.

interface   Filesystem, its options, and what it may ask of its session
types       attributes, entries, handles, listings, locks, callers
buffers     the data of reads and writes
operations  which operations a file system answers
refusals    how an operation is refused
wrapper     file systems before file systems
commands    what whoever runs a file system may ask of it
paths       file systems that are asked by path; path_nodes: how they are served
"""

from vhostfs.filesystem.buffers import ReadBuffer, WriteBuffer
from vhostfs.filesystem.commands import Command, Order, Progress
from vhostfs.filesystem.interface import Filesystem, MaybeAwaitable, Options, Session
from vhostfs.filesystem.operations import OPERATIONS, implemented, implements
from vhostfs.filesystem.path_nodes import by_nodes
from vhostfs.filesystem.paths import PathFilesystem
from vhostfs.filesystem.types import (
    LOCK_END,
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    FileType,
    IoctlReply,
    Lock,
    LockType,
    Opened,
    SetAttr,
    StatFs,
    StatX,
)
from vhostfs.filesystem.wrapper import Wrapper, settled, then
from vhostfs.fuse_abi.flags import AttrFlags, FallocateFlags, OpenReplyFlags, RenameFlags, WriteFlags

__all__ = [
    "LOCK_END",
    "OPERATIONS",
    "ROOT",
    "Attr",
    "AttrFlags",
    "Caller",
    "Command",
    "DirEntry",
    "Entry",
    "FallocateFlags",
    "FileType",
    "Filesystem",
    "IoctlReply",
    "Lock",
    "LockType",
    "MaybeAwaitable",
    "OpenReplyFlags",
    "Opened",
    "Options",
    "Order",
    "PathFilesystem",
    "Progress",
    "ReadBuffer",
    "RenameFlags",
    "Session",
    "SetAttr",
    "StatFs",
    "StatX",
    "Wrapper",
    "WriteBuffer",
    "WriteFlags",
    "by_nodes",
    "implemented",
    "implements",
    "settled",
    "then",
]
