"""The store: S3 as the tests have it, but as far away as S3 is, and in a process of its own.

It looks at no signature.

A program that is told by lines of JSON what to do, and answers each with one:

    ["counts"]            what was asked so far, by operation, and how many bytes of bodies were sent
    ["remove", PREFIX]    delete the objects below a prefix
    ["objects", PREFIX]   key, size and MD5 of each
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.s3 import objects
from tests.fake_s3.bucket import Bucket, StoredObject
from tests.fake_s3.server import ACCESS_KEY, BUCKET, FakeS3, fake_s3

PROJECT: Final = Path(__file__).parent.parent.parent
LATENCY: Final = 0.015
BANDWIDTH: Final = 90e6
PIECE: Final = 512 << 10
MODIFIED: Final = 1_760_000_000.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store was asked."""

    requests: dict[str, int]
    sent: int

    def since(self, before: Counts) -> Counts:
        """Return what came after an earlier count."""
        requests = {name: count - before.requests.get(name, 0) for name, count in self.requests.items()}
        return Counts({name: count for name, count in requests.items() if count}, self.sent - before.sent)


class Store:
    """A store that runs, as the process that started it knows it."""

    bucket: Final = BUCKET
    access_key: Final = ACCESS_KEY
    secret: Final = "looked-at-by-nobody"  # noqa: S105

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()

    def counts(self) -> Counts:
        """Return what was asked so far."""
        told = self._ask("counts")
        return Counts(told["requests"], told["sent"])

    def remove(self, prefix: str) -> None:
        """Delete the objects below a prefix."""
        self._ask("remove", prefix)

    def objects(self, prefix: str) -> dict[str, tuple[int, str]]:
        """Return size and MD5 of the objects below a prefix, by key."""
        return {key: (size, digest) for key, size, digest in self._ask("objects", prefix)}

    def _ask(self, *what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def running(latency: float = LATENCY, bandwidth: float = BANDWIDTH) -> Iterator[Store]:
    """Provide a store with the objects of objects.py, on the loopback interface."""
    command = [sys.executable, "-m", "benchmarks.s3.store", str(latency), str(bandwidth)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        yield Store(process)
    finally:
        process.kill()
        process.communicate()


def _fill(bucket: Bucket) -> None:
    """Put the objects in that are read."""

    def put(key: str, size: int, headers: dict[str, str]) -> None:
        data = cast(bytes, objects.Contents(size))
        digest = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
        # The ETag of an upload in parts, which nobody takes for the content's hash.
        bucket.objects[key] = StoredObject(data, f'"{digest}-2"', MODIFIED, headers)

    put(objects.LARGE, objects.LARGE_SIZE, {})
    for number in range(objects.STREAMS):
        put(objects.stream(number), objects.STREAM_SIZE, {})
    for number in range(objects.SMALL):
        put(objects.small(number), objects.SMALL_SIZE, {})
    for number in range(objects.LISTED):
        put(objects.listed(number), objects.LISTED_SIZE, objects.listed_metadata(number))


def _told(server: FakeS3, what: list[str]) -> object:
    bucket = server.bucket
    match what:
        case ["counts"]:
            return {"requests": dict(server.requests), "sent": server.sent}
        case ["remove", prefix]:
            for key in [key for key in bucket.objects if key.startswith(prefix)]:
                bucket.delete(key)
        case ["objects", prefix]:
            return [
                (key, len(found.data), hashlib.md5(found.data, usedforsecurity=False).hexdigest())
                for key, found in bucket.objects.items()
                if key.startswith(prefix)
            ]
    return None


async def _serve(latency: float, bandwidth: float) -> None:
    server = FakeS3()
    server.anonymous = True
    server.latency = latency
    server.bandwidth = bandwidth or None
    server.piece = PIECE
    server.asked = deque(maxlen=0)
    _fill(server.bucket)
    gc.freeze()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with fake_s3(server):
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        while line := await lines.readline():
            sys.stdout.write(json.dumps(_told(server, json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("latency", type=float)
    parser.add_argument("bandwidth", type=float)
    parsed = parser.parse_args()
    asyncio.run(_serve(parsed.latency, parsed.bandwidth))
