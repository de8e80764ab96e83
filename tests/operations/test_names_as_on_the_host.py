"""Calls on names have the outcome in a guest that they have on the host: the same errno, the same tree."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.operations.host_calls import renameat2
from tests.operations.shares import Mount
from tests.operations.twins import LONG_NAME, TOO_LONG_NAME, Case, compare, errno_of, plant, portrait
from vhostfs.fuse_abi.flags import RenameFlags
from vhostfs.fuse_abi.opcodes import Opcode

NOREPLACE, EXCHANGE, WHITEOUT = RenameFlags.NOREPLACE, RenameFlags.EXCHANGE, RenameFlags.WHITEOUT
CREATE = os.O_CREAT | os.O_RDWR


def lookup(path: str) -> Case:
    return Case(
        f"lookup {path}", lambda host: (host / path).lstat(), lambda mount: mount.client.walk(path.encode())
    )


def mkdir(path: str, mode: int = 0o755) -> Case:
    return Case(
        f"mkdir {path} {mode:o}",
        lambda host: (host / path).mkdir(mode),
        lambda mount: mount.client.mkdir(*mount.place(path), mode),
    )


def rmdir(path: str) -> Case:
    return Case(
        f"rmdir {path}",
        lambda host: (host / path).rmdir(),
        lambda mount: mount.client.rmdir(*mount.place(path)),
    )


def unlink(path: str) -> Case:
    return Case(
        f"unlink {path}",
        lambda host: (host / path).unlink(),
        lambda mount: mount.client.unlink(*mount.place(path)),
    )


def rename(old: str, new: str) -> Case:
    return Case(
        f"rename {old} {new}",
        lambda host: (host / old).rename(host / new),
        lambda mount: mount.client.rename(*mount.place(old), *mount.place(new)),
    )


def rename2(old: str, new: str, flags: int) -> Case:
    return Case(
        f"rename2 {old} {new} {flags:#x}",
        lambda host: renameat2(host / old, host / new, flags),
        lambda mount: mount.client.rename2(*mount.place(old), *mount.place(new), flags),
    )


def link(old: str, new: str) -> Case:
    return Case(
        f"link {old} {new}",
        lambda host: os.link(host / old, host / new, follow_symlinks=False),
        lambda mount: mount.client.link(mount.node(old), *mount.place(new)),
    )


def symlink(target: str, path: str) -> Case:
    return Case(
        f"symlink {target[:20]} {path}",
        lambda host: (host / path).symlink_to(target),
        lambda mount: mount.client.symlink(*mount.place(path), target.encode()),
    )


def readlink(path: str) -> Case:
    return Case(
        f"readlink {path}",
        lambda host: os.fsencode((host / path).readlink()),
        lambda mount: mount.client.readlink(mount.node(path)),
    )


def mknod(path: str, mode: int, device: int = 0) -> Case:
    return Case(
        f"mknod {path} {mode:o}",
        lambda host: os.mknod(host / path, mode, device),
        lambda mount: mount.client.mknod(*mount.place(path), mode, device),
    )


def create(path: str, flags: int = CREATE, mode: int = 0o644) -> Case:
    """CREATE: a guest's kernel sends it for names that it believes to be missing."""

    def host(directory: Path) -> None:
        os.close(os.open(directory / path, flags | os.O_NOFOLLOW, mode))

    def guest(mount: Mount) -> None:
        entry, opened = mount.client.create(*mount.place(path), flags, mode)
        mount.client.release(entry.nodeid, opened.fh)

    return Case(f"create {path} {flags:#o} {mode:o}", host, guest)


def tmpfile(path: str, flags: int = os.O_RDWR) -> Case:
    def host(directory: Path) -> None:
        os.close(os.open(directory / path, flags | os.O_TMPFILE, 0o600))

    def guest(mount: Mount) -> None:
        entry, opened = mount.client.tmpfile(mount.node(path), flags, 0o600)
        mount.client.release(entry.nodeid, opened.fh)

    return Case(f"tmpfile {path} {flags:#o}", host, guest)


def opendir(path: str) -> Case:
    def host(directory: Path) -> None:
        os.close(os.open(directory / path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))

    def guest(mount: Mount) -> None:
        node = mount.node(path)
        mount.client.releasedir(node, mount.client.opendir(node).fh)

    return Case(f"opendir {path}", host, guest)


