"""A tar archive appears as what its members say, whatever they say."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.backends.archive.conftest import Opener
from vhostfs.backends.archive import ArchiveSettings, open_archive
from vhostfs.errors import ConfigurationError
from vhostfs.files import walk
from vhostfs.filesystem import Caller
from vhostfs.testing import mount

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio

MiB = 1 << 20
DATA = os.urandom(300_000) + bytes(200_000) + b"end"

type Members = list[tuple[str | tarfile.TarInfo, bytes | None]]


def member(name: str, kind: bytes = tarfile.REGTYPE, **attributes: Any) -> tarfile.TarInfo:
    """Return a member's header."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def tar(members: Members, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of members, of whom a name alone is a regular file."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for info, data in members:
            header = member(info) if isinstance(info, str) else info
            if data is not None:
                header.size = len(data)
            archive.addfile(header, io.BytesIO(data or b""))
    return target.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("name", COMPRESSIONS)
async def test_members_are_read_anywhere_whatever_compressed_them(opened: Opener, name: str) -> None:
    members: Members = [("before", b"x"), ("directory/file", DATA), ("after", b""), ("last", b"last")]
    filesystem = opened(COMPRESSIONS[name](tar(members)))
    async with mount(filesystem) as client:
        assert await client.listdir("/") == ["before", "directory", "after", "last"]
        assert await client.read_bytes("/directory/file") == DATA
        assert await client.read_bytes("/after") == b""
        node = (await client.lookup((await client.lookup(client.root, "directory")).nodeid, "file")).nodeid
        handle = await client.open_node(node)
        for offset, size in [(len(DATA) - 10, 100), (299_990, 20), (0, 1), (len(DATA), 10), (1 << 62, 1)]:
            assert await client.read(node, handle.fh, offset, size) == DATA[offset : offset + size]
        await client.release(node, handle.fh)


async def test_streams_that_follow_each_other_are_one(opened: Opener) -> None:
    whole = tar([("file", DATA)])
    for compress in (gzip.compress, bz2.compress, lzma.compress, zstd.compress):
        data = compress(whole[:1000]) + compress(whole[1000:])
        if compress is lzma.compress:
            data = compress(whole[:1000]) + bytes(8) + compress(whole[1000:]) + bytes(4)
        async with mount(opened(data + b"something else at the end")) as client:
            assert await client.read_bytes("/file") == DATA


async def test_attributes_are_those_of_the_members(opened: Opener) -> None:
    pax = {
        "mtime": "1700000000.123456789",
        "atime": "-5.5",
        "ctime": "7",
        "SCHILY.xattr.user.note": "value\udcff=\n",
        "SCHILY.xattr.security.capability": "x",
    }
    archive = tar(
        [
            (member("file", mode=0o4751, uid=1000, gid=70_000, pax_headers=pax), b"data"),
            (member("d/", tarfile.DIRTYPE, mode=0o1777, mtime=12), None),
            (member("link", tarfile.SYMTYPE, linkname="../d/\u00e9", mode=0o777), None),
            (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), None),
            (member("disk", tarfile.BLKTYPE, devmajor=8, devminor=300), None),
            (member("fifo", tarfile.FIFOTYPE), None),
            (member("hard", tarfile.LNKTYPE, linkname="file"), None),
        ]
    )
    async with mount(opened(archive)) as client:
        file = await client.stat("/file")
        assert file.mode == stat.S_IFREG | 0o4751
        assert (file.uid, file.gid, file.size, file.nlink) == (1000, 70_000, 4, 2)
        times = (file.mtime_ns, file.atime_ns, file.ctime_ns)
        assert times == (1_700_000_000_123_456_789, -5_500_000_000, 7_000_000_000)
        assert sorted(await client.listxattr("/file")) == ["security.capability", "user.note"]
        assert await client.getxattr("/file", "user.note") == b"value\xff=\n"
        with pytest.raises(OSError, match="No data"):
            await client.getxattr("/d", "user.note")
        directory = await client.stat("/d")
        assert (directory.mode, directory.mtime_ns) == (stat.S_IFDIR | 0o1777, 12_000_000_000)
        assert await client.readlink("/link") == "../d/\u00e9"
        assert (await client.stat("/null")).rdev == os.makedev(1, 3)
        assert (await client.stat("/disk")).mode & stat.S_IFBLK
        assert stat.S_ISFIFO((await client.stat("/fifo")).mode)
        assert (await client.stat("/hard")).ino == file.ino
        assert (await client.statfs()).files == 7


