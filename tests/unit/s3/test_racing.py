"""Two mounts write the same files at the same time: what either was told is written is never lost unseen.

Each write leaves a line that tells which write it is and which one it has seen there before. Back from what
is there at the end, over what each has seen, one has to come by every write that was acknowledged: if it was
overwritten, then by one that had seen it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import suppress

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

FILES = ("/one", "/two", "/three", "/four")
ROUNDS = 125
"""How many writes each mount makes to each file."""


class Writer:
    """One mount's writes, and those of which it was told that they are there."""

    def __init__(self, name: str, client: Client) -> None:
        self.name, self.client = name, client
        self.numbers = itertools.count()
        self.acknowledged: dict[str, set[str]] = {path: set() for path in FILES}
        self.seen: dict[str, str] = {}
        """By each write, acknowledged or not: the one that it has seen."""
        self.refused = 0

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
            try:
                self.acknowledged[path].add(await way(path))
            except OSError:
                self.refused += 1


async def test_no_write_of_two_mounts_is_lost_unseen(make_filesystem: MakeFilesystem, server: FakeS3) -> None:
    """A thousand writes: appended, overwritten, renamed over."""
    for path in FILES:
        server.bucket.put(path[1:], b"- begin\n", {})
    async with mount(make_filesystem()) as one, mount(make_filesystem()) as two:
        writers = [Writer("one", one), Writer("two", two)]
        await asyncio.gather(*(each.write(path, ROUNDS) for each in writers for path in FILES))
    seen = writers[0].seen | writers[1].seen
    for path in FILES:
        chain: set[str] = set()
        last = server.bucket.objects[path[1:]].data.decode().split()[-1]
        while last != "begin":
            chain.add(last)
            last = seen[last]
        for each in writers:
            assert each.acknowledged[path], f"{each.name} has never written {path}"
            assert each.acknowledged[path] <= chain
    assert sorted(server.bucket.objects) == sorted(path[1:] for path in FILES)


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
