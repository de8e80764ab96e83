"""A zip archive appears as what its members say; what is compressed is kept while there is room."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.unit.backends.archive.conftest import Opener
from vhostfs.backends.archive import ArchiveFilesystem
from vhostfs.backends.archive.zip import ZipSource
from vhostfs.errors import ConfigurationError
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

MiB = 1 << 20
DATA = os.urandom(300_000) + bytes(200_000) + b"end"
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]

type Member = tuple[str | zipfile.ZipInfo, bytes]


def archive_of(*members: Member, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return an archive of members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return target.getvalue()


def member(name: str, mode: int = 0, extra: bytes = b"", **attributes: Any) -> zipfile.ZipInfo:
    """Return a member's header, of Unix where it has a mode."""
    info = zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6))
    info.external_attr = mode << 16
    info.create_system = 3 if mode else 0
    info.extra = extra
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def source_of(filesystem: ArchiveFilesystem) -> ZipSource:
    """Return what is behind a zip archive."""
    source = filesystem._source
    assert isinstance(source, ZipSource)
    return source


async def opening(client: Client, name: str) -> tuple[int, int]:
    """Open a file of the root; return its nodeid and fh."""
    node = (await client.lookup(client.root, name)).nodeid
    return node, (await client.open_node(node)).fh


@pytest.mark.parametrize("method", METHODS)
async def test_members_are_read_anywhere_whatever_compressed_them(opened: Opener, method: int) -> None:
    archive = archive_of(("before", b"x"), ("directory/file", DATA), ("empty", b""), method=method)
    async with mount(opened(b"a program that unpacks itself" + archive)) as client:
        assert await client.listdir("/") == ["before", "directory", "empty"]
        assert await client.read_bytes("/directory/file") == DATA
        assert await client.read_bytes("/empty") == b""
        node = (await client.lookup((await client.lookup(client.root, "directory")).nodeid, "file")).nodeid
        fh = (await client.open_node(node)).fh
        for offset, size in [(len(DATA) - 10, 100), (299_990, 20), (0, 1), (len(DATA), 10)]:
            assert await client.read(node, fh, offset, size) == DATA[offset : offset + size]
        await client.release(node, fh)


async def test_attributes_are_those_of_the_members(opened: Opener) -> None:
    times = struct.pack("<HHBi", 0x5455, 5, 1, -77)
    owners = struct.pack("<HHBBIBI", 0x7875, 11, 1, 4, 1000, 4, 2000)
    archive = archive_of(
        (member("unix", stat.S_IFREG | 0o4711, times + owners), b"data"),
        (member("dos"), b""),
        (member("broken", 0, b"\x55\x54\x01\x00\x01" + b"\x75\x78\x03\x00\x01\x00\x09"), b""),
        (member("d/", stat.S_IFDIR | 0o1777), b""),
        (member("link", stat.S_IFLNK | 0o777), "../d/\u00e9".encode()),
        (member("nowhere", stat.S_IFLNK | 0o777), b"a\0b"),
        (member("fifo", stat.S_IFIFO | 0o600), b""),
        ("/../up", b""),
        ("raw\u20ac", b""),
    )
    async with mount(opened(archive, uid=5, gid=6)) as client:
        unix = await client.stat("/unix")
        assert (unix.mode, unix.uid, unix.gid, unix.mtime_ns) == (
            *(stat.S_IFREG | 0o4711, 1000, 2000, -77_000_000_000),
        )
        dos = await client.stat("/dos")
        assert (dos.mode, dos.uid, dos.gid) == (stat.S_IFREG | 0o644, 5, 6)
        assert dos.mtime_ns == 1_580_702_706 * 1_000_000_000
        assert (await client.stat("/d")).mode == stat.S_IFDIR | 0o1777
        assert await client.readlink("/link") == "../d/\u00e9"
        assert (await client.stat("/link")).size == 7
        assert set(await client.listdir("/")) == {"unix", "dos", "broken", "d", "link", "raw\u20ac"}
        with pytest.raises(OSError, match="Read-only"):
            await client.open_node((await client.lookup(client.root, "dos")).nodeid, os.O_RDWR)


@pytest.mark.parametrize("method", METHODS)
async def test_a_wrong_checksum_is_an_error_of_that_member(
    opened: Opener, method: int, caplog: pytest.LogCaptureFixture
) -> None:
    archive = bytearray(archive_of(("wrong", DATA), ("right", b"right"), method=method))
    central = archive.index(b"PK\x01\x02")
    archive[central + 16] ^= 1
    archive[14] ^= 1
    async with mount(opened(bytes(archive))) as client:
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error") as caught:
                await client.read_bytes("/wrong")
            assert caught.value.errno == errno.EIO
        assert await client.read_bytes("/right") == b"right"
    assert "'wrong' in the archive is damaged" in caplog.text


