"""The settings of a mount of type `s3`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field

from vhostfs.backends.s3.bucket_settings import SPOOL_DIRECTORY, BucketSettings
from vhostfs.backends.s3.caching.disk import DiskCache, Shelf
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import (
    BotocoreSource,
    GivenSource,
    Keychain,
    ProfileSource,
    Source,
    usual_sources,
)
from vhostfs.backends.s3.client.endpoint import Addressing, is_aws
from vhostfs.backends.s3.client.options import CUSTOMER_KEY, ClientOptions, Encryption
from vhostfs.backends.s3.client.pool import PoolOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory, default_state_directory
from vhostfs.backends.s3.local_store import CREDENTIALS, LocalStore
from vhostfs.backends.s3.operating.probing import Probe
from vhostfs.backends.s3.options import Handle, S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.store import StoreError
from vhostfs.backends.s3.writing.room import UNWRITTEN_SIZE
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.backends.values import Size
from vhostfs.errors import ConfigurationError, StartError
from vhostfs.filesystem import Filesystem

REGION: Final = "us-east-1"


class CredentialsFrom(StrEnum):
    """Where the keys come from."""

    AUTO = "auto"
    """Where AWS programs look: environment, web identity, shared files, container, instance."""
    BOTOCORE = "botocore"
    """Wherever botocore finds them (vhostfs[aws]): SSO, assumed roles, programs."""
    ANONYMOUS = "anonymous"
    """Nowhere: requests are not signed."""


@dataclass(frozen=True, slots=True)
class S3Settings(BucketSettings):
    """A bucket of S3, or the keys of one that begin with a prefix."""

    bucket: str
    region: str = ""
    """Empty: the environment's, the profile's, us-east-1; another one is learnt from the server."""
    endpoint: str | None = None
    """The URL of a server that is not AWS."""
    local_store: bool = False
    """Instead: a store of the daemon's own, empty at first and gone with it, to try things out."""
    addressing: Annotated[Addressing, Field(strict=False)] = Addressing.AUTO
    ca_file: PurePosixPath | None = None
    """Certificates of who may vouch for the server, instead of the system's."""
    credentials: Annotated[CredentialsFrom, Field(strict=False)] = CredentialsFrom.AUTO
    profile: str | None = None
    access_key: str | None = None
    secret_key_file: PurePosixPath | None = None
    """A file with the access key's secret."""
    requester_pays: bool = False
    storage_class: str | None = None
    encryption: Annotated[Encryption, Field(strict=False)] = Encryption.NONE
    kms_key: str | None = None
    customer_key_file: PurePosixPath | None = None
    """A file of 32 bytes, the key of sse-c."""
    write: Annotated[Write, Field(strict=False)] = Write.SYNC
    cache_dir: PurePosixPath | None = None
    """Where what was read stays over restarts."""
    cache_size: Size = 1 << 30
    """The most that it takes of the disk."""
    state_dir: PurePosixPath | None = None
    """Where what is written waits, and what is promised is kept; None: where state belongs on this host."""
    unwritten_size: Size = UNWRITTEN_SIZE
    """With writeback: the most that waits there for a store that takes none."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        BucketSettings.__post_init__(self)
        if (self.access_key is None) != (self.secret_key_file is None):
            raise ValueError("access_key and secret_key_file should be given together")
        if (self.encryption is Encryption.CUSTOMER) != (self.customer_key_file is not None):
            raise ValueError("encryption sse-c and customer_key_file should be given together")
        if self.local_store and (self.endpoint is not None or self.access_key is not None):
            raise ValueError("local_store has an endpoint and keys of its own")
        if self.write is Write.WRITEBACK and self.local_store:
            raise ValueError("local_store forgets what writeback promises")

    def open(self) -> Filesystem[Handle]:
        """Return the file system; the store is asked for the first time when a guest asks for something."""
        region = self.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION
        local = LocalStore(self.bucket) if self.local_store else None
        url = self.endpoint if local is None else local.url
        options = ClientOptions(
            self.bucket,
            region=region,
            url=url or os.environ.get("AWS_ENDPOINT_URL_S3"),
            addressing=self.addressing,
            authorities=None if self.ca_file is None else Path(self.ca_file),
            anonymous=self.credentials is CredentialsFrom.ANONYMOUS,
            requester_pays=self.requester_pays,
            storage_class=self.storage_class,
            encryption=self.encryption,
            kms_key=self.kms_key,
            customer_key=self._customer_key(),
            pool=PoolOptions(limit=self.connections),
        )
        sources = self._sources(region)
        store = S3Client(options, Keychain(sources))
        probe = Probe(
            S3Client(options, Keychain(sources), store.standing),
            store.learn,
            self.key_prefix,
            writes=not self.read_only,
            known=is_aws(options.url),
        )
        shown = replace(self.shown(), write=self.write, unwritten_size=self.unwritten_size)
        spool = self._state(url or "", shown)
        journal = Journal(spool) if isinstance(spool, StateDirectory) else None
        return S3Filesystem(
            store, shown, self.shared_memory(), spool, local, journal, probe, self._shelf(url or "")
        )

    def _shelf(self, url: str) -> Shelf | None:
        """Return the place for this bucket in the disk cache, if there is one."""
        if self.cache_dir is None:
            return None
        try:
            return Shelf(DiskCache.shared(Path(self.cache_dir), self.cache_size), f"{url}/{self.bucket}")
        except OSError as error:
            raise ConfigurationError(f"cache_dir {self.cache_dir}: {error.strerror}") from None

    def _state(self, url: str, shown: S3Options) -> Spool:
        """Return the state directory; in sync mode, files without names where there can be none."""
        if self.local_store or self.read_only:
            return Spool(SPOOL_DIRECTORY)
        named = self.state_dir is not None
        path = default_state_directory(os.environ) if self.state_dir is None else Path(self.state_dir)
        try:
            return StateDirectory(path, url, self.bucket, shown.prefix, make=not named)
        except OSError as error:
            if self.write is Write.WRITEBACK or named:
                raise ConfigurationError(f"state_dir {path}: {error.strerror}") from None
        except StartError as error:
            if self.write is Write.WRITEBACK:
                raise ConfigurationError(f"state_dir: {error}") from None
        return Spool(SPOOL_DIRECTORY)

    def _sources(self, region: str) -> Sequence[Source]:
        if self.local_store:
            return [GivenSource(CREDENTIALS)]
        if self.access_key is not None and self.secret_key_file is not None:
            secret = _read(self.secret_key_file).decode("utf-8", "replace").strip()
            return [GivenSource(Credentials(self.access_key, secret))]
        try:
            if self.credentials is CredentialsFrom.BOTOCORE:
                return [BotocoreSource(self.profile)]
            if self.profile is not None:
                return [ProfileSource(os.environ, self.profile)]
            return usual_sources(os.environ, region)
        except ImportError:
            raise ConfigurationError("credentials: botocore is not installed (vhostfs[aws])") from None
        except StoreError as error:
            raise ConfigurationError(f"credentials: {error.strerror}") from None

    def _customer_key(self) -> bytes | None:
        if self.customer_key_file is None:
            return None
        key = _read(self.customer_key_file)
        if len(key) != CUSTOMER_KEY:
            raise ConfigurationError(f"{self.customer_key_file} should hold {CUSTOMER_KEY} bytes")
        return key


def _read(path: PurePosixPath) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(4096)
