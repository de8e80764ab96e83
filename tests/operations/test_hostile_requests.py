"""Requests that no kernel would send fail alone: the share is as it was, and the next is answered."""

from __future__ import annotations

import errno
import os
import random
import struct
from functools import partial

import pytest

from tests.frontend.client import FuseClient
from tests.operations.shares import HOST_LOCKS, Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.opcodes import ROOT_ID, UNANSWERED, Opcode
from vhostfs.fuse_abi.structures import (
    BatchForgetIn,
    ForgetOne,
    GetxattrIn,
    IoctlIn,
    MkdirIn,
    OpenIn,
    ReadIn,
    RenameIn,
    SetxattrIn,
    WriteIn,
)

ANSWERED = sorted(set(Opcode) - UNANSWERED - {Opcode.DESTROY})


@pytest.mark.parametrize("opcode", ANSWERED, ids=lambda opcode: opcode.name)
def test_a_request_without_arguments_fails_alone(opcode: Opcode, mount: Mount) -> None:
    answer = errno_of(lambda: mount.client.request(opcode, ROOT_ID, out_size=4096))
    if opcode not in {Opcode.STATFS, Opcode.SYNCFS}:
        assert answer is not None
    mount.client.init()
    assert mount.client.getattr(ROOT_ID).attr.ino


@pytest.mark.parametrize("opcode", sorted(UNANSWERED), ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("room", [-1, 0, 128])
def test_what_is_never_answered_is_taken_with_or_without_room(
    opcode: Opcode, room: int, mount: Mount
) -> None:
    """Nothing may be written for these, not even an error, and the descriptor comes back."""
    for body in (b"", bytes(3), bytes(64), b"\xff" * 64):
        pending = mount.client.start(opcode, ROOT_ID, body, out_size=room)
        assert mount.client.queue.wait(pending._token) == 0
        pending.free()
    assert mount.client.getattr(ROOT_ID).attr.ino


NAMES = {
    "lookup": (Opcode.LOOKUP, b""),
    "unlink": (Opcode.UNLINK, b""),
    "rmdir": (Opcode.RMDIR, b""),
    "mkdir": (Opcode.MKDIR, MkdirIn(0o755).pack()),
    "symlink": (Opcode.SYMLINK, b""),
    "rename": (Opcode.RENAME, RenameIn(1).pack()),
    "removexattr": (Opcode.REMOVEXATTR, b""),
    "getxattr": (Opcode.GETXATTR, GetxattrIn(100).pack()),
    "setxattr": (Opcode.SETXATTR, SetxattrIn(3).pack()),
}


TWO_NAMES = {"symlink", "rename", "setxattr"}
"""Those that want something behind their first name."""

WITHOUT_AN_END = [(which, name) for which in NAMES for name in (b"", b"file", b"n" * 5000)]
WITHOUT_AN_END += [(which, name) for which in TWO_NAMES for name in (b"new\0", b"new\0half")]


@pytest.mark.parametrize(("which", "name"), WITHOUT_AN_END, ids=lambda value: str(value[:20]))
def test_names_without_an_end_are_refused(which: str, name: bytes, mount: Mount) -> None:
    opcode, arguments = NAMES[which]
    (mount.directory / "file").write_bytes(b"content")
    assert errno_of(lambda: mount.client.request(opcode, ROOT_ID, arguments, name, out_size=4096)) is not None
    assert [path.name for path in mount.directory.iterdir()] == ["file"]


def test_a_write_of_more_than_it_brings_is_refused(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    for size in (10, 1 << 20, (1 << 32) - 1):
        message = WriteIn(fh, 0, size)
        answer = errno_of(lambda: mount.client.request(Opcode.WRITE, node, message, b"short", out_size=8))  # noqa: B023
        assert answer in {errno.EIO, errno.EINVAL}
    assert (mount.directory / "file").read_bytes() == b"content"


def test_a_write_of_less_than_it_brings_writes_what_it_says(mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    node = mount.node("file")
    fh = mount.client.open(node, os.O_RDWR).fh
    mount.client.request(Opcode.WRITE, node, WriteIn(fh, 0, 3), b"CONTENT", out_size=8)
    assert (mount.directory / "file").read_bytes() == b"CONtent"


@pytest.mark.parametrize("size", [1, 4096, 1 << 20, (1 << 32) - 1])
def test_a_read_of_more_than_there_is_room_for_stays_within_it(size: int, mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"x" * 10000)
    node = mount.node("file")
    fh = mount.client.open(node).fh
    read = partial(mount.client.request, Opcode.READ, node, ReadIn(fh, 0, size), out_size=100)
    if errno_of(read) not in {errno.EIO, errno.EINVAL}:
        assert read().ljust(100, b"x") == b"x" * 100


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
@pytest.mark.parametrize("size", [0, 8, 1 << 20, (1 << 32) - 1])
def test_a_listing_of_more_than_there_is_room_for_stays_within_it(
    opcode: Opcode, size: int, mount: Mount
) -> None:
    for index in range(50):
        (mount.directory / f"file{index}").touch()
    fh = mount.client.opendir(ROOT_ID).fh
    message = ReadIn(fh, 0, size)
    assert errno_of(lambda: mount.client.request(opcode, ROOT_ID, message, out_size=1000)) in {
        None,
        errno.EIO,
        errno.EINVAL,
    }
    assert mount.client.getattr(ROOT_ID).attr.ino


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 32) - 1])
def test_attribute_buffers_larger_than_the_room_stay_within_it(size: int, mount: Mount) -> None:
    (mount.directory / "file").touch()
    os.setxattr(mount.directory / "file", "user.one", b"v" * 200)
    node = mount.node("file")
    for opcode, name in ((Opcode.GETXATTR, b"user.one\0"), (Opcode.LISTXATTR, b"")):
        answer = errno_of(
            lambda: mount.client.request(opcode, node, GetxattrIn(size), name, out_size=50)  # noqa: B023
        )
        assert answer in {None, errno.ERANGE, errno.EIO, errno.E2BIG, errno.EINVAL}
    set_value = partial(mount.client.request, Opcode.SETXATTR, node, SetxattrIn(size), b"user.two\0abc")
    assert errno_of(set_value) in ({None} if size <= 3 else {errno.EIO, errno.EINVAL, errno.E2BIG})


