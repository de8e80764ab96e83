"""Servers of S3 and the buckets on them, one for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.fake_s3 import server as fake
from tests.guests.images import GuestImages
from tests.stores import ceph
from tests.stores.differences import differences
from vhostfs.backends.obstore.store import ObstoreStore, Traits
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import GivenSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.performing import Operation, Performer
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.local_store import CREDENTIALS, LocalStore
from vhostfs.backends.s3.store import Capabilities, ObjectStore

HEEDED: Final = {
    "ministack": Capabilities(conditional_copy=False),
    "ceph": Capabilities(conditional_copy=False, conditional_copy_part=False),
}
"""What servers do not heed, as a mount finds out by a probe: the client compares some of it by itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket that is empty at first."""

    make: Callable[[], ObjectStore]
    """Make a client of it."""
    make_denied: Callable[[], ObjectStore]
    """Make one whose secret is wrong."""
    make_lost: Callable[[], ObjectStore]
    """Make one of a bucket that is not there."""
    make_unknowing: Callable[[], ObjectStore]
    """Make one that takes the server for one that heeds everything."""
    differing: frozenset[str]

    def differs(self, key: str) -> bool:
        """Tell whether a promise is kept otherwise here, for the reason that stands under a key."""
        return key in self.differing


@dataclass(slots=True)
class Server:
    """A server of S3."""

    name: str
    url: str
    credentials: Credentials
    buckets: Iterator[str] = field(
        default_factory=lambda: (f"bucket-{number}" for number in itertools.count(1))
    )

    async def new_bucket(self) -> str:
        """Make a bucket, and return its name."""
        bucket = next(self.buckets)
        performer = Performer(self._options(bucket), Keychain([GivenSource(self.credentials)]))
        try:
            await performer.perform(Operation("CreateBucket", f"making {bucket}", "PUT", ""))
        finally:
            performer.close()
        return bucket

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Provide a bucket for a test, whose clients are closed afterwards."""
        with self.clients(await self.new_bucket()) as place:
            yield place

    @contextmanager
    def clients(self, bucket: str) -> Iterator[Place]:
        """Provide a bucket that is there."""
        with ExitStack() as stack:

            def client(
                bucket: str, credentials: Credentials, heeded: Capabilities | None = None
            ) -> ObjectStore:
                client = S3Client(self._options(bucket, heeded), Keychain([GivenSource(credentials)]))
                stack.callback(client.close)
                return client

            wrong = Credentials(self.credentials.access_key, "a wrong secret")
            yield Place(
                lambda: client(bucket, self.credentials),
                lambda: client(bucket, wrong),
                lambda: client("no-such-bucket", self.credentials),
                lambda: client(bucket, self.credentials, Capabilities()),
                differences(self.name),
            )

    def _options(self, bucket: str, heeded: Capabilities | None = None) -> ClientOptions:
        return ClientOptions(
            bucket,
            url=self.url,
            retry=RetryOptions(base_seconds=0.01),
            capabilities=heeded or HEEDED.get(self.name, Capabilities()),
        )


@asynccontextmanager
async def fake_place() -> AsyncIterator[Place]:
    """Provide the bucket of a server of the tests' own."""
    async with fake.fake_s3() as server:
        found = Server("fake", server.url, Credentials(fake.ACCESS_KEY, fake.SECRET))
        with found.clients(fake.BUCKET) as place:
            yield place


@contextmanager
def obstore_place(name: str, store: Any, traits: Traits) -> Iterator[Place]:
    """Provide an empty store of obstore, which nobody is denied."""
    yield Place(
        lambda: ObstoreStore(store, name, traits),
        lambda: ObstoreStore(store, name, traits),
        lambda: ObstoreStore(store, name, traits),
        lambda: ObstoreStore(store, name, traits),
        differences(name),
    )


@contextmanager
def ministack() -> Iterator[Server]:
    """Provide ministack."""
    store = LocalStore("first")
    try:
        yield Server("ministack", store.url, CREDENTIALS)
    finally:
        store.stop()


@contextmanager
def ceph_gateway(directory: Path) -> Iterator[Server]:
    """Provide Ceph's gateway; raise MissingImageError, CephError."""
    with ceph.ceph_gateway(GuestImages().ceph(), directory) as url:
        yield Server("ceph", url, Credentials(ceph.ACCESS_KEY, ceph.SECRET))
