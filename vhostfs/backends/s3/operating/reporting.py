"""What is told of a bucket's mount to whoever runs it, and what can be asked of it: `vhostfs s3`."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Buffer, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.naming.namespace import Namespace
from vhostfs.backends.s3.operating.probing import Probe, lacking
from vhostfs.backends.s3.reading import Target
from vhostfs.backends.s3.store import ObjectStore
from vhostfs.backends.s3.writing.committing import Committer
from vhostfs.backends.s3.writing.journaling import Journaling, Kept
from vhostfs.backends.s3.writing.scheduling import Commits
from vhostfs.filesystem import Command, Order, Progress
from vhostfs.filesystem.commands import Value

EXPORTED_AT_ONCE: Final = 1 << 20


class Reporter:
    """Answers the commands of a bucket's mount. For one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        names: Namespace,
        committer: Committer,
        commits: Commits,
        cache: BlockCache,
        *,
        journaling: Journaling | None,
        probe: Probe | None,
    ) -> None:
        """A reporter on a mount's parts."""
        self._store, self._names, self._cache = store, names, cache
        self._committer, self._commits = committer, commits
        self._journaling, self._probe = journaling, probe

    def commands(self) -> Mapping[str, Command]:
        """Return the commands by name."""
        return {
            "s3-status": self._status,
            "s3-sync": self._sync,
            "s3-conflicts": self._conflicts,
            "s3-conflict-export": self._export,
            "s3-conflict-discard": self._discard,
            "s3-conflict-retry": self._retry,
            "s3-cache-clear": self._clear_cache,
        }

    def status(self) -> dict[str, Value]:
        """Return what there is to tell, as JSON has it: counts since the mount began, sizes in bytes."""
        counters, standing = self._store.counters, self._store.standing
        pending = self._commits.pending()
        cached = self._cache.status()
        return {
            "store": standing.name,
            "trouble": standing.trouble,
            "lacks": self._lacks(),
            "requests of the probe": dict(sorted(self._probe.requests.items())) if self._probe else {},
            "requests": dict(sorted(counters.requests.items())),
            "errors": dict(sorted(counters.errors.items())),
            "received": counters.received,
            "sent": counters.sent,
            "retried": counters.retried,
            "throttled": counters.throttled,
            "hedged": counters.hedged,
            "known names": len(self._names.nodes),
            "hidden keys": self._names.hidden,
            "memory": self._cache.memory.used,
            "cache": asdict(self._cache.counters),
            "disk cache": {} if cached.disk is None else asdict(cached.disk),
            "unwritten files": pending.files,
            "unwritten bytes": pending.bytes,
            "unwritten for seconds": pending.oldest_seconds,
            "conflicts": len(self._kept()),
        }

    def _lacks(self) -> list[Value]:
        findings = self._probe.findings if self._probe is not None else None
        return [] if findings is None else [*lacking(findings.capabilities)]

    async def _status(self, _order: Order) -> Value:
        return self.status()

    async def _sync(self, order: Order) -> Value:
        """Bring all that is not in the bucket there; say what could not be."""
        synced = await self._commits.sync(order.report)
        failed: list[Value] = [
            {"key": key, "reason": error.strerror or str(error)} for key, error in synced.failed
        ]
        return {"files": synced.files, "failed": failed}

    def _kept(self) -> list[Kept]:
        return [] if self._journaling is None else self._journaling.kept()

    async def _conflicts(self, _order: Order) -> Value:
        """List what lost a race, and is kept."""
        return [asdict(kept) for kept in self._kept()]

    async def _export(self, order: Order) -> Value:
        """Write what was kept to a file that came with the order; return how many bytes."""
        if not order.descriptors:
            raise ValueError("no file came with the order")
        kept = self._one(order)
        with self._contents(kept) as contents:
            for begin in range(0, kept.size, EXPORTED_AT_ONCE):
                piece = bytearray(min(EXPORTED_AT_ONCE, kept.size - begin))
                await contents.read_range(begin, begin + len(piece), Target([memoryview(piece)]), 0)
                await asyncio.to_thread(_write_all, order.descriptors[0], piece)
        return kept.size

    async def _discard(self, order: Order) -> Value:
        """Give up what was kept."""
        kept = self._one(order)
        self._journal.discard(kept.number)
        return None

    async def _retry(self, order: Order) -> Value:
        """Write what was kept over what is there now; ValueError where that would lose some of it."""
        kept = self._one(order)
        intent = self._journal.journal.intents[kept.number]
        if not kept.is_whole or not stat.S_ISREG(intent.kind):
            raise ValueError(f"conflict {kept.number} has not all of the file; export it")

        def report(done: int) -> None:
            order.report(Progress(kept.key, done, kept.size))

        with self._contents(kept) as contents:
            await self._committer.write_over(intent, contents, report)
        self._journal.discard(kept.number)
        self._forget_names()
        return None

    def _one(self, order: Order) -> Kept:
        """Return the conflict of an order's number; ValueError where there is none."""
        number = order.arguments.get("number", "")
        for kept in self._kept():
            if kept.number == number:
                return kept
        raise ValueError(f"there is no conflict {number}")

    @contextmanager
    def _contents(self, kept: Kept) -> Iterator[Contents]:
        """Have the bytes of a conflict while the block runs."""
        contents = self._journal.kept_contents(kept.number, self._cache)
        try:
            yield contents
        finally:
            contents.file.leave()

    @property
    def _journal(self) -> Journaling:
        assert self._journaling is not None  # without one nothing is kept
        return self._journaling

    async def _clear_cache(self, _order: Order) -> Value:
        """Forget what is known of the bucket and not needed: it is asked for again."""
        self._forget_names()
        for node in self._names.nodes:
            if node.contents is not None and not node.contents.users:
                node.contents.forget_reader()
        self._cache.clear()
        return self.status()

    def _forget_names(self) -> None:
        for node in self._names.nodes:
            node.expires = node.listed_until = 0.0
            node.missing.clear()


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
