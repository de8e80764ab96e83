"""The example of a layer that encrypts."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

from examples.encrypted import BLOCK, Encrypted, EncryptSettings
from vhostfs.backends.contract import Layered
from vhostfs.backends.memory import MemoryFilesystem, MemorySettings
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

KEY = bytes(range(32))


@asynccontextmanager
async def mounted(below: MemoryFilesystem, key: bytes = KEY) -> AsyncIterator[Client]:
    async with mount(Encrypted(below, key)) as client:
        yield client


@pytest.fixture
def below() -> MemoryFilesystem:
    """The file system that keeps what is encrypted."""
    return MemoryFilesystem(size=64 << 20, inodes=1000)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1_000_000])
async def test_what_is_written_is_read_again_and_its_size_is_told(below: MemoryFilesystem, size: int) -> None:
    content = random.Random(size).randbytes(size)
    async with mounted(below) as client:
        await client.write_bytes("/file", content)
        assert await client.read_bytes("/file") == content
        assert (await client.stat("/file")).size == size
        assert await client.listdir("/") == ["file"]
    async with mount(below) as client:
        stored = await client.read_bytes("/file")
        assert len(stored) == size + -(-size // BLOCK) * 28
        # Fewer bytes may come about by chance.
        assert size < 16 or content[:16] not in stored


async def test_any_history_of_writes_and_sizes_is_as_it_would_be_without(below: MemoryFilesystem) -> None:
    chance = random.Random(1)
    model = bytearray()
    async with mounted(below) as client:
        await client.write_bytes("/file", b"")
        node = (await client.lookup(1, "file")).nodeid
        opened = await client.open_node(node, os.O_WRONLY)
        for _ in range(300):
            offset = chance.choice([0, len(model), chance.randrange(6 * BLOCK)])
            if chance.random() < 0.3:
                await client.truncate("/file", offset)
                model = (model + bytes(max(0, offset - len(model))))[:offset]
            else:
                piece = chance.randbytes(chance.choice([1, 100, BLOCK, 2 * BLOCK + 1]))
                await client.write(node, opened.fh, offset, piece)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(piece)] = piece
            assert await client.read_bytes("/file") == model
            assert (await client.stat("/file")).size == len(model)


async def test_writes_at_once_to_one_block_lose_nothing(below: MemoryFilesystem) -> None:
    async with mounted(below) as client:
        await client.write_bytes("/file", bytes(BLOCK))
        node = (await client.lookup(1, "file")).nodeid
        opened = await client.open_node(node, os.O_WRONLY)
        await asyncio.gather(*(client.write(node, opened.fh, at, bytes([at])) for at in range(200)))
        assert (await client.read_bytes("/file"))[:200] == bytes(range(200))


async def test_what_another_key_or_another_hand_wrote_is_an_error(below: MemoryFilesystem) -> None:
    async with mounted(below) as client:
        await client.write_bytes("/file", b"secret" * 2000)
    async with mounted(below, bytes(32)) as client:
        with pytest.raises(OSError, match="Input/output error") as raised:
            await client.read_bytes("/file")
        assert raised.value.errno == errno.EIO
    async with mount(below) as client:
        stored = await client.read_bytes("/file")
        swapped = stored[BLOCK + 28 : 2 * (BLOCK + 28)] + stored[: BLOCK + 28] + stored[2 * (BLOCK + 28) :]
        await client.write_bytes("/file", swapped)
    async with mounted(below) as client:
        with pytest.raises(OSError, match="Input/output error"):
            await client.read_bytes("/file")


async def test_no_offset_is_too_large_to_be_refused(below: MemoryFilesystem) -> None:
    async with mounted(below) as client:
        await client.write_bytes("/file", b"x")
        node = (await client.lookup(1, "file")).nodeid
        opened = await client.open_node(node, os.O_RDWR)
        for offset in (2**61, 2**62):
            with pytest.raises(OSError, match="File too large"):
                await client.write(node, opened.fh, offset, b"x")
            assert await client.read(node, opened.fh, offset, 10) == b""


async def test_a_configuration_puts_the_layer_before_a_mount(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    layer = EncryptSettings(PurePosixPath(tmp_path / "key"))
    async with mount(Layered(MemorySettings(), (layer,)).open()) as client:
        await client.write_bytes("/file", b"content")
        assert await client.read_bytes("/file") == b"content"
