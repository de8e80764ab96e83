"""vhostfs: share file systems with virtual machines over virtio-fs, and mount them on this host.

    vhostfs.serve   serve a file system to virtual machines, as a coroutine
    vhostfs.run     the same until a signal, for a program that does nothing else
    vhostfs.FileHandle, walk, copy_tree   files of any file system, used without a mount
    vhostfs.mount     mount a file system on this host, until a signal or an unmount
    vhostfs.mounted   the same while a block of a program runs
    vhostfs.filesystem   the class to derive a file system from, and its types
    vhostfs.testing      tests of file systems without a guest

What a name stands for is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vhostfs.files import FileHandle, copy_tree, walk
    from vhostfs.filesystem import Filesystem
    from vhostfs.mounting import mount, mounted
    from vhostfs.serving import run, serve

__version__ = "0.1.0"

__all__ = ["FileHandle", "Filesystem", "copy_tree", "mount", "mounted", "run", "serve", "walk"]

_HOMES = {
    "FileHandle": "vhostfs.files",
    "Filesystem": "vhostfs.filesystem",
    "copy_tree": "vhostfs.files",
    "mount": "vhostfs.mounting",
    "mounted": "vhostfs.mounting",
    "run": "vhostfs.serving",
    "serve": "vhostfs.serving",
    "walk": "vhostfs.files",
}


def __getattr__(name: str) -> Any:
    """Import what a public name stands for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
