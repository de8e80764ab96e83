"""When changes are committed, that no file is committed twice at once, and what becomes of those that fail.

`sync`: who closes or synchronizes a file waits until the bucket has it. `writeback`: who closes it waits
until the journal has it, and it is committed a moment later, the oldest first and many side by side; fsync
always waits for the bucket. Where the store fails, it is tried again, ever more seldom; the next who closes
or synchronizes the file is told. Where no commit makes room any more, who writes is told that there is none,
before the disk is full.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.journal.journal import LOST
from vhostfs.backends.s3.naming.namespace import KEY_MAXIMUM, NAME_MAXIMUM, Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.operating.standing import Standing
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import ConditionError, StoreError, UnavailableError
from vhostfs.backends.s3.writing.committing import Committer, Conflict
from vhostfs.backends.s3.writing.journaling import Journaling
from vhostfs.backends.s3.writing.room import UNWRITTEN_SIZE, Room
from vhostfs.filesystem import Progress
from vhostfs.filesystem.refusals import refused

logger = logging.getLogger(__name__)

SOON_SECONDS: Final = 0.2
"""How long attributes that change one by one are waited for."""

SETTLE_SECONDS: Final = 1.0
"""How long a file that was closed is left alone: many are renamed, or deleted, at once."""

SETTLE_SECONDS_MAXIMUM: Final = 10.0

AT_ONCE: Final = 32
"""How many files are committed side by side."""

RETRY_SECONDS: Final = 1.0
RETRY_SECONDS_MAXIMUM: Final = 60.0

LOOK_BYTES: Final = 16 << 20
"""How much is written between two looks at how much room there is."""


class Write(StrEnum):
    """When close(2) returns."""

    SYNC = "sync"
    """When the bucket has what was written."""
    WRITEBACK = "writeback"
    """When the journal has it; the bucket, a moment later."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What the bucket does not have yet."""

    files: int
    bytes: int
    oldest_seconds: float | None
    """For how long the oldest has waited; None where nothing waits."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of files that were to be brought to the bucket."""

    files: int
    failed: list[tuple[str, OSError]]
    """The keys of those that are not there, and why."""

    def check(self) -> None:
        """Raise the first error, if there is one."""
        for _, error in self.failed:
            raise error


