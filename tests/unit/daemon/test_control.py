"""Mounts come and go while a guest works, by the daemon's control socket."""

from __future__ import annotations

import array
import errno
import json
import os
import shutil
import socket as sockets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon
from tests.unit.daemon.test_tree import MEMORY, guest, passthrough, read, serving, write
from vhostfs import cli
from vhostfs.control import messages
from vhostfs.fuse_abi.opcodes import ROOT_ID


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """Where the control socket is."""
    return tmp_path / "control"


@contextmanager
def controlled(
    socket: Path, control: Path, mounts: dict[str, Any], **others: Any
) -> Iterator[tuple[Daemon, FuseClient]]:
    """Serve a guest, whose device's mounts can be changed."""
    with serving(socket, mounts, control={"path": str(control)}, **others) as daemon, guest(socket) as client:
        yield daemon, client
    assert not control.exists()


@pytest.fixture(scope="module")
def unshaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Daemon, FuseClient]]:
    """A daemon whose mounts stay as they are, with its control socket and a guest."""
    directory = tmp_path_factory.mktemp("unshaken")
    (directory / "share").mkdir()
    mounts = {"/": passthrough(directory / "share"), "/memory": MEMORY, "/memory/b": MEMORY}
    with controlled(directory / "socket", directory / "control", mounts) as (daemon, client):
        yield directory / "control", daemon, client


