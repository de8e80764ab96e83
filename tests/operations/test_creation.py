"""New files belong to the caller, get the mode and lists that they should; no request leaks into the next."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.frontend.client import Caller, FuseClient
from tests.frontend.rings import Buffer
from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.extensions import Extensions
from vhostfs.fuse_abi.flags import RenameFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import CreateIn, EntryOut, OpenOut

USER = Caller(uid=1234, gid=5678, pid=42)

Maker = Callable[[FuseClient, int, bytes, Extensions | None], EntryOut]

MAKERS: dict[str, Maker] = {
    "mkdir": lambda client, parent, name, extensions: client.mkdir(
        parent, name, 0o755, extensions=extensions
    ),
    "mknod": lambda client, parent, name, extensions: client.mknod(
        parent, name, stat.S_IFREG | 0o644, extensions=extensions
    ),
    "fifo": lambda client, parent, name, extensions: client.mknod(
        parent, name, stat.S_IFIFO | 0o644, extensions=extensions
    ),
    "symlink": lambda client, parent, name, extensions: client.symlink(parent, name, b"x", extensions),
    "create": lambda client, parent, name, extensions: client.create(parent, name, extensions=extensions)[0],
}
BY_ALL_MAKERS = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def owner(path: Path) -> tuple[int, int]:
    """Return user and group of a file itself."""
    about = path.lstat()
    return about.st_uid, about.st_gid


@BY_ALL_MAKERS
def test_new_files_belong_to_the_caller(make: Maker, mount: Mount) -> None:
    entry = make(mount.client.as_caller(USER), 1, b"new", None)
    assert owner(mount.directory / "new") == (1234, 5678)
    assert (entry.attr.uid, entry.attr.gid) == (1234, 5678)


@BY_ALL_MAKERS
def test_the_callers_identity_does_not_leak_into_the_next_request(make: Maker, mount: Mount) -> None:
    (mount.directory / "private").mkdir(0o700)
    (mount.directory / "private" / "file").write_text("root's")
    make(mount.client.as_caller(USER), 1, b"theirs", None)
    make(mount.client, 1, b"ours", None)
    assert owner(mount.directory / "ours") == (0, 0)
    assert mount.node("private/file") != 0
    make(mount.client, mount.node("private"), b"inside", None)
    assert owner(mount.directory / "private" / "inside") == (0, 0)


@BY_ALL_MAKERS
def test_the_guests_kernel_has_checked_permissions_so_that_the_daemon_does_not(
    make: Maker, mount: Mount
) -> None:
    """A caller's groups and capabilities are known to its own kernel alone."""
    (mount.directory / "dir").mkdir(0o755)
    make(mount.client.as_caller(USER), mount.node("dir"), b"new", None)
    assert owner(mount.directory / "dir" / "new") == (1234, 5678)


@BY_ALL_MAKERS
def test_in_a_setgid_directory_new_files_get_its_group(make: Maker, mount: Mount) -> None:
    (mount.directory / "dir").mkdir()
    os.chown(mount.directory / "dir", 0, 777)
    (mount.directory / "dir").chmod(0o2777)
    entry = make(mount.client.as_caller(USER), mount.node("dir"), b"new", Extensions(groups=(777,)))
    assert owner(mount.directory / "dir" / "new") == (1234, 777)
    assert bool(entry.attr.mode & stat.S_ISGID) == stat.S_ISDIR(entry.attr.mode)


def test_a_supplementary_group_keeps_the_setgid_bit(mount: Mount) -> None:
    """Linux drops the bit of a new file whose group the creator does not belong to."""
    (mount.directory / "dir").mkdir()
    os.chown(mount.directory / "dir", 0, 777)
    (mount.directory / "dir").chmod(0o2777)
    client, parent = mount.client.as_caller(USER), mount.node("dir")
    member = client.create(parent, b"member", mode=0o2775, extensions=Extensions(groups=(777,)))[0]
    assert member.attr.mode & stat.S_ISGID


@BY_ALL_MAKERS
def test_groups_of_one_request_do_not_leak_into_the_next(make: Maker, mount: Mount) -> None:
    client = mount.client.as_caller(USER)
    make(client, 1, b"first", Extensions(groups=(777,)))
    make(client, 1, b"second", None)
    assert owner(mount.directory / "second") == (1234, 5678)


