"""One device has many mounts, native and in Python, each at its path."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend
from tests.unit.daemon.test_python_filesystems import VHOSTFS
from vhostfs.fuse_abi.flags import AttrFlags, InitFlags
from vhostfs.fuse_abi.opcodes import ROOT_ID


@contextmanager
def serving(socket: Path, mounts: dict[str, Any], **others: Any) -> Iterator[Daemon]:
    """Serve a device with these mounts."""
    configuration = socket.with_suffix(".yaml")
    device = {"tag": "tree", "socket": {"path": str(socket)}, "mounts": mounts}
    configuration.write_text(json.dumps({"devices": [device], **others}))
    with running_daemon([*VHOSTFS, "serve", "--config", str(configuration)], socket) as daemon:
        yield daemon
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@contextmanager
def guest(socket: Path) -> Iterator[FuseClient]:
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        yield client


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second directory of the host, with a file in it."""
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "file").write_text("of the other")
    return directory


def passthrough(directory: Path, **keys: Any) -> dict[str, Any]:
    return {"type": "passthrough", "shared_dir": str(directory), **keys}


MEMORY = {"type": "memory", "size": 1 << 20}


def read(client: FuseClient, path: bytes) -> bytes:
    nodeid = client.walk(path).nodeid
    return client.read(nodeid, client.open(nodeid).fh, 4096)


def write(client: FuseClient, directory: bytes, name: bytes, data: bytes) -> None:
    entry, opened = client.create(client.walk(directory).nodeid if directory else ROOT_ID, name)
    client.write(entry.nodeid, opened.fh, data)
    client.release(entry.nodeid, opened.fh)


def test_each_mount_is_found_at_its_path(socket: Path, share: Path, other: Path) -> None:
    (share / "file").write_text("of the root")
    (share / "memory").mkdir()
    mounts = {
        "/": passthrough(share),
        "/memory": MEMORY,
        "/memory/deep/other": passthrough(other),
        "/memory/deep/other/more": MEMORY,
    }
    with serving(socket, mounts), guest(socket) as client:
        assert read(client, b"file") == b"of the root"
        assert read(client, b"memory/deep/other/file") == b"of the other"
        write(client, b"memory", b"note", b"kept in memory")
        write(client, b"memory/deep/other/more", b"note", b"another")
        assert read(client, b"memory/note") == b"kept in memory"
        assert read(client, b"memory/deep/other/more/note") == b"another"
        places = [b"memory", b"memory/deep/other", b"memory/deep/other/more"]
        assert len({client.walk(place).nodeid >> 48 for place in places}) == 3
        assert all(client.walk(place).attr.flags & AttrFlags.SUBMOUNT for place in places)
        assert all(client.walk(place).generation == 0 for place in places)
    assert not list((share / "memory").iterdir())
    assert sorted(path.name for path in other.iterdir()) == ["file"]


def test_without_a_mount_at_the_root_there_is_the_way_to_the_others(socket: Path, other: Path) -> None:
    with serving(socket, {"/a/b": MEMORY, "/c": passthrough(other)}), guest(socket) as client:
        assert {entry.name for entry in client.list_directory(ROOT_ID)} == {b".", b"..", b"a", b"c"}
        assert read(client, b"c/file") == b"of the other"
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            client.mkdir(ROOT_ID, b"new")
        write(client, b"a/b", b"new", b"text")
        assert read(client, b"a/b/new") == b"text"


def test_nothing_crosses_from_mount_to_mount(socket: Path, share: Path, other: Path) -> None:
    mounts = {"/": passthrough(share), "/memory": MEMORY, "/other": passthrough(other)}
    with serving(socket, mounts), guest(socket) as client:
        write(client, b"memory", b"note", b"text")
        roots = [ROOT_ID, client.walk(b"memory").nodeid, client.walk(b"other").nodeid]
        for target in (roots[0], roots[2]):
            with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
                client.rename(roots[1], b"note", target, b"note")
            with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
                client.link(client.walk(b"memory/note").nodeid, target, b"note")
        for directory, name in ((roots[0], b"memory"), (roots[0], b"other")):
            with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
                client.rmdir(directory, name)
            with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
                client.rename(directory, name, directory, b"elsewhere")
        assert read(client, b"memory/note") == b"text"


def test_what_not_all_mounts_take_stays_off_with_a_warning(socket: Path, share: Path, other: Path) -> None:
    mounts = {"/": passthrough(share, writeback=True, posix_acl=True), "/other": passthrough(other)}
    with serving(socket, mounts) as daemon:
        daemon.wait_for_line("stays off, as other mounts do without")
        with Frontend.start(socket) as frontend:
            taken = FuseClient(frontend).init()
    assert "tree: /: writeback_cache, posix_acl stays off" in daemon.log()
    flags = InitFlags.joined(taken.flags, taken.flags2)
    assert not flags & (InitFlags.WRITEBACK_CACHE | InitFlags.POSIX_ACL | InitFlags.DONT_MASK)
    assert flags & InitFlags.SUBMOUNTS


def test_each_front_end_finds_all_mounts(socket: Path, share: Path) -> None:
    with serving(socket, {"/": passthrough(share), "/memory": MEMORY}):
        with guest(socket) as client:
            write(client, b"memory", b"note", b"text")
        for _ in range(2):
            with guest(socket) as client:
                assert read(client, b"memory/note") == b"text"