CASES = [
    lookup("file"),
    lookup("dir/sub"),
    lookup("missing"),
    lookup("missing/inner"),
    lookup("file/inner"),
    lookup("link/inner"),
    lookup(TOO_LONG_NAME),
    lookup(LONG_NAME),
    mkdir("new"),
    mkdir("new", 0o1777),
    mkdir("new", 0),
    mkdir("dir/new", 0o2755),
    mkdir(LONG_NAME),
    mkdir(TOO_LONG_NAME),
    mkdir("file"),
    mkdir("dir"),
    mkdir("link"),
    mkdir("dangling"),
    mkdir("file/new"),
    rmdir("hollow"),
    rmdir("dir/sub"),
    rmdir("dir"),
    rmdir("file"),
    rmdir("link"),
    rmdir("missing"),
    rmdir("file/x"),
    rmdir(TOO_LONG_NAME),
    unlink("file"),
    unlink("link"),
    unlink("dangling"),
    unlink("fifo"),
    unlink("socket"),
    unlink("device"),
    unlink("twice"),
    unlink("dir"),
    unlink("hollow"),
    unlink("missing"),
    unlink("file/x"),
    unlink(TOO_LONG_NAME),
    rename("file", "new"),
    rename("file", "empty"),
    rename("file", "file"),
    rename("file", "dir/inner"),
    rename("file", "dir/sub/moved"),
    rename("twice", "dir/again"),
    rename("file", "dir"),
    rename("file", "hollow"),
    rename("file", "link"),
    rename("hollow", "new"),
    rename("hollow", "dir/sub"),
    rename("dir", "hollow"),
    rename("dir", "dir/sub/new"),
    rename("dir", "dir/new"),
    rename("dir/sub", "dir"),
    rename("hollow", "dir"),
    rename("hollow", "file"),
    rename("missing", "new"),
    rename("missing", "file"),
    rename("file", TOO_LONG_NAME),
    rename(TOO_LONG_NAME, "file"),
    rename("file", "file/x"),
    rename("file", LONG_NAME),
    rename("fifo", "socket"),
    rename2("file", "new", 0),
    rename2("file", "new", NOREPLACE),
    rename2("file", "empty", NOREPLACE),
    rename2("missing", "empty", NOREPLACE),
    rename2("file", "empty", EXCHANGE),
    rename2("file", "dir", EXCHANGE),
    rename2("dir/sub", "file", EXCHANGE),
    rename2("dir", "dir/sub", EXCHANGE),
    rename2("file", "missing", EXCHANGE),
    rename2("file", "file", EXCHANGE),
    rename2("file", "new", WHITEOUT),
    rename2("file", "empty", WHITEOUT),
    rename2("file", "new", WHITEOUT | NOREPLACE),
    rename2("file", "empty", NOREPLACE | EXCHANGE),
    rename2("file", "empty", EXCHANGE | WHITEOUT),
    rename2("file", "new", 0x80),
    link("file", "new"),
    link("file", "dir/sub/new"),
    link("link", "new"),
    link("fifo", "new"),
    link("device", "new"),
    link("file", "empty"),
    link("file", "dir"),
    link("dir", "new"),
    link("file", "file/x"),
    link("file", TOO_LONG_NAME),
    symlink("target", "new"),
    symlink("../../outside", "dir/new"),
    symlink("t" * 4000, "new"),
    symlink("target", "file"),
    symlink("target", "dir"),
    symlink("target", "dangling"),
    symlink("target", "file/x"),
    symlink("target", TOO_LONG_NAME),
    symlink("", "new"),
    readlink("link"),
    readlink("dangling"),
    readlink("loop"),
    readlink("file"),
    readlink("dir"),
    readlink("fifo"),
    mknod("new", stat.S_IFREG | 0o640),
    mknod("new", stat.S_IFIFO | 0o600),
    mknod("new", stat.S_IFSOCK | 0o777),
    mknod("new", stat.S_IFCHR | 0o600, os.makedev(1, 5)),
    mknod("new", stat.S_IFBLK | 0o600, os.makedev(7, 0x12345)),
    mknod("new", stat.S_IFREG | 0o4755),
    mknod("file", stat.S_IFREG | 0o644),
    mknod("dir", stat.S_IFIFO | 0o644),
    mknod("dangling", stat.S_IFREG | 0o644),
    mknod("file/x", stat.S_IFREG | 0o644),
    mknod(TOO_LONG_NAME, stat.S_IFREG | 0o644),
    create("new"),
    create("new", CREATE | os.O_EXCL),
    create("new", os.O_CREAT | os.O_WRONLY, 0o600),
    create("new", CREATE, 0o4755),
    create("new", CREATE | os.O_APPEND | os.O_TRUNC),
    create("new", CREATE, 0),
    create(LONG_NAME),
    create("file"),
    create("file", CREATE | os.O_TRUNC),
    create("file", CREATE | os.O_EXCL),
    create("dir"),
    create("dir", CREATE | os.O_EXCL),
    create("link", CREATE | os.O_EXCL),
    create("file/x"),
    create(TOO_LONG_NAME),
    tmpfile(""),
    tmpfile("dir"),
    tmpfile("dir", os.O_WRONLY),
    tmpfile("file"),
    tmpfile("fifo"),
    opendir("dir"),
    opendir("file"),
    opendir("link"),
    opendir("fifo"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_outcome_is_the_hosts(case: Case, mount: Mount, tmp_path: Path) -> None:
    compare(case, tmp_path / "host", mount)


@pytest.mark.parametrize("name", ["link", "dangling", "fifo", "socket", "device"])
def test_a_creation_meets_what_the_guest_has_not_seen_yet(name: str, mount: Mount) -> None:
    """A guest sends CREATE for a name that it believes missing; ESTALE makes Linux look the name up anew."""
    plant(mount.directory)
    before = portrait(mount.directory)
    assert errno_of(lambda: mount.client.create(1, name.encode())) in {
        errno.ESTALE,
        errno.EEXIST,
        errno.ELOOP,
    }
    assert portrait(mount.directory) == before


@pytest.mark.parametrize("name", [b"a/b", b"/", b"/etc", b"../x", b"..", b".", b"", b"x" * 4096])
@pytest.mark.parametrize(
    "opcode", [Opcode.MKDIR, Opcode.MKNOD, Opcode.CREATE, Opcode.SYMLINK, Opcode.UNLINK, Opcode.RMDIR]
)
def test_names_that_no_directory_holds_are_refused(opcode: Opcode, name: bytes, mount: Mount) -> None:
    """A guest's kernel never sends these; whatever errno they get, nothing may come of them."""
    client = mount.client
    (mount.directory / "a").mkdir()
    (mount.directory / "a" / "b").mkdir()
    calls: dict[Opcode, Callable[[], object]] = {
        Opcode.MKDIR: lambda: client.mkdir(1, name),
        Opcode.MKNOD: lambda: client.mknod(1, name, stat.S_IFREG | 0o644),
        Opcode.CREATE: lambda: client.create(1, name),
        Opcode.SYMLINK: lambda: client.symlink(1, name, b"target"),
        Opcode.UNLINK: lambda: client.unlink(1, name),
        Opcode.RMDIR: lambda: client.rmdir(1, name),
    }
    before = sorted(mount.directory.parent.rglob("*"))
    assert errno_of(calls[opcode]) is not None
    assert sorted(mount.directory.parent.rglob("*")) == before


@pytest.mark.parametrize("name", [b"a/b", b"/", b"..", b".", b""])
def test_rename_and_link_refuse_names_that_no_directory_holds(name: bytes, mount: Mount) -> None:
    client = mount.client
    (mount.directory / "file").touch()
    (mount.directory / "a").mkdir()
    node = mount.node("file")
    before = sorted(mount.directory.parent.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: client.rename(1, b"file", 1, name),
        lambda: client.rename(1, name, 1, b"new"),
        lambda: client.rename2(1, b"file", 1, name, NOREPLACE),
        lambda: client.rename2(1, name, 1, b"file", EXCHANGE),
        lambda: client.link(node, 1, name),
    ]
    for call in calls:
        assert errno_of(call) is not None
    assert sorted(mount.directory.parent.rglob("*")) == before
