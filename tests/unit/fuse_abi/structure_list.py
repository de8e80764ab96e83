"""All structures that vhostfs.fuse_abi declares, for tests that hold for every one of them."""

from __future__ import annotations

from typing import Final

from vhostfs.fuse_abi import device, directory, extensions, notifications, structures
from vhostfs.fuse_abi.layout import Structure

STRUCTURES: Final[list[type[Structure]]] = sorted(
    {
        kind
        for module in (device, directory, extensions, notifications, structures)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Structure) and kind is not Structure
    },
    key=lambda kind: kind.__name__,
)
