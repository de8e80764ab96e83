"""Under a read_only layer everything can be looked at, and nothing changes."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.filesystem import Caller, Filesystem, IoctlReply
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.layers.read_only import ReadOnly, ReadOnlySettings
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    filesystem = DirectoryFilesystem(tmp_path)
    async with mount(ReadOnlySettings().wrap(filesystem)) as client:
        yield client
    filesystem.close()


async def test_what_is_there_can_be_read(client: Client) -> None:
    assert await client.read_bytes("/file") == b"content"
    assert sorted(await client.listdir("/")) == ["directory", "file"]
    assert (await client.stat("/file")).size == 7


async def test_nothing_changes(client: Client, tmp_path: Path) -> None:
    with refused(errno.EROFS):
        await client.write_bytes("/new", b"")
    with refused(errno.EROFS):
        await client.write_bytes("/file", b"other")
    for change in (
        client.mkdir("/new"),
        client.mknod("/new", 0o100644),
        client.symlink("file", "/new"),
        client.link("/file", "/new"),
        client.unlink("/file"),
        client.rmdir("/directory"),
        client.rename("/file", "/new"),
        client.chmod("/file", 0),
        client.truncate("/file", 0),
        client.utime("/file", 0, 0),
        client.setxattr("/file", "user.a", b"b"),
        client.removexattr("/file", "user.a"),
    ):
        with refused(errno.EROFS):
            await change
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]  # noqa: PTH208
    assert (tmp_path / "file").read_bytes() == b"content"


async def test_a_file_that_is_open_for_reading_is_not_written_to(client: Client) -> None:
    node = (await client.lookup(client.root, "file")).nodeid
    fh = (await client.open_node(node, os.O_RDONLY)).fh
    with refused(errno.EROFS):
        await client.write(node, fh, 0, b"other")
    with refused(errno.EROFS):
        await client.fallocate(node, fh, 0, 0, 100)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with refused(errno.EROFS):
            await client.open_node(node, flags)
    await client.release(node, fh)


def test_an_ioctl_may_ask_and_not_tell() -> None:
    class Inner(Filesystem[None]):
        def ioctl(self, *_: object) -> IoctlReply:
            return IoctlReply(1)

    layer = ReadOnly(Inner())
    assert layer.ioctl(Caller(), 2, None, 2 << 30, 0, b"", 4) == IoctlReply(1)
    with refused(errno.EROFS):
        layer.ioctl(Caller(), 2, None, 1 << 30, 0, b"1234", 0)


async def test_what_the_inner_one_does_not_answer_stays_unanswered() -> None:
    class Inner(Filesystem[None]):
        pass

    async with mount(ReadOnly(Inner())) as client:
        assert Opcode.MKDIR not in client.session.opcodes