@pytest.mark.parametrize(
    "extension",
    [
        struct.pack("<IIII", 16, 32, 1000, 777),
        struct.pack("<IIII", 0, 32, 1, 777),
        struct.pack("<IIII", 8, 32, 1, 777),
        struct.pack("<IIII", 4096, 32, 1, 777),
        struct.pack("<IIII", 16, 99, 1, 777),
        struct.pack("<II", 8, 32),
        bytes(16),
        b"\xff" * 64,
    ],
)
def test_malformed_extensions_cost_that_request_alone(extension: bytes, mount: Mount) -> None:
    class Raw(Extensions):
        def pack(self) -> bytes:
            return extension

    number = errno_of(lambda: mount.client.mkdir(1, b"dir", extensions=Raw()))
    assert number in {None, errno.EINVAL, errno.EIO}
    mount.client.mkdir(1, b"next")


def test_extensions_that_claim_more_than_the_request_are_refused(mount: Mount) -> None:
    client = mount.client
    message = struct.pack("<IIQQIIIHH", 40 + 16, Opcode.MKDIR, 1 << 50, 1, 0, 0, 0, 1000, 0)
    memory = client.frontend.memory
    gpa = memory.allocate(4096)
    memory.write(gpa, message + struct.pack("<II", 0o755, 0) + b"dir\0\0\0\0\0")
    token = client.queue.submit([Buffer(gpa, 56), Buffer(gpa + 1024, 16 + 128, writable=True)])
    assert client.queue.wait(token) == 16
    length, error, unique = struct.unpack("<IiQ", memory.read(gpa + 1024, 16))
    assert (length, unique) == (16, 1 << 50)
    assert -error in {errno.EINVAL, errno.EIO}
    assert not (mount.directory / "dir").exists()


def test_without_dont_mask_the_mode_is_taken_as_it_is(mount: Mount) -> None:
    """The guest's kernel has applied the umask already; the daemon's own must not count either."""
    mount.client.mkdir(1, b"dir", 0o777, umask=0o077)
    mount.client.mknod(1, b"file", stat.S_IFREG | 0o666, umask=0o077)
    mount.client.create(1, b"created", mode=0o666, umask=0o077)
    assert stat.S_IMODE((mount.directory / "dir").stat().st_mode) == 0o777
    assert stat.S_IMODE((mount.directory / "file").stat().st_mode) == 0o666
    assert stat.S_IMODE((mount.directory / "created").stat().st_mode) == 0o666


def test_with_posix_acl_the_daemon_applies_the_umask(shares: Shares) -> None:
    with shares.mounted("--posix-acl=always") as mount:
        for umask in (0o022, 0o077, 0):
            name = f"{umask:o}"
            mount.client.mkdir(1, b"d" + name.encode(), 0o777, umask=umask)
            mount.client.mknod(1, b"f" + name.encode(), stat.S_IFREG | 0o666, umask=umask)
            mount.client.create(1, b"c" + name.encode(), mode=0o666, umask=umask)
            for kind, mode in (("d", 0o777), ("f", 0o666), ("c", 0o666)):
                about = (mount.directory / f"{kind}{name}").stat()
                assert stat.S_IMODE(about.st_mode) == mode & ~umask


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX access control list as its extended attribute holds it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
DEFAULT_ACL = acl((1, 7, NOBODY), (2, 7, 1000), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY))


def test_a_default_acl_replaces_the_umask(shares: Shares) -> None:
    with shares.mounted("--posix-acl=always") as mount:
        (mount.directory / "dir").mkdir()
        node = mount.node("dir")
        mount.client.setxattr(node, b"system.posix_acl_default", DEFAULT_ACL)
        assert os.getxattr(mount.directory / "dir", "system.posix_acl_default") == DEFAULT_ACL
        mount.client.create(node, b"file", mode=0o666, umask=0o077)
        path = mount.directory / "dir" / "file"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert mount.client.getxattr(mount.node("dir/file"), b"system.posix_acl_access") == os.getxattr(
            path, "system.posix_acl_access"
        )


