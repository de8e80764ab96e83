"""A squashfs image appears as mksquashfs made it, and costs no more than it may where it is hostile."""

from __future__ import annotations

import errno
import lzma
import os
import random
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.backends.archive.conftest import Opener
from vhostfs.backends.archive import open_archive
from vhostfs.backends.archive.squashfs import Block, Image
from vhostfs.errors import ConfigurationError
from vhostfs.files import FileHandle, walk
from vhostfs.filesystem import Caller
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio

IMAGES = Path(__file__).parent / "images"
NAMES = ["gzip", "xz", "zstd", "stored"]
EVERYTHING = {
    *("directory", "disk", "empty", "fifo", "many", "null", "raw\udcff", "small", "sparse", "stored"),
}


def image(name: str) -> bytes:
    """Return an image of images/make."""
    if name == "stored":
        return lzma.decompress((IMAGES / "stored.img.xz").read_bytes())
    return (IMAGES / f"{name}.img").read_bytes()


def contents() -> dict[str, bytes]:
    """Return what the images' files hold, as images/make made it."""
    generator = random.Random(7)
    return {
        "/directory/file": bytes(generator.choices(b"abcd", k=10000)),
        "/small": b"small\n",
        "/directory/hard": b"small\n",
        "/empty": b"",
        "/sparse": b"begin".ljust(40960, b"\0") + b"middle".ljust(40960, b"\0"),
        "/stored": generator.randbytes(5000),
        "/raw\udcff": b"raw",
    }


@pytest.mark.parametrize("name", NAMES)
async def test_files_are_read_anywhere_whatever_compressed_them(opened: Opener, name: str) -> None:
    async with mount(opened(image(name))) as client:
        assert set(await client.listdir("/")) == EVERYTHING
        assert sorted(await client.listdir("/many")) == [f"name{number:03}" for number in range(300)]
        for path, data in contents().items():
            assert await client.read_bytes(path) == data
        node = (await client.lookup(client.root, "sparse")).nodeid
        fh = (await client.open_node(node)).fh
        data = contents()["/sparse"]
        for offset, size in [(40_950, 30), (4090, 10), (0, 81_920), (81_915, 100), (81_920, 5), (1 << 62, 1)]:
            for _ in range(2):
                assert await client.read(node, fh, offset, size) == data[offset : offset + size]
        assert await client.lseek(node, fh, 5000, os.SEEK_DATA) == 40960
        assert await client.lseek(node, fh, 0, os.SEEK_HOLE) == 4096
        for offset, whence in [(50_000, os.SEEK_DATA), (81_920, os.SEEK_HOLE)]:
            with pytest.raises(OSError, match="No such device or address"):
                await client.lseek(node, fh, offset, whence)
        await client.release(node, fh)


@pytest.mark.parametrize("name", NAMES)
async def test_attributes_are_those_of_the_image(opened: Opener, name: str) -> None:
    async with mount(opened(image(name))) as client:
        small = await client.stat("/small")
        assert small.mode == stat.S_IFREG | 0o4751
        assert (small.uid, small.gid, small.size, small.nlink) == (1000, 70_000, 6, 2)
        assert small.mtime_ns == 1_700_000_000 * 10**9
        assert small == await client.stat("/directory/hard")
        assert sorted(await client.listxattr("/small")) == ["trusted.t", "user.long", "user.note"]
        assert await client.getxattr("/small", "user.note") == b"value\0\xff"
        for path in ("/small", "/directory", "/empty"):
            assert await client.getxattr(path, "user.long") == b"L" * 500
        assert await client.listxattr("/stored") == []
        with pytest.raises(OSError, match="No data"):
            await client.getxattr("/stored", "user.long")
        assert (await client.stat("/directory")).mode == stat.S_IFDIR | 0o1777
        assert (await client.stat("/directory")).nlink == 3
        assert await client.readlink("/directory/link") == "../small"
        assert (await client.stat("/null")).rdev == os.makedev(1, 3)
        disk = await client.stat("/disk")
        assert (stat.S_IFMT(disk.mode), disk.rdev) == (stat.S_IFBLK, os.makedev(259, 70_000))
        assert stat.S_ISFIFO((await client.stat("/fifo")).mode)
        assert (await client.statfs()).files == 314
        listed = {entry.name: entry.ino for entry in await client.entries("/", plus=True)}
        assert listed[b"small"] == small.ino
        assert not await client.exists("/missing")


