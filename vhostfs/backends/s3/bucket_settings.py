"""The settings that mounts of all buckets have, whoever keeps them: what is shown of one, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import Field

from vhostfs.backends.contract import Backend
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.naming.nodes import Defaults
from vhostfs.backends.s3.options import Metadata, S3Options
from vhostfs.backends.s3.writing.committing import Conflict
from vhostfs.backends.values import Permissions, Size

Id = Annotated[int, Field(ge=0, lt=2**32 - 1)]
SPOOL_DIRECTORY: Final = Path("/var/tmp")


class Cache(StrEnum):
    """How long what is known of names and attributes may be believed."""

    STRICT = "strict"
    """Not at all: each open and lookup asks."""
    SECOND = "1s"
    MINUTE = "60s"
    FOREVER = "forever"
    """Nobody else changes the bucket."""


SECONDS: Final = {Cache.STRICT: 0.0, Cache.SECOND: 1.0, Cache.MINUTE: 60.0, Cache.FOREVER: 365 * 86_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings(Backend):
    """A bucket, or the keys of one that begin with a prefix."""

    network: ClassVar[bool] = True

    prefix: str = ""
    """What keys begin with that are shown, and which is not."""
    metadata: Annotated[Metadata, Field(strict=False)] = Metadata.LAZY
    cache: Annotated[Cache, Field(strict=False)] = Cache.MINUTE
    conflict: Annotated[Conflict, Field(strict=False)] = Conflict.ERROR
    read_only: bool = False
    file_mode: Permissions = 0o644
    directory_mode: Permissions = 0o755
    uid: Id = 0
    gid: Id = 0
    memory: Size = 256 << 20
    """For what was read and is read ahead."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.prefix.startswith("/") or "//" in self.prefix:
            raise ValueError("prefix should not begin with a slash, nor hold two on end")

    @property
    def key_prefix(self) -> str:
        """Return what all keys that are shown begin with: the prefix with a slash, or nothing."""
        return f"{self.prefix.rstrip('/')}/" if self.prefix else ""

    def shown(self) -> S3Options:
        """Return how the bucket is shown."""
        return S3Options(
            prefix=self.key_prefix,
            seconds=SECONDS[self.cache],
            metadata=self.metadata,
            conflict=self.conflict,
            defaults=Defaults(self.file_mode, self.directory_mode, self.uid, self.gid),
            read_only=self.read_only,
        )

    def shared_memory(self) -> Memory:
        """Return the memory of all buckets of the daemon, which is as large as one of them wants it."""
        return Memory.shared(self.memory)
