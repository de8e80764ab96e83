"""What mounts stand on: a tmpfs of the host, and a store with a bucket."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.detached import detached_tmpfs
from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, listening


@contextmanager
def behind(base: Path, size: int, inodes: int) -> Iterator[Mapping[str, str]]:
    """Provide a new tmpfs and a new store; the values for what mounts, given as YAML, have in braces."""
    server = FakeS3()
    server.asked = deque(maxlen=0)  # the bodies of a whole run are many
    secret, state = base / "secret", base / "state"
    secret.write_text(SECRET)
    state.mkdir()
    with (
        detached_tmpfs(size=str(size), nr_inodes=str(inodes), mode="755") as tmpfs,
        listening(server),
    ):
        yield {
            "tmpfs": str(tmpfs).replace("self", str(os.getpid())),
            "store": f"bucket: {BUCKET}, endpoint: '{server.url}', access_key: {ACCESS_KEY},"
            f" secret_key_file: {secret}, state_dir: {state}",
        }
