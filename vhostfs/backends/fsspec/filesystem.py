"""The operations of a place that fsspec can open."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, time_ns
from typing import Final

from vhostfs.backends.fsspec.blocks import BlockCache
from vhostfs.backends.fsspec.drafts import Budget, Draft
from vhostfs.backends.fsspec.names import Found, Names, found_by
from vhostfs.backends.fsspec.nodes import Memory, Node, Nodes, child_place, inode_of
from vhostfs.backends.fsspec.remote import Remote
from vhostfs.filesystem import (
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    FileType,
    MaybeAwaitable,
    Opened,
    OpenReplyFlags,
    Options,
    ReadBuffer,
    RenameFlags,
    Session,
    SetAttr,
    StatFs,
    WriteBuffer,
    WriteFlags,
)
from vhostfs.filesystem.refusals import refused

logger = logging.getLogger(__name__)

_LISTINGS: Final = 64
"""Of how many directories of an HTTP server the listing is kept, which alone tells files from directories."""

_PLENTY: Final = 1 << 30
"""Blocks that a place is said to have free: nobody knows how many there are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The keys of FsspecSettings that concern what is served."""

    uid: int = 0
    gid: int = 0
    file_mode: int = 0o644
    dir_mode: int = 0o755
    cache_seconds: float = 10.0
    block_size: int = 1 << 20
    cache_size: int = 64 << 20
    write_size: int = 256 << 20
    timeout_seconds: float = 120.0


class Handle:
    """An open file: its draft where it is being written, or what it was when it was opened."""

    __slots__ = ("content", "draft", "path", "size", "version")

    def __init__(
        self, found: Found, version: tuple[str, ...], draft: Draft | None, content: bytes | None
    ) -> None:
        self.path = found.path
        self.size = found.size or 0
        self.version = version
        self.draft = draft
        self.content = content
        """All of it, where the size was unknown before."""


def _is_vague(found: Found | None) -> bool:
    """Tell whether only a listing spoke of a file, without saying how long it is."""
    return found is not None and not found.directory and found.size is None


class FsspecFilesystem(Filesystem[Handle]):
    """A place that fsspec can open, for one session at a time."""

    def __init__(self, remote: Remote, limits: Limits, *, writable: bool) -> None:
        """Serve a place, for reading unless it is `writable`."""
        self.options = Options(
            entry_seconds=limits.cache_seconds,
            attr_seconds=limits.cache_seconds,
            negative_seconds=min(1.0, limits.cache_seconds),
            timeout_seconds=limits.timeout_seconds,
        )
        self._remote = remote
        self._limits = limits
        self._writable = writable
        self._names = Names("", quoted=remote.is_http)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._nodes = Nodes(Found(self._remote.root, directory=True))
        self._memory = Memory(self._limits.cache_seconds)
        self._listings: OrderedDict[str, tuple[float, dict[str, Found]]] = OrderedDict()
        self._made: dict[str, set[str]] = {}
        """Directories that the guest made, or emptied, by their parents: object stores know of none."""
        limits = self._limits
        self._blocks = BlockCache(self._remote, limits.block_size, limits.cache_size, limits.timeout_seconds)
        self._budget = Budget(self._limits.write_size)

    # ---- Life ----

    async def init(self, session: Session) -> None:
        """Connect."""
        await self._remote.begin()
        self._names = Names(self._remote.root_marker, quoted=self._remote.is_http)
        self._begin_anew()

    async def destroy(self) -> None:
        """Disconnect."""
        await self._blocks.close()
        await self._remote.end()

    # ---- What there is ----

    async def _find(self, parent: Node, name: str) -> Found | None:
        """Return what has a name, as far as was heard lately or can be heard now."""
        place = child_place(parent.place, name)
        node = self._nodes.at(place)
        if node is not None and node.draft is not None:
            return node.found
        known, found = self._memory.get(place)
        if known and not _is_vague(found):
            return found
        path = self._names.join(parent.found.path, name)
        if self._remote.is_http:
            listed = await self._listed(parent, name)
            if listed is not None:
                path = listed.path
                if listed.directory:
                    self._memory.put(place, listed)
                    return listed
        found = await self._ask(path, place)
        self._memory.put(place, found)
        return found

    async def _ask(self, path: str, place: str) -> Found | None:
        try:
            return found_by(await self._remote.info(path), path)
        except (FileNotFoundError, NotADirectoryError):
            directory, _, name = place.rpartition("/")
            return Found(path, directory=True) if name in self._made.get(directory, ()) else None

    async def _listed(self, directory: Node, name: str) -> Found | None:
        """Return what a listing of an HTTP server says of a name."""
        kept = self._listings.get(directory.place)
        if kept is None or kept[0] <= monotonic():
            try:
                return (await self._list(directory)).get(name)
            except OSError:
                # Many a server lists nothing, and has files all the same.
                return None
        return kept[1].get(name)

    async def _list(self, directory: Node) -> dict[str, Found]:
        """Return what is in a directory, by name."""
        place = directory.place
        above, _, own_name = place.rpartition("/")
        try:
            infos = await self._remote.list(directory.found.path)
        except FileNotFoundError:
            if place and own_name not in self._made.get(above, ()):
                raise
            infos = []
        listing: dict[str, Found] = {}
        for info in infos:
            found = found_by(info)
            name = self._names.split(directory.found.path, found.path)
            if name is not None:
                listing[name] = found
        for name in self._made.get(place, ()):
            listing.setdefault(name, Found(self._names.join(directory.found.path, name), directory=True))
        for name, found in listing.items():
            self._memory.put(child_place(place, name), found)
        if self._remote.is_http:
            self._listings[place] = monotonic() + self._limits.cache_seconds, listing
            if len(self._listings) > _LISTINGS:
                self._listings.popitem(last=False)
        return listing

    def _directory(self, number: int) -> Node:
        node = self._nodes[number]
        if not node.found.directory:
            raise refused(errno.ENOTDIR)
        return node

    def _attr(self, node: Node) -> Attr:
        found, limits = node.found, self._limits
        if found.directory:
            mode = stat.S_IFDIR | (limits.dir_mode if found.permissions is None else found.permissions)
        else:
            mode = stat.S_IFREG | (limits.file_mode if found.permissions is None else found.permissions)
        draft = node.draft
        size = 0 if found.directory else len(draft.data) if draft is not None else found.size or 0
        time = found.mtime_ns if draft is None else draft.mtime_ns
        return Attr(
            ino=node.inode,
            mode=mode,
            size=size,
            nlink=2 if found.directory else int(node.known),
            uid=limits.uid,
            gid=limits.gid,
            atime_ns=time,
            mtime_ns=time,
            ctime_ns=time,
        )

    def _entry(self, node: Node) -> Entry:
        return Entry(self._attr(node), node.number)

    # ---- Names and attributes ----

    async def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        """Find a name."""
        directory = self._directory(parent)
        found = await self._find(directory, name)
        if found is None:
            return None
        return self._entry(self._nodes.enter(child_place(directory.place, name), found))

    def forget(self, node: int) -> None:
        """Forget a node."""
        self._nodes.forget(node)

    async def getattr(self, caller: Caller, node: int, handle: Handle | None) -> Attr:
        """Return what is known of a file. ENOENT where it is gone."""
        known = self._nodes[node]
        await self._refresh(known)
        return self._attr(known)

    async def _refresh(self, node: Node) -> None:
        """Hear what a node is now, unless that was heard lately. ENOENT."""
        if node.number == ROOT or node.draft is not None or not node.known:
            return
        if node.found.directory and self._remote.is_http:
            return
        known, found = self._memory.get(node.place)
        if not known or _is_vague(found):
            found = await self._ask(node.found.path, node.place)
            self._memory.put(node.place, found)
        if found is None or found.directory != node.found.directory:
            raise refused(errno.ENOENT)
        node.found = found

    async def readdir(
        self, caller: Caller, node: int, handle: Handle | None, offset: int
    ) -> Iterable[DirEntry]:
        """List a directory; the names' lookups, which follow, are answered from the listing."""
        directory = self._directory(node)
        listing = await self._list(directory)
        return (
            DirEntry(
                name,
                inode_of(child_place(directory.place, name)),
                FileType.DIRECTORY if found.directory else FileType.REGULAR,
            )
            for name, found in listing.items()
        )

    def statfs(self, caller: Caller, node: int) -> StatFs:
        """Tell that there is room, where anything may be written."""
        if not self._writable:
            return StatFs()
        return StatFs(blocks=_PLENTY, bfree=_PLENTY, bavail=_PLENTY)

    # ---- Reading ----

    async def open(self, caller: Caller, node: int, flags: int) -> Opened[Handle]:
        """Open a file; for writing with all that it holds. EROFS, EISDIR, ENOSPC."""
        found = self._nodes[node]
        if found.found.directory:
            raise refused(errno.EISDIR)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self._check_writable()
            draft = await self._draft(found, empty=bool(flags & os.O_TRUNC))
            return Opened(self._with_draft(found, draft))
        if found.draft is not None:
            return Opened(self._with_draft(found, found.draft))
        before = found.found.version
        await self._refresh(found)
        now = found.found
        if now.size is None:
            content = await self._remote.read(now.path)
            if len(content) > self._limits.cache_size:
                raise refused(errno.EFBIG)
            return Opened(Handle(now, (), None, content), OpenReplyFlags.DIRECT_IO)
        same = bool(now.version) and now.version == before
        version = now.version or self._spell()
        return Opened(
            Handle(now, version, None, None), OpenReplyFlags.KEEP_CACHE if same else OpenReplyFlags(0)
        )

    def _spell(self) -> tuple[str, ...]:
        """Return a version for what has none: the same for as long as things are trusted."""
        return (str(int(monotonic() / max(self._limits.cache_seconds, 0.001))),)

    @staticmethod
    def _with_draft(node: Node, draft: Draft) -> Handle:
        draft.users += 1
        return Handle(node.found, (), draft, None)

    def read(
        self, caller: Caller, node: int, handle: Handle | None, offset: int, buffer: ReadBuffer
    ) -> MaybeAwaitable[bytes]:
        """Read: from blocks that were fetched already, at once."""
        if handle is None:
            raise refused(errno.EBADF)
        if handle.draft is not None:
            return bytes(memoryview(handle.draft.data)[offset : offset + buffer.size])
        if handle.content is not None:
            return handle.content[offset : offset + buffer.size]
        size = min(buffer.size, handle.size - offset)
        if size <= 0:
            return b""
        place = (handle.path, handle.version, handle.size, offset, size)
        data = self._blocks.cached(*place)
        return self._blocks.read(*place) if data is None else data

    async def release(self, caller: Caller, node: int, handle: Handle, flags: int) -> None:
        """Close a file; the last who wrote uploads what was not yet."""
        draft = handle.draft
        if draft is None:
            return
        found = self._nodes[node]
        draft.users -= 1
        if draft.users:
            return
        try:
            await self._upload(found, draft)
        except OSError as error:
            logger.warning("what was written to %s is lost: %s", found.found.path, error)
        if not draft.users and found.draft is draft:
            found.draft = None
            draft.close()

    # ---- Writing ----

    def _check_writable(self) -> None:
        if not self._writable:
            raise refused(errno.EROFS)

    async def _draft(self, node: Node, *, empty: bool) -> Draft:
        """Return the draft of a file, begun with its content unless it is to be empty."""
        if node.draft is None:
            data = b""
            if not empty:
                await self._refresh(node)
                if (node.found.size or 0) > self._budget.left:
                    raise refused(errno.ENOSPC)
                data = await self._remote.read(node.found.path)
            if node.draft is None:
                node.draft = Draft(self._budget, data, node.found.mtime_ns)
        draft = node.draft
        if empty:
            draft.resize(0)
            self._touch(draft)
        return draft

    @staticmethod
    def _touch(draft: Draft) -> None:
        draft.dirty = True
        draft.mtime_ns = time_ns()

    def write(
        self,
        caller: Caller,
        node: int,
        handle: Handle | None,
        offset: int,
        data: WriteBuffer,
        flags: WriteFlags,
    ) -> int:
        """Change the draft. ENOSPC where drafts take all that they may."""
        if handle is None or handle.draft is None:
            raise refused(errno.EBADF)
        done = handle.draft.write(offset, data)
        self._touch(handle.draft)
        return done

    async def flush(self, caller: Caller, node: int, handle: Handle | None, lock_owner: int) -> None:
        """Upload what was written: close(2) tells how that went."""
        if handle is not None and handle.draft is not None:
            await self._upload(self._nodes[node], handle.draft)

    async def fsync(self, caller: Caller, node: int, handle: Handle | None, datasync: bool) -> None:
        """Upload what was written."""
        await self.flush(caller, node, handle, 0)

    async def _upload(self, node: Node, draft: Draft) -> None:
        async with draft.lock:
            if not draft.dirty or not node.known:
                return
            draft.dirty = False
            data = bytes(draft.data)
            try:
                await self._remote.replace(node.found.path, data)
            except BaseException:
                draft.dirty = True
                raise
            node.found = replace(node.found, size=len(data), mtime_ns=draft.mtime_ns, version=())
            self._memory.drop(node.place)

    async def setattr(self, caller: Caller, node: int, handle: Handle | None, changes: SetAttr) -> Attr:
        """Change the size. EPERM for owner and permissions, which are not kept; times stay."""
        known = self._nodes[node]
        attr = self._attr(known)
        wanted = {"uid": changes.uid, "gid": changes.gid, "mode": changes.mode}
        had = {"uid": attr.uid, "gid": attr.gid, "mode": stat.S_IMODE(attr.mode)}
        if any(value is not None and value != had[name] for name, value in wanted.items()):
            raise refused(errno.EPERM)
        if changes.size is not None:
            self._check_writable()
            if known.found.directory:
                raise refused(errno.EISDIR)
            draft = await self._draft(known, empty=changes.size == 0)
            draft.users += 1
            try:
                draft.resize(changes.size)
                self._touch(draft)
                if draft.users == 1:
                    await self._upload(known, draft)
            finally:
                draft.users -= 1
                if not draft.users:
                    known.draft = None
                    draft.close()
        return self._attr(known)

    async def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened[Handle]]:
        """Make an empty file, and open it."""
        self._check_writable()
        directory = self._directory(parent)
        place = child_place(directory.place, name)
        found = await self._find(directory, name)
        if found is not None:
            if flags & os.O_EXCL:
                raise refused(errno.EEXIST)
            node = self._nodes.enter(place, found)
            return self._entry(node), await self.open(caller, node.number, flags)
        path = self._names.join(directory.found.path, name)
        await self._remote.replace(path, b"")
        self._memory.drop(place)
        self._listings.pop(directory.place, None)
        node = self._nodes.enter(place, Found(path, directory=False, size=0, mtime_ns=time_ns()))
        if node.draft is None:
            node.draft = Draft(self._budget, b"", time_ns())
        handle = self._with_draft(node, node.draft)
        return self._entry(node), Opened(handle)

    async def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> Entry:
        """Make a directory: one that is only remembered here where the place has none."""
        self._check_writable()
        directory = self._directory(parent)
        if await self._find(directory, name) is not None:
            raise refused(errno.EEXIST)
        path = self._names.join(directory.found.path, name)
        await self._remote.make_directory(path)
        place = child_place(directory.place, name)
        self._made.setdefault(directory.place, set()).add(name)
        self._listings.pop(directory.place, None)
        found = Found(path, directory=True)
        self._memory.put(place, found)
        return self._entry(self._nodes.enter(place, found))

    async def unlink(self, caller: Caller, parent: int, name: str) -> None:
        """Remove a file. What others have open of it is gone, too, but for drafts."""
        self._check_writable()
        directory = self._directory(parent)
        found = await self._find(directory, name)
        if found is None:
            raise refused(errno.ENOENT)
        if found.directory:
            raise refused(errno.EISDIR)
        await self._remote.remove(found.path)
        self._gone(directory, name)

    def _gone(self, directory: Node, name: str) -> None:
        """Note that a name is gone, and that its directory stays."""
        place = child_place(directory.place, name)
        self._nodes.remove(place)
        self._memory.put(place, None)
        self._listings.pop(directory.place, None)
        above, _, own_name = directory.place.rpartition("/")
        if own_name:
            self._made.setdefault(above, set()).add(own_name)

    async def rmdir(self, caller: Caller, parent: int, name: str) -> None:
        """Remove an empty directory."""
        self._check_writable()
        directory = self._directory(parent)
        found = await self._find(directory, name)
        if found is None:
            raise refused(errno.ENOENT)
        if not found.directory:
            raise refused(errno.ENOTDIR)
        place = child_place(directory.place, name)
        if await self._list(Node(0, place, found)):
            raise refused(errno.ENOTEMPTY)
        # One that is only remembered here is not there.
        with suppress(FileNotFoundError):
            await self._remote.remove_directory(found.path)
        self._made.get(directory.place, set()).discard(name)
        self._made.pop(place, None)
        self._gone(directory, name)

    async def rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> None:
        """Rename a file: by a copy there, then a removal. EXDEV for directories: programs then copy."""
        self._check_writable()
        if flags & ~int(RenameFlags.NOREPLACE):
            raise refused(errno.EINVAL)
        old, new = self._directory(parent), self._directory(new_parent)
        found, target = await self._find(old, name), await self._find(new, new_name)
        if found is None:
            raise refused(errno.ENOENT)
        if target is not None and flags & RenameFlags.NOREPLACE:
            raise refused(errno.EEXIST)
        if found.directory:
            raise refused(errno.EXDEV)
        if target is not None and target.directory:
            raise refused(errno.EISDIR)
        place, new_place = child_place(old.place, name), child_place(new.place, new_name)
        if place == new_place:
            return
        node = self._nodes.at(place)
        if node is not None and node.draft is not None:
            await self._upload(node, node.draft)
        path = self._names.join(new.found.path, new_name)
        try:
            await self._remote.copy(found.path, path)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise refused(errno.EXDEV) from None
            raise
        await self._remote.remove(found.path)
        self._nodes.move(place, new_place, replace(found, path=path))
        self._gone(old, name)
        self._memory.drop(new_place)
        self._listings.pop(new.place, None)