def test_an_acl_changes_the_mode_that_the_guest_sees(shares: Shares) -> None:
    with shares.mounted("--posix-acl=always") as mount:
        (mount.directory / "file").touch(0o644)
        node = mount.node("file")
        access = acl((1, 6, NOBODY), (2, 6, 1000), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY))
        mount.client.setxattr(node, b"system.posix_acl_access", access)
        assert stat.S_IMODE(mount.client.getattr(node).attr.mode) == 0o660


def test_setting_an_acl_drops_the_setgid_bit_when_asked(shares: Shares) -> None:
    with shares.mounted("--posix-acl=always") as mount:
        (mount.directory / "file").touch()
        os.chown(mount.directory / "file", 1234, 777)
        plain = acl((1, 6, NOBODY), (4, 4, NOBODY), (0x20, 4, NOBODY))
        for flags, kept in ((0, True), (1, False)):
            (mount.directory / "file").chmod(0o2755)
            mount.client.setxattr(mount.node("file"), b"system.posix_acl_access", plain, setxattr_flags=flags)
            assert bool((mount.directory / "file").stat().st_mode & stat.S_ISGID) == kept


def test_created_files_are_open_as_asked(mount: Mount) -> None:
    client = mount.client
    entry, opened = client.create(1, b"rw", os.O_CREAT | os.O_RDWR)
    assert client.write(entry.nodeid, opened.fh, b"data") == 4
    assert client.read(entry.nodeid, opened.fh, 10) == b"data"
    entry, opened = client.create(1, b"w", os.O_CREAT | os.O_WRONLY)
    assert client.write(entry.nodeid, opened.fh, b"data") == 4
    assert errno_of(lambda: client.read(entry.nodeid, opened.fh, 10)) == errno.EBADF
    entry, opened = client.create(1, b"r", os.O_CREAT | os.O_RDONLY, 0o400)
    assert client.read(entry.nodeid, opened.fh, 10) == b""
    assert errno_of(lambda: client.write(entry.nodeid, opened.fh, b"data")) == errno.EBADF


def test_a_caller_may_write_a_file_that_it_creates_unwritable(mount: Mount) -> None:
    client = mount.client.as_caller(USER)
    entry, opened = client.create(1, b"file", os.O_CREAT | os.O_RDWR, 0o000)
    assert client.write(entry.nodeid, opened.fh, b"data") == 4
    assert (mount.directory / "file").read_bytes() == b"data"


def test_tmpfile_makes_a_file_without_a_name_that_can_be_given_one(mount: Mount) -> None:
    client = mount.client.as_caller(USER)
    entry, opened = client.tmpfile(1, os.O_RDWR, 0o640)
    assert list(mount.directory.iterdir()) == []
    assert (entry.attr.nlink, entry.attr.uid, entry.attr.gid) == (0, 1234, 5678)
    assert client.write(entry.nodeid, opened.fh, b"content") == 7
    linked = client.link(entry.nodeid, 1, b"named")
    assert linked.nodeid == entry.nodeid
    assert (mount.directory / "named").read_bytes() == b"content"
    assert stat.S_IMODE((mount.directory / "named").stat().st_mode) == 0o640
    client.release(entry.nodeid, opened.fh)


def test_an_unlinkable_tmpfile_cannot_be_given_a_name(mount: Mount) -> None:
    entry, _ = mount.client.tmpfile(1, os.O_RDWR | os.O_EXCL)
    assert errno_of(lambda: mount.client.link(entry.nodeid, 1, b"named")) == errno.ENOENT


def test_a_whiteout_is_left_behind_as_overlayfs_wants_it(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    mount.client.rename2(1, b"file", 1, b"moved", RenameFlags.WHITEOUT)
    about = (mount.directory / "file").stat()
    assert (stat.S_ISCHR(about.st_mode), about.st_rdev) == (True, 0)
    assert mount.client.walk(b"file").attr.mode & 0o170000 == stat.S_IFCHR


def test_create_answers_an_entry_and_a_handle_in_one(mount: Mount) -> None:
    reply = mount.client.request(
        Opcode.CREATE,
        1,
        CreateIn(os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o100600),
        b"file\0",
        out_size=EntryOut.SIZE + OpenOut.SIZE,
    )
    entry = EntryOut.unpack_from(reply)
    assert mount.node("file") == entry.nodeid
    mount.client.forget(entry.nodeid, 2)
    assert errno_of(lambda: mount.client.getattr(entry.nodeid)) == errno.ESTALE