@dataclass(slots=True)
class _Lock:
    """A file's lock, and how many hold or want it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


@dataclass(slots=True)
class _Waiting:
    """A file that is to be committed."""

    node: Node
    due: float
    since: float
    attempts: int = 0


class Commits:
    """All commits of a file system. For one event loop."""

    def __init__(
        self,
        committer: Committer,
        names: Namespace,
        spool: Spool,
        *,
        journaling: Journaling | None = None,
        conflict: Conflict = Conflict.ERROR,
        write: Write = Write.SYNC,
        unwritten_size: int = UNWRITTEN_SIZE,
        standing: Standing | None = None,
    ) -> None:
        """Nothing is to be committed yet."""
        self._room = Room(spool, journaling, standing, unwritten_size)
        self._committer, self._names, self._spool = committer, names, spool
        self._journaling, self._conflict = journaling, conflict
        self.writeback = write is Write.WRITEBACK and journaling is not None
        self._locks: dict[int, _Lock] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._queued: list[tuple[float, int]] = []
        self._next_due = math.inf
        self._changed: dict[int, tuple[Node, float]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._hurry = False
        self._unlooked = 0
        self._refuses = False
        self._was_away = False
        self._recovery: asyncio.Task[None] | None = None
        self._names_settled: Callable[[], Awaitable[None]] | None = None

    # ---- One file ----

    @asynccontextmanager
    async def lock(self, node: Node) -> AsyncIterator[None]:
        """Keep others from committing, deleting or renaming a file while the block runs."""
        held = self._locks.setdefault(node.number, _Lock())
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._locks[node.number]

    async def now(self, node: Node) -> None:
        """Commit all changes of a file or directory; raise StoreError, and keep them.

        Who is interrupted stops to wait; the commit goes on, lest nobody know what became of it.
        """
        if node.number in self._locks or (node.is_changed and not node.gone):
            task = asyncio.ensure_future(self._locked_commit(node))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(lambda task: _keep_error(node, task))
                raise

    async def _locked_commit(self, node: Node) -> None:
        async with self.lock(node):
            if node.is_changed and not node.gone:
                await self._commit(node)

    async def look(self, node: Node) -> None:
        """See whether what was found of a file in the journal is in the bucket already, if it can be seen."""
        if node.intent is None or not node.intent.recovered:
            return
        with suppress(StoreError):
            async with self.lock(node):
                if node.intent is not None and node.intent.recovered:
                    await self._committer.look_for(node, node.intent)
                    if not node.is_changed:
                        self.deleted(node)

    async def settle(self, node: Node) -> None:
        """Do what close(2) waits for; raise OSError."""
        if not self.writeback:
            await self.synchronize(node)
            return
        if self.is_short(node.contents.size if node.contents is not None else 0):
            await self._room_made()
        await self.promise(node)
        self._raise_what_failed(node)

    async def synchronize(self, node: Node) -> None:
        """Do what fsync(2) waits for; raise OSError."""
        await self.now(node)
        self._raise_what_failed(node)

    def _raise_what_failed(self, node: Node) -> None:
        """Tell, once, what went wrong since somebody was told."""
        error, node.error = node.error, None
        if error is not None:
            raise error

    async def promise(self, node: Node, body: bytes = b"") -> None:
        """Have the journal hold a file, and commit it later; raise OSError."""
        assert self._journaling is not None
        try:
            await self._journaling.promise(node, body)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            await self.now(node)  # the bucket has room
        if node.is_local and not node.gone:
            self._later(node, SETTLE_SECONDS)
            if node.contents is not None and not node.contents.users:
                node.contents.file.rest()

    async def make(self, node: Node, body: bytes) -> None:
        """Write a new object, or promise it; raise StoreError."""
        if self.writeback:
            if self.is_short(len(body)):
                await self.room()
            node.size = len(body)
            await self.promise(node, body)
            return
        async with self.lock(node):
            node.committing = True
            try:
                await self._committer.make(node, body)
            finally:
                node.committing = False

    async def soon(self, node: Node) -> None:
        """Commit attributes when no more changes have come for a moment: they often come one by one."""
        if self.writeback:
            await self.promise(node)
        else:
            self._later(node, SOON_SECONDS)

    async def close(self, node: Node) -> None:
        """Do what remains to be done when a file is closed for good; raise OSError."""
        if self.writeback:
            await self.promise(node)
        else:
            await self.now(node)

    @contextmanager
    def deleting(self, node: Node) -> Iterator[None]:
        """Take note that the block deletes or replaces a file's object. Its lock is held."""
        if self._journaling is None or node.intent is None:
            yield
            return
        self._journaling.deleting(node, True)
        try:
            yield
        except BaseException:
            self._journaling.deleting(node, False)
            raise

    def deleted(self, node: Node) -> None:
        """Take note that nothing is to be committed of a file any more. Its lock is held."""
        if self._journaling is not None:
            self._journaling.forget(node)
        if node.contents is not None:
            node.contents.give_up_stream()
            node.contents.changed = False
        node.pending = False
        self.forget(node)
        self._progressed()

    def moved(self, node: Node, replaced: Node | None) -> None:
        """Take note that a file has another name, which another one had. Their locks are held."""
        if self._journaling is not None:
            self._journaling.moved(node)
        if replaced is not None:
            self.deleted(replaced)

    def note_changed(self, node: Node) -> None:
        """Take note of a file that is written, and send what is far behind who writes."""
        node.cached = None  # its pages are no object's any more
        if node.number not in self._changed:
            self._changed[node.number] = (node, time.monotonic())
        self._committer.stream(node)

    async def below(self, directory: Node) -> None:
        """Commit all changes of a directory and what is below it, deepest first."""
        found, waiting = [], [directory]
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.children.values()
        for node in reversed(found):
            await self.now(node)

    async def synchronize_names(self, directory: Node) -> None:
        """Do what fsync(2) of a directory waits for; raise OSError."""
        synced = await self._all([child for child in directory.children.values() if child.is_local])
        synced.check()
        await self.synchronize(directory)

    def forget(self, node: Node) -> None:
        """Forget a file without a name, of which nothing is to be committed."""
        self._waiting.pop(node.number, None)
        self._changed.pop(node.number, None)

    async def _commit(self, node: Node) -> None:
        """Commit a file whose lock is held."""
        journaling = self._journaling
        before = journaling.journal.next_sequence() if journaling is not None else 0
        node.committing = True
        try:
            await self._committer.commit(node)
        except ConditionError as error:
            if not await self._resolve(node, error):
                raise
        finally:
            node.committing = False
        self._waiting.pop(node.number, None)
        self._try_again()
        node.error = None
        if journaling is not None:
            journaling.committed(node, before)
        if not node.is_local:
            self._changed.pop(node.number, None)
            if node.contents is not None and not node.contents.users:
                node.contents.close()
                node.contents = None
        elif self.writeback and node.intent is not None:
            self._later(node, SETTLE_SECONDS)
        self._progressed()

    # ---- Files that lost a race ----

    async def _resolve(self, node: Node, error: ConditionError) -> bool:
        """Do what is to be done with a file that somebody else has written meanwhile; False: tell it."""
        if node.is_directory and node.etag is None:
            # It is there: that is all that was wanted.
            node.pending, node.posix, node.expires = False, None, 0.0
            return True
        contents, directory = node.contents, node.parent
        if directory is None:
            return False
        if contents is None or not contents.changed:
            self._forget_attributes(node, directory, error)
            return False
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        beside = f".conflict-{socket.gethostname()[:40]}-{stamp}-{time.time_ns() % 1_000_000:06d}"
        name = node.name.encode()[: NAME_MAXIMUM - len(beside.encode())].decode(errors="ignore") + beside
        fits = len(self._names.child_key(directory, name).encode()) <= KEY_MAXIMUM
        if self._conflict is Conflict.CONFLICT_COPY and contents.is_whole and fits:
            await self._copy_beside(node, contents, directory, name)
            return True
        return False

    def _forget_attributes(self, node: Node, directory: Node, error: ConditionError) -> None:
        """Let a file be what somebody else has made of it; a link that was promised is kept apart."""
        node.pending, node.posix, node.expires = False, None, 0.0
        if self._journaling is not None and node.intent is not None:
            if node.etag is None:
                self._journaling.set_aside(node.intent, error.strerror or "")
                node.intent = None
            else:
                self._journaling.forget(node)
        if node.etag is None and not node.is_directory:
            self._names.nodes.lose(node)
            directory.listed_until = 0.0

    async def _copy_beside(self, node: Node, contents: Contents, directory: Node, name: str) -> None:
        """Let a file be another one, beside the one that somebody else has written."""
        old = self._names.key(node)
        self._names.nodes.move(node, directory, name)
        directory.listed_until = 0.0
        contents.key, contents.etag, node.etag, contents.base_size = self._names.key(node), None, None, 0
        if self._journaling is not None:
            self._journaling.moved(node)
        logger.warning("%s: somebody else has written it: what was written here is %s", old, name)
        await self._committer.commit(node)

    async def give_up(self, node: Node, contents: Contents, error: OSError) -> None:
        """Take what cannot be committed away from a file that nobody has open, and keep it if that can be."""
        key = self._names.key(node)
        lost = isinstance(error, ConditionError) and not self._room.is_disk_low()
        if self._journaling is None or not lost:
            logger.info("%s: what was written is given up: %s", key, error.strerror)
        else:
            await self._journaling.keep(node, contents, error.strerror or "")
            logger.warning("%s: what was written is kept in the state directory: %s", key, error.strerror)
        self.forget(node)
        contents.changed = node.pending = False
        node.posix, node.expires = None, 0.0
        if node.etag is None and not node.gone:
            parent = node.parent
            self._names.nodes.lose(node)
            if parent is not None:
                parent.listed_until = 0.0

    # ---- In the background ----

    def _later(self, node: Node, seconds: float) -> None:
        now = time.monotonic()
        waiting = self._waiting.get(node.number)
        if waiting is None:
            waiting = self._waiting[node.number] = _Waiting(node, now + seconds, now)
        elif not waiting.attempts:
            waiting.due = min(now + seconds, waiting.since + SETTLE_SECONDS_MAXIMUM)
        self._queue(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.ensure_future(self._run())

    def _queue(self, waiting: _Waiting) -> None:
        """Let a file be begun when it is due; an earlier place in the queue counts no more."""
        heapq.heappush(self._queued, (waiting.due, waiting.node.number))
        if waiting.due < self._next_due:
            self._wake.set()

    async def _run(self) -> None:
        """Begin what is due, the oldest first, for as long as anything waits."""
        begun: set[int] = set()
        while self._waiting:
            self._wake.clear()
            now = time.monotonic()
            passed: list[tuple[float, int]] = []
            while self._queued and len(begun) < AT_ONCE:
                due, number = heapq.heappop(self._queued)
                waiting = self._waiting.get(number)
                if waiting is None or waiting.due != due or number in begun:
                    continue
                if due <= now or (self._hurry and not waiting.attempts):
                    begun.add(number)
                    self._begin(number, waiting, begun)
                    continue
                passed.append((due, number))
                if not self._hurry:
                    break
            for each in passed:
                heapq.heappush(self._queued, each)
            self._next_due = min(passed)[0] if passed else math.inf
            try:
                async with asyncio.timeout(self._next_due - now if passed else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _begin(self, number: int, waiting: _Waiting, begun: set[int]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._under_way.discard(task)
            begun.discard(number)
            left = self._waiting.get(number)
            if left is not None:
                self._queue(left)
            self._wake.set()

        task = asyncio.ensure_future(self._attempt(number, waiting))
        self._under_way.add(task)
        task.add_done_callback(ended)

    async def _attempt(self, number: int, waiting: _Waiting) -> None:
        node = waiting.node
        try:
            if self._names_settled is not None:
                await self._names_settled()
            await self.now(node)
        except OSError as error:
            await self._failed(waiting, error)
        else:
            if self._waiting.get(number) is waiting:  # there was nothing to be done
                del self._waiting[number]
        finally:
            self._progressed()

    async def _failed(self, waiting: _Waiting, error: OSError) -> None:
        node = waiting.node
        key = self._names.key(node)
        if not waiting.attempts:
            logger.warning("%s: changes are not in the bucket: %s", key, error.strerror)
        node.error = error
        waiting.attempts += 1
        self._was_away = self._was_away or (isinstance(error, UnavailableError) and not error.status)
        contents = node.contents
        if isinstance(error, ConditionError):
            self._waiting.pop(node.number, None)
            if contents is not None and contents.changed and not node.opens:
                try:
                    await self.give_up(node, contents, error)
                except OSError as failure:
                    logger.warning("%s: what was written cannot be kept: %s", key, failure.strerror)
                else:
                    node.contents = None
        else:
            seconds = min(RETRY_SECONDS_MAXIMUM, RETRY_SECONDS * 2 ** min(waiting.attempts - 1, 10))
            waiting.due = time.monotonic() + seconds

    def _try_again(self) -> None:
        """Begin what a store that did not answer has not taken: it has answered."""
        if not self._was_away:
            return
        self._was_away = False
        for waiting in self._waiting.values():
            if waiting.attempts:
                waiting.attempts, waiting.due = 0, time.monotonic()
                self._queue(waiting)

    # ---- Room ----

    def is_short(self, size: int) -> bool:
        """Tell whether who writes so many bytes has to wait for room; it costs little."""
        self._unlooked += size
        few = self._unlooked < LOOK_BYTES and not self._room.are_many(len(self._waiting))
        if few and not self._refuses:
            return False
        self._unlooked = 0
        self._refuses = self._refuses and self._is_full()
        return self._refuses or self._lacks_room()

    async def room(self) -> None:
        """Wait until commits have made room, or cannot; raise ENOSPC where nothing more can be taken then."""
        await self._room_made()
        was_refused, self._refuses = self._refuses, self._is_full()
        if self._refuses:
            if not was_refused:
                logger.warning("as much waits for the store as there is room for: ENOSPC is answered")
            raise refused(errno.ENOSPC)

    def _lacks_room(self) -> bool:
        """Tell whether so much waits that commits should come first."""
        if not self.writeback:
            return False
        return self._room.is_crowded(len(self._waiting), self._written()) or self._is_full()

    def _is_full(self) -> bool:
        """Tell whether nothing more can be taken: no commit makes room."""
        if not self.writeback or self._can_make_room:
            return False
        return self._room.is_full(len(self._waiting), self._written())

    def _written(self) -> Iterator[Node]:
        return (node for node, _ in self._changed.values())

    @property
    def _can_make_room(self) -> bool:
        return any(not each.attempts for each in self._waiting.values())

    async def _room_made(self) -> None:
        """Wait until commits have made room, or cannot."""
        while self._can_make_room and self._lacks_room():
            await self._next_commit()

    async def made_room(self) -> bool:
        """Wait for a commit, now that the disk is full; False where none could make room."""
        if not self.writeback or not self._can_make_room:
            return False
        await self._next_commit()
        return True

    async def _next_commit(self) -> None:
        """Wait until another commit has ended; none that could be begun is left alone meanwhile."""
        self._hurry = True
        self._wake.set()
        self._progress.clear()
        try:
            await self._progress.wait()
        finally:
            self._hurry = False

    def _progressed(self) -> None:
        self._progress.set()

    # ---- All files ----

    def pending(self) -> Pending:
        """Return how much the bucket does not have yet."""
        now = time.monotonic()
        count = size = 0
        oldest: float | None = None
        for node, since in self._unwritten():
            count += 1
            oldest = max(oldest or 0.0, now - since)
            if node.contents is not None:
                size += node.contents.spooled().count(0, node.contents.size)
        return Pending(count, size, oldest)

    def _unwritten(self) -> list[tuple[Node, float]]:
        """Return the files that the bucket does not have as they are, and since when."""
        nodes = {number: (waiting.node, waiting.since) for number, waiting in self._waiting.items()}
        nodes |= self._changed
        return [(node, since) for node, since in nodes.values() if node.is_local and not node.gone]

    async def sync(self, report: Callable[[Progress], None] | None = None) -> Synced:
        """Bring everything to the bucket; tell after each file how far that is; return what could not be."""
        return await self._all([node for node, _ in self._unwritten()], report)

    async def _all(self, nodes: Sequence[Node], report: Callable[[Progress], None] | None = None) -> Synced:
        """Commit files side by side."""
        at_once = asyncio.Semaphore(AT_ONCE)
        synced = Synced(len(nodes), [])
        done = 0

        async def commit(node: Node) -> None:
            nonlocal done
            async with at_once:
                key = self._names.key(node)
                try:
                    await self.now(node)
                except OSError as error:
                    synced.failed.append((key, error))
            done += 1
            if report is not None:
                report(Progress(key, done, len(nodes)))

        await asyncio.gather(*map(commit, nodes))
        return synced

    # ---- Life ----

    def begin(
        self, make_contents: Callable[[Node], Contents], names_settled: Callable[[], Awaitable[None]]
    ) -> None:
        """Go on with what an earlier daemon has left: its files are there at once, all else comes later.

        Nothing is sent, unless somebody waits for it, before what is given has returned.
        """
        self._names_settled = names_settled
        if self._journaling is not None and self._recovery is None:
            for node in self._journaling.found(make_contents):
                self._later(node, 0.0)
            self._recovery = asyncio.ensure_future(self._recover_rest(self._journaling))
        for waiting in list(self._waiting.values()):
            self._later(waiting.node, 0.0)

    async def recovered(self) -> None:
        """Return when all that an earlier daemon has left was tried."""
        if self._recovery is not None:
            await asyncio.shield(self._recovery)
        while any(not each.attempts for each in self._waiting.values()):
            self._progress.clear()
            await self._progress.wait()

    async def _recover_rest(self, journaling: Journaling) -> None:
        try:
            await self._committer.uploads.abort_found()
            for intent in [each for each in journaling.journal.intents.values() if each.conflict == LOST]:
                if await self._committer.is_done(intent):
                    journaling.discard(intent.number)
        except OSError as error:
            logger.warning("what an earlier daemon has left: %s", error.strerror)

    async def end(self) -> None:
        """Commit everything that is not; what cannot be is told in the log, and stays in the journal."""
        if self._recovery is not None:
            await asyncio.wait([self._recovery])
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
            self._runner = None
        await asyncio.gather(*self._under_way, return_exceptions=True)
        at_once = asyncio.Semaphore(AT_ONCE)
        is_down = False

        async def attempt(node: Node) -> None:
            nonlocal is_down
            async with at_once:
                try:
                    if not (is_down and self.writeback):
                        await self.now(node)
                except OSError as error:
                    is_down = is_down or isinstance(error, UnavailableError)
                    key = self._names.key(node)
                    logger.warning("%s: changes are not in the bucket: %s", key, error.strerror)

        local = [node for node in self._names.nodes if node.is_local and not node.gone]
        await asyncio.gather(*map(attempt, local))
        await self._committer.uploads.settled()


def _keep_error(node: Node, task: asyncio.Task[None]) -> None:
    """Have the error of a commit that nobody waits for told later."""
    if not task.cancelled() and isinstance(error := task.exception(), OSError):
        node.error = error
