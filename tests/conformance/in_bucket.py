"""A bucket of a server of the tests' own, and file systems on it: all in this process, on one event loop."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from tests.conformance.in_process import InProcessClient, mounted
from tests.conformance.requests import RequestPlace
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, fake_s3
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import GivenSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.spool import Spool
from vhostfs.fuse_abi.structures import EntryOut


class LocalBucket:
    """A server with a bucket, and what makes file systems on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: FakeS3) -> None:
        self.loop = loop
        self.server = server

    def filesystem(self, *, state: Path | None = None, **options: Any) -> S3Filesystem:
        """Return a file system with a client of its own, and a journal in a directory, if there is one.

        Whoever asks for it closes it.
        """
        keys = Keychain([GivenSource(Credentials(ACCESS_KEY, SECRET))])
        client = S3Client(ClientOptions(BUCKET, url=self.server.url), keys)
        shown = S3Options(**options)
        if state is None:
            return S3Filesystem(client, shown, Memory(64 << 20), Spool(None))
        directory = StateDirectory(state, "store", BUCKET, shown.prefix, make=True)
        return S3Filesystem(client, shown, Memory(64 << 20), directory, None, Journal(directory))

    @contextmanager
    def mounted(self, **options: Any) -> Iterator[InProcessClient]:
        """Serve the bucket."""
        with (
            closing(self.filesystem(**options)) as filesystem,
            mounted(filesystem, self.loop) as client,
        ):
            yield client


@contextmanager
def local_bucket() -> Iterator[LocalBucket]:
    """Have a server with an empty bucket."""
    with ExitStack() as stack:
        loop = stack.enter_context(closing(asyncio.new_event_loop()))
        entered = AsyncExitStack()
        server = loop.run_until_complete(entered.enter_async_context(fake_s3()))
        stack.callback(lambda: loop.run_until_complete(entered.aclose()))
        yield LocalBucket(loop, server)


class BucketPlace(RequestPlace):
    """The root of a mounted bucket, as Linux sees it: attributes that may not be believed are asked for."""

    def look_up(self, parent: int, name: bytes) -> EntryOut:
        entry = super().look_up(parent, name)
        if entry.nodeid == 0 or entry.attr_valid or entry.attr_valid_nsec:
            return entry
        try:
            self.client.getattr(entry.nodeid)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # It was of another type than the listing had said: Linux looks the name up once more.
            self.forget(entry)
            return self.client.lookup(parent, name)
        return entry
