"""A server of the tests' own, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, fake_s3
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import GivenSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.pool import PoolOptions
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.writing import scheduling
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.testing import Client, mount

type MakeClient = Callable[..., S3Client]


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"


@pytest.fixture
async def server() -> AsyncIterator[FakeS3]:
    """Return a server that listens."""
    async with fake_s3() as server:
        yield server


@pytest.fixture
async def make_client(server: FakeS3) -> AsyncIterator[MakeClient]:
    """Return what makes clients of the server; retries are as many as ever, and quick."""
    with ExitStack() as stack:

        def make(
            stall_seconds: float = 20.0, attempts: int = 6, limit: int = 128, **options: Any
        ) -> S3Client:
            found = ClientOptions(
                BUCKET,
                url=server.url,
                pool=PoolOptions(stall_seconds=stall_seconds, limit=limit),
                retry=RetryOptions(base_seconds=0.0, attempts=attempts),
                **options,
            )
            client = S3Client(found, Keychain([GivenSource(Credentials(ACCESS_KEY, SECRET))]))
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> S3Client:
    """Return a client of the server."""
    return make_client()


def store_of(server: FakeS3) -> S3Client:
    """Return a client of a server, which whoever asks for it closes."""
    options = ClientOptions(BUCKET, url=server.url, retry=RetryOptions(base_seconds=0.0))
    return S3Client(options, Keychain([GivenSource(Credentials(ACCESS_KEY, SECRET))]))


type MakeFilesystem = Callable[..., S3Filesystem]


@pytest.fixture
def make_filesystem(make_client: MakeClient, tmp_path: Path) -> MakeFilesystem:
    """Return what makes file systems on the server's bucket, each with a client of its own."""

    def make(memory: int = 64 << 20, **options: Any) -> S3Filesystem:
        return S3Filesystem(make_client(), S3Options(**options), Memory(memory), Spool(tmp_path))

    return make


type Mounted = Callable[..., Any]


@pytest.fixture
def mounted(make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    """Return what mounts the bucket with a state directory; nothing is sent before somebody wants it."""
    monkeypatch.setattr(scheduling, "SETTLE_SECONDS", 3600.0)
    monkeypatch.setattr(scheduling, "SETTLE_SECONDS_MAXIMUM", 3600.0)

    @asynccontextmanager
    async def mounted(
        state: Path = tmp_path / "state", write: Write = Write.WRITEBACK, **options: Any
    ) -> AsyncIterator[tuple[Client, S3Filesystem]]:
        directory = StateDirectory(state, "store", "bucket", "", make=True)
        journal = Journal(directory)
        filesystem = S3Filesystem(
            make_client(), S3Options(write=write, **options), Memory(64 << 20), directory, None, journal
        )
        async with mount(filesystem) as client:
            yield client, filesystem
        filesystem.close()

    return mounted
