"""From files to the journal and back: what is promised of a file, what became of it, what was found."""

from __future__ import annotations

import logging
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vhostfs.backends.ranges import Ranges
from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.contents import SIZE_MAXIMUM, Contents
from vhostfs.backends.s3.journal.intents import Intent
from vhostfs.backends.s3.journal.journal import INLINE_MAXIMUM, Journal
from vhostfs.backends.s3.journal.state import DATA
from vhostfs.backends.s3.naming.metadata import PosixMetadata, decoded, encoded
from vhostfs.backends.s3.naming.namespace import Namespace, is_name
from vhostfs.backends.s3.naming.nodes import Node

logger = logging.getLogger(__name__)

UNNAMED: Final = "no path of this mount can name it"
REPLACED: Final = "a later file has its name"


@dataclass(frozen=True, slots=True)
class Kept:
    """A change that lost a race, or cannot be brought to the bucket for another reason."""

    number: str
    """By which it is exported or discarded."""
    key: str
    path: str
    """Where it would be in the mount."""
    size: int
    since: float
    """Seconds since 1970."""
    reason: str
    is_whole: bool
    """All its bytes are there; else those that were never written are zeros."""


class Journaling:
    """The journal of a file system's nodes. For one event loop."""

    def __init__(self, journal: Journal, names: Namespace) -> None:
        """A journal that is read already."""
        self.journal, self._names = journal, names

    @property
    def size(self) -> int:
        """Return how many bytes of data are promised, and are to reach the bucket."""
        return sum(
            end - begin
            for intent in self.journal.intents.values()
            if not intent.conflict
            for begin, end in intent.extents
        )

    async def promise(self, node: Node, body: bytes = b"") -> None:
        """Return when what is changed of a file outlives the host's power; raise OSError."""
        contents = node.contents
        if contents is not None and (contents.changed or contents.sending):
            await self._promise_data(node, contents)
        elif (
            node.pending and not node.gone and (node.intent is None or node.intent.entered is not node.posix)
        ):
            number = node.intent.number if node.intent is not None else secrets.token_hex(8)
            intent = self._intent(node, number)
            intent.body = body or intent.body
            self.journal.enter(intent)
        await self.journal.durable()

    async def _promise_data(self, node: Node, contents: Contents) -> None:
        old = node.intent
        same = old is not None and old.has_data and old.size == contents.size and old.entered is node.posix
        if same and not contents.unjournaled:
            return  # it is known already
        fresh, contents.unjournaled = contents.unjournaled, Ranges()
        try:
            filed = fresh.count(0, SIZE_MAXIMUM) > INLINE_MAXIMUM
            if filed:
                await self.journal.file_durable(contents.file, new=not contents.journaled)
            if node.gone or not (contents.changed or contents.sending):
                return  # it was deleted or committed meanwhile
            spooled = contents.spooled()
            journaled = Ranges()
            for ranges in (contents.journaled, fresh):
                for begin, end in ranges.within(0, contents.size):
                    journaled.add(begin, end)
            extents = [
                each
                for begin, end in journaled.within(0, contents.size)
                for each in spooled.within(begin, end)
            ]
            stretches = [
                each for begin, end in fresh.within(0, contents.size) for each in spooled.within(begin, end)
            ]
            intent = self._intent(node, _number(contents))
            intent.extents = extents
            self.journal.enter(intent, contents.file, () if filed else stretches, stretches if filed else ())
            contents.journaled = journaled
        except BaseException:
            for begin, end in fresh.within(0, SIZE_MAXIMUM):
                contents.unjournaled.add(begin, end)
            raise

    def _intent(self, node: Node, number: str) -> Intent:
        """Return a node's intent as the node is now; it is to be entered."""
        old, contents = node.intent, node.contents
        intent = old
        if intent is None or intent.number != number:
            intent = Intent(number, "", node.type, since=time.time() if old is None else old.since)
            if old is not None:
                self.journal.leave(old)
            node.intent = intent
        intent.deleting = False
        intent.key = self._names.key(node)
        intent.etag = node.etag
        intent.headers = None if node.posix is None else encoded(node.posix)
        intent.entered = node.posix
        intent.size, intent.has_data = node.size, contents is not None and number == _number(contents)
        if contents is not None and intent.has_data:
            intent.etag = contents.etag
            intent.size, intent.base_size = contents.size, contents.base_size
        return intent

    def cut(self, node: Node, size: int) -> None:
        """Note that a file is about to be cut off: what is promised of it is less from now on."""
        intent = node.intent
        if intent is None or not intent.has_data or size >= intent.size:
            return
        intent.size, intent.base_size = size, min(intent.base_size, size)
        intent.extents = [(begin, min(end, size)) for begin, end in intent.extents if begin < size]
        self._enter_surely(intent)

    def moved(self, node: Node) -> None:
        """Note that a file has another name, or another object below it."""
        intent = node.intent
        if intent is not None:
            contents = node.contents
            intent.key, intent.etag = self._names.key(node), node.etag
            if contents is not None and intent.has_data:
                intent.base_size = min(intent.base_size, contents.base_size)
            self._enter_surely(intent)

    def deleting(self, node: Node, begins: bool) -> None:
        """Note that a file's object is about to be deleted, or was not after all."""
        if node.intent is not None:
            node.intent.deleting = begins
            self._enter_surely(node.intent)

    def _enter_surely(self, intent: Intent) -> None:
        """Write an intent down that holds already: a full disk keeps nobody from cutting and deleting."""
        try:
            self.journal.enter(intent)
        except OSError as error:
            intent.entered = None
            logger.warning("%s: the journal cannot be written: %s", intent.key, error.strerror)

    def committed(self, node: Node, before: int) -> None:
        """Note that the bucket has a file as it was before a sequence number was given out."""
        intent, contents = node.intent, node.contents
        if intent is None:
            return
        promised = contents is not None and bool(contents.journaled)
        if node.is_local and (promised or intent.sequence > before):
            size = intent.size if intent.sequence > before else 0
            intent = self._intent(node, intent.number)
            if contents is not None and intent.has_data:
                intent.extents = list(contents.journaled.within(0, contents.size))
                # How far it is written by now is not promised.
                ends = (size, contents.base_size, *(end for _, end in intent.extents))
                intent.size = min(contents.size, max(ends))
            self._enter_surely(intent)
        else:
            self.forget(node)

    def forget(self, node: Node) -> None:
        """Note that there is nothing to be done for a file any more."""
        if node.intent is not None:
            self.journal.leave(node.intent)
            node.intent = None

    async def keep(self, node: Node, contents: Contents, reason: str) -> None:
        """Keep what cannot be brought to the bucket, apart from the file; raise OSError."""
        contents.give_up_stream()
        await self.journal.file_durable(contents.file, new=True)
        intent = self._intent(node, _number(contents))
        intent.extents = list(contents.spooled().within(0, contents.size))
        intent.conflict = reason
        self.journal.enter(intent, filed=intent.extents)
        node.intent = None
        contents.file.leave()
        contents.file = self.journal.state.new()
        contents.written, contents.sending = Ranges(), Ranges()
        await self.journal.durable()

    # ---- What was found ----

    def found(self, make_contents: Callable[[Node], Contents]) -> Iterator[Node]:
        """Make nodes of what an earlier daemon has promised, and yield them, the oldest first."""
        intents = sorted(self.journal.intents.values(), key=lambda intent: intent.since)
        by_key: dict[str, Intent] = {}
        for intent in intents:
            other = by_key.get(intent.key)
            if intent.conflict:
                continue
            if other is not None:
                older = other if other.sequence < intent.sequence else intent
                self.set_aside(older, REPLACED)
                if older is intent:
                    continue
            by_key[intent.key] = intent
        for intent in by_key.values():
            node = self._node(intent)
            if node is None:
                self.set_aside(intent, UNNAMED)
                continue
            node.intent, node.etag, node.size = intent, intent.etag, intent.size
            node.posix = PosixMetadata() if intent.headers is None else decoded(intent.headers)
            node.pending = True
            if intent.has_data:
                node.contents = make_contents(node)
                self._fill(node.contents, intent)
            yield node

    def _fill(self, contents: Contents, intent: Intent) -> None:
        """Let contents be those that are promised."""
        contents.file = self.journal.state.found(f"{intent.number}{DATA}")
        for begin, end in intent.extents:
            contents.written.add(begin, end)
            contents.journaled.add(begin, end)
        contents.size, contents.base_size, contents.changed = intent.size, intent.base_size, True

    def set_aside(self, intent: Intent, reason: str) -> None:
        """Keep what is promised apart from the file; raise OSError."""
        intent.conflict = reason
        self.journal.enter(intent)

    def _node(self, intent: Intent) -> Node | None:
        path = self._names.path(intent.key)
        if path == "" and stat.S_ISDIR(intent.kind):
            return self._names.nodes.root
        parts = [] if path is None else path.removesuffix("/").split("/")
        if not parts or not all(map(is_name, parts)):
            return None
        nodes = self._names.nodes
        directory = nodes.root
        for name in parts[:-1]:
            child = directory.children.get(name)
            if child is None or not child.is_directory:
                child = nodes.add(directory, name, stat.S_IFDIR)
            directory = child
        node = directory.children.get(parts[-1])
        if node is None or node.type != intent.kind or node.intent is not None:
            node = nodes.add(directory, parts[-1], intent.kind)
        return node

    def kept(self) -> list[Kept]:
        """Return what was kept of what could not be brought to the bucket."""
        found = []
        for intent in self.journal.intents.values():
            if intent.conflict:
                spooled = Ranges()
                for begin, end in intent.extents:
                    spooled.add(begin, end)
                path = self._names.path(intent.key)
                found.append(
                    Kept(
                        intent.number,
                        intent.key,
                        f"/{intent.key if path is None else path}",
                        intent.size,
                        intent.since,
                        intent.conflict,
                        spooled.covers(0, intent.base_size),
                    )
                )
        return found

    def kept_contents(self, number: str, cache: BlockCache) -> Contents:
        """Return the bytes of what was kept, zeros where none were ever written; KeyError.

        Whoever asks leaves their file.
        """
        intent = self._conflict(number)
        contents = Contents(cache, self.journal.state, intent.key, None, 0)
        self._fill(contents, intent)
        contents.base_size = 0
        contents.file.descriptor  # noqa: B018 - opened while it is there: it may be given up meanwhile
        return contents

    def discard(self, number: str) -> None:
        """Give up what was kept; KeyError."""
        self.journal.leave(self._conflict(number))
        self.journal.state.unlink(f"{number}{DATA}")

    def _conflict(self, number: str) -> Intent:
        intent = self.journal.intents[number]
        if not intent.conflict:
            raise KeyError(number)
        return intent


def _number(contents: Contents) -> str:
    assert contents.file.number is not None
    return contents.file.number
