"""Copying a tree from one file system to another, or to another place of the same."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from vhostfs.files.open_file import OpenFile
from vhostfs.files.places import Path, Place, Tree, fail
from vhostfs.filesystem import Caller, DirEntry, Entry, Filesystem, SetAttr, implements, settled

_PAGE: Final = 4096
_CHUNK: Final = 1 << 20
_ZEROES: Final = bytes(_CHUNK)


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What `copy_tree` keeps of the source, and what it does with what is there already."""

    modes: bool = True
    """Permissions; else files become 0644, or 0755 where someone may execute them, directories 0755."""
    owners: bool = True
    """User and group; else what is made belongs to who copies."""
    times: bool = True
    """Times of access and modification."""
    xattrs: bool = True
    """Extended attributes, where the source has any. EOPNOTSUPP where the target cannot take them."""
    hard_links: bool = True
    """Names of one file stay names of one file."""
    holes: bool = True
    """Where the source says that there is no data none is written; zeroes in pages, where it cannot say."""
    special_files: bool = True
    """Devices, FIFOs and sockets are made; else they are left out."""
    overwrite: bool = False
    """What is no directory is replaced by what is copied; else EEXIST. Directories are merged always."""
    follow_symlinks: bool = False
    """What links of the source lead to is copied instead of links; ELOOP where that does not end."""