async def test_nothing_can_be_changed(opened: Opener) -> None:
    async with mount(opened(image("gzip"))) as client:
        node = (await client.lookup(client.root, "small")).nodeid
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
            with pytest.raises(OSError, match="Read-only file system"):
                await client.open_node(node, flags)
        with pytest.raises(OSError, match="not implemented"):
            await client.unlink("/small")


async def test_a_directory_has_no_more_entries_than_are_allowed(opened: Opener) -> None:
    async with mount(opened(image("gzip"), members=100)) as client:
        assert set(await client.listdir("/")) == EVERYTHING
        with pytest.raises(OSError, match="Input/output error"):
            await client.listdir("/many")


@pytest.mark.parametrize("size", [0, 50, 96, 5000, -1])
def test_what_is_cut_off_is_no_image(opened: Opener, size: int) -> None:
    with pytest.raises(ConfigurationError, match=r"no squashfs image|cut off"):
        opened(image("gzip")[:size], format="squashfs")


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (28, struct.pack("<H", 2), "this is no squashfs image of version 4.0"),
        (12, struct.pack("<I", 1 << 30), "this is no squashfs image of version 4.0"),
        (20, struct.pack("<H", 5), "images compressed by lz4 cannot be read"),
        (20, struct.pack("<H", 99), "images compressed by 99 cannot be read"),
        (32, struct.pack("<Q", 1 << 40), "the squashfs image is damaged"),
        (48, struct.pack("<Q", 1 << 63), "the squashfs image is damaged"),
    ],
)
def test_what_cannot_be_read_says_so(opened: Opener, at: int, value: bytes, message: str) -> None:
    archive = bytearray(image("gzip"))
    archive[at : at + len(value)] = value
    with pytest.raises(ConfigurationError, match=message):
        opened(bytes(archive))


def test_a_block_becomes_no_larger_than_blocks_are(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(16 << 20))[:4000]
    path = tmp_path / "image"
    path.write_bytes(image("gzip") + bomb)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        read = Image(descriptor)
        for length in (len(bomb), 4097):
            with pytest.raises(OSError, match="Input/output error") as caught:
                read.data(Block(path.stat().st_size - len(bomb), length, False, 4096))
            assert caught.value.errno == errno.EIO
    finally:
        os.close(descriptor)


async def everything(filesystem: Any) -> None:
    """Read all that there is, through whatever errors."""
    root = Caller()

    async for path, directories, others in walk(filesystem):
        if path.count("/") > 6:
            directories.clear()
        for name in (directories + others)[:400]:
            try:
                async with await FileHandle.open(
                    filesystem, f"{path}/{name}", "rb", follow_symlinks=False
                ) as file:
                    await file.seek(0, os.SEEK_HOLE)
                    await file.seek(0)
                    await file.read(100_000)
                    filesystem.listxattr(root, file._file.place.node)
            except OSError:
                pass


@given(
    flips=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=8),
    where=st.sampled_from(["anywhere", "metadata"]),
    name=st.sampled_from(["stored", "gzip"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_no_image_makes_anything_but_files_and_errors(
    tmp_path: Path, flips: list[tuple[int, int]], where: str, name: str
) -> None:
    archive = bytearray(image(name))
    begin = struct.unpack_from("<Q", archive, 64)[0] if where == "metadata" else 0
    for at, value in flips:
        archive[begin + at % (len(archive) - begin)] ^= value
    path = tmp_path / "image"
    path.write_bytes(archive)
    try:
        filesystem = open_archive(path, format="squashfs", spool_dir=tmp_path)
    except ConfigurationError:
        return
    try:
        anyio.run(everything, filesystem)
    finally:
        filesystem.close()
