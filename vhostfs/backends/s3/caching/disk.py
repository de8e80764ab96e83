"""What was read of objects, on disk: there after a restart, within a bound, and never believed unchecked.

Blocks come from memory, in the background, and only as fast as the disk takes them: what comes faster is not
kept here. Room is made before anything is written, by removing the files that were used longest ago, and
some of the disk is left to others. What is read back has the checksum that it was written with, or is removed
and asked for again.

The directory is opened before the sandbox is entered, and locked: of several daemons one uses it, and the
next when that has ended. All mounts of a daemon that name it share it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from vhostfs.backends.s3.caching import disk_files
from vhostfs.backends.s3.caching.counters import CacheCounters
from vhostfs.backends.s3.caching.disk_files import BLOCK, BLOCKS, FILE_COST, CacheFile, Label, cost

logger = logging.getLogger(__name__)

QUEUE_MOST: Final = 100_000
"""How many stretches may wait to be written."""

FLOOR_MOST: Final = 1 << 30
FLOOR_PART: Final = 20
"""How much of the disk is left to others: a part of it, but not more than FLOOR_MOST."""

READERS: Final = 4
OPEN_MOST: Final = 64
"""How many files are kept open."""

AT_ONCE: Final = 64 << 10
"""Up to so much is read at once where the kernel has it cached, without a thread."""

TOUCH_SECONDS: Final = 60.0
"""How exactly the files know when they were used last."""

LOCK_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """How full the disk cache is."""

    size: int
    used: int
    files: int
    evicted: int
    """Files that were removed to make room."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A place in a disk cache for the objects of one store, by the store's name."""

    disk: DiskCache
    store: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A stretch of an object that waits to be written."""

    label: Label
    begin: int
    view: memoryview
    hold: Callable[[], bool]
    release: Callable[[], None]
    counters: CacheCounters

    def skipped(self) -> None:
        """Take note that it was not written."""
        self.counters.disk_skipped += -(-len(self.view) // BLOCK)


class DiskCache:
    """A directory of blocks. For one event loop, but for `shared` and `close`."""

    _open: ClassVar[dict[tuple[int, int], DiskCache]] = {}

    def __init__(self, directory: int, size: int) -> None:
        """A cache in a directory that is open, of which nothing is known yet; see `shared`."""
        self._directory, self._size = directory, size
        self._owners = 0
        self._files: OrderedDict[str, CacheFile] = OrderedDict()
        self._used = 0
        self._evicted = 0
        self._opened: OrderedDict[CacheFile, None] = OrderedDict()
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._writing: ThreadPoolExecutor | None = None
        self._complained = False
        self._clearing = False

    @classmethod
    def shared(cls, path: Path, size: int) -> DiskCache:
        """Return the cache in a directory, which is made if it is not there; raise OSError.

        Who names it with the smallest size decides.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = os.fstat(directory)
        found = cls._open.get((status.st_dev, status.st_ino))
        if found is None:
            found = cls._open[status.st_dev, status.st_ino] = cls(directory, size)
        else:
            os.close(directory)
        found._size = min(found._size, size)
        found._owners += 1
        return found

    def begin(self) -> None:
        """Look at what there is, in the background, and begin to keep more."""
        if self._task is None or self._task.done():
            if self._reading is None:
                self._reading = ThreadPoolExecutor(READERS, "s3-cache-read")
                self._writing = ThreadPoolExecutor(1, "s3-cache-write")
            self._task = asyncio.create_task(self._work())

    async def ready(self) -> None:
        """Wait until what there is was looked at."""
        await self._known.wait()

    async def drain(self) -> None:
        """Wait until what waits is written, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._idle.wait()

    def close(self) -> None:
        """Take note that one of the mounts has no more need of it; the last one closes it."""
        self._owners -= 1
        if self._owners:
            return
        status = os.fstat(self._directory)
        self._open.pop((status.st_dev, status.st_ino), None)
        if self._task is not None:
            with suppress(RuntimeError):  # the loop has ended, and the task with it
                self._task.cancel()
            self._task = None
        for executor in (self._reading, self._writing):
            if executor is not None:
                executor.shutdown(wait=True, cancel_futures=True)
        for file in self._opened:
            os.close(file.descriptor)
        self._opened.clear()
        os.close(self._directory)

    def status(self) -> DiskStatus:
        """Return how full it is."""
        return DiskStatus(self._size, self._used, len(self._files), self._evicted)

    def clear(self) -> None:
        """Remove everything, in the background."""
        self._clearing = True
        self._idle.clear()
        self._wake.set()

    # ---- what is there ----

    def run(self, name: str, begin: int, end: int) -> tuple[bool, int]:
        """Tell whether a version's block is there, and up to where it is the same with the next ones.

        What is there is told of one file at a time.
        """
        file = self._file(name, begin)
        first = begin // BLOCKS * BLOCKS
        found = file is not None and file.has(begin - first)
        block = begin + 1
        while block < end:
            if block % BLOCKS == 0:
                if found:
                    break
                file, first = self._file(name, block), block
            if file is None:
                block = first + BLOCKS
            elif file.has(block - first) != found:
                break
            else:
                block += 1
        return found, min(block, end)

    def _file(self, name: str, block: int) -> CacheFile | None:
        return self._files.get(f"{name}-{block // BLOCKS:x}")

    async def read(
        self, name: str, block: int, target: Sequence[memoryview], counters: CacheCounters
    ) -> bool:
        """Read blocks of one file, all of which are there; return whether they could be read.

        Nothing is stored in the target after it has returned, also when it is cancelled.
        """
        file, at = self._file(name, block), block % BLOCKS
        if file is None or self._reading is None:
            return False
        size = sum(map(len, target))
        good = False
        file.users += 1
        try:
            good = await self._read(file, at, target, size, self._reading)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._complain(error)
        finally:
            file.users -= 1
            self._close_unused()
        if good:
            counters.disk_hits += -(-size // BLOCK)
            self._touch(file)
        elif not file.gone:
            counters.damaged += 1
            logger.warning("the disk cache does not hold what was written to %s: it is removed", file.name)
            self._remove_later(file)
        return good

    async def _read(
        self,
        file: CacheFile,
        block: int,
        target: Sequence[memoryview],
        size: int,
        threads: ThreadPoolExecutor,
    ) -> bool:
        loop = asyncio.get_running_loop()
        if file.descriptor < 0:
            opened = loop.run_in_executor(threads, disk_files.open_file, self._directory, file.name)
            descriptor = await _ended(opened)
            if file.descriptor < 0:
                file.descriptor = descriptor
            else:
                os.close(descriptor)
        self._opened[file] = None
        self._opened.move_to_end(file)
        if size <= AT_ONCE:
            with suppress(OSError):  # EAGAIN: the kernel does not have it cached
                if disk_files.read(file.descriptor, file, block, target, os.RWF_NOWAIT):
                    return True
        reading = loop.run_in_executor(threads, disk_files.read, file.descriptor, file, block, target)
        return await _ended(reading)

    def _close_unused(self) -> None:
        """Close files that were removed, and those used longest ago beyond OPEN_MOST."""
        for file in [file for file in self._opened if not file.users and file.gone]:
            self._close_file(file)
        while len(self._opened) > OPEN_MOST:
            oldest = next((file for file in self._opened if not file.users), None)
            if oldest is None:
                break
            self._close_file(oldest)

    def _close_file(self, file: CacheFile) -> None:
        del self._opened[file]
        os.close(file.descriptor)
        file.descriptor = -1

    def _touch(self, file: CacheFile) -> None:
        """Take note that a file was used; the next daemon sees it by the file's time."""
        if file.gone:
            return
        self._files.move_to_end(file.name)
        now = time.monotonic()
        if now - file.touched > TOUCH_SECONDS and self._writing is not None:
            file.touched = now
            self._writing.submit(_touch, self._directory, file.name)

    # ---- what is to be there ----

    def keep(
        self,
        label: Label,
        begin: int,
        view: memoryview,
        hold: Callable[[], bool],
        release: Callable[[], None],
        counters: CacheCounters,
    ) -> None:
        """Write a stretch of a version, from a block on, when there is time.

        Then it is held while it is written, and released, if it is still there to be held.
        """
        waiting = _Waiting(label, begin, view, hold, release, counters)
        if self._task is None or self._task.done() or len(self._queue) >= QUEUE_MOST:
            waiting.skipped()
            return
        self._queue.append(waiting)
        self._idle.clear()
        self._wake.set()

    async def _work(self) -> None:
        """Look at what there is, then write what comes."""
        try:
            await self._lock()
            await self._scan()
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._write_all()
                self._idle.set()
        except OSError as error:
            self._complain(error)
        finally:
            self._queue.clear()
            self._known.set()
            self._idle.set()

    async def _write_all(self) -> None:
        while self._queue or self._clearing:
            if self._clearing:
                self._clearing = False
                for file in list(self._files.values()):
                    await self._remove(file)
                continue
            waiting = self._queue.popleft()
            if not waiting.hold():
                waiting.skipped()
                continue
            try:
                await self._write(waiting)
            except OSError as error:
                waiting.skipped()
                self._complain(error)
            finally:
                waiting.release()

    async def _lock(self) -> None:
        """Have the directory for this daemon alone."""
        told = False
        while True:
            try:
                fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    logger.info("another daemon uses the disk cache; this one does when that has ended")
                told = True
                await asyncio.sleep(LOCK_SECONDS)
            else:
                return

    async def _scan(self) -> None:
        found, damaged = await self._in_thread(disk_files.scan, self._directory)
        if damaged:
            logger.warning("%d damaged files of the disk cache were removed", damaged)
        for _, file in found:
            self._files[file.name] = file
            self._used += file.charge
        await self._make_room(0)
        self._known.set()

    async def _write(self, waiting: _Waiting) -> None:
        """Write what of a stretch is not there, file by file."""
        label, name = waiting.label, waiting.label.name
        if name is None:
            return
        block, at = waiting.begin // BLOCK, 0
        while at < len(waiting.view):
            number, first = divmod(block, BLOCKS)
            pieces = [waiting.view[begin : begin + BLOCK] for begin in range(at, len(waiting.view), BLOCK)][
                : BLOCKS - first
            ]
            await self._write_blocks(label, f"{name}-{number:x}", number, first, pieces, waiting.counters)
            block += len(pieces)
            at += sum(map(len, pieces))

    async def _write_blocks(
        self,
        label: Label,
        name: str,
        number: int,
        first: int,
        pieces: Sequence[memoryview],
        counters: CacheCounters,
    ) -> None:
        known = self._files.get(name)
        if known is not None and all(known.has(first + at) for at in range(len(pieces))):
            return
        file = known or CacheFile(name, disk_files.new_table(label.size, number), FILE_COST)
        # What is written once more takes no more room, and is rare.
        more = sum(cost(len(piece)) for at, piece in enumerate(pieces) if not file.has(first + at))
        charge = more + (0 if known is not None else file.charge)
        if not await self._make_room(charge, file):
            counters.disk_skipped += len(pieces)
            return
        file.charge = file.charge + more
        self._used += charge
        if known is None:
            self._files[name] = file
        head = disk_files.header(label.text, label.size, number)
        try:
            written = await self._in_thread(disk_files.write, self._directory, file, head, first, pieces)
        except OSError:
            await self._remove(file)
            raise
        for at, checksum in enumerate(written):
            file.note(first + at, checksum)
        counters.disk_written += len(written)
        self._complained = False
        self._touch(file)

    async def _make_room(self, size: int, keep: CacheFile | None = None) -> bool:
        """Remove files until so much more fits, leaving one; return whether it does."""
        while True:
            free, floor = await self._in_thread(_free, self._directory)
            if self._used + size <= self._size and (not size or free - size >= floor):
                return True
            oldest = next((file for file in self._files.values() if file is not keep), None)
            if oldest is None:
                return False
            self._evicted += 1
            await self._remove(oldest)

    def _remove_later(self, file: CacheFile) -> None:
        """Let nobody find a file any more, and remove it in the background."""
        if file.gone:
            return
        file.gone = True
        self._files.pop(file.name, None)
        if self._writing is not None:
            future = asyncio.get_running_loop().run_in_executor(
                self._writing, _unlink, self._directory, file.name
            )
            future.add_done_callback(lambda done: self._removed(file, done))

    async def _remove(self, file: CacheFile) -> None:
        """Remove a file; only then is its room free."""
        if not file.gone:
            file.gone = True
            self._files.pop(file.name, None)
            await self._in_thread(_unlink, self._directory, file.name)
            self._used -= file.charge
            self._close_unused()

    def _removed(self, file: CacheFile, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._used -= file.charge
        self._close_unused()

    async def _in_thread[*Arguments, Result](
        self, function: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        assert self._writing is not None
        return await _ended(asyncio.get_running_loop().run_in_executor(self._writing, function, *arguments))

    def _complain(self, error: OSError) -> None:
        """Tell of an error of the disk, once until it works again."""
        if not self._complained:
            logger.warning("the disk cache: %s", error.strerror or error)
        self._complained = True


def _free(directory: int) -> tuple[int, int]:
    """Return how many bytes of the disk are free, and how many shall stay so."""
    status = os.fstatvfs(directory)
    floor = min(FLOOR_MOST, status.f_blocks * status.f_frsize // FLOOR_PART)
    return status.f_bavail * status.f_frsize, floor


def _unlink(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _touch(directory: int, name: str) -> None:
    with suppress(OSError):
        os.utime(name, dir_fd=directory, follow_symlinks=False)


async def _ended[Result](future: asyncio.Future[Result]) -> Result:
    """Wait for what a thread does, to its end also when that is cancelled: it uses memory of ours."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not future.cancelled():
            future.exception()
        raise asyncio.CancelledError
    return future.result()
