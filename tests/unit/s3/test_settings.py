"""A bucket is named in a configuration, and what cannot be meant is refused there."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath

import pytest

from vhostfs.backends.s3 import S3Settings
from vhostfs.backends.s3.client.options import Encryption
from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.config import schema
from vhostfs.config.model import FilesystemSettings
from vhostfs.errors import ConfigurationError
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

MOUNT = "devices: [{{tag: t, socket: {{path: /tmp/s}}, mounts: {{/: {{type: s3, bucket: data{}}}}}}}]"


def _load(path: Path, keys: str) -> object:
    file = path / "vhostfs.yaml"
    file.write_text(MOUNT.format(f", {keys}" if keys else ""))
    return schema.load(file)


@pytest.mark.parametrize(
    "keys",
    [
        "",
        "prefix: a/b, region: eu-west-1, metadata: full, cache: forever, conflict: last-writer-wins",
        "state_dir: /s, write: writeback, unwritten_size: 100MiB",
        "endpoint: 'http://127.0.0.1:9000', addressing: path, credentials: anonymous, memory: 64MiB",
        "access_key: A, secret_key_file: /etc/secret, encryption: sse-kms, file_mode: 0600, uid: 5",
    ],
)
async def test_what_can_be_said_is_understood(tmp_path: Path, keys: str) -> None:
    """In YAML, without anything being asked of a server."""
    assert _load(tmp_path, keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("access_key: A", "given together"),
        ("encryption: sse-c", "given together"),
        ("prefix: /a", "slash"),
        ("cache: 5s", "cache"),
        ("colour: red", "colour"),
        ("local_store: true, endpoint: 'http://h'", "local_store"),
        ("connections: 0", "connections"),
    ],
)
async def test_what_cannot_be_meant_is_refused(tmp_path: Path, keys: str, said: str) -> None:
    """With the key that is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        _load(tmp_path, keys)


async def test_a_key_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    """Before a guest writes with it."""
    key = tmp_path / "key"
    key.write_bytes(b"short")
    settings = S3Settings(
        "data", encryption=Encryption.CUSTOMER, customer_key_file=PurePosixPath(tmp_path / "key")
    )
    with pytest.raises(ConfigurationError, match="32 bytes"):
        settings.open()


async def test_a_store_to_try_things_out_is_there_at_once(tmp_path: Path) -> None:
    """Without an account, and without anything that is not on this host."""
    filesystem = S3Settings("demo", local_store=True, state_dir=PurePosixPath(tmp_path)).open()
    assert isinstance(filesystem, S3Filesystem)
    async with mount(filesystem) as client:
        await client.write_bytes("/hello", b"world")
        assert await client.read_bytes("/hello") == b"world"
        assert await client.listdir("/") == ["hello"]
    filesystem.close()


EXAMPLE = Path(__file__).parents[3] / "configs/s3.yaml"
KEY = re.compile(r"^ {8}(?:# )?([a-z_]+): (.+)$", re.MULTILINE)


def test_the_example_names_every_key_and_nothing_else() -> None:
    """Once each."""
    named = [name for name, _ in KEY.findall(EXAMPLE.read_text())]
    assert sorted(named) == sorted(["type", *(field.name for field in fields(S3Settings))])


DEFAULTS = {field.name: field.default for field in fields(S3Settings) if field.default not in (None, MISSING)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, value in KEY.findall(EXAMPLE.read_text())
        if name in DEFAULTS and name != "local_store"
    ],
)
def test_what_the_example_calls_a_default_is_one(name: str, value: str) -> None:
    """What has none is an example."""
    parsed = schema.parse_mount(f"{{type: s3, bucket: b, {name}: {value}}}", "the example")
    assert isinstance(parsed, FilesystemSettings)
    assert getattr(parsed.backend, name) == DEFAULTS[name]