def test_a_batch_that_claims_more_than_it_brings_forgets_nothing_foreign(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    for count in (2, 1000, (1 << 32) - 1):
        parts = [BatchForgetIn(count), ForgetOne(99999, 1)]
        mount.client.on_queue(0).start(Opcode.BATCH_FORGET, 0, *parts, out_size=-1).result()
    assert mount.client.getattr(node).attr.ino


def test_an_ioctl_that_claims_more_than_it_brings_is_refused(mount: Mount) -> None:
    (mount.directory / "file").touch()
    node = mount.node("file")
    fh = mount.client.open(node).fh
    for in_size in (8, 28, 1 << 20, (1 << 32) - 1):
        message = IoctlIn(fh, 0, 0x40086602, 0, in_size, 0)
        answer = errno_of(lambda: mount.client.request(Opcode.IOCTL, node, message, b"abc", out_size=16))  # noqa: B023
        assert answer is not None


@pytest.mark.parametrize("flags", [0o200, 0o3, 0xFFFFFFFF, 0o20000000, 0o4000000, 0o40, 0o20200000])
def test_strange_open_flags_do_not_reach_the_host(flags: int, mount: Mount) -> None:
    (mount.directory / "file").write_bytes(b"content")
    (mount.directory / "dir").mkdir()
    for opcode in (Opcode.OPEN, Opcode.OPENDIR):
        for name in ("file", "dir"):
            node = mount.node(name)
            errno_of(lambda: mount.client.request(opcode, node, OpenIn(flags), out_size=16))  # noqa: B023
    assert sorted(path.name for path in mount.directory.iterdir()) == ["dir", "file"]


def random_request(chance: random.Random, nodes: list[int], handles: list[int]) -> tuple[int, int, bytes]:
    """Return an opcode, a nodeid and a body, in which valid parts are likely."""
    opcode = chance.choice(list(Opcode))
    if opcode in {Opcode.INIT, Opcode.DESTROY, Opcode.SETLKW, Opcode.SYNCFS}:
        opcode = Opcode.LOOKUP
    words = [
        chance.choice([0, 1, 2, 4096, chance.getrandbits(32), chance.getrandbits(64), *nodes, *handles])
        for _ in range(chance.randrange(12))
    ]
    body = struct.pack(f"={len(words)}Q", *words)
    body += chance.choice(
        [b"", b"file\0", b"dir\0", b"a\0b\0", b"user.x\0", b"..\0", b"/\0", b"\0", b"no end"]
    )
    return (
        opcode,
        chance.choice([*nodes, chance.getrandbits(64)]),
        body + chance.randbytes(chance.randrange(40)),
    )


@pytest.mark.parametrize("seed", range(8))
def test_requests_at_random_do_no_harm(seed: int, shares: Shares) -> None:
    chance = random.Random(seed)
    with shares.mounted("--xattr", *HOST_LOCKS) as mount:
        outside = mount.directory.parent / "outside"
        outside.write_bytes(b"untouched")
        (mount.directory / "file").write_bytes(b"content")
        (mount.directory / "dir").mkdir()
        (mount.directory / "link").symlink_to("../outside")
        client = mount.client
        nodes = [1, mount.node("file"), mount.node("dir"), mount.node("link")]
        handles = [client.open(nodes[1], os.O_RDWR).fh, client.opendir(1).fh]
        for _ in range(400):
            opcode, nodeid, body = random_request(chance, nodes, handles)
            room = chance.choice([0, 8, 128, 4096])
            if opcode in UNANSWERED:
                client.start(opcode, nodeid, body, out_size=-1).result()
            else:
                errno_of(lambda: client.request(opcode, nodeid, body, out_size=room))  # noqa: B023
        assert outside.read_bytes() == b"untouched"
        assert sorted(path.name for path in mount.directory.parent.iterdir()) == [
            "outside",
            "shared",
            "socket",
        ]
        assert mount.daemon.alive()
        fresh = FuseClient(mount.frontend)
        fresh.init()
        assert fresh.getattr(1).attr.ino == mount.directory.stat().st_ino
        outside.unlink()
