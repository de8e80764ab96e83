"""What a server heeds of S3's conditions, found out when the mount begins, beside its work.

Servers differ, and say nothing about it: one that does not know a condition writes all the same. So an
object of the mount's own, `.vhostfs-probe-` and a random number, which no listing shows, is written, copied
and deleted on conditions that do not hold; it is gone afterwards. AWS is known, and only asked whether the
bucket is there; so is the server of a mount that is read-only.

Until it is known, the server is taken to heed all. Where nobody answers, it is tried again until somebody
does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from vhostfs.backends.s3.store import (
    BrokenAnswerError,
    BucketError,
    Capabilities,
    ConditionError,
    ConflictError,
    DeniedError,
    Headers,
    ObjectStore,
    StoreError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

NAME: Final = ".vhostfs-probe-"
BODY: Final = b"made by vhostfs to see what this server heeds"
OTHER: Final = '"00000000000000000000000000000000"'
"""The ETag of no object."""

STEP_SECONDS: Final = 10.0
"""How long one request may take: there are servers that never answer some."""

LEFT_NANOSECONDS: Final = 3_600_000_000_000
"""How old an object of another probe is that has been left behind, and is deleted."""

RETRY_SECONDS: Final = 5.0
RETRY_MOST_SECONDS: Final = 60.0

LACKS: Final[Mapping[str, str]] = {
    "conditional_put": "If-Match and If-None-Match of PUT",
    "conditional_complete": "If-Match of uploads in parts",
    "conditional_source": "If-Match of a copy's source",
    "conditional_copy": "If-None-Match of a copy",
    "conditional_delete": "If-Match of DELETE",
}
"""What is compared by HEAD instead, by the field of Capabilities."""

INSTEAD: Final[Mapping[str, str]] = {
    "multipart": "it has no uploads in parts: files over 8 MiB are sent by one request",
    "copy_part": "it does not copy parts: a large file that changes in part is written as a whole",
    "conditional_copy_part": "it copies parts of any version: which it was is seen at the end of an upload",
    "replace_metadata": "it does not replace metadata: up to 8 MiB, files are written anew for it",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a server."""

    capabilities: Capabilities
    writable: bool = True
    """The credentials may write."""


def lacking(capabilities: Capabilities) -> list[str]:
    """Return what a server lacks and what is done instead, a sentence each."""
    found = [text for name, text in LACKS.items() if not getattr(capabilities, name)]
    sentences = []
    if found:
        sentences.append(
            f"it does not heed {', '.join(found)}: what is there is compared before it is changed,"
            " and a writer who comes in between is not noticed"
        )
    return sentences + [text for name, text in INSTEAD.items() if not getattr(capabilities, name)]


