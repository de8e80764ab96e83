"""Renaming is copying and deleting, and nobody sees more of that than the time that it takes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.backends.s3.writing import copying
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

DATA = bytes(range(251)) * 4


@pytest.fixture
async def client(make_filesystem: MakeFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has the bucket mounted."""
    async with mount(make_filesystem()) as client:
        yield client


async def _open(client: Client, path: str, flags: int = os.O_RDWR) -> tuple[int, int]:
    directory, _, name = path.rpartition("/")
    parent = (await client.lookup(client.root, directory[1:])).nodeid if directory else client.root
    node = (await client.lookup(parent, name)).nodeid
    return node, (await client.open_node(node, flags)).fh


async def test_a_file_that_is_open_goes_on_under_its_directorys_new_name(
    client: Client, server: FakeS3
) -> None:
    """It is read, written and committed there."""
    await client.mkdir("/d")
    await client.write_bytes("/d/file", DATA)
    node, handle = await _open(client, "/d/file")
    assert await client.read(node, handle, 0, 10) == DATA[:10]
    await client.rename("/d", "/moved")
    assert await client.read(node, handle, 100, 10) == DATA[100:110]
    await client.write(node, handle, 0, b"new")
    await client.flush(node, handle)
    await client.release(node, handle)
    assert sorted(server.bucket.objects) == ["moved/", "moved/file"]
    assert server.bucket.objects["moved/file"].data == b"new" + DATA[3:]


async def test_what_is_written_below_a_directory_while_it_moves_moves_too(
    client: Client, server: FakeS3
) -> None:
    """Whether it is in the bucket before or after the copies were made."""
    await client.mkdir("/d")
    for name in ("early", "late"):
        await client.write_bytes(f"/d/{name}", DATA)
    early, late = [await _open(client, f"/d/{name}") for name in ("early", "late")]
    server.requests.clear()
    server.latency = 0.01
    moving = asyncio.ensure_future(client.rename("/d", "/moved"))
    while not server.requests["CopyObject"]:
        await server.changed()
    for node, handle in (early, late):
        await client.write(node, handle, 0, b"new")
    await client.flush(*early)
    await moving
    await client.flush(*late)
    for file in (early, late):
        await client.release(*file)
    assert sorted(server.bucket.objects) == ["moved/", "moved/early", "moved/late"]
    for name in ("early", "late"):
        assert server.bucket.objects[f"moved/{name}"].data == b"new" + DATA[3:]


@pytest.mark.parametrize("is_copied", [False, True], ids=["listed", "copied"])
async def test_what_is_written_and_closed_below_a_directory_while_it_moves_moves_too(
    client: Client, server: FakeS3, is_copied: bool
) -> None:
    """Changed or made, between the listing and its copy or after that."""
    await client.mkdir("/d")
    for name in ("one", "two"):
        await client.write_bytes(f"/d/{name}", DATA)
    directory = (await client.lookup(client.root, "d")).nodeid
    node, handle = await _open(client, "/d/one")
    server.requests.clear()
    server.held["CopyObject"] = asyncio.Event()
    moving = asyncio.ensure_future(client.rename("/d", "/moved"))
    while not server.requests["CopyObject"]:
        await server.changed()
    if is_copied:
        server.held.pop("CopyObject").set()
    await client.write(node, handle, 0, b"new")
    await client.flush(node, handle)
    await client.release(node, handle)
    entry, made = await client.create_at(directory, "made", os.O_WRONLY, 0o600)
    await client.write(entry.nodeid, made.fh, 0, b"made")
    await client.flush(entry.nodeid, made.fh)
    await client.release(entry.nodeid, made.fh)
    if not is_copied:
        server.held.pop("CopyObject").set()
    await moving
    expected = {"moved/": b"", "moved/one": b"new" + DATA[3:], "moved/two": DATA, "moved/made": b"made"}
    assert {key: found.data for key, found in server.bucket.objects.items()} == expected


