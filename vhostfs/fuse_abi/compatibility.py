"""The sizes that structures had in older minor versions: each is the beginning of today's.

The version that counts is the smaller of the two that INIT exchanged. Linux sends and expects the short form
wherever a server answers INIT with a smaller minor version, and so do kernels of that age.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.structures import (
    AttrOut,
    CreateIn,
    EntryOut,
    InitIn,
    InitOut,
    MknodIn,
    SetxattrIn,
    StatfsOut,
    WriteIn,
)

OLD_SIZES: Final = MappingProxyType[type[Structure], tuple[tuple[int, int], ...]](
    {
        InitIn: ((36, 16),),
        InitOut: ((5, 8), (23, 24)),
        StatfsOut: ((4, 48),),
        EntryOut: ((9, 120),),
        AttrOut: ((9, 96),),
        WriteIn: ((9, 24),),
        MknodIn: ((12, 8),),
        CreateIn: ((12, 8),),
        SetxattrIn: ((33, 8),),
    }
)
"""For each structure that grew: (minor, size) where all minor versions below that one know only size bytes.

SETXATTR keeps its short form beyond minor 33 too, until InitFlags.SETXATTR_EXT is taken.
"""


def size_at(kind: type[Structure], minor: int) -> int:
    """Return the size in bytes of a structure on a connection of the given minor version."""
    for below, size in OLD_SIZES.get(kind, ()):
        if minor < below:
            return size
    return kind.SIZE
