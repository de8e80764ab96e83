"""One layer of an overlay: a file system, the lookups of its nodes that are held, and what is asked of it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, NamedTuple

from vhostfs.backends.overlay.marks import MarkNames
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    implemented,
    settled,
)
from vhostfs.filesystem.refusals import refused

OVERLAY: Final = Caller()
"""Who asks a layer when the overlay does so on its own account: lookups, copies, marks, whiteouts."""

_NUMBER_BITS: Final = 56
_NESTED_NUMBER_BITS: Final = 48
_DOTS: Final = frozenset({".", ".."})
_ABSENT: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES})


async def whole[Result](steps: Coroutine[Any, Any, Result]) -> Result:
    """Take several steps without being cancelled in their midst: what is done is answered so.

    Who goes on with something long behind them asks Caller.interrupted.
    """
    task = asyncio.Task(steps, loop=asyncio.get_running_loop(), eager_start=True)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            assert waiting is not None
            waiting.uncancel()
    return task.result()


class Real(NamedTuple):
    """A file in one layer: whoever keeps it holds one lookup of it, until Layer.drop."""

    layer: Layer
    node: int
    holds_files_as_whiteouts: bool = False
    """A directory marked so that empty files in it may be whiteouts."""


class Directory(NamedTuple):
    """The marks of a directory in one layer."""

    opaque: bool
    holds_files_as_whiteouts: bool
    redirect: bytes | None
    impure: bool


class Layer:
    """A file system as one layer; `position` is 0 for the upper one, the lower ones count on from 1.

    `path` leads to the directory in it that is the layer, '' being all of it.
    """

    def __init__(self, position: int, filesystem: Filesystem[Any], marks: MarkNames, path: str = "") -> None:
        self.position: Final = position
        self.filesystem: Final = filesystem
        self.path: Final = path
        self.root = ROOT
        """The node of the layer's own root, held from `begin` to `drop_all`."""
        self.answers: Final = implemented(filesystem)
        self.marks: Final = marks
        self._held: Final[dict[int, int]] = {}
        self._numbers: Final = position << _NUMBER_BITS

    def __repr__(self) -> str:
        """Return which layer it is."""
        return f"Layer({self.position})"

    def number(self, ino: int) -> int:
        """Return the st_ino for a file of this layer: the layer's number in the high bits."""
        if ino >> _NUMBER_BITS == 0:
            return self._numbers | ino
        # An overlay as a layer, say, which uses these bits itself.
        return ino ^ (self.position + 1 << _NESTED_NUMBER_BITS)

    async def begin(self) -> None:
        """Find the layer's root. OSError ENOENT, ENOTDIR."""
        self.root = (await self.directory(self.path)).node

    async def directory(self, path: str) -> Real:
        """Return a directory, held, by its path from the file system's own root. OSError ENOENT, ENOTDIR."""
        real = Real(self, ROOT)
        for name in path.split("/"):
            if not name:
                continue
            hit = await self.lookup(real.node, name)
            self.drop(real.node)
            if hit is None:
                raise OSError(errno.ENOENT, f"there is no {path} in {self}")
            real, attr = hit
            if not is_directory(attr):
                self.drop(real.node)
                raise OSError(errno.ENOTDIR, f"{path} in {self} is no directory")
        return real

    # ---- Lookups that are held ----

    def hold(self, entry: Entry) -> int:
        """Count the lookup that an entry stands for; return its node."""
        node = entry.attr.ino if entry.node is None else entry.node
        self.keep(node)
        return node

    def keep(self, node: int) -> None:
        """Count one more lookup of a node that is held already."""
        if node != ROOT:
            self._held[node] = self._held.get(node, 0) + 1

    def drop(self, node: int) -> None:
        """Give back one lookup; the layer forgets the node with the last one."""
        held = self._held.get(node, 0)
        if held > 1:
            self._held[node] = held - 1
        elif held:
            del self._held[node]
            self.filesystem.forget(node)

    def drop_all(self) -> None:
        """Give back every lookup."""
        self.root = ROOT
        held = list(self._held)
        self._held.clear()
        for node in held:
            self.filesystem.forget(node)

    # ---- Questions ----

    async def lookup(self, node: int, name: str) -> tuple[Real, Attr] | None:
        """Find a name, and hold what was found."""
        try:
            entry = await settled(self.filesystem.lookup(OVERLAY, node, name))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                return None
            raise
        if entry is None:
            return None
        return Real(self, self.hold(entry)), entry.attr

    async def getattr(self, node: int) -> Attr:
        """Return a node's attributes."""
        return await settled(self.filesystem.getattr(OVERLAY, node, None))

    async def xattr(self, node: int, name: str) -> bytes | None:
        """Return an extended attribute, or None where there is none such."""
        if "getxattr" not in self.answers:
            return None
        try:
            return bytes(await settled(self.filesystem.getxattr(OVERLAY, node, name)))
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    async def xattr_names(self, node: int) -> list[str]:
        """Return the names of a node's extended attributes."""
        if "listxattr" not in self.answers:
            return []
        try:
            return list(await settled(self.filesystem.listxattr(OVERLAY, node)))
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise

    async def set_xattr(self, node: int, name: str, value: bytes) -> None:
        """Set an extended attribute."""
        if "setxattr" not in self.answers:
            raise refused(errno.EOPNOTSUPP)
        await settled(self.filesystem.setxattr(OVERLAY, node, name, value, 0, False))

    async def directory_marks(self, node: int) -> Directory:
        """Return what a directory says of the layers below."""
        names = [name for name in await self.xattr_names(node) if name.startswith(self.marks.prefix)]
        opaque = await self.xattr(node, self.marks.opaque) if self.marks.opaque in names else None
        redirect = await self.xattr(node, self.marks.redirect) if self.marks.redirect in names else None
        impure = self.marks.impure in names
        return Directory(opaque == b"y", self.position > 0 and opaque == b"x", redirect, impure)

    async def close_file(self, node: int, handle: Any, flags: int, caller: Caller = OVERLAY) -> None:
        """Give back what the file system's open or create returned; not to be cancelled."""
        if "release" in self.answers:
            await whole(settled(self.filesystem.release(caller, node, handle, flags)))

    # ---- Listings ----

    async def open_directory(self, node: int) -> Any:
        """Return a handle of a directory, None where the file system needs none."""
        if "opendir" not in self.answers:
            return None
        flags = os.O_RDONLY | os.O_DIRECTORY
        return (await settled(self.filesystem.opendir(OVERLAY, node, flags))).handle

    async def close_directory(self, node: int, handle: Any) -> None:
        """Give back what open_directory returned; not to be cancelled."""
        if {"opendir", "releasedir"} <= self.answers:
            await whole(settled(self.filesystem.releasedir(OVERLAY, node, handle, os.O_RDONLY)))

    async def list(self, node: int) -> AsyncGenerator[DirEntry]:
        """Yield a directory's entries but '.' and '..', from the beginning to the end."""
        handle = await self.open_directory(node)
        try:
            async with aclosing(self.list_open(node, handle, 0)) as entries:
                async for entry in entries:
                    yield entry
        finally:
            await self.close_directory(node, handle)

    async def list_open(self, node: int, handle: Any, offset: int) -> AsyncGenerator[DirEntry]:
        """Yield the entries behind a cookie but '.' and '..', each with its own cookie."""
        number = 0
        async with aclosing(_entries(self.filesystem, node, handle, offset)) as entries:
            async for entry in entries:
                number += 1
                if entry.offset is None and number <= offset:
                    continue
                if entry.name not in _DOTS:
                    yield entry if entry.offset is not None else replace(entry, offset=number)


async def _entries(
    filesystem: Filesystem[Any], node: int, handle: Any, offset: int
) -> AsyncGenerator[DirEntry]:
    """Yield what a file system's readdir yields, whatever kind of listing it is."""
    listing: Any = await settled(filesystem.readdir(OVERLAY, node, handle, offset))
    try:
        if hasattr(listing, "__aiter__"):
            async for entry in listing:
                yield entry
        else:
            for entry in listing:
                yield entry
    finally:
        if hasattr(listing, "aclose"):
            await listing.aclose()
        elif hasattr(listing, "close"):
            listing.close()


def is_directory(attr: Attr) -> bool:
    """Tell whether attributes are those of a directory."""
    return stat.S_ISDIR(attr.mode)
