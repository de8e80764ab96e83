"""The example of a table."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from examples.sqlite_table import LARGEST, SCHEMA, Notes
from vhostfs.filesystem import RenameFlags
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@asynccontextmanager
async def mounted(database: Path) -> AsyncIterator[Client]:
    """Mount the table, and close the database in the end."""
    notes = Notes(os.fspath(database))
    with closing(notes._database):
        async with mount(notes) as client:
            yield client


def rows(database: Path) -> list[tuple[str, bytes]]:
    """Return the table as other programs see it, once it is free."""
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT name, content FROM notes ORDER BY name").fetchall()
    connection.close()
    return found


async def test_what_a_guest_writes_are_rows(database: Path) -> None:
    async with mounted(database) as client:
        await client.write_bytes("/one", b"first")
        await client.write_bytes("/two", b"")
        await client.write_bytes("/gone", b"x" * 100_000)
        assert await client.listdir("/") == ["one", "two", "gone"]
        assert await client.read_bytes("/gone") == b"x" * 100_000
        await client.truncate("/gone", 3)
        assert (await client.stat("/gone")).size == 3
        await client.truncate("/two", 2)
        await client.rename("/one", "/Ünicode")
        await client.unlink("/gone")
        assert not await client.exists("/gone")
    assert rows(database) == [("two", b"\0\0"), ("Ünicode", b"first")]


async def test_names_are_unique_and_may_be_any(database: Path) -> None:
    async with mounted(database) as client:
        for name in ("a", "b", os.fsdecode(b"\xff"), "x' OR 1=1 --"):
            await client.write_bytes(f"/{name}", name.encode(errors="surrogateescape"))
            assert await client.read_bytes(f"/{name}") == os.fsencode(name)
        with pytest.raises(FileExistsError):
            await client.rename("/a", "/b", RenameFlags.NOREPLACE)
        await client.rename("/a", "/b")
        assert await client.read_bytes("/b") == b"a"
        assert len(await client.listdir("/")) == 3
        with pytest.raises(FileExistsError):
            await client.mknod("/b", 0o100644)
        for missing in (client.unlink("/a"), client.rename("/a", "/c")):
            with pytest.raises(FileNotFoundError):
                await missing


async def test_no_offset_costs_more_memory_than_the_largest_file(database: Path) -> None:
    async with mounted(database) as client:
        await client.write_bytes("/file", b"content")
        node = (await client.lookup(1, "file")).nodeid
        for offset in (LARGEST, 2**40, 2**62):
            with pytest.raises(OSError, match="File too large") as raised:
                await client.write(node, 0, offset, b"x")
            assert raised.value.errno == errno.EFBIG
            assert await client.read(node, 0, offset, 4096) == b""
        with pytest.raises(OSError, match="File too large"):
            await client.truncate("/file", LARGEST + 1)
        assert await client.read_bytes("/file") == b"content"


async def test_names_that_no_file_can_have_are_left_out(database: Path) -> None:
    with closing(sqlite3.connect(database, autocommit=True)) as connection:
        connection.execute(SCHEMA)
        for name in ("", ".", "..", "a/b", "a\0b", "fine"):
            connection.execute("INSERT INTO notes VALUES (?, x'')", (name,))
    async with mounted(database) as client:
        assert await client.listdir("/") == ["fine"]