async def test_data_that_is_wrong_or_elsewhere_is_an_error(opened: Opener) -> None:
    whole = archive_of(("member", DATA), ("right", b"right"))
    central = whole.index(b"PK\x01\x02")
    damages = {
        "data": (200_000, b"\xff" * 1000),
        "local header": (0, b"XXXX"),
        "offset": (central + 42, b"\xf0\xff\xff\x7f"),
        "size": (central + 24, struct.pack("<I", len(DATA) + 5)),
    }
    for at, noise in damages.values():
        archive = bytearray(whole)
        archive[at : at + len(noise)] = noise
        async with mount(opened(bytes(archive))) as client:
            with pytest.raises(OSError, match="Input/output error"):
                await client.read_bytes("/member")
            assert await client.read_bytes("/right") == b"right"


async def test_what_cannot_be_decompressed_says_so(opened: Opener) -> None:
    archive = bytearray(archive_of(("encrypted", b"x"), ("unknown", b"y")))
    first = archive.index(b"PK\x01\x02")
    archive[first + 8] |= 1
    second = archive.index(b"PK\x01\x02", first + 1)
    archive[second + 10] = 9
    async with mount(opened(bytes(archive))) as client:
        with pytest.raises(PermissionError):
            await client.read_bytes("/encrypted")
        with pytest.raises(OSError, match="not supported"):
            await client.read_bytes("/unknown")


# ---- What is kept ----


async def test_what_is_open_stays_and_the_rest_makes_room(opened: Opener) -> None:
    members = [(f"file{number}", bytes([number]) * MiB) for number in range(5)]
    filesystem = opened(archive_of(*members, ("bomb", bytes(4 * MiB))), spool_size=3 * MiB)
    source = source_of(filesystem)
    async with mount(filesystem) as client:
        with pytest.raises(OSError, match="File too large"):
            await client.read_bytes("/bomb")
        for name, data in members:
            assert await client.read_bytes(f"/{name}") == data
        assert source._used == 3 * MiB
        held = [await opening(client, f"file{number}") for number in range(3)]
        with pytest.raises(OSError, match="No space left"):
            await opening(client, "file3")
        await client.release(*held.pop(0))
        held.append(await opening(client, "file3"))
        for number, (node, fh) in enumerate(held, 1):
            assert await client.read(node, fh, MiB - 1, 2) == bytes([number])
            await client.release(node, fh)
        assert len(source._kept) == 3


async def test_a_member_is_decompressed_once_for_all_who_open_it_at_once(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = opened(archive_of(("file", DATA), ("stored", DATA)))
    source = source_of(filesystem)
    extracted: list[str] = []
    extract = source._extract

    def noted(info: zipfile.ZipInfo, target: int) -> int:
        extracted.append(info.filename)
        return extract(info, target)

    monkeypatch.setattr(source, "_extract", noted)
    async with mount(filesystem) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.read_bytes, "/file")
        assert await client.read_bytes("/file") == DATA
        assert extracted == ["file"]


async def test_who_gives_up_leaves_the_others_their_member(opened: Opener) -> None:
    filesystem = opened(archive_of(("file", DATA)))
    source = source_of(filesystem)
    filesystem.init(None)
    node = source.index.nodes[1]
    threads = filesystem._ready_threads()
    first = asyncio.create_task(source.open(node, threads))
    second = asyncio.create_task(source.open(node, threads))
    await asyncio.sleep(0)
    first.cancel()
    content = await second
    assert os.pread(content.descriptor, 4096, 0) == DATA[:4096]
    content.leave()
    third = asyncio.create_task(source.open(node, threads))
    await filesystem.destroy()
    (await third).leave()
    assert first.cancelled()


# ---- Hostile ones ----


def test_a_directory_of_members_is_bounded(opened: Opener) -> None:
    archive = archive_of(*((f"d{number}/f", b"") for number in range(10)))
    with pytest.raises(ConfigurationError, match="more than 19 members"):
        opened(archive, members=19)
    padded = archive_of(
        (member("file", comment=b"c" * 60_000), b""), *((f"{n}" * 200, b"") for n in range(9))
    )
    assert opened(padded, members=100)
    many = archive_of(*((member(f"file{number}", comment=b"c" * 60_000), b"") for number in range(30)))
    with pytest.raises(ConfigurationError, match="headers are larger"):
        opened(many, members=100)


async def test_what_is_cut_off_is_no_archive(opened: Opener, tmp_path: Path) -> None:
    whole = archive_of(("file", DATA))
    for size in (30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ConfigurationError, match="no zip archive"):
            opened(whole[:size])
    with pytest.raises(ConfigurationError, match="no zip archive"):
        opened(b"PK\x05\x06" + b"\xff" * 18)
    async with mount(opened(archive_of())) as client:
        assert await client.listdir("/") == []
