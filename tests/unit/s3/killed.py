"""A daemon that is going to be killed: mounts a bucket, does what a seed says, and tells what it has done.

Each line of the output is one operation, as JSON: before it begins, and when it was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET
from vhostfs.backends.s3.caching.memory import Memory
from vhostfs.backends.s3.client.client import S3Client
from vhostfs.backends.s3.client.credentials import GivenSource, Keychain
from vhostfs.backends.s3.client.options import ClientOptions
from vhostfs.backends.s3.client.retrying import RetryOptions
from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.backends.s3.journal import journal as journals
from vhostfs.backends.s3.journal.journal import Journal
from vhostfs.backends.s3.journal.state import StateDirectory
from vhostfs.backends.s3.options import S3Options
from vhostfs.backends.s3.writing import committing, journaling, scheduling, uploading
from vhostfs.backends.s3.writing.scheduling import Write
from vhostfs.testing import Client, mount

PART: Final = 32 << 10
FILES: Final = ("a", "b", "c", "d/a", "d/b", "e/f/a")
OPERATIONS: Final = 60
DIRECTORIES: Final = ("/x", "/y", "/e/z")
MOVES: Final = 12


def content(tag: int, size: int) -> bytes:
    """Return the bytes that a tag means."""
    return random.Random(tag).randbytes(size)


def smaller() -> None:
    """Let what is large be small, so that many kills take little time."""
    for module, name, value in (
        (uploading, "PART_SIZE", PART),
        (committing, "PART_SIZE", PART),
        (committing, "SINGLE_MAXIMUM", PART),
        (committing, "PART_MINIMUM", PART // 2),
        (committing, "STREAM_MINIMUM", 2 * PART),
        (journaling, "INLINE_MAXIMUM", PART // 8),
        (journals, "LOG_IDLE_MAXIMUM", PART),
        (journals, "LOG_MAXIMUM", 4 * PART),
        (scheduling, "SETTLE_SECONDS", 0.02),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


@asynccontextmanager
async def mounted(url: str, state: Path, write: Write) -> AsyncIterator[tuple[Client, S3Filesystem]]:
    """Mount the bucket with a state directory."""
    options = ClientOptions(BUCKET, url=url, retry=RetryOptions(base_seconds=0.0))
    client = S3Client(options, Keychain([GivenSource(Credentials(ACCESS_KEY, SECRET))]))
    directory = StateDirectory(state, "store", BUCKET, "", make=True)
    shown = S3Options(write=write)
    filesystem = S3Filesystem(client, shown, Memory(1 << 20), directory, None, Journal(directory))
    async with mount(filesystem) as kernel:
        yield kernel, filesystem
    filesystem.close()


class Program:
    """What runs in the guest: random changes, told before and after."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client, self._random = client, random.Random(seed)
        self._there: dict[str, int] = {}

    async def run(self) -> None:
        """Do everything, and never end."""
        client = self._client
        for path in ("/d", "/e", "/e/f"):
            await self._told({"do": "mkdir", "path": path}, client.mkdir(path))
        for _ in range(OPERATIONS):
            await self._change()
        self._tell({"end": True})
        await asyncio.Event().wait()

    async def _change(self) -> None:
        chance = self._random
        name = f"/{chance.choice(FILES)}"
        tag = chance.getrandbits(32)
        size = chance.choice((10, 3000, PART - 5, 3 * PART + 7, 5 * PART))
        there = list(self._there)
        kind = chance.choice(("put", "put", "put", "patch", "patch", "rename", "rename", "unlink", "fsync"))
        if kind == "put" or not there:
            said = {"do": "put", "path": name, "tag": tag, "size": size}
            await self._told(said, self._put(name, content(tag, size)))
            self._there[name] = size
            return
        path = chance.choice(there)
        if kind in {"patch", "fsync"}:
            offset = chance.randrange(self._there[path] + 10)
            said = {"do": "patch", "path": path, "tag": tag, "size": size, "offset": offset}
            await self._patch(path, said, content(tag, size), fsync=kind == "fsync")
            self._there[path] = max(self._there[path], offset + size)
        elif kind == "rename" and name != path:
            said = {"do": "rename", "path": path, "to": name}
            await self._told(said, self._client.rename(path, name))
            self._there[name] = self._there.pop(path)
        elif kind == "unlink":
            await self._told({"do": "unlink", "path": path}, self._client.unlink(path))
            del self._there[path]

    async def _put(self, path: str, data: bytes) -> None:
        await self._client.write_bytes(path, data)

    async def _patch(self, path: str, said: dict[str, Any], data: bytes, *, fsync: bool) -> None:
        client = self._client
        self._tell({"begin": said})
        nodes = [client.root]
        for name in path[1:].split("/"):
            nodes.append((await client.lookup(nodes[-1], name)).nodeid)
        node = nodes[-1]
        handle = (await client.open_node(node, os.O_RDWR)).fh
        await client.write(node, handle, said["offset"], data)
        if fsync:
            await client.fsync(node, handle)
            self._tell({"done": said})
        await client.flush(node, handle)
        if not fsync:
            self._tell({"done": said})
        await client.release(node, handle)
        for known in reversed(nodes[1:]):
            client.forget(known, 1)

    async def _told(self, said: dict[str, Any], doing: Any) -> None:
        self._tell({"begin": said})
        await doing
        self._tell({"done": said})

    def _tell(self, said: dict[str, Any]) -> None:
        os.write(1, json.dumps(said).encode() + b"\n")