async def test_what_is_deleted_below_a_directory_while_it_moves_is_gone(
    client: Client, server: FakeS3
) -> None:
    """Under both names, as is what is renamed or replaced there."""
    await client.mkdir("/d")
    await client.mkdir("/d/empty")
    for name in ("deleted", "renamed", "replaced", "stays"):
        await client.write_bytes(f"/d/{name}", name.encode())
    directory = (await client.lookup(client.root, "d")).nodeid
    server.requests.clear()
    server.held["CopyObject"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.rename("/d", "/moved"))
        while not server.requests["CopyObject"]:
            await server.changed()
        group.create_task(client.unlink_at(directory, "deleted"))
        group.create_task(client.rmdir_at(directory, "empty"))
        group.create_task(client.rename_at(directory, "renamed", directory, "replaced"))
        for _ in range(100):
            await asyncio.sleep(0)
        server.held.pop("CopyObject").set()
    expected = {"moved/": b"", "moved/replaced": b"renamed", "moved/stays": b"stays"}
    assert {key: found.data for key, found in server.bucket.objects.items()} == expected


async def test_a_directory_moves_when_what_is_deleted_below_it_is_gone(
    client: Client, server: FakeS3
) -> None:
    await client.mkdir("/d")
    for name in ("deleted", "stays"):
        await client.write_bytes(f"/d/{name}", name.encode())
    server.requests.clear()
    server.held["DeleteObject"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(client.unlink("/d/deleted"))
        while not server.requests["DeleteObject"]:
            await server.changed()
        group.create_task(client.rename("/d", "/moved"))
        for _ in range(100):
            await asyncio.sleep(0)
        server.held.pop("DeleteObject").set()
    found = {key: each.data for key, each in server.bucket.objects.items()}
    assert found == {"moved/": b"", "moved/stays": b"stays"}


async def test_what_others_write_below_a_directory_while_it_moves_stays(
    client: Client, server: FakeS3
) -> None:
    """Under the name that they wrote it to."""
    await client.mkdir("/d")
    await client.write_bytes("/d/file", DATA)
    server.latency = 0.01
    server.requests.clear()
    moving = asyncio.ensure_future(client.rename("/d", "/moved"))
    while not server.requests["CopyObject"]:
        await server.changed()
    await asyncio.sleep(0.011)
    server.bucket.put("d/file", b"theirs", {})
    await moving
    assert server.bucket.objects["d/file"].data == b"theirs"
    assert server.bucket.objects["moved/file"].data == DATA


async def test_nothing_that_others_have_made_is_overwritten(client: Client, server: FakeS3) -> None:
    """Neither by a file nor by a directory that gets the name."""
    await client.mkdir("/d")
    await client.write_bytes("/d/one", DATA)
    await client.write_bytes("/file", DATA)
    await client.listdir("/")
    server.bucket.put("new", b"theirs", {})
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await client.rename("/file", "/new")
    assert await client.listdir("/") == ["d", "file", "new"]
    server.bucket.put("moved/one", b"theirs", {})
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await client.rename("/d", "/moved")
    assert {key: found.data for key, found in server.bucket.objects.items()} == {
        "d/": b"",
        "d/one": DATA,
        "file": DATA,
        "moved/one": b"theirs",
        "new": b"theirs",
    }
    await client.rename("/file", "/new")  # which has been seen by now
    assert server.bucket.objects["new"].data == DATA


async def test_what_is_too_large_for_one_copy_is_copied_in_parts(
    client: Client, server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its metadata; files alone and below directories."""
    monkeypatch.setattr(copying, "COPY_MAXIMUM", 100)
    monkeypatch.setattr(copying, "PART_SIZE", 300)
    server.bucket.part_minimum = 300
    for path in ("/file", "/d/file"):
        server.bucket.put(path[1:], DATA, {"x-amz-meta-theirs": "kept"})
    await client.rename("/file", "/other")
    await client.rename("/d", "/moved")
    assert sorted(server.bucket.objects) == ["moved/file", "other"]
    for found in server.bucket.objects.values():
        assert found.data == DATA
        assert found.headers["x-amz-meta-theirs"] == "kept"
    assert await client.read_bytes("/moved/file") == DATA
    assert not server.bucket.uploads
