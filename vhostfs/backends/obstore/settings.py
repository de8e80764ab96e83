"""The settings of mounts of types `gcs` and `azure`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vhostfs.backends.s3.bucket_settings import SPOOL_DIRECTORY, BucketSettings
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.options import Handle
from vhostfs.backends.s3.spool import Spool
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Filesystem

if TYPE_CHECKING:
    from vhostfs.backends.obstore.store import Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class ObstoreSettings(BucketSettings):
    """What all stores of obstore have in common."""

    def open(self) -> Filesystem[Handle]:
        """Return the file system; the store is asked for the first time when a guest asks for something."""
        try:
            from vhostfs.backends.obstore.store import ObstoreStore  # noqa: PLC0415 # an extra
        except ImportError:
            raise ConfigurationError(
                "this type of mount needs the package obstore (vhostfs[obstore])"
            ) from None
        store, name, traits = self._store()
        return S3Filesystem(
            ObstoreStore(store, name, traits), self.shown(), self.shared_memory(), Spool(SPOOL_DIRECTORY)
        )

    @abstractmethod
    def _store(self) -> tuple[Any, str, Traits]:
        """Return a store of obstore, its name for people, and its traits; raise ConfigurationError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsSettings(ObstoreSettings):
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
class AzureSettings(ObstoreSettings):
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