@dataclass(slots=True)
class Copied:
    """What `copy_tree` did."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    special_files: int = 0
    hard_links: int = 0
    """Further names of files that had been copied."""
    size: int = 0
    """Bytes of data that were written."""


async def copy_tree(
    source: Filesystem[Any],
    source_path: Path,
    target: Filesystem[Any],
    target_path: Path,
    options: CopyOptions | None = None,
    *,
    select: Callable[[str], bool] | None = None,
    on_error: Callable[[OSError], None] | None = None,
    caller: Caller | None = None,
) -> Copied:
    """Copy what is at a path of one file system to a path of the same or another, and tell what was done.

    A directory is copied with all below; one that is there already is merged with. The directory in which
    the target path lies has to be there. `select` gets each path below the source, relative and without a
    slash at the beginning, and answers False for what shall be left out with all below. Without `on_error`
    the first OSError ends the copy; with it each is passed on, `filename` saying which file of the source
    it was about, and the copy goes on without that file. A copy into itself is EINVAL.

    Memory is needed for the names of one directory at each level, and for each file with more names to come.
    """
    copier = _Copier(Tree(source, caller), Tree(target, caller), options or CopyOptions(), select, on_error)
    try:
        await copier.copy(source_path, target_path)
    finally:
        copier.close()
    return copier.copied


@dataclass(slots=True)
class _Level:
    """A directory that is being copied."""

    source: Place
    target: Place
    path: str
    names: list[DirEntry]


@dataclass(slots=True)
class _Linked:
    """A file whose other names may be still to come: both are held, so that their numbers stay theirs."""

    source: Place
    target: Place
    left: int


class _Copier:
    def __init__(
        self,
        source: Tree,
        target: Tree,
        options: CopyOptions,
        select: Callable[[str], bool] | None,
        on_error: Callable[[OSError], None] | None,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._select = select
        self._on_error = on_error
        self._linked: dict[int, _Linked] = {}
        self._levels: list[_Level] = []
        self._reads_xattrs = implements(source.filesystem, "listxattr")
        self._finds_data = implements(source.filesystem, "lseek")
        self.copied = Copied()

    def close(self) -> None:
        """Give back what is held."""
        for level in self._levels:
            level.source.release()
            level.target.release()
        for linked in self._linked.values():
            linked.source.release()
            linked.target.release()
        self._levels.clear()
        self._linked.clear()

    async def copy(self, source_path: Path, target_path: Path) -> None:
        """Copy all."""
        follow = self._options.follow_symlinks or os.fspath(source_path).endswith("/")
        with await self._source.resolve(source_path, follow=follow) as top:
            parent, name, there = await self._target.seek(target_path)
            try:
                self._check_apart(top, there or parent)
                await self._guarded(self._copy_one(top, parent, name, there, ""), "")
            finally:
                parent.release()
                if there is not None:
                    there.release()
            while self._levels:
                level = self._levels[-1]
                if level.names:
                    entry = level.names.pop()
                    path = f"{level.path}/{entry.name}" if level.path else entry.name
                    if self._select is None or self._select(path):
                        await self._guarded(self._copy_below(level, entry, path), path)
                    continue
                await self._guarded(self._finish(level.source, level.target), level.path)
                self._levels.pop()
                level.source.release()
                level.target.release()

    def _check_apart(self, top: Place, target: Place) -> None:
        """Raise EINVAL where the target lies within the source."""
        place: Place | None = target
        while self._source.filesystem is self._target.filesystem and place is not None:
            if place.node == top.node and stat.S_ISDIR(top.attr.mode):
                fail(errno.EINVAL)
            place = place.parent

    async def _guarded(self, step: Any, path: str) -> None:
        try:
            await step
        except OSError as error:
            error.filename = path or "."
            if self._on_error is None:
                raise
            self._on_error(error)

    async def _copy_below(self, level: _Level, entry: DirEntry, path: str) -> None:
        follow = self._options.follow_symlinks
        with await self._source.resolve(entry.name, follow=follow, start=level.source) as source:
            if follow and any(source.node == each.source.node for each in self._levels):
                fail(errno.ELOOP)
            there = await level.target.find(entry.name)
            try:
                await self._copy_one(source, level.target, entry.name, there, path)
            finally:
                if there is not None:
                    there.release()

    async def _copy_one(
        self, source: Place, parent: Place, name: str, there: Place | None, path: str
    ) -> None:
        """Copy one file, or begin to copy a directory."""
        kind = stat.S_IFMT(source.attr.mode)
        if kind == stat.S_IFDIR:
            await self._begin(source, parent, name, there, path)
            return
        if kind not in {stat.S_IFREG, stat.S_IFLNK} and not self._options.special_files:
            return
        if there is not None:
            if stat.S_ISDIR(there.attr.mode):
                fail(errno.EISDIR)
            if not self._options.overwrite:
                fail(errno.EEXIST)
            target = self._target
            await settled(target.filesystem.unlink(target.caller, parent.node, name))
        linked = self._linked.get(source.node)
        if linked is not None:
            target = self._target
            entry = await settled(
                target.filesystem.link(target.caller, linked.target.node, parent.node, name)
            )
            target.enter(parent, entry).release()
            self.copied.hard_links += 1
            linked.left -= 1
            if not linked.left:
                del self._linked[source.node]
                linked.source.release()
                linked.target.release()
            return
        if kind == stat.S_IFREG:
            made = await self._copy_file(source, parent, name)
        else:
            made = await self._make(source, parent, name, kind)
        with made:
            await self._finish(source, made)
            if self._options.hard_links and source.attr.nlink > 1:
                self._linked[source.node] = _Linked(source.hold(), made.hold(), source.attr.nlink - 1)

    # ---- Directories ----

    async def _begin(self, source: Place, parent: Place, name: str, there: Place | None, path: str) -> None:
        target = self._target
        if there is not None:
            there.check_directory()
            place = there.hold()
        else:
            mode = 0o700 if self._options.modes else 0o755
            entry = await settled(target.filesystem.mkdir(target.caller, parent.node, name, mode))
            place = target.enter(parent, entry)
        try:
            async with source.listing() as entries:
                names = [entry async for entry in entries]
        except BaseException:
            place.release()
            raise
        names.reverse()
        self._levels.append(_Level(source.hold(), place, path, names))
        self.copied.directories += 1

    # ---- What is no directory ----

    async def _make(self, source: Place, parent: Place, name: str, kind: int) -> Place:
        target = self._target
        filesystem, caller = target.filesystem, target.caller
        entry: Entry
        if kind == stat.S_IFLNK:
            entry = await settled(filesystem.symlink(caller, parent.node, name, await source.readlink()))
            self.copied.symlinks += 1
        else:
            mode = kind | 0o600
            entry = await settled(filesystem.mknod(caller, parent.node, name, mode, source.attr.rdev))
            self.copied.special_files += 1
        return target.enter(parent, entry)

    async def _copy_file(self, source: Place, parent: Place, name: str) -> Place:
        reader = await OpenFile.at(source.hold(), os.O_RDONLY)
        try:
            permissions = 0o600
            if not self._options.modes:
                permissions = 0o755 if source.attr.mode & 0o111 else 0o644
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            writer = await OpenFile.make(parent, name, permissions, flags)
            made = writer.place.hold()
            try:
                try:
                    await self._copy_data(reader, writer)
                finally:
                    await writer.close()
            except BaseException:
                made.release()
                raise
        finally:
            await reader.close()
        self.copied.files += 1
        return made

    async def _copy_data(self, reader: OpenFile, writer: OpenFile) -> None:
        size = (await reader.attr()).size
        memory = memoryview(bytearray(min(_CHUNK, max(size, _PAGE))))
        reached = written = 0
        async with aclosing(self._data(reader, size)) as stretches:
            async for begin, end in stretches:
                offset = begin
                while offset < end:
                    count = await reader.read_into(offset, memory[: min(len(memory), end - offset)])
                    if not count:
                        break
                    for first, last in self._pieces(memory[:count]):
                        await writer.write(offset + first, memory[first:last])
                        self.copied.size += last - first
                        written = offset + last
                    offset += count
                    reached = offset
        if self._options.holes and self._finds_data:
            reached = max(reached, size)
        if reached > written:
            await writer.truncate(reached)

    async def _data(self, reader: OpenFile, size: int) -> AsyncGenerator[tuple[int, int]]:
        """Yield where data is; without knowing, all until the file ends, wherever that is."""
        if not (self._options.holes and self._finds_data):
            yield 0, 1 << 63
            return
        begin = 0
        while begin < size:
            try:
                begin = await reader.seek_data(begin, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = await reader.seek_data(begin, os.SEEK_HOLE)
            if end <= begin:
                raise OSError(errno.EIO, "the source finds neither data nor a hole")
            yield begin, end
            begin = end

    def _pieces(self, memory: memoryview) -> list[tuple[int, int]]:
        """Return which parts are to be written: all, unless holes are to be found by their zeroes."""
        if not self._options.holes or self._finds_data:
            return [(0, len(memory))]
        pieces: list[tuple[int, int]] = []
        for begin in range(0, len(memory), _PAGE):
            end = min(begin + _PAGE, len(memory))
            if memory[begin:end] == _ZEROES[: end - begin]:
                continue
            if pieces and pieces[-1][1] == begin:
                pieces[-1] = pieces[-1][0], end
            else:
                pieces.append((begin, end))
        return pieces

    # ---- What a file is besides its data ----

    async def _finish(self, source: Place, target: Place) -> None:
        """Give the copy owner, extended attributes, permissions and times, in this order."""
        options, attr = self._options, source.attr
        if options.owners:
            await self._set(target, SetAttr(uid=attr.uid, gid=attr.gid))
        if options.xattrs and self._reads_xattrs:
            await self._copy_xattrs(source, target)
        link = stat.S_ISLNK(attr.mode)
        changes = SetAttr(
            mode=attr.mode & 0o7777 if options.modes and not link else None,
            atime_ns=attr.atime_ns if options.times else None,
            mtime_ns=attr.mtime_ns if options.times else None,
        )
        if changes != SetAttr():
            await self._set(target, changes)

    async def _set(self, place: Place, changes: SetAttr) -> None:
        target = self._target
        await settled(target.filesystem.setattr(target.caller, place.node, None, changes))

    async def _copy_xattrs(self, source: Place, target: Place) -> None:
        reader, writer = self._source, self._target
        try:
            names = list(await settled(reader.filesystem.listxattr(reader.caller, source.node)))
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
                return
            raise
        for name in names:
            value = await settled(reader.filesystem.getxattr(reader.caller, source.node, name))
            if not implements(writer.filesystem, "setxattr"):
                fail(errno.EOPNOTSUPP)
            taken = writer.filesystem.setxattr(writer.caller, target.node, name, value, 0, False)
            await settled(taken)
