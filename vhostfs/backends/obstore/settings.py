"""The settings of mounts of types `gcs` and `azure`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from vhostfs.backends.contract import Backend
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.naming.nodes import Defaults
from vhostfs.backends.s3.options import Handle, Metadata, S3Options
from vhostfs.backends.s3.settings import SECONDS, SPOOL_DIRECTORY, Cache, Id
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.writing.committing import Conflict
from vhostfs.backends.values import Permissions, Size
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Filesystem

if TYPE_CHECKING:
    from vhostfs.backends.obstore.store import Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings(Backend):
    """What all stores of obstore have in common."""

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

    def open(self) -> Filesystem[Handle]:
        """Return the file system; the store is asked for the first time when a guest asks for something."""
        try:
            from vhostfs.backends.obstore.store import ObstoreStore  # noqa: PLC0415 # an extra
        except ImportError:
            raise ConfigurationError(
                "this type of mount needs the package obstore (vhostfs[obstore])"
            ) from None
        store, name, traits = self._store()
        shown = S3Options(
            prefix=f"{self.prefix.rstrip('/')}/" if self.prefix else "",
            seconds=SECONDS[self.cache],
            metadata=self.metadata,
            conflict=self.conflict,
            defaults=Defaults(self.file_mode, self.directory_mode, self.uid, self.gid),
            read_only=self.read_only,
        )
        return S3Filesystem(
            ObstoreStore(store, name, traits), shown, Memory(self.memory), Spool(SPOOL_DIRECTORY)
        )

    @abstractmethod
    def _store(self) -> tuple[Any, str, Traits]:
        """Return a store of obstore, its name for people, and its traits; raise ConfigurationError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsSettings(BucketSettings):
    """A bucket of Google Cloud Storage."""

    bucket: str
    service_account_file: PurePosixPath | None = None
    """The key of a service account (JSON); None: where Google's programs look."""
    anonymous: bool = False

    def _store(self) -> tuple[Any, str, Traits]:
        from obstore.store import GCSStore  # noqa: PLC0415 # an extra

        from vhostfs.backends.obstore.store import Traits  # noqa: PLC0415 # an extra

        keys: dict[str, Any] = {"skip_signature": True} if self.anonymous else {}
        if self.service_account_file is not None:
            keys["service_account_key"] = _read(self.service_account_file)
        store = _made(lambda: GCSStore(self.bucket, **keys))
        return store, f"bucket {self.bucket} at Google", Traits(has_versions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings(BucketSettings):
    """A container of Azure Blob Storage."""

    account: str
    container: str
    access_key_file: PurePosixPath | None = None
    """A file with the account's key; None: where Azure's programs look."""
    anonymous: bool = False

    def _store(self) -> tuple[Any, str, Traits]:
        from obstore.store import AzureStore  # noqa: PLC0415 # an extra

        from vhostfs.backends.obstore.store import Traits  # noqa: PLC0415 # an extra

        keys: dict[str, Any] = {"skip_signature": True} if self.anonymous else {}
        if self.access_key_file is not None:
            keys["account_key"] = _read(self.access_key_file)
        store = _made(lambda: AzureStore(self.container, account_name=self.account, **keys))
        return store, f"container {self.container} of {self.account} at Azure", Traits(has_dashes=False)


def _read(path: PurePosixPath) -> str:
    with Path(path).open(encoding="utf-8") as file:
        return file.read(65536).strip()


def _made(make: Any) -> Any:
    from obstore.exceptions import BaseError  # noqa: PLC0415 # an extra

    try:
        return make()
    except (BaseError, ValueError) as error:
        raise ConfigurationError(str(error).partition("\n")[0]) from None