class Probe:
    """Finds out what a server heeds. For one event loop."""

    def __init__(
        self,
        store: ObjectStore,
        learn: Callable[[Capabilities], None],
        prefix: str,
        *,
        writes: bool,
        known: bool,
    ) -> None:
        """A probe with a client of its own, which it closes when it is done, or is closed.

        `writes` is false where nothing may be written, `known` true where the server's abilities are.
        """
        self._store, self._learn, self._prefix = store, learn, prefix
        self._writes = writes and not known
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.requests: Mapping[str, int] = store.counters.requests
        """What it has asked, by the operation's name."""
        self.findings: Findings | None = None
        """None before it is done."""

    def begin(self) -> None:
        """Begin, unless it is done or under way."""
        if self.findings is None and self._task is None:
            self._ended.clear()
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def end(self) -> None:
        """Stop after the request under way, and leave nothing in the bucket."""
        task, self._task = self._task, None
        if task is not None:
            self._ended.set()
            await asyncio.wait([task])

    async def _run(self) -> None:
        store = self._store
        try:
            delay = RETRY_SECONDS
            while self.findings is None:
                try:
                    self.findings = await self._find(store)
                except (StoreError, TimeoutError) as error:
                    # What is wrong was told by the store's standing.
                    logger.debug("%s: the probe is made again: %s", store.standing.name, error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await self._ended.wait()
                            return
                    delay = min(2 * delay, RETRY_MOST_SECONDS)
            self._tell(store.standing.name, self.findings)
            store.close()
        except _EndedError:
            pass
        except Exception:
            logger.exception("%s: the probe has failed by a fault", store.standing.name)

    def close(self) -> None:
        """Give up the client: it does not begin any more."""
        self._store.close()

    def _tell(self, name: str, findings: Findings) -> None:
        self._learn(findings.capabilities)
        if not findings.writable:
            logger.warning("%s: the credentials may read and not write: what is changed is EACCES", name)
        sentences = lacking(findings.capabilities)
        if sentences:
            logger.warning("%s: the server lacks some of S3: %s", name, "; ".join(sentences))

    async def _find(self, store: ObjectStore) -> Findings:
        """Ask; raise StoreError or TimeoutError where the store does not answer as it should."""
        if not self._writes:
            await store.list(self._prefix, limit=1)
            return Findings(store.capabilities)
        left = await store.list(self._prefix + NAME)
        for item in left.objects:
            if item.modified < time.time_ns() - LEFT_NANOSECONDS:
                await self._clean(store, item.key)
        key = f"{self._prefix}{NAME}{secrets.token_hex(8)}"
        try:
            self._go_on()
            await store.put(key, [BODY])
        except DeniedError:
            return Findings(store.capabilities, writable=False)
        except StoreError as error:
            if error.doubtful:
                await self._clean(store, key)
            raise
        try:
            return Findings(await self._abilities(store, key))
        finally:
            await self._clean(store, key)

    def _go_on(self) -> None:
        """Raise _EndedError where nobody wants to know any more: between requests, so that none is torn."""
        if self._ended.is_set():
            raise _EndedError

    async def _clean(self, store: ObjectStore, key: str) -> None:
        try:
            await store.delete(key)
        except StoreError as error:
            logger.warning("%s: the probe's object stays behind: %s", store.standing.name, error.strerror)

    async def _abilities(self, store: ObjectStore, key: str) -> Capabilities:
        """Ask for one thing after the other, each on a condition that does not hold."""
        found = store.capabilities
        anew = Headers({"vhostfs-probe": "anew"})
        put = await self._heeds(store.put(key, [BODY], if_absent=True))
        put = await self._heeds(store.put(key, [BODY], if_match=OTHER)) and put
        found = replace(found, conditional_put=put)
        source = await self._heeds(store.copy(key, key, anew, source_match=OTHER))
        copy = await self._heeds(store.copy(key, key, anew, if_absent=True))
        found = replace(found, conditional_source=source, conditional_copy=copy)
        found = replace(found, replace_metadata=await self._replaces(store, key))
        found = await self._multipart_abilities(store, key, found)
        return replace(found, conditional_delete=await self._heeds(store.delete(key, if_match=OTHER)))

    async def _replaces(self, store: ObjectStore, key: str) -> bool:
        nonce = secrets.token_hex(4)
        if not await self._can(store.copy(key, key, Headers({"vhostfs-probe": nonce}))):
            return False
        return (await store.head(key)).headers.metadata.get("vhostfs-probe") == nonce

    async def _multipart_abilities(self, store: ObjectStore, key: str, found: Capabilities) -> Capabilities:
        self._go_on()
        etag = (await store.head(key)).etag
        try:
            upload = await store.upload_begin(key)
        except StoreError as error:
            _raise_if_away(error)
            return replace(found, multipart=False, copy_part=False, conditional_complete=False)
        try:
            copied = await self._can(store.upload_copy(key, upload, 1, key, 0, len(BODY), source_match=etag))
            sure = not copied or await self._heeds(
                store.upload_copy(key, upload, 1, key, 0, len(BODY), source_match=OTHER)
            )
            part = await store.upload_part(key, upload, 1, [BODY])
            heeds = await self._heeds(store.upload_complete(key, upload, [part], if_match=OTHER))
        finally:
            with suppress(StoreError):
                await store.upload_abort(key, upload)
        return replace(found, copy_part=copied, conditional_copy_part=sure, conditional_complete=heeds)

    async def _heeds(self, request: Coroutine[Any, Any, Any]) -> bool:
        """Tell whether a request whose condition does not hold is refused for that."""
        try:
            await self._asked(request)
        except (ConditionError, ConflictError, DeniedError):
            return True  # who may not do it at all need not know
        except (StoreError, TimeoutError) as error:
            _raise_if_away(error)
        return False

    async def _can(self, request: Coroutine[Any, Any, Any]) -> bool:
        """Tell whether a server answers a request."""
        try:
            await self._asked(request)
        except (StoreError, TimeoutError) as error:
            _raise_if_away(error)
            return isinstance(error, DeniedError)
        return True

    async def _asked(self, request: Coroutine[Any, Any, Any]) -> None:
        try:
            self._go_on()
        except _EndedError:
            request.close()
            raise
        async with asyncio.timeout(STEP_SECONDS):
            await request


class _EndedError(Exception):
    """Raised where the probe is to end."""


def _raise_if_away(error: OSError) -> None:
    """Raise an error again that says nothing about what was asked, but that the store is away."""
    if isinstance(error, BucketError | UnavailableError | BrokenAnswerError):
        raise error