async def test_nothing_can_be_changed(opened: Opener) -> None:
    filesystem = opened(tar([("file", b"data")]))
    async with mount(filesystem) as client:
        node = (await client.lookup(client.root, "file")).nodeid
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
            with pytest.raises(OSError, match="Read-only file system"):
                await client.open_node(node, flags)
        with pytest.raises(OSError, match="not implemented"):
            await client.unlink("/file")
        assert await client.read_bytes("/file") == b"data"


# ---- Names ----


async def names(filesystem: Any) -> set[str]:
    """Return all paths."""
    return {
        f"{path.rstrip('/')}/{name}"
        async for path, directories, others in walk(filesystem)
        for name in directories + others
    }


async def test_names_lead_nowhere_else(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    long = "n" * 256
    archive = tar(
        [
            ("/absolute/file", b""),
            ("./dotted/./file", b""),
            ("double//slash", b""),
            ("../up", b""),
            ("inside/../../up", b""),
            ("..", b""),
            (long, b""),
            ("/".join(["d"] * 2500), b""),
            ("/".join(["n" * 250] * 16) + "/fits", b""),
            (member("./", tarfile.DIRTYPE, mode=0o700), None),
            ("raw\udcff", b""),
        ]
    )
    filesystem = opened(archive)
    found = await names(filesystem)
    assert {name for name in found if "n" * 250 not in name} == {
        *("/absolute", "/absolute/file", "/dotted", "/dotted/file", "/double", "/double/slash", "/raw\udcff")
    }
    assert max(len(name) for name in found) == 16 * 251 + 5
    assert stat.S_IMODE(filesystem.getattr(Caller(), 1, None).mode) == 0o700
    assert [record.getMessage() for record in caplog.records] == [
        "3 members of the archive are left out: '..' in the name",
        "2 members of the archive are left out: a name that no file can have",
    ]


async def test_the_last_of_several_members_wins(opened: Opener) -> None:
    archive = tar(
        [
            ("file", b"first"),
            (member("keeps-first", tarfile.LNKTYPE, linkname="file"), None),
            ("file", b"second"),
            ("d/one", b"1"),
            (member("d", tarfile.DIRTYPE, mode=0o711), None),
            ("d/two", b"2"),
            ("becomes-directory", b""),
            ("becomes-directory/file", b"below"),
            ("becomes-file/below", b""),
            ("becomes-file", b"file"),
        ]
    )
    filesystem = opened(archive)
    async with mount(filesystem) as client:
        assert await client.read_bytes("/file") == b"second"
        assert await client.read_bytes("/keeps-first") == b"first"
        assert (await client.stat("/file")).nlink == (await client.stat("/keeps-first")).nlink == 1
        assert sorted(await client.listdir("/d")) == ["one", "two"]
        assert stat.S_IMODE((await client.stat("/d")).mode) == 0o711
        assert await client.read_bytes("/becomes-directory/file") == b"below"
        assert await client.read_bytes("/becomes-file") == b"file"
        assert (await client.stat("/")).nlink == 4


async def test_hard_links_may_come_first_and_need_not_lead_anywhere(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    def link(name: str, target: str) -> tuple[tarfile.TarInfo, None]:
        return member(name, tarfile.LNKTYPE, linkname=target), None

    archive = tar(
        [
            link("early", "chain1"),
            link("chain1", "chain2"),
            link("chain2", "file"),
            link("loop1", "loop2"),
            link("loop2", "loop1"),
            link("self", "self"),
            link("to-directory", "d"),
            link("missing", "nowhere"),
            link("up", "../../etc/passwd"),
            link("replaced", "file"),
            ("replaced", b"newer than the link"),
            ("old", b"older than the link"),
            link("old", "file"),
            ("d/x", b""),
            ("file", b"data"),
            link("late", "/file"),
        ]
    )
    filesystem = opened(archive)
    async with mount(filesystem) as client:
        for name in ("early", "chain1", "chain2", "file", "late", "old"):
            assert await client.read_bytes(f"/{name}") == b"data"
        assert (await client.stat("/file")).nlink == 6
        assert await client.read_bytes("/replaced") == b"newer than the link"
        assert set(await client.listdir("/")) == {
            *("early", "chain1", "chain2", "file", "late", "old", "replaced", "d")
        }
    assert "5 members of the archive are left out: a hard link to what is no file there" in caplog.text


async def test_links_are_the_guests_to_follow(opened: Opener) -> None:
    archive = tar(
        [
            (member("self", tarfile.SYMTYPE, linkname="self"), None),
            (member("out", tarfile.SYMTYPE, linkname="/etc"), None),
            ("out2", b""),
            (member("empty", tarfile.SYMTYPE, linkname=""), None),
            (member("long", tarfile.SYMTYPE, linkname="x" * 4096), None),
        ]
    )
    async with mount(opened(archive)) as client:
        assert await client.readlink("/self") == "self"
        assert await client.readlink("/out") == "/etc"
        assert await client.listdir("/") == ["self", "out", "out2"]
        with pytest.raises(OSError, match="Invalid argument"):
            await client.readlink("/out2")


# ---- Holes ----


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
async def test_sparse_members_have_their_holes(opened: Opener, tmp_path: Path, version: str) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for offset in (0, 2 * MiB, 5 * MiB):
            file.seek(offset)
            file.write(b"%d" % offset * 1000)
        file.truncate(8 * MiB)
    form = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    await anyio.run_process(["tar", "-cSf", "out.tar", *form, "sparse"], cwd=tmp_path)
    assert (tmp_path / "out.tar").stat().st_size < MiB
    async with mount(opened(tmp_path / "out.tar")) as client:
        assert await client.read_bytes("/sparse") == (tmp_path / "sparse").read_bytes()
        node = (await client.lookup(client.root, "sparse")).nodeid
        opening = await client.open_node(node)
        assert await client.lseek(node, opening.fh, 100_000, os.SEEK_DATA) == 2 * MiB
        assert 0 < await client.lseek(node, opening.fh, 0, os.SEEK_HOLE) < 100_000
        assert await client.read(node, opening.fh, 2 * MiB - 2, 4) == b"\0\x0020"
        with pytest.raises(OSError, match="No such device or address"):
            await client.lseek(node, opening.fh, 8 * MiB, os.SEEK_DATA)
        await client.release(node, opening.fh)


@pytest.mark.parametrize("holes", ["5,3,1,1", "0,-1", "0,100", "0,5,3,5", "-5,5", "9223372036854775807,1"])
async def test_a_map_of_holes_that_cannot_be_is_no_member(opened: Opener, holes: str) -> None:
    pax = {"GNU.sparse.map": holes, "GNU.sparse.size": "20", "GNU.sparse.numblocks": "1"}
    archive = tar([("first", b"1"), (member("sparse", pax_headers=pax), b"12345"), ("last", b"2")])
    async with mount(opened(archive)) as client:
        assert await client.listdir("/") == ["first", "last"]


# ---- Hostile and damaged ones ----


def test_a_bomb_does_not_fill_the_disk(opened: Opener, tmp_path: Path) -> None:
    bomb = gzip.compress(tar([("bomb", bytes(32 * MiB))]))
    assert len(bomb) < 64 << 10
    with pytest.raises(ConfigurationError, match=r"larger than 1048576 bytes when decompressed"):
        opened(bomb, spool_size=MiB)
    filesystem = opened(bomb, spool_size=64 * MiB)
    assert os.fstat(filesystem._source._descriptor).st_blocks < 1024
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("archive")] == []


@pytest.mark.parametrize("path", ["a/b/c", "same"])
async def test_members_are_counted(opened: Opener, path: str) -> None:
    archive = tar([(f"{path}{number if path != 'same' else ''}", b"") for number in range(20)])
    with pytest.raises(ConfigurationError, match="archive0: the archive has more than 19 members"):
        opened(archive, members=19)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress])
