"""Names that others take while their files are in use here: what was written is in the bucket, or refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 4

type Look = Callable[[Client, str], Awaitable[object]]


@pytest.fixture
async def client(make_filesystem: MakeFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has the bucket mounted, of which it believes nothing for long."""
    async with mount(make_filesystem(seconds=0.0)) as client:
        yield client


async def _list(client: Client, _name: str) -> object:
    return await client.listdir("/")


async def _stat(client: Client, name: str) -> object:
    return await client.exists(f"/{name}")


@pytest.fixture(params=[_list, _stat], ids=["listed", "looked up"])
def look(request: pytest.FixtureRequest) -> Look:
    """Return how the mount comes to know what others have done."""
    found: Look = request.param
    return found


async def _open(client: Client, name: str) -> tuple[int, int]:
    node = (await client.lookup(client.root, name)).nodeid
    return node, (await client.open_node(node, os.O_RDWR)).fh


async def _is_refused(client: Client, node: int, handle: int) -> None:
    """Check that who writes is told, at the latest when the file is closed."""

    async def write_and_close() -> None:
        await client.write(node, handle, 0, b"new")
        await client.flush(node, handle)

    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await write_and_close()
    await client.release(node, handle)


async def test_a_new_file_whose_name_becomes_a_directory_is_in_the_bucket(
    client: Client, server: FakeS3, look: Look
) -> None:
    entry, opened = await client.create_at(client.root, "name", os.O_WRONLY, 0o644)
    await client.write(entry.nodeid, opened.fh, 0, DATA)
    server.bucket.put("name/below", b"theirs", {})
    await look(client, "name")
    await client.flush(entry.nodeid, opened.fh)
    await client.release(entry.nodeid, opened.fh)
    assert server.bucket.objects["name"].data == DATA
    assert server.bucket.objects["name/below"].data == b"theirs"


async def test_who_writes_to_a_file_that_others_have_deleted_is_told(
    client: Client, server: FakeS3, look: Look
) -> None:
    server.bucket.put("name", DATA, {})
    node, handle = await _open(client, "name")
    server.bucket.delete("name")
    await look(client, "name")
    await _is_refused(client, node, handle)


async def test_who_writes_to_a_file_that_is_a_directory_by_now_is_told(
    client: Client, server: FakeS3, look: Look
) -> None:
    server.bucket.put("name", DATA, {})
    node, handle = await _open(client, "name")
    server.bucket.delete("name")
    server.bucket.put("name/below", b"theirs", {})
    await look(client, "name")
    await _is_refused(client, node, handle)


async def test_who_writes_to_a_file_that_is_a_link_by_now_is_told(
    client: Client, server: FakeS3, look: Look
) -> None:
    server.bucket.put("name", DATA, {})
    node, handle = await _open(client, "name")
    server.bucket.put("name", b"target", {"x-amz-meta-mode": str(stat.S_IFLNK | 0o777)})
    await look(client, "name")
    await client.exists("/name")
    await _is_refused(client, node, handle)
    assert server.bucket.objects["name"].data == b"target"


@pytest.fixture
async def believing(make_filesystem: MakeFilesystem, server: FakeS3) -> AsyncIterator[Client]:
    """Return a kernel that has a bucket mounted, and believes for a minute what it has seen there."""
    for name in ("one", "other"):
        server.bucket.put(name, DATA, {})
    async with mount(make_filesystem()) as client:
        await client.listdir("/")
        yield client


async def _is_told_once(act: Callable[[], Awaitable[object]]) -> None:
    """Check that what is done to what others have changed is refused, and goes through when tried again."""
    with pytest.raises(OSError, match=rf"^\[Errno {errno.ESTALE}\]"):
        await act()
    await act()


async def test_who_deletes_what_others_have_written_is_told_once(believing: Client, server: FakeS3) -> None:
    """Linux tries again by itself what is ESTALE."""
    server.bucket.put("one", b"theirs", {})
    await _is_told_once(lambda: believing.unlink("/one"))
    assert "one" not in server.bucket.objects


async def test_who_renames_what_others_have_written_is_told_once(believing: Client, server: FakeS3) -> None:
    server.bucket.put("one", b"theirs", {})
    await _is_told_once(lambda: believing.rename("/one", "/new"))
    assert server.bucket.objects["new"].data == b"theirs"


async def test_who_replaces_what_others_have_written_is_told_once(believing: Client, server: FakeS3) -> None:
    server.bucket.put("other", b"theirs", {})
    await _is_told_once(lambda: believing.rename("/one", "/other"))
    assert server.bucket.objects["other"].data == DATA


async def test_who_replaces_what_others_have_deleted_is_told_once(believing: Client, server: FakeS3) -> None:
    server.bucket.delete("other")
    await _is_told_once(lambda: believing.rename("/one", "/other"))
    assert server.bucket.objects["other"].data == DATA


async def test_who_renames_to_what_others_have_made_is_told_once(believing: Client, server: FakeS3) -> None:
    server.bucket.put("new", b"theirs", {})
    await _is_told_once(lambda: believing.rename("/one", "/new"))
    assert server.bucket.objects["new"].data == DATA


async def test_who_changes_attributes_of_what_others_have_written_is_told_once(
    believing: Client, server: FakeS3
) -> None:
    await believing.stat("/one")
    server.bucket.put("one", b"theirs", {})

    async def change() -> None:
        await believing.chmod("/one", 0o600)
        await believing.syncfs()

    await _is_told_once(change)
    assert server.bucket.objects["one"].headers["x-amz-meta-mode"] == str(stat.S_IFREG | 0o600)


async def test_who_writes_again_to_what_others_have_written_is_told_once(
    believing: Client, server: FakeS3
) -> None:
    await believing.read_bytes("/one")
    server.bucket.put("one", b"theirs", {})
    await _is_told_once(lambda: believing.write_bytes("/one", b"ours"))
    assert server.bucket.objects["one"].data == b"ours"


async def test_a_file_below_what_is_a_file_by_now_is_in_the_bucket(
    client: Client, server: FakeS3, look: Look
) -> None:
    server.bucket.put("name/below", b"theirs", {})
    directory = (await client.lookup(client.root, "name")).nodeid
    entry, opened = await client.create_at(directory, "new", os.O_WRONLY, 0o644)
    await client.write(entry.nodeid, opened.fh, 0, DATA)
    server.bucket.delete("name/below")
    server.bucket.put("name", b"theirs", {})
    await look(client, "name")
    await client.flush(entry.nodeid, opened.fh)
    await client.release(entry.nodeid, opened.fh)
    assert server.bucket.objects["name/new"].data == DATA
