"""Two mounts write the same files at the same time: what either was told is written is never lost unseen.

Each write leaves a line that tells which write it is and which one it has seen there before; the store notes
all versions of each file. Every write that was acknowledged has to be one of these, and what came in its
place has to be a write that had seen it; or another file that was given its name, by a mount that knew which
version it replaced.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping
from contextlib import suppress

import pytest

from tests.fake_s3.bucket import Bucket, StoredObject
from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

FILES = ("/one", "/two", "/three", "/four")
ROUNDS = 125
"""How many writes each mount makes to each file."""


class RecordingBucket(Bucket):
    """A bucket that notes which versions its objects have had, and which were named by who replaced them."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, list[str]] = {path[1:]: [] for path in FILES}
        """The last write of each version, in order."""
        self.named: set[str] = set()
        """Writes that came in the place of a version that was named."""
        self._names_version = False

    def check_write(self, key: str, headers: Mapping[str, str]) -> None:
        """Check the conditions of the write that `put` stores next."""
        super().check_write(key, headers)
        self._names_version = "if-match" in headers

    def put(self, key: str, data: bytes, headers: Mapping[str, str], etag: str | None = None) -> StoredObject:
        """Store an object."""
        if key in self.versions:
            token = data.decode().split()[-1]
            self.versions[key].append(token)
            if self._names_version:
                self.named.add(token)
        return super().put(key, data, headers, etag)


class Writer:
    """One mount's writes, and those of which it was told that they are there."""

    def __init__(self, name: str, client: Client) -> None:
        self.name, self.client = name, client
        self.numbers = itertools.count()
        self.acknowledged: dict[str, set[str]] = {path: set() for path in FILES}
        self.seen: dict[str, str] = {}
        """By each write, acknowledged or not: the one that it has seen."""
        self.renamed: set[str] = set()
        """Writes of other files, which were given the names of those."""

    def line(self, path: str, before: bytes) -> tuple[str, bytes]:
        """Return a write's name, and the line that it leaves."""
        seen = before.decode().split()[-1] if before else "-"
        token = f"{path[1:]}.{self.name}.{next(self.numbers)}"
        self.seen[token] = seen
        return token, f"{seen} {token}\n".encode()

    async def append(self, path: str) -> str:
        """Add a line to what is there."""
        node = (await self.client.lookup(self.client.root, path[1:])).nodeid
        handle = (await self.client.open_node(node, os.O_RDWR)).fh
        try:
            before = await self.client.read(node, handle, 0, 1 << 17)
            token, line = self.line(path, before)
            await self.client.write(node, handle, len(before), line)
            await self.client.flush(node, handle)
        finally:
            await self.client.release(node, handle)
            self.client.forget(node, 1)
        return token

    async def overwrite(self, path: str) -> str:
        """Put one line into the place of all."""
        node = (await self.client.lookup(self.client.root, path[1:])).nodeid
        handle = (await self.client.open_node(node, os.O_RDWR)).fh
        try:
            token, line = self.line(path, await self.client.read(node, handle, 0, 1 << 17))
            await self.client.truncate(path, 0)
            await self.client.write(node, handle, 0, line)
            await self.client.flush(node, handle)
        finally:
            await self.client.release(node, handle)
            self.client.forget(node, 1)
        return token

    async def replace(self, path: str) -> str:
        """Write another file, and give it this one's name."""
        token, line = self.line(path, await self.client.read_bytes(path))
        self.renamed.add(token)
        await self.client.write_bytes(f"/{token}", line)
        try:
            await self.client.rename(f"/{token}", path)
        except OSError:
            with suppress(OSError):
                await self.client.unlink(f"/{token}")
            raise
        return token

    async def write(self, path: str, rounds: int) -> None:
        """Write a file again and again, each time in another way."""
        for number in range(rounds):
            way = (self.append, self.overwrite, self.append, self.replace)[number % 4]
            with suppress(OSError):  # it was told
                self.acknowledged[path].add(await way(path))


async def test_no_write_of_two_mounts_is_lost_unseen(make_filesystem: MakeFilesystem, server: FakeS3) -> None:
    """A thousand writes: appended, overwritten, renamed over."""
    server.bucket = bucket = RecordingBucket()
    for path in FILES:
        bucket.put(path[1:], b"- begin\n", {})
    async with mount(make_filesystem()) as one, mount(make_filesystem()) as two:
        writers = [Writer("one", one), Writer("two", two)]
        await asyncio.gather(*(each.write(path, ROUNDS) for each in writers for path in FILES))
    seen = writers[0].seen | writers[1].seen
    renamed = writers[0].renamed | writers[1].renamed
    for path in FILES:
        versions = bucket.versions[path[1:]]
        for before, after in itertools.pairwise(versions):
            assert after in bucket.named
            assert seen[after] == before or after in renamed
        for each in writers:
            assert each.acknowledged[path], f"{each.name} has never written {path}"
            assert each.acknowledged[path] <= set(versions)
    assert sorted(bucket.objects) == sorted(path[1:] for path in FILES)


async def test_of_two_mounts_that_make_a_file_one_is_told(
    make_filesystem: MakeFilesystem, server: FakeS3
) -> None:
    """At the latest when it closes it."""

    async def make(client: Client, name: str, content: bytes) -> bytes | None:
        try:
            entry, opened = await client.create_at(client.root, name, 0o600, os.O_WRONLY | os.O_EXCL)
        except FileExistsError:
            return None
        try:
            await client.write(entry.nodeid, opened.fh, 0, content)
            await client.flush(entry.nodeid, opened.fh)
        except OSError:
            return None
        finally:
            await client.release(entry.nodeid, opened.fh)
            client.forget(entry.nodeid, 1)
        return content

    async with mount(make_filesystem()) as one, mount(make_filesystem()) as two:
        for number in range(50):
            name = f"lock-{number}"
            made = await asyncio.gather(make(one, name, b"one"), make(two, name, b"two"))
            [content] = [each for each in made if each is not None]
            assert server.bucket.objects[name].data == content
            assert await one.read_bytes(f"/{name}") == await two.read_bytes(f"/{name}") == content