async def test_what_is_cut_off_is_an_error_to_read_and_the_rest_is_there(
    opened: Opener, compress: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    data = os.urandom(2 * MiB)
    archive = compress(tar([("whole", b"whole"), ("cut", data), ("gone", b"")]))
    async with mount(opened(archive[: MiB + 5])) as client:
        assert await client.listdir("/") == ["whole", "cut"]
        assert await client.read_bytes("/whole") == b"whole"
        node = (await client.lookup(client.root, "cut")).nodeid
        opening = await client.open_node(node)
        assert await client.read(node, opening.fh, 0, 4096) == data[:4096]
        with pytest.raises(OSError, match="Input/output error") as caught:
            await client.read(node, opening.fh, MiB + MiB // 2, 4096)
        assert caught.value.errno == errno.EIO
        await client.release(node, opening.fh)
    assert "the archive is " in caplog.text


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
async def test_a_wrong_checksum_makes_all_data_an_error(
    opened: Opener, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tar([("file", DATA)])
    compressed = zstd.compress(whole, options={zstd.CompressionParameter.checksum_flag: 1})
    archive = bytearray(compressed if name == "zstd" else COMPRESSIONS[name](whole))
    at = {"gzip": len(archive) - 8, "bzip2": len(archive) - 5, "zstd": len(archive) - 1}
    archive[at.get(name, len(archive) // 2)] ^= 0x55
    async with mount(opened(bytes(archive))) as client:
        if await client.listdir("/"):
            with pytest.raises(OSError, match="Input/output error"):
                await client.read_bytes("/file")
    assert "the archive is damaged, and its files cannot be read" in caplog.text


async def test_headers_that_are_wrong_end_the_archive(
    opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tar([("first", b"1")])[:1024], tar([("second", b"2")])
    bad = bytearray(second)
    bad[150] ^= 0xFF
    async with mount(opened(first + bytes(bad))) as client:
        assert await client.listdir("/") == ["first"]
    assert "damaged near offset 1024" in caplog.text


def header_with_size(size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header whose size is these 12 bytes."""
    block = bytearray(tar([("hostile", b"")])[:512])
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S", b"g", b"5"])
@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 11 + b"\0",
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"77777777777\0",
        b"\x80\0\0\0\0\0\0\0\x7f\0\0\0",
    ],
)
async def test_sizes_that_cannot_be_end_the_archive(opened: Opener, size: bytes, kind: bytes) -> None:
    hostile = header_with_size(size, kind) * 3
    async with mount(opened(tar([("first", b"1")])[:1024] + hostile + bytes(4096))) as client:
        assert set(await client.listdir("/")) <= {"first", "hostile"}
        assert await client.read_bytes("/first") == b"1"


async def test_headers_within_headers_have_an_end(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    nested = header_with_size(b"00000000000\0", b"x") * 5000
    async with mount(opened(tar([("first", b"1")])[:1024] + nested + tar([("last", b"2")]))) as client:
        assert "first" in await client.listdir("/")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mtime", "nan"),
        ("mtime", "inf"),
        ("mtime", "1e400"),
        ("mtime", "9" * 40),
        ("uid", "-5"),
        ("gid", "9" * 30),
    ],
)
async def test_numbers_that_no_file_has_become_ones_that_it_can_have(
    opened: Opener, field: str, value: str
) -> None:
    async with mount(opened(tar([(member("file", pax_headers={field: value}), b"data")]))) as client:
        attr = await client.stat("/file")
        assert await client.read_bytes("/file") == b"data"
        if field != "mtime":
            assert getattr(attr, field) == 65534


@given(
    st.binary(max_size=60),
    st.integers(0, 4000),
    st.sampled_from([b"", b"\x1f\x8b", b"(\xb5/\xfd", b"PK\x03\x04"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_no_archive_makes_anything_but_a_file_system_or_a_mistake(
    tmp_path: Path, noise: bytes, at: int, begin: bytes
) -> None:
    pax = {"SCHILY.xattr.user.a": "b", "GNU.sparse.map": "0,5", "GNU.sparse.size": "5"}
    archive = bytearray(begin or tar([("d/file", b"x" * 700), (member("b", pax_headers=pax), b"12345")]))
    archive[at : at + len(noise)] = noise
    path = tmp_path / "noise"
    path.write_bytes(archive)
    with suppress(ConfigurationError):
        open_archive(path, spool_dir=tmp_path).close()


@pytest.mark.parametrize("data", [b"", bytes(10240), gzip.compress(b"")])
async def test_an_empty_archive_is_an_empty_file_system(opened: Opener, data: bytes) -> None:
    async with mount(opened(data)) as client:
        assert await client.listdir("/") == []


def test_what_is_no_archive_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no archive" * 100)
    for form in ("auto", "tar", "zip"):
        with pytest.raises(ConfigurationError, match="text: this is no"):
            open_archive(path, format=form, spool_dir=tmp_path)
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "missing")
    with pytest.raises(ValueError, match="members"):
        ArchiveSettings(path, members=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uid"):
        ArchiveSettings(path, uid=-1)  # type: ignore[arg-type]
