"""An ObjectStore on obstore, with what that lacks said in its capabilities.

- A key that ends in a slash cannot be written: the object of a directory `d/` is kept as `d_$folder$`, as
  Hadoop does, and shown as `d/`. Keys with empty segments, `.` or `..` fail whatever touches them.
- Attributes of an object cannot be changed: small ones are written again, others are refused.
- There are no parts: a large object is one request, whose condition is looked at before and not heeded by
  the store where the object is larger than SINGLE_MAXIMUM.
- A deletion has no condition, and a listing is fetched whole.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Buffer,
    Callable,
    Iterable,
    Mapping,
    MutableSequence,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

import obstore
from obstore import exceptions

from vhostfs.backends.s3.operating.counters import Counters
from vhostfs.backends.s3.operating.standing import Standing
from vhostfs.backends.s3.store import (
    PAGE_MAXIMUM,
    REWRITE_MAXIMUM,
    BrokenAnswerError,
    Capabilities,
    ConditionError,
    DeniedError,
    Headers,
    Listed,
    MissingError,
    ObjectInfo,
    Page,
    Part,
    RangeError,
    StoreError,
    UnavailableError,
    UnsupportedError,
    Upload,
    Written,
)

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

FOLDER: Final = "_$folder$"
SINGLE_MAXIMUM: Final = 64 << 20
"""The largest object that is written on a condition which the store itself heeds."""

PIECE: Final = 8 << 20
LISTINGS_KEPT: Final = 16

_STANDARD: Final = {
    name.lower(): name
    for name in (
        "Cache-Control",
        "Content-Disposition",
        "Content-Encoding",
        "Content-Language",
        "Content-Type",
    )
}
_ERRORS: Final[Sequence[tuple[type[BaseException], type[StoreError]]]] = (
    (FileNotFoundError, MissingError),
    (exceptions.AlreadyExistsError, ConditionError),
    (exceptions.PreconditionError, ConditionError),
    (exceptions.PermissionDeniedError, DeniedError),
    (exceptions.UnauthenticatedError, DeniedError),
    (exceptions.NotSupportedError, UnsupportedError),
    (ValueError, UnsupportedError),
    (exceptions.BaseError, UnavailableError),
)


@dataclass(frozen=True, slots=True)
class Traits:
    """In what a kind of store differs from the others."""

    conditional_copy: bool = True
    has_versions: bool = False
    """Writes have versions as conditions, and not ETags (GCS)."""
    has_dashes: bool = True
    """Names of metadata may have them (not on Azure: they are two underscores there)."""


class ObstoreStore:
    """An ObjectStore on a store of obstore. For one event loop."""

    def __init__(self, store: Any, name: str, traits: Traits | None = None) -> None:
        """A store on one of obstore.store; the name is for people."""
        self._store, self._traits = store, traits or Traits()
        self._counters, self._standing = Counters(), Standing(name)
        self._rests: OrderedDict[str, Page | frozenset[str]] = OrderedDict()
        """By token: entries to come, or those that were given before the listing was fetched whole."""
        self._numbers = 0

    @property
    def capabilities(self) -> Capabilities:
        """Return what there is beyond reading and writing."""
        return Capabilities(
            conditional_copy=self._traits.conditional_copy,
            conditional_delete=False,
            multipart=False,
            copy_part=False,
            conditional_copy_part=False,
            replace_metadata=False,
            list_from_key=False,
        )

    @property
    def counters(self) -> Counters:
        """Return what was asked of it so far; retries are obstore's own, and not counted."""
        return self._counters

    @property
    def standing(self) -> Standing:
        """Return whether it answers."""
        return self._standing

    # ---- objects ----

    async def get(
        self, key: str, offset: int, target: Sequence[memoryview], *, if_match: str | None = None
    ) -> tuple[int, ObjectInfo]:
        """Read from an offset on into writable memory; as ObjectStore.get."""
        room = sum(map(len, target))
        options: GetOptions = {"range": (offset, offset + room)}
        if if_match is not None:
            options["if_match"] = if_match
        try:
            found = await self._ask(
                "GetObject",
                f"reading {key}",
                lambda: obstore.get_async(self._store, _inner(key), options=options),
            )
        except UnavailableError:
            if offset >= (await self.head(key)).size:
                raise RangeError(f"reading {key}: it ends before {offset}") from None
            raise
        data = memoryview(await self._ask("GetObject", f"reading {key}", found.bytes_async)).cast("B")
        if len(data) != max(0, min(room, found.meta["size"] - offset)):
            raise BrokenAnswerError(f"reading {key}: the answer is not as long as its range")
        at = 0
        for piece in target:
            part = data[at : at + len(piece)]
            piece[: len(part)] = part
            at += len(part)
        return len(data), self._info(key, found)

    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of an object; MissingError."""
        found = await self._ask(
            "HeadObject",
            f"looking at {key}",
            lambda: obstore.get_async(self._store, _inner(key), options={"head": True}),
        )
        return self._info(key, found)

    async def list(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        page: str | None = None,
        limit: int = PAGE_MAXIMUM,
    ) -> Page:
        """Return a page of a listing; as ObjectStore.list.

        The listing is fetched whole, but where so little is wanted that only its first keys are.
        """
        given: frozenset[str] = frozenset()
        if page is not None:
            rest = self._rests.pop(page, None)
            if isinstance(rest, Page):
                return self._cut(rest, limit)
            if rest is None:
                raise UnavailableError(f"listing {prefix}: the rest of the listing is not kept any more")
            given = rest
        what = f"listing {prefix or '/'}"
        base = prefix[: prefix.rfind("/") + 1]
        own = self._own(base) if base and base == prefix else _nothing()
        some = None
        if delimiter:
            below = self._ask(
                "ListObjectsV2",
                what,
                lambda: obstore.list_with_delimiter_async(self._store, base.rstrip("/") or None),
            )
            listing, marker = await asyncio.gather(below, own)
            metas, folders = listing["objects"], [f"{each}/" for each in listing["common_prefixes"]]
        else:
            some = limit if page is None and not start_after and limit < PAGE_MAXIMUM else None
            metas, marker = await asyncio.gather(self._all(what, base, some), own)
            folders = []
        objects = {each.key: each for each in map(_listed, metas)}
        if delimiter:
            folders += [key for key in objects if key.endswith("/")]
            objects = {key: each for key, each in objects.items() if not key.endswith("/")}
        if marker is not None:
            objects[prefix] = marker
        found = Page(
            [objects[key] for key in _behind(objects.keys() - given, prefix, start_after)],
            _behind(set(folders), prefix, start_after),
            None,
        )
        if some is not None and len(metas) >= some:
            found = Page(found.objects[:limit], [], None)
            return replace(found, next=self._keep(frozenset(each.key for each in found.objects)))
        return self._cut(found, limit)

    async def put(
        self,
        key: str,
        body: Sequence[Buffer],
        headers: Headers | None = None,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Write a whole object; as ObjectStore.put."""
        pieces = [memoryview(piece).cast("B") for piece in body if memoryview(piece).nbytes]
        size = sum(map(len, pieces))
        options: dict[str, Any] = {"attributes": self._attributes(headers)}
        content: Any = pieces[0] if len(pieces) == 1 else b"".join(pieces) if size <= SINGLE_MAXIMUM else b""
        if size > SINGLE_MAXIMUM:
            await self._check(key, if_match, if_absent)
            content = _in_pieces(pieces)
        elif if_absent:
            options["mode"] = "create"
        elif if_match is not None:
            options["mode"] = await self._version(key, if_match)
        options["use_multipart"] = size > SINGLE_MAXIMUM
        written = await self._ask(
            "PutObject",
            f"writing {key}",
            lambda: obstore.put_async(self._store, _inner(key), content, **options),
        )
        return Written(_etag(key, written), written["version"])

    async def copy(
        self,
        source: str,
        key: str,
        headers: Headers | None = None,
        *,
        source_match: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Copy an object; with headers, a small one by writing it again. UnsupportedError for others."""
        found = await self.head(source)
        if source_match is not None and found.etag != source_match:
            raise ConditionError(f"copying {source}: it is another one")
        if headers is not None:
            if found.size > REWRITE_MAXIMUM:
                raise UnsupportedError(f"copying {source}: the store keeps the attributes of what is large")
            memory = memoryview(bytearray(found.size))
            if found.size:
                await self.get(source, 0, [memory], if_match=found.etag)
            match = found.etag if source == key else if_match
            return await self.put(key, [memory], headers, if_match=match, if_absent=if_absent)
        await self._check(key, if_match, False)
        overwrite = not (if_absent and self._traits.conditional_copy)
        await self._ask(
            "CopyObject",
            f"copying {source} to {key}",
            lambda: obstore.copy_async(self._store, _inner(source), _inner(key), overwrite=overwrite),
        )
        made = await self.head(key)
        return Written(made.etag, made.version)

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Delete an object; with if_match after a look at it."""
        await self._check(key, if_match, False)
        with suppress(MissingError):
            await self._ask(
                "DeleteObject", f"deleting {key}", lambda: obstore.delete_async(self._store, _inner(key))
            )

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, StoreError]:
        """Delete objects one by one, side by side."""
        failed: dict[str, StoreError] = {}

        async def delete(key: str) -> None:
            try:
                await self.delete(key)
            except StoreError as error:
                failed[key] = error

        await asyncio.gather(*map(delete, keys))
        return failed

    async def rename(self, source: str, key: str, *, source_match: str | None = None) -> None:
        """Refuse: there is no such request."""
        _refuse(f"renaming {source}")

    # ---- uploads in parts ----

    async def upload_begin(self, key: str, headers: Headers | None = None) -> str:
        """Refuse: there are no parts."""
        _refuse(f"writing {key} in parts")

    async def upload_part(self, key: str, upload: str, number: int, body: Sequence[Buffer]) -> Part:
        """Refuse: there are no parts."""
        _refuse(f"writing {key} in parts")

    async def upload_copy(
        self, key: str, upload: str, number: int, source: str, offset: int, size: int, *, source_match: str
    ) -> Part:
        """Refuse: there are no parts."""
        _refuse(f"writing {key} in parts")

    async def upload_complete(
        self,
        key: str,
        upload: str,
        parts: Sequence[Part],
        *,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> Written:
        """Refuse: there are no parts."""
        _refuse(f"writing {key} in parts")

    async def upload_abort(self, key: str, upload: str) -> None:
        """Do nothing: there is no such upload."""

    async def upload_parts(self, key: str, upload: str) -> Sequence[Part]:
        """Raise MissingError: there is no such upload."""
        raise MissingError(f"listing parts of {key}: there are none")

    async def uploads(self, prefix: str = "") -> Sequence[Upload]:
        """Return none: there are no uploads."""
        return []

    def close(self) -> None:
        """Do nothing: obstore gives its connections up when nobody asks for long."""

    # ---- what the above is made of ----

    async def _ask[Result](self, name: str, what: str, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Return what obstore answers; raise its errors as the store's."""
        self._counters.requests[name] += 1
        try:
            found = await ask()
        except (exceptions.BaseError, ValueError, FileNotFoundError) as error:
            kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
            failure = kind(f"{what}: {str(error).partition(chr(10))[0][:300]}")
        else:
            self._standing.answered()
            return found
        self._counters.errors[kind.__name__.removesuffix("Error").lower()] += 1
        self._standing.failed(name, failure)
        raise failure

    async def _own(self, key: str) -> Listed | None:
        """Return a directory's own object, which no listing of the directory has."""
        try:
            found = await self.head(key)
        except MissingError:
            return None
        return Listed(key, found.size, found.etag, found.modified)

    async def _all(self, what: str, base: str, limit: int | None) -> Sequence[ObjectMeta]:
        """Return all objects below a prefix, or as many as are wanted at least."""
        found: MutableSequence[ObjectMeta] = []
        stream = obstore.list(self._store, base.rstrip("/") or None, chunk_size=limit or PAGE_MAXIMUM)
        while limit is None or len(found) < limit:
            try:
                found.extend(await self._ask("ListObjectsV2", what, stream.__anext__))
            except StopAsyncIteration:
                break
        return found

    def _cut(self, found: Page, limit: int) -> Page:
        """Return the first entries of a page, and keep the rest for who asks on."""
        if len(found.objects) + len(found.prefixes) <= limit:
            return found
        names = sorted([*(each.key for each in found.objects), *found.prefixes], key=str.encode)
        last = names[limit - 1].encode()
        rest = Page(
            [each for each in found.objects if each.key.encode() > last],
            [each for each in found.prefixes if each.encode() > last],
            None,
        )
        return Page(
            [each for each in found.objects if each.key.encode() <= last],
            [each for each in found.prefixes if each.encode() <= last],
            self._keep(rest),
        )

    def _keep(self, rest: Page | frozenset[str]) -> str:
        """Keep what a page to come needs, and return its token."""
        self._numbers += 1
        self._rests[str(self._numbers)] = rest
        if len(self._rests) > LISTINGS_KEPT:
            self._rests.popitem(last=False)
        return str(self._numbers)

    async def _check(self, key: str, if_match: str | None, if_absent: bool) -> None:
        """Look whether a condition holds now."""
        if if_match is not None and (await self.head(key)).etag != if_match:
            raise ConditionError(f"writing {key}: it is another one")
        if if_absent:
            with suppress(MissingError):
                await self.head(key)
                raise ConditionError(f"writing {key}: it is there")

    async def _version(self, key: str, etag: str) -> dict[str, str]:
        """Return a condition as obstore takes it."""
        if not self._traits.has_versions:
            return {"e_tag": etag}
        found = await self.head(key)
        if found.etag != etag or found.version is None:
            raise ConditionError(f"writing {key}: it is another one")
        return {"e_tag": etag, "version": found.version}

    def _info(self, key: str, found: Any) -> ObjectInfo:
        meta = found.meta
        standard: dict[str, str] = {}
        metadata: dict[str, str] = {}
        for name, value in found.attributes.items():
            if name in _STANDARD.values():
                standard[name.lower()] = value
            else:
                metadata[name.lower() if self._traits.has_dashes else name.lower().replace("__", "-")] = value
        listed = _listed(meta)
        return ObjectInfo(
            key,
            listed.size,
            listed.etag,
            listed.modified,
            Headers(metadata, standard),
            version=meta["version"],
        )

    def _attributes(self, headers: Headers | None) -> dict[str, str]:
        if headers is None:
            return {}
        attributes = {
            name if self._traits.has_dashes else name.replace("-", "__"): value
            for name, value in headers.metadata.items()
        }
        attributes |= {
            _STANDARD[name]: value for name, value in headers.standard.items() if name in _STANDARD
        }
        for name, value in attributes.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise UnsupportedError(f"the header {name!r} has characters that HTTP cannot carry")
        return attributes


async def _nothing() -> None:
    return None


async def _in_pieces(pieces: Iterable[memoryview]) -> AsyncIterator[memoryview]:
    for piece in pieces:
        for at in range(0, len(piece), PIECE):
            yield piece[at : at + PIECE]


def _refuse(what: str) -> NoReturn:
    raise UnsupportedError(f"{what}: the store has no such request")


def _inner(key: str) -> str:
    """Return a key as obstore can have it."""
    return f"{key[:-1]}{FOLDER}" if key.endswith("/") else key


def _listed(meta: Mapping[str, Any]) -> Listed:
    key = meta["path"]
    if key.endswith(FOLDER):
        key = f"{key.removesuffix(FOLDER)}/"
    return Listed(key, meta["size"], _etag(key, meta), int(meta["last_modified"].timestamp()) * 1_000_000_000)


def _etag(key: str, meta: Mapping[str, Any]) -> str:
    etag: str | None = meta["e_tag"]
    if not etag:
        raise BrokenAnswerError(f"{key}: the store tells no ETag")
    return etag


def _behind(keys: Iterable[str], prefix: str, after: str) -> list[str]:
    begin = after.encode()
    return sorted((key for key in keys if key.startswith(prefix) and key.encode() > begin), key=str.encode)
