"""Calls on open files and on attributes have the outcome in a guest that they have on the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.frontend.client import FuseClient
from tests.operations.host_calls import (
    copy_file_range,
    fallocate,
    lseek,
)
from tests.operations.shares import Mount
from tests.operations.twins import Case, compare
from vhostfs.fuse_abi.flags import FallocateFlags, FsyncFlags, SetattrValid
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.fuse_abi.structures import CopyFileRangeIn, SetattrIn, WriteOut

U64 = (1 << 64) - 1
BIG = b"0123456789abcdef" * 1024


def opened(
    name: str,
    path: str,
    flags: int,
    host_call: Callable[[int], object],
    guest_call: Callable[[FuseClient, int, int], object],
) -> Case:
    """Open a file, do one thing with it, and close it."""

    def host(directory: Path) -> object:
        descriptor = os.open(directory / path, flags | os.O_NOFOLLOW)
        try:
            return host_call(descriptor)
        finally:
            os.close(descriptor)

    def guest(mount: Mount) -> object:
        node = mount.node(path)
        fh = mount.client.open(node, flags).fh
        try:
            return guest_call(mount.client, node, fh)
        finally:
            mount.client.flush(node, fh)
            mount.client.release(node, fh)

    return Case(f"{name} {path} {flags:#o}", host, guest)


def just_open(path: str, flags: int) -> Case:
    return opened("open", path, flags, lambda _: None, lambda *_: None)


def read(path: str, flags: int, size: int, offset: int) -> Case:
    return opened(
        f"read {size}@{offset}",
        path,
        flags,
        lambda fd: os.pread(fd, size, offset),
        lambda client, node, fh: client.read(node, fh, size, offset & U64),
    )


def write(path: str, flags: int, data: bytes, offset: int) -> Case:
    return opened(
        f"write {len(data)}@{offset}",
        path,
        flags,
        lambda fd: os.pwrite(fd, data, offset),
        lambda client, node, fh: client.write(node, fh, data, offset & U64, flags=flags),
    )


def allocate(path: str, flags: int, mode: int, offset: int, length: int) -> Case:
    return opened(
        f"fallocate {mode:#x} {length}@{offset}",
        path,
        flags,
        lambda fd: fallocate(fd, mode, offset, length),
        lambda client, node, fh: client.fallocate(node, fh, mode, offset & U64, length & U64),
    )


def seek(path: str, offset: int, whence: int) -> Case:
    return opened(
        f"lseek {offset} {whence}",
        path,
        os.O_RDONLY,
        lambda fd: lseek(fd, offset, whence),
        lambda client, node, fh: client.lseek(node, fh, offset & U64, whence),
    )


def sync(path: str, flags: int, data_only: bool) -> Case:
    return opened(
        "fdatasync" if data_only else "fsync",
        path,
        flags,
        os.fdatasync if data_only else os.fsync,
        lambda client, node, fh: client.fsync(node, fh, FsyncFlags.FDATASYNC if data_only else 0),
    )


def resize_open(path: str, size: int) -> Case:
    return opened(
        f"ftruncate {size}",
        path,
        os.O_RDWR,
        lambda fd: os.ftruncate(fd, size),
        lambda client, node, fh: client.truncate(node, size & U64, fh),
    )


def resize(path: str, size: int) -> Case:
    return Case(
        f"truncate {path} {size}",
        lambda host: os.truncate(host / path, size),
        lambda mount: mount.client.truncate(mount.node(path), size & U64),
    )


def chmod(path: str, mode: int) -> Case:
    return Case(
        f"chmod {path} {mode:o}",
        lambda host: (host / path).chmod(mode),
        lambda mount: mount.client.chmod(mount.node(path), mode),
    )


def chown(path: str, uid: int, gid: int) -> Case:
    def guest(mount: Mount) -> None:
        valid = SetattrValid(0)
        if uid >= 0:
            valid |= SetattrValid.UID
        if gid >= 0:
            valid |= SetattrValid.GID
        message = SetattrIn(valid=valid, uid=max(uid, 0), gid=max(gid, 0))
        mount.client.setattr(mount.node(path), message)

    return Case(f"chown {path} {uid} {gid}", lambda host: os.lchown(host / path, uid, gid), guest)


def chown_of_set_user_id(mode: int) -> Case:
    def host(directory: Path) -> None:
        (directory / "file").chmod(mode)
        os.chown(directory / "file", 5, 5)

    def guest(mount: Mount) -> None:
        (mount.directory / "file").chmod(mode)
        valid = SetattrValid.UID | SetattrValid.GID
        mount.client.setattr(mount.node("file"), SetattrIn(valid=valid, uid=5, gid=5))

    return Case(f"chown of mode {mode:o}", host, guest)


def copy(
    source: str,
    target: str,
    size: int,
    *,
    offsets: tuple[int, int] = (0, 0),
    flags: tuple[int, int] = (os.O_RDONLY, os.O_WRONLY),
    call_flags: int = 0,
    wide: bool = False,
) -> Case:
    """copy_file_range(2), by either of its two requests."""

    def host(directory: Path) -> int:
        from_fd = os.open(directory / source, flags[0])
        to_fd = os.open(directory / target, flags[1])
        try:
            return copy_file_range((from_fd, offsets[0]), (to_fd, offsets[1]), size, call_flags)
        finally:
            os.close(from_fd)
            os.close(to_fd)

    def guest(mount: Mount) -> int:
        client = mount.client
        from_node, to_node = mount.node(source), mount.node(target)
        from_fh, to_fh = client.open(from_node, flags[0]).fh, client.open(to_node, flags[1]).fh
        try:
            if call_flags:
                message = CopyFileRangeIn(from_fh, offsets[0], to_node, to_fh, offsets[1], size, call_flags)
                return client.fixed(WriteOut, Opcode.COPY_FILE_RANGE, from_node, message).size
            call = client.copy_file_range_64 if wide else client.copy_file_range
            return call((from_node, from_fh, offsets[0]), (to_node, to_fh, offsets[1]), size)
        finally:
            client.release(from_node, from_fh)
            client.release(to_node, to_fh)

    name = f"copy {source} {target} {size} {offsets} {flags} {call_flags} {'64' if wide else ''}"
    return Case(name, host, guest)


CASES = [
    just_open("file", os.O_RDONLY),
    just_open("file", os.O_RDWR | os.O_TRUNC),
    just_open("file", os.O_WRONLY | os.O_TRUNC),
    just_open("file", os.O_WRONLY | os.O_APPEND),
    just_open("locked", os.O_RDONLY),
    just_open("dir", os.O_WRONLY),
    just_open("dir", os.O_RDWR),
    just_open("link", os.O_RDONLY),
    just_open("loop", os.O_RDONLY),
    just_open("socket", os.O_RDONLY),
    read("file", os.O_RDONLY, 100, 0),
    read("file", os.O_RDWR, 3, 2),
    read("file", os.O_RDONLY, 0, 0),
    read("file", os.O_RDONLY, 10, 7),
    read("file", os.O_RDONLY, 10, 1 << 40),
    read("file", os.O_RDONLY, 10, -1),
    read("file", os.O_WRONLY, 10, 0),
    read("empty", os.O_RDONLY, 4096, 0),
    write("file", os.O_WRONLY, b"new", 0),
    write("file", os.O_RDWR, b"new", 100),
    write("file", os.O_RDWR, b"", 0),
    write("file", os.O_WRONLY | os.O_APPEND, b"appended", 0),
    write("file", os.O_RDONLY, b"new", 0),
    write("file", os.O_WRONLY, b"new", -1),
    write("file", os.O_WRONLY, b"new", (1 << 63) - 1),
    write("empty", os.O_WRONLY, BIG, 5),
    allocate("file", os.O_RDWR, 0, 0, 10000),
    allocate("file", os.O_RDWR, FallocateFlags.KEEP_SIZE, 0, 10000),
    allocate("file", os.O_RDWR, FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE, 1, 3),
    allocate("file", os.O_RDWR, FallocateFlags.PUNCH_HOLE, 1, 3),
    allocate("file", os.O_RDWR, FallocateFlags.ZERO_RANGE, 2, 100),
    allocate("file", os.O_RDWR, FallocateFlags.COLLAPSE_RANGE, 0, 3),
    allocate("file", os.O_RDWR, FallocateFlags.INSERT_RANGE, 0, 3),
    allocate("file", os.O_RDWR, 0x8000, 0, 10),
    allocate("file", os.O_RDWR, 0, 0, 0),
    allocate("file", os.O_RDWR, 0, -1, 10),
    allocate("file", os.O_RDWR, 0, 0, -1),
    allocate("file", os.O_RDWR, 0, (1 << 63) - 1, 10),
    allocate("file", os.O_RDWR, 0, 1 << 62, 10),
    allocate("file", os.O_RDONLY, 0, 0, 10),
    seek("file", 0, os.SEEK_DATA),
    seek("file", 0, os.SEEK_HOLE),
    seek("file", 100, os.SEEK_DATA),
    seek("file", 100, os.SEEK_HOLE),
    seek("file", -1, os.SEEK_DATA),
    seek("file", 0, 17),
    seek("empty", 0, os.SEEK_DATA),
    sync("file", os.O_RDWR, data_only=False),
    sync("file", os.O_RDONLY, data_only=True),
    resize_open("file", 3),
    resize_open("file", 1000),
    resize_open("file", 1 << 62),
    resize("file", 0),
    resize("file", 12345),
    resize("file", 1 << 62),
    resize("file", -1),
    resize("dir", 0),
    chmod("file", 0o600),
    chmod("file", 0o6755),
    chmod("dir", 0o1777),
    chmod("fifo", 0o666),
    chmod("locked", 0o7777),
    chown("file", 1000, 1001),
    chown("file", -1, 1001),
    chown("file", 1000, -1),
    chown("dir", 1000, 1000),
    chown("link", 1000, 1000),
    chown("fifo", 7, 7),
    chown_of_set_user_id(0o4755),
    chown_of_set_user_id(0o2755),
    chown_of_set_user_id(0o2745),
    chown_of_set_user_id(0o6777),
    copy("file", "empty", 100),
    copy("file", "empty", 100, wide=True),
    copy("file", "empty", 3, offsets=(2, 10)),
    copy("file", "empty", 3, offsets=(2, 10), wide=True),
    copy("file", "empty", 10, offsets=(100, 0)),
    copy("file", "file", 2, offsets=(0, 4), flags=(os.O_RDWR, os.O_RDWR)),
    copy("file", "file", 5, offsets=(0, 2), flags=(os.O_RDWR, os.O_RDWR)),
    copy("file", "empty", 10, flags=(os.O_WRONLY, os.O_WRONLY)),
    copy("file", "empty", 10, flags=(os.O_RDONLY, os.O_RDONLY)),
    copy("file", "empty", 10, call_flags=1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_outcome_is_the_hosts(case: Case, mount: Mount, tmp_path: Path) -> None:
    compare(case, tmp_path / "host", mount)
