"""Data: how opening, caching and privileges of writers decide what READ and WRITE do."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.flags import (
    OpenReplyFlags,
    OpenRequestFlags,
    SetattrValid,
    WriteFlags,
)
from vhostfs.fuse_abi.structures import SetattrIn

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_APPEND_FL = 0x20
FS_IMMUTABLE_FL = 0x10
FS_NODUMP_FL = 0x40
FS_XFLAG_NODUMP = 0x80


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 1 << 20])
def test_what_was_written_is_read_back(size: int, mount: Mount) -> None:
    entry, opened = mount.client.create(1, b"file")
    data = os.urandom(size)
    assert mount.client.write(entry.nodeid, opened.fh, data, 123) == size
    assert mount.client.read(entry.nodeid, opened.fh, size, 123) == data
    assert (mount.directory / "file").read_bytes() == bytes(123) + data


@pytest.mark.parametrize("piece", [8192, 65536])
def test_large_data_may_lie_in_many_descriptors(piece: int, mount: Mount) -> None:
    (mount.directory / "file").write_bytes(os.urandom(1 << 20))
    mount.client.piece = piece
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    data = mount.client.read(node, fh, 1 << 20)
    assert data == (mount.directory / "file").read_bytes()
    assert mount.client.write(node, fh, data[::-1]) == 1 << 20
    assert (mount.directory / "file").read_bytes() == data[::-1]


def test_read_and_write_obey_their_offsets(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"0123456789")
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    assert mount.client.read(node, fh, 4, 3) == b"3456"
    assert mount.client.read(node, fh, 100, 8) == b"89"
    assert mount.client.read(node, fh, 100, 10) == b""
    mount.client.write(node, fh, b"ab", 4)
    assert mount.client.read(node, fh, 100) == b"0123ab6789"


def test_append_goes_to_the_end_also_when_the_host_appends(mount: Mount) -> None:
    path = mount.directory / "file"
    path.write_bytes(b"one ")
    node = mount.node("file")
    flags = os.O_WRONLY | os.O_APPEND
    fh = mount.client.open(node, flags).fh
    with path.open("ab") as file:
        file.write(b"two ")
    mount.client.write(node, fh, b"three ", 4, flags=flags)
    assert path.read_bytes() == b"one two three "


def test_with_writeback_the_guest_says_where_appended_data_goes(shares: Shares) -> None:
    with shares.mounted("--writeback") as mount:
        (mount.directory / "file").write_bytes(b"0123456789")
        node = mount.node("file")
        flags = os.O_WRONLY | os.O_APPEND
        fh = mount.client.open(node, flags).fh
        mount.client.write(node, fh, b"ab", 4, write_flags=WriteFlags.CACHE, flags=flags)
        assert (mount.directory / "file").read_bytes() == b"0123ab6789"
        assert mount.client.read(node, fh, 4) == b"0123"


def test_truncating_opens_truncate(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    mount.client.open(node, os.O_WRONLY | os.O_TRUNC)
    assert (mount.directory / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("options", "expected", "refused"),
    [
        (("--cache=never",), OpenReplyFlags.DIRECT_IO, OpenReplyFlags.KEEP_CACHE),
        (("--cache=metadata",), OpenReplyFlags.DIRECT_IO, OpenReplyFlags.KEEP_CACHE),
        (("--cache=auto",), OpenReplyFlags(0), OpenReplyFlags.DIRECT_IO | OpenReplyFlags.KEEP_CACHE),
        (("--cache=always",), OpenReplyFlags.KEEP_CACHE, OpenReplyFlags.DIRECT_IO),
    ],
)
def test_the_cache_mode_decides_how_files_are_opened(
    options: tuple[str, ...], expected: OpenReplyFlags, refused: OpenReplyFlags, shares: Shares
) -> None:
    with shares.mounted(*options) as mount:
        _, created = mount.client.create(1, b"file")
        opened = mount.client.open(mount.node("file"))
        for flags in (created.open_flags, opened.open_flags):
            assert flags & expected == expected
            assert not flags & refused
            assert not flags & (
                OpenReplyFlags.PASSTHROUGH | OpenReplyFlags.NONSEEKABLE | OpenReplyFlags.STREAM
            )


def test_direct_io_reaches_the_host_where_that_is_allowed(shares: Shares, tmp_path: Path) -> None:
    def descriptor_flags(mount: Mount) -> set[bool]:
        place = Path(f"/proc/{mount.daemon.process.pid}")
        found: set[bool] = set()
        for link in (place / "fd").iterdir():
            if str(link.readlink()).endswith("/file"):
                information = (place / "fdinfo" / link.name).read_text()
                flags = int(information.split("flags:")[1].split()[0], 8)
                if not flags & os.O_PATH:
                    found.add(bool(flags & os.O_DIRECT))
        return found

    for options, direct in ((("--allow-direct-io",), True), ((), False)):
        with shares.mounted(*options) as mount:
            (mount.directory / "file").write_bytes(bytes(4096))
            mount.client.open(mount.node("file"), os.O_RDWR | os.O_DIRECT)
            assert descriptor_flags(mount) == {direct}


def test_closing_is_all_that_flush_and_release_do(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node).fh
    assert errno_of(lambda: mount.client.flush(node, fh)) in {None, errno.ENOSYS}
    mount.client.release(node, fh)
    assert errno_of(lambda: mount.client.read(node, fh, 1)) == errno.EBADF
    assert errno_of(lambda: mount.client.release(node, fh)) == errno.EBADF


@pytest.mark.parametrize("fh", [0, 1, 0xDEAD, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_handles_that_nobody_gave_out_are_refused(fh: int, mount: Mount) -> None:
    client = mount.client
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    calls = [
        lambda: client.read(node, fh, 10),
        lambda: client.write(node, fh, b"x"),
        lambda: client.fsync(node, fh),
        lambda: client.release(node, fh),
        lambda: client.fallocate(node, fh, 0, 0, 1),
        lambda: client.lseek(node, fh, 0, os.SEEK_DATA),
        lambda: client.copy_file_range((node, fh, 0), (node, fh, 10), 1),
        lambda: client.copy_file_range_64((node, fh, 0), (node, fh, 10), 1),
        lambda: client.getattr(node, fh),
        lambda: client.truncate(node, 0, fh),
        lambda: client.ioctl(node, fh, FS_IOC_GETFLAGS, b"", out_size=8),
    ]
    for call in calls:
        assert errno_of(call) == errno.EBADF
    assert (mount.directory / "file").read_bytes() == b"content"


def test_special_files_are_never_opened_by_the_daemon(mount: Mount) -> None:
    """The guest's own kernel serves its FIFOs and devices; opening the host's could hang or harm."""
    os.mkfifo(mount.directory / "fifo")
    os.mknod(mount.directory / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(mount.directory / "socket", stat.S_IFSOCK | 0o666)
    for name in ("fifo", "device", "socket"):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
            node = mount.node(name)
            assert errno_of(lambda: mount.client.open(node, flags)) is not None  # noqa: B023


def test_sparse_files_keep_their_holes(mount: Mount) -> None:
    entry, opened = mount.client.create(1, b"file")
    client, node, fh = mount.client, entry.nodeid, opened.fh
    client.write(node, fh, b"x" * 4096, 1 << 20)
    about = (mount.directory / "file").stat()
    assert about.st_blocks * 512 < about.st_size
    assert client.lseek(node, fh, 0, os.SEEK_DATA) == 1 << 20
    assert client.lseek(node, fh, 0, os.SEEK_HOLE) == 0
    assert client.lseek(node, fh, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
    assert client.read(node, fh, 4096, 8192) == bytes(4096)


def test_syncfs_and_fsync_reach_the_host(mount: Mount) -> None:
    entry, opened = mount.client.create(1, b"file")
    mount.client.write(entry.nodeid, opened.fh, b"data")
    mount.client.fsync(entry.nodeid, opened.fh)
    mount.client.fsync(entry.nodeid, opened.fh, 1)
    mount.client.syncfs()


def test_many_reads_and_writes_under_way_do_not_mix(mount: Mount) -> None:
    client = mount.client
    entry, opened = client.create(1, b"file")
    blocks = [bytes([index]) * 4096 for index in range(100)]
    for index, block in enumerate(blocks):
        assert client.write(entry.nodeid, opened.fh, block, 4096 * index) == 4096
    message = [struct.pack("=QQIIQII", opened.fh, 4096 * index, 4096, 0, 0, 0, 0) for index in range(100)]
    pending = [client.start(15, entry.nodeid, each, out_size=4096) for each in message]
    assert [each.result() for each in pending] == blocks


SET_BITS = stat.S_ISUID | stat.S_ISGID


def kinds_of_bits(path: Path) -> int:
    """Return the privilege bits of a file."""
    return stat.S_IMODE(path.stat().st_mode) & SET_BITS


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)


@pytest.mark.parametrize("kill", [True, False])
def test_writes_drop_privileges_when_the_guest_says_so(kill: bool, shares: Shares) -> None:
    with shares.mounted("--killpriv-v2", "--xattr") as mount:
        path = mount.directory / "program"
        path.write_bytes(b"program")
        path.chmod(0o6755)
        os.setxattr(path, "security.capability", CAPABILITY)
        path.chmod(0o6755)
        node = mount.node("program")
        fh = mount.client.open(node, os.O_RDWR).fh
        mount.client.write(node, fh, b"x", write_flags=WriteFlags.KILL_SUIDGID if kill else 0)
        assert kinds_of_bits(path) == (0 if kill else SET_BITS)
        assert "security.capability" not in os.listxattr(path)


@pytest.mark.parametrize("kill", [True, False])
def test_truncation_drops_privileges_when_the_guest_says_so(kill: bool, shares: Shares) -> None:
    with shares.mounted("--killpriv-v2", "--xattr") as mount:
        path = mount.directory / "program"
        for way in ("node", "handle", "open", "create"):
            path.write_bytes(b"program")
            path.chmod(0o6755)
            node = mount.node("program")
            if way == "node":
                mount.client.truncate(node, 3, kill=kill)
            elif way == "handle":
                mount.client.truncate(node, 3, mount.client.open(node, os.O_RDWR).fh, kill=kill)
            else:
                flags = OpenRequestFlags.KILL_SUIDGID if kill else OpenRequestFlags(0)
                if way == "open":
                    mount.client.open(node, os.O_RDWR | os.O_TRUNC, flags)
                else:
                    mount.client.create(1, b"program", os.O_CREAT | os.O_RDWR | os.O_TRUNC, open_flags=flags)
            assert kinds_of_bits(path) == (0 if kill else SET_BITS), way


def test_the_setgid_bit_without_group_execution_stays(shares: Shares) -> None:
    with shares.mounted("--killpriv-v2", "--xattr") as mount:
        path = mount.directory / "program"
        path.write_bytes(b"program")
        path.chmod(0o2745)
        node = mount.node("program")
        fh = mount.client.open(node, os.O_RDWR).fh
        mount.client.write(node, fh, b"x", write_flags=WriteFlags.KILL_SUIDGID)
        assert kinds_of_bits(path) == stat.S_ISGID


def test_a_new_owner_drops_privileges(shares: Shares) -> None:
    with shares.mounted("--killpriv-v2", "--xattr") as mount:
        path = mount.directory / "program"
        path.write_bytes(b"program")
        path.chmod(0o6755)
        valid = SetattrValid.UID | SetattrValid.KILL_SUIDGID
        mount.client.setattr(mount.node("program"), SetattrIn(valid=valid, uid=77))
        assert kinds_of_bits(path) == 0


def test_dropping_privileges_for_one_write_does_not_drop_them_for_the_next(shares: Shares) -> None:
    with shares.mounted("--killpriv-v2", "--xattr") as mount:
        for name in ("one", "two"):
            (mount.directory / name).write_bytes(b"program")
            (mount.directory / name).chmod(0o6755)
        one, two = mount.node("one"), mount.node("two")
        handles = [mount.client.open(node, os.O_RDWR).fh for node in (one, two)]
        mount.client.write(one, handles[0], b"x", write_flags=WriteFlags.KILL_SUIDGID)
        mount.client.write(two, handles[1], b"x")
        assert kinds_of_bits(mount.directory / "one") == 0
        assert kinds_of_bits(mount.directory / "two") == SET_BITS


def test_a_read_only_share_changes_in_no_way(shares: Shares) -> None:
    with shares.mounted("--readonly", "--xattr") as mount:
        client = mount.client
        path = mount.directory / "file"
        path.write_bytes(b"content")
        (mount.directory / "dir").mkdir()
        node = mount.node("file")
        fh = client.open(node).fh
        assert client.read(node, fh, 100) == b"content"
        assert {entry.name for entry in client.list_directory(1)} == {b".", b"..", b"file", b"dir"}
        before = path.stat()
        calls = {
            "open": lambda: client.open(node, os.O_RDWR),
            "open for writing": lambda: client.open(node, os.O_WRONLY),
            "truncating open": lambda: client.open(node, os.O_RDONLY | os.O_TRUNC),
            "create": lambda: client.create(1, b"new"),
            "mkdir": lambda: client.mkdir(1, b"new"),
            "mknod": lambda: client.mknod(1, b"new", stat.S_IFREG | 0o644),
            "symlink": lambda: client.symlink(1, b"new", b"x"),
            "link": lambda: client.link(node, 1, b"new"),
            "unlink": lambda: client.unlink(1, b"file"),
            "rmdir": lambda: client.rmdir(1, b"dir"),
            "rename": lambda: client.rename(1, b"file", 1, b"new"),
            "rename2": lambda: client.rename2(1, b"file", 1, b"new", 1),
            "chmod": lambda: client.chmod(node, 0o600),
            "truncate": lambda: client.truncate(node, 0),
            "setxattr": lambda: client.setxattr(node, b"user.a", b"x"),
            "removexattr": lambda: client.removexattr(node, b"user.a"),
            "tmpfile": lambda: client.tmpfile(1),
            "chattr": lambda: client.ioctl(node, fh, FS_IOC_SETFLAGS, struct.pack("=Q", FS_NODUMP_FL)),
        }
        for name, call in calls.items():
            assert errno_of(call) == errno.EROFS, name
        assert path.stat() == before


def test_chattr_flags_are_the_hosts(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    fh = mount.client.open(node).fh
    reply, data = mount.client.ioctl(node, fh, FS_IOC_GETFLAGS, out_size=8)
    with (mount.directory / "file").open("rb") as file:
        expected = struct.unpack("=Q", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))[0]
        assert (reply.result, struct.unpack_from("=I", data)[0]) == (0, expected)
        changed = struct.pack("=Q", expected | FS_NODUMP_FL)
        reply, _ = mount.client.ioctl(node, fh, FS_IOC_SETFLAGS, changed)
        assert reply.result == 0
        assert struct.unpack("=Q", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))[0] & FS_NODUMP_FL


def test_extended_file_flags_are_the_hosts(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node).fh
    reply, data = mount.client.ioctl(node, fh, FS_IOC_FSGETXATTR, out_size=28)
    assert (reply.result, len(data)) == (0, 28)
    flags = struct.unpack_from("=I", data)[0]
    changed = struct.pack("=I", flags | FS_XFLAG_NODUMP) + data[4:]
    assert mount.client.ioctl(node, fh, FS_IOC_FSSETXATTR, changed)[0].result == 0
    _, data = mount.client.ioctl(node, fh, FS_IOC_FSGETXATTR, out_size=28)
    assert struct.unpack_from("=I", data)[0] & FS_XFLAG_NODUMP


def test_chattr_works_on_directories(mount: Mount) -> None:
    fh = mount.client.opendir(1).fh
    reply, data = mount.client.ioctl(1, fh, FS_IOC_GETFLAGS, out_size=8, flags=1 << 4)
    assert (reply.result, len(data) >= 4) == (0, True)


@pytest.mark.parametrize("command", [0, 0x5401, 0x80045430, 0xC0189436, 0xFFFFFFFF, 0x80081272])
def test_ioctls_that_a_share_does_not_know_never_reach_the_host(command: int, mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    assert errno_of(lambda: mount.client.ioctl(node, fh, command, bytes(64), out_size=64)) in {
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
    }


@pytest.mark.parametrize(("size", "out_size"), [(0, 0), (3, 0), (0, 3), (4096, 4096)])
def test_ioctls_of_a_wrong_size_do_no_harm(size: int, out_size: int, mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node).fh
    for command in (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR):
        errno_of(lambda: mount.client.ioctl(node, fh, command, bytes(size), out_size=out_size))  # noqa: B023
    mount.client.getattr(node)


def test_the_guest_sees_the_hosts_writes_at_once_when_it_reads(mount: Mount) -> None:
    path = mount.directory / "file"
    path.write_bytes(b"old")
    node = mount.node("file")
    fh = mount.client.open(node).fh
    assert mount.client.read(node, fh, 10) == b"old"
    path.write_bytes(b"newer")
    assert mount.client.read(node, fh, 10) == b"newer"


def test_times_move_when_the_guest_writes(mount: Mount) -> None:
    (mount.directory / "file").touch()
    os.utime(mount.directory / "file", (1, 1))
    node = mount.node("file")
    mount.client.write(node, mount.client.open(node, os.O_WRONLY).fh, b"x")
    assert mount.client.getattr(node).attr.mtime > time.time() - 100