@pytest.fixture
def mounts(control: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`vhostfs mounts`: returns what it printed, and raises what it complained of."""

    def run(action: str, *arguments: str, control: Path = control) -> list[str]:
        status = cli.main(["mounts", "--control", str(control), action, *arguments])
        printed = capsys.readouterr()
        if status != 0:
            raise AssertionError(printed.err)
        return printed.out.splitlines()

    return run


def opened_files(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def wait_opened_files(daemon: Daemon, most: int) -> None:
    """Wait until the daemon has no more files open than this: it closes some after it has answered."""
    deadline = time.monotonic() + 30
    while opened_files(daemon) > most:
        assert time.monotonic() < deadline, [
            str(path.readlink()) for path in Path(f"/proc/{daemon.process.pid}/fd").iterdir()
        ]
        time.sleep(0.01)


def test_a_file_system_in_python_comes_and_goes(
    socket: Path, control: Path, share: Path, mounts: Any
) -> None:
    with controlled(socket, control, {"/": passthrough(share)}) as (_, client):
        assert mounts("list") == ["tree\t/\tpassthrough"]
        mounts("add", "/memory", "{type: memory, size: 1M}")
        write(client, b"memory", b"note", b"text")
        assert read(client, b"memory/note") == b"text"
        assert mounts("list") == ["tree\t/\tpassthrough", "tree\t/memory\tmemory"]
        note = client.walk(b"memory/note").nodeid
        mounts("remove", "/memory")
        assert client.lookup(ROOT_ID, b"memory").nodeid == 0
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            client.getattr(note)
        mounts("add", "/memory", "{type: memory}")
        assert client.lookup(client.walk(b"memory").nodeid, b"note").nodeid == 0
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            client.getattr(note)


@pytest.mark.parametrize("kind", ["passthrough", "directory"])
@pytest.mark.parametrize("sandbox", ["namespace", "none"])
def test_a_directory_reaches_a_daemon_that_does_not_see_it(
    socket: Path, control: Path, share: Path, mounts: Any, sandbox: str, kind: str
) -> None:
    other = share.parent / "other"
    (other / "within").mkdir(parents=True)
    (other / "file").write_text("of the other")
    with controlled(socket, control, {"/": passthrough(share)}, sandbox={"mode": sandbox}) as (_, client):
        mounts("add", "/deep/other", json.dumps({"type": kind, "shared_dir": str(other)}))
        assert read(client, b"deep/other/file") == b"of the other"
        write(client, b"deep/other/within", b"new", b"of the guest")
        assert (other / "within/new").read_text() == "of the guest"
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            client.rmdir(client.walk(b"deep").nodeid, b"other")


@pytest.mark.parametrize("packing", ["tar", "tar.gz", "zip"])
def test_an_archive_reaches_a_daemon_that_does_not_see_it(
    socket: Path, control: Path, share: Path, mounts: Any, packing: str
) -> None:
    archive = share.parent / f"archive.{packing}"
    (share / "file").write_text("packed")
    shutil.make_archive(str(share.parent / "archive"), {"tar.gz": "gztar"}.get(packing, packing), share)
    with controlled(socket, control, {"/": passthrough(share)}) as (_, client):
        mounts("add", "/archive", json.dumps({"type": "archive", "path": str(archive)}))
        assert read(client, b"archive/file") == b"packed"


def test_a_device_in_python_takes_a_directory_too(
    socket: Path, control: Path, share: Path, mounts: Any
) -> None:
    (share / "file").write_text("of the host")
    with controlled(socket, control, {"/": MEMORY}) as (_, client):
        mounts("add", "--device", "tree", "/host", json.dumps(passthrough(share)))
        assert read(client, b"host/file") == b"of the host"
        assert stat.S_ISDIR(client.walk(b"host").attr.mode)


@pytest.mark.parametrize("kind", ["passthrough", "directory", "overlay", "archive"])
def test_what_was_mounted_leaves_nothing_open(
    socket: Path, control: Path, share: Path, mounts: Any, kind: str
) -> None:
    (share / "file").write_text("text")
    directory = {"type": "directory", "shared_dir": str(share)}
    added = {
        "passthrough": passthrough(share),
        "directory": {**directory, "layers": [{"type": "read_only"}]},
        "overlay": {"type": "overlay", "lower": [directory], "upper": MEMORY},
        "archive": {"type": "archive", "path": str(share.parent / "archive.tar.gz")},
    }[kind]
    shutil.make_archive(str(share.parent / "archive"), "gztar", share)
    with controlled(socket, control, {"/": passthrough(share)}) as (daemon, client):

        def come_and_go() -> None:
            mounts("add", "/again", json.dumps(added))
            assert read(client, b"again/file") == b"text"
            with pytest.raises(AssertionError, match="another mount is there"):
                mounts("add", "/again", json.dumps(added))
            mounts("remove", "/again")
            client.lookup(ROOT_ID, b"file")

        for _ in range(2):
            come_and_go()
        before = opened_files(daemon)
        for _ in range(3):
            come_and_go()
        wait_opened_files(daemon, before)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("add", "/", "type: memory"), "another mount is there"),
        (("add", "/memory", "type: memory"), "another mount is there"),
        (("add", "relative", "type: memory"), "no absolute path without '..'"),
        (("add", "/a/../b", "type: memory"), "no absolute path without '..'"),
        (("add", f"/{'a' * 256}", "type: memory"), "File name too long"),
        (("add", "/a", "type: memry"), "MOUNT:1:7: type: unknown type; did you mean memory?"),
        (("add", "/a", "{type: memory, sise: 1}"), "MOUNT:1:16: sise: unknown key; did you mean size?"),
        (("add", "/a", "[]"), "MOUNT:1:1: should be a mapping"),
        (("add", "/a", "{type: directory, shared_dir: /nowhere}"), "/nowhere: No such file or directory"),
        (("add", "/a", "{type: directory, shared_dir: /dev/null}"), "neither a directory nor a file"),
        (("add", "/a", "{type: python, filesystem: 'no.module:fs'}"), "there is no module no"),
        (("add", "--device", "other", "/a", "type: memory"), "there is no device other; there are tree"),
        (("remove", "/"), "Device or resource busy"),
        (("remove", "/memory"), "Device or resource busy"),
        (("remove", "/nowhere"), "no mount is there"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    unshaken: tuple[Path, Daemon, FuseClient], mounts: Any, arguments: tuple[str, ...], reason: str
) -> None:
    control, _, client = unshaken
    before = mounts("list", control=control)
    with pytest.raises(AssertionError, match=r"\S") as raised:
        mounts(*arguments, control=control)
    assert reason in str(raised.value)
    assert mounts("list", control=control) == before
    assert client.walk(b"memory/b").nodeid >> 48


def test_a_mount_that_would_break_a_promise_to_the_guest_is_refused(
    socket: Path, control: Path, share: Path, mounts: Any
) -> None:
    with (
        controlled(socket, control, {"/": passthrough(share, writeback=True, killpriv_v2=True)}),
        pytest.raises(AssertionError, match="counts on writeback_cache, handle_killpriv_v2"),
    ):
        mounts("add", "/memory", "type: memory")


def test_without_a_daemon_there_is_a_sentence(mounts: Any) -> None:
    with pytest.raises(AssertionError, match="cannot be asked: No such file or directory"):
        mounts("list")


@pytest.mark.parametrize(
    ("request_line", "descriptors", "reason"),
    [
        (b"\n", 0, "Invalid JSON"),
        (b"nonsense\n", 0, "Invalid JSON"),
        (b"[" * 30_000 + b"\n", 0, "JSON"),
        (b"x" * (1 << 17), 0, "JSON"),
        (b'{"command": "list"}\n', 100, "more descriptors came than"),
        (
            b'{"command": "add", "place": "/a", "mount": "' + b"[" * 60_000 + b'"}\n',
            0,
            "mount:1:1: nested too deeply",
        ),
        (b'{"command": "end"}\n', 0, "command"),
        (b'{"command": "list", "more": 1}\n', 0, "more"),
        (b'{"command": "remove", "place": "/\\u0000"}\n', 0, "no absolute path"),
        (
            b'{"command": "add", "place": "/a", "mount": "type: memory"}\n',
            3,
            "0 paths came with 3 descriptors",
        ),
        (
            b'{"command": "add", "place": "/a", "paths": ["/srv"], "mount":'
            b' "{type: passthrough, shared_dir: /srv}"}\n',
            0,
            "1 paths came with 0 descriptors",
        ),
        (
            b'{"command": "add", "place": "/a", "paths": ["/srv"], "mount":'
            b' "{type: passthrough, shared_dir: /srv}"}\n',
            1,
            "Not a directory",
        ),
        (
            b'{"command": "add", "place": "/a", "paths": ["/tmp"], "mount":'
            b' "{type: directory, shared_dir: /srv}"}\n',
            1,
            "/srv: it is out of sight",
        ),
    ],
)
def test_whatever_is_said_on_the_socket_the_guest_is_served(
    unshaken: tuple[Path, Daemon, FuseClient],
    mounts: Any,
    request_line: bytes,
    descriptors: int,
    reason: str,
) -> None:
    control, daemon, client = unshaken
    listed = mounts("list", control=control)
    before = opened_files(daemon)
    with (
        sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection,
        Path(os.devnull).open() as null,
    ):
        connection.settimeout(30)
        connection.connect(str(control))
        rights = array.array("i", [null.fileno()] * descriptors)
        ancillary = [(sockets.SOL_SOCKET, sockets.SCM_RIGHTS, rights)]
        try:
            connection.sendmsg([request_line], ancillary if descriptors else [])
            connection.shutdown(sockets.SHUT_WR)
            answer = messages.decode_answer(connection.recv(1 << 16))
        except ConnectionError:
            # It does not listen to more than a request may have.
            assert len(request_line) > messages.REQUEST_LIMIT
            answer = messages.Answer(error=reason)
    assert reason in (answer.error or "")
    assert mounts("list", control=control) == listed
    wait_opened_files(daemon, before)
    assert client.getattr(ROOT_ID).attr.nlink >= 2


def test_who_says_nothing_holds_up_the_end_of_no_daemon(socket: Path, control: Path, share: Path) -> None:
    with (
        sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection,
        controlled(socket, control, {"/": passthrough(share)}),
    ):
        connection.connect(str(control))