class Mover:
    """What renames a directory and files in it over and over, and writes below it meanwhile, told as well."""

    def __init__(self, client: Client, seed: int) -> None:
        self._client, self._random = client, random.Random(seed)
        self._at = DIRECTORIES[0]
        self._names: list[str] = []
        self._told = 0

    async def run(self) -> None:
        """Do everything, and never end."""
        client, chance = self._client, self._random
        await client.mkdir("/e")
        await client.mkdir(self._at)
        await client.mkdir(f"{self._at}/sub")
        for name in ("a", "b", "sub/c", "d"):
            await self._make(await self._node(self._at), name)
        for _ in range(MOVES):
            if chance.random() < 0.3 and len(self._names) > 2:
                name, other = chance.sample(self._names, 2)
                said = {"do": "over", "name": name, "to": other}
                await self._tell(said, client.rename(f"{self._at}/{name}", f"{self._at}/{other}"))
                self._names.remove(name)
                continue
            directory = await self._node(self._at)
            to = chance.choice([each for each in DIRECTORIES if each != self._at])
            said = {"do": "move", "path": self._at, "to": to}
            doing = [self._tell(said, client.rename(self._at, to))]
            name = chance.choice(self._names)
            doing.append(self._change(await self._node(f"{self._at}/{name}"), name))
            if len(self._names) < 8:
                doing.append(self._make(directory, f"new-{self._told}"))
            await asyncio.gather(*doing)
            self._at = to
        os.write(1, json.dumps({"end": True}).encode() + b"\n")
        await asyncio.Event().wait()

    async def _node(self, path: str) -> int:
        node = self._client.root
        for name in path[1:].split("/"):
            node = (await self._client.lookup(node, name)).nodeid
        return node

    async def _make(self, directory: int, name: str) -> None:
        client, chance = self._client, self._random
        tag, size = chance.getrandbits(32), chance.choice((10, 3000, 3 * PART + 7))
        *above, last = name.split("/")
        for each in above:
            directory = (await client.lookup(directory, each)).nodeid

        async def make() -> None:
            entry, opened = await client.create_at(directory, last, os.O_WRONLY, 0o600)
            await client.write(entry.nodeid, opened.fh, 0, content(tag, size))
            await client.flush(entry.nodeid, opened.fh)
            await client.release(entry.nodeid, opened.fh)

        await self._tell({"do": "make", "name": name, "tag": tag, "size": size}, make())
        self._names.append(name)

    async def _change(self, node: int, name: str) -> None:
        client, tag = self._client, self._random.getrandbits(32)

        async def change() -> None:
            handle = (await client.open_node(node, os.O_RDWR)).fh
            await client.write(node, handle, 0, content(tag, 10))
            await client.flush(node, handle)
            await client.release(node, handle)

        await self._tell({"do": "change", "name": name, "tag": tag, "size": 10}, change())

    async def _tell(self, said: dict[str, Any], doing: Any) -> None:
        self._told += 1
        number = self._told
        os.write(1, json.dumps({"begin": said, "number": number}).encode() + b"\n")
        await doing
        os.write(1, json.dumps({"done": said, "number": number}).encode() + b"\n")


PROGRAMS: Final[Mapping[str, Callable[[Client, int], Program | Mover]]] = {"Program": Program, "Mover": Mover}


async def _main(url: str, state: str, write: str, seed: str, program: str) -> None:
    smaller()
    async with mounted(url, Path(state), Write(write)) as (client, _):
        await PROGRAMS[program](client, int(seed)).run()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
