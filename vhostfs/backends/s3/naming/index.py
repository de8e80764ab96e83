"""What a directory's objects have as metadata, in one object of the directory: `.vhostfs-meta`, packed JSON.

A listing tells of no metadata; to ask for each object's costs a request each. The index is advice: an entry
counts only while its ETag is the one that the listing tells, and the objects' own headers are what is true.
So it may be missing, old, or deleted by anyone at any time, and it is written without waiting for others to
agree.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from vhostfs.backends.s3.naming.metadata import PosixMetadata, decoded, encoded
from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.store import Headers, MissingError, ObjectStore, StoreError

logger = logging.getLogger(__name__)

NAME: Final = ".vhostfs-meta"
"""The index's own name; no file can be called so where indices are kept."""

SIZE_MAXIMUM: Final = 64 << 20
FIRST_READ: Final = 1 << 20
FORMAT: Final = 1


async def read_index(store: ObjectStore, prefix: str) -> dict[str, tuple[str, PosixMetadata]]:
    """Return the ETag and metadata of each name in a directory's index; nothing where it makes no sense."""
    try:
        document = await _read(store, prefix + NAME)
    except (MissingError, StoreError):
        return {}
    try:
        unpacked = zlib.decompressobj()
        found = json.loads(unpacked.decompress(document, SIZE_MAXIMUM))
        if found["format"] != FORMAT:
            return {}
        return {
            name: (
                entry["etag"],
                decoded(Headers(_texts(entry["metadata"]), _texts(entry.get("standard", {})))),
            )
            for name, entry in found["files"].items()
        }
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        logger.info("%s%s makes no sense, and is left aside", prefix, NAME)
        return {}


async def write_index(store: ObjectStore, prefix: str, nodes: Iterable[Node]) -> None:
    """Write what is known of a directory's files; what fails is left for another time."""
    files = {}
    for node in nodes:
        if node.is_directory or node.etag is None or node.posix is None or node.is_local:
            continue
        headers = encoded(node.posix)
        files[node.name] = {
            "etag": node.etag,
            "metadata": dict(headers.metadata),
            "standard": dict(headers.standard),
        }
    document = json.dumps({"format": FORMAT, "files": files}, separators=(",", ":")).encode()
    if len(document) <= SIZE_MAXIMUM:
        with suppress(StoreError):
            await store.put(prefix + NAME, [zlib.compress(document, 1)])


async def _read(store: ObjectStore, key: str) -> bytes:
    """Return an object, of which the size is not known beforehand."""
    memory = memoryview(bytearray(FIRST_READ))
    count, info = await store.get(key, 0, [memory])
    if info.size > SIZE_MAXIMUM:
        return b""
    if count == info.size:
        return bytes(memory[:count])
    rest = memoryview(bytearray(info.size - count))
    await store.get(key, count, [rest], if_match=info.etag)
    return bytes(memory) + bytes(rest)


def _texts(found: Mapping[object, object]) -> dict[str, str]:
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in found.items()):
        raise TypeError("metadata is text")
    return {str(name): str(value) for name, value in found.items()}
