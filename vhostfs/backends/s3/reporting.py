"""What is told of a bucket's mount to whoever runs it, and what can be asked of it: `vhostfs s3`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final

from vhostfs.backends.s3.caching.blocks import BlockCache
from vhostfs.backends.s3.namespace import Namespace
from vhostfs.backends.s3.nodes import Node
from vhostfs.backends.s3.probing import Probe, lacking
from vhostfs.backends.s3.scheduling import Commits
from vhostfs.backends.s3.store import ObjectStore
from vhostfs.filesystem import Command, Order, Progress
from vhostfs.filesystem.commands import Value

SYNCED_AT_ONCE: Final = 16


class Reporter:
    """Answers the commands of a bucket's mount. For one event loop."""

    def __init__(
        self, store: ObjectStore, names: Namespace, commits: Commits, cache: BlockCache, probe: Probe | None
    ) -> None:
        """A reporter on a mount's parts."""
        self._store, self._names, self._commits = store, names, commits
        self._cache, self._probe = cache, probe

    def commands(self) -> Mapping[str, Command]:
        """Return the commands by name."""
        return {"s3-status": self._status, "s3-sync": self._sync, "s3-cache-clear": self._clear_cache}

    def status(self) -> dict[str, Value]:
        """Return what there is to tell, as JSON has it: counts since the mount began, sizes in bytes."""
        counters, standing = self._store.counters, self._store.standing
        waiting = list(self._waiting())
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
            "unwritten files": len(waiting),
            "unwritten bytes": sum(_unwritten(node) for node in waiting),
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

    async def _clear_cache(self, _order: Order) -> Value:
        """Forget what is known of the bucket and not needed: it is asked for again."""
        for node in self._names.nodes:
            node.expires = node.listed_until = 0.0
            node.missing.clear()
            if node.contents is not None and not node.contents.users:
                node.contents.forget_reader()
        self._cache.clear()
        return self.status()

    def _waiting(self) -> Iterator[Node]:
        """Yield the nodes of which something is not in the bucket yet."""
        return (node for node in self._names.nodes if not node.gone and node.is_local)


def _unwritten(node: Node) -> int:
    """Return how many bytes of a file's data are not in the bucket yet."""
    contents = node.contents
    if contents is None:
        return 0
    return contents.written.count(0, contents.size) + contents.sending.count(0, contents.size)
