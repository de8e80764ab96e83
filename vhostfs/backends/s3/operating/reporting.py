"""What is told of a bucket's mount to whoever runs it, and what can be asked of it: `vhostfs s3`."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.naming.namespace import Namespace
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.operating.probing import Probe, lacking
from vhostfs.backends.s3.store import PARTS_MAXIMUM, Headers, MissingError, ObjectStore, Part
from vhostfs.backends.s3.writing.journaling import Journaling, Kept
from vhostfs.backends.s3.writing.scheduling import Commits
from vhostfs.filesystem import Command, Order, Progress
from vhostfs.filesystem.commands import Value

SYNCED_AT_ONCE: Final = 16
SINGLE_MAXIMUM: Final = 8 << 20


class Reporter:
    """Answers the commands of a bucket's mount. For one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        names: Namespace,
        commits: Commits,
        cache: BlockCache,
        *,
        journaling: Journaling | None,
        probe: Probe | None,
    ) -> None:
        """A reporter on a mount's parts."""
        self._store, self._names, self._commits = store, names, commits
        self._cache, self._journaling, self._probe = cache, journaling, probe

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
        waiting = list(self._waiting())
        at_once = asyncio.Semaphore(SYNCED_AT_ONCE)
        failed: list[Value] = []
        done = 0

        async def sync(node: Node) -> None:
            nonlocal done
            async with at_once:
                key = self._names.key(node)
                try:
                    await self._commits.now(node)
                except OSError as error:
                    failed.append({"key": key, "reason": error.strerror or str(error)})
                done += 1
                order.report(Progress(key, done, len(waiting)))

        async with asyncio.TaskGroup() as group:
            for node in waiting:
                group.create_task(sync(node))
        return {"files": len(waiting), "failed": failed}

    def _kept(self) -> list[Kept]:
        return [] if self._journaling is None else self._journaling.kept()

    async def _conflicts(self, _order: Order) -> Value:
        """List what lost a race, and is kept."""
        return [asdict(kept) for kept in self._kept()]

    async def _export(self, order: Order) -> Value:
        """Write what was kept to a file that came with the order; return how many bytes."""
        if not order.descriptors:
            raise ValueError("no file came with the order")
        written = 0
        for piece in self._of_kept(order, lambda journaling, number: journaling.kept_data(number)):
            await asyncio.to_thread(_write_all, order.descriptors[0], piece)
            written += len(piece)
        return written

    async def _discard(self, order: Order) -> Value:
        """Give up what was kept."""
        self._of_kept(order, lambda journaling, number: journaling.discard(number))
        return None

    async def _retry(self, order: Order) -> Value:
        """Write what was kept over what is there now; ValueError where that would lose some of it."""
        journaling, kept = self._of_kept(order, lambda journaling, number: (journaling, self._one(number)))
        intent = journaling.journal.intents[kept.number]
        if not kept.is_whole or not stat.S_ISREG(intent.kind):
            raise ValueError(f"conflict {kept.number} has not all of the file; export it")
        try:
            etag = (await self._store.head(kept.key)).etag
        except MissingError:
            etag = None
        pieces = journaling.kept_data(kept.number)
        if kept.size <= SINGLE_MAXIMUM:
            body = [b"".join(pieces)]
            await self._store.put(kept.key, body, intent.headers, if_match=etag, if_absent=etag is None)
        else:
            await self._write_in_parts(order, kept, intent.headers, pieces, etag)
        journaling.discard(kept.number)
        self._forget_names()
        return None

    async def _write_in_parts(
        self, order: Order, kept: Kept, headers: Headers | None, pieces: Iterator[bytes], etag: str | None
    ) -> None:
        upload = await self._store.upload_begin(kept.key, headers)
        parts: list[Part] = []
        size = max(SINGLE_MAXIMUM, -(-kept.size // PARTS_MAXIMUM))
        waiting = bytearray()
        try:
            for piece in itertools.chain(pieces, (None,)):
                waiting += piece or b""
                if len(waiting) >= size or (piece is None and waiting):
                    parts.append(await self._store.upload_part(kept.key, upload, len(parts) + 1, [waiting]))
                    order.report(Progress(kept.key, sum(part.size for part in parts), kept.size))
                    waiting = bytearray()
            await self._store.upload_complete(kept.key, upload, parts, if_match=etag, if_absent=etag is None)
        except BaseException:
            await asyncio.shield(self._store.upload_abort(kept.key, upload))
            raise

    def _one(self, number: str) -> Kept:
        return next(kept for kept in self._kept() if kept.number == number)

    def _of_kept[Result](self, order: Order, act: Callable[[Journaling, str], Result]) -> Result:
        """Do something with the conflict of an order's number; ValueError where there is none."""
        number = order.arguments.get("number", "")
        if self._journaling is None or number not in [kept.number for kept in self._kept()]:
            raise ValueError(f"there is no conflict {number}")
        return act(self._journaling, number)

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

    def _waiting(self) -> Iterator[Node]:
        """Yield the nodes of which something is not in the bucket yet."""
        for node in self._names.nodes:
            is_sent = node.contents is not None and node.contents.sending
            if not node.gone and (node.is_local or is_sent):
                yield node


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
