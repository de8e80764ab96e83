"""A directory under layers is served in the daemon's sandbox, by Python where it must be."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.client import Caller, FuseClient
from tests.frontend.daemons import running_daemon
from tests.frontend.frontend import Frontend
from tests.unit.daemon.test_python_filesystems import VHOSTFS
from tests.unit.refusals import refused
from vhostfs.fuse_abi.opcodes import ROOT_ID

BLOCK = 4096

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acting as other users takes root")


@contextmanager
def serving(share: Path, layers: list[dict[str, Any]]) -> Iterator[FuseClient]:
    """Serve a directory under layers, locked in, to a guest that has mounted it."""
    folder = share.parent
    socket = folder / "layers.sock"
    mount = {"type": "passthrough", "shared_dir": str(share), "xattr": True, "layers": layers}
    device = {"tag": "share", "socket": {"path": str(socket)}, "mounts": {"/": mount}}
    (folder / "vhostfs.yaml").write_text(json.dumps({"devices": [device]}))
    command = [*VHOSTFS, "serve", "--config", str(folder / "vhostfs.yaml")]
    with running_daemon(command, socket) as daemon:
        with Frontend.start(socket) as frontend:
            client = FuseClient(frontend)
            client.init()
            yield client
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the shared directory, in which anybody may make files."""
    share = tmp_path / "share"
    share.mkdir()
    share.chmod(0o777)
    return share


def test_layers_of_all_kinds_serve_a_directory_in_the_sandbox(folder: Path) -> None:
    (folder / "closed").mkdir()
    (folder / "closed/file").write_bytes(b"closed")
    audit = folder.parent / "audit.json"
    layers: list[dict[str, Any]] = [
        {"type": "rate_limit", "requests": 100_000},
        {"type": "audit", "file": str(audit), "operations": ["changes"]},
        {"type": "policy", "rules": [{"action": "deny", "paths": ["/closed/**"], "operations": ["read"]}]},
        {"type": "fault", "rules": [{"operations": ["mkdir"], "nth": 1, "error": "EIO"}]},
        {"type": "id_map", "uid": ["map:0:5000:2000"], "gid": ["map:0:5000:2000"]},
        {"type": "xattr_map", "rules": ":map::user.virtiofs.:"},
        {"type": "quota", "bytes": 4 * BLOCK, "files": 4},
    ]
    with serving(folder, layers) as root:
        client = root.as_caller(Caller(7, 8, 9))
        made, opened = client.create(ROOT_ID, b"file", os.O_RDWR, 0o640)
        assert client.write(made.nodeid, opened.fh, b"x" * BLOCK) == BLOCK
        assert (made.attr.uid, made.attr.gid) == (7, 8)
        client.setxattr(made.nodeid, b"security.test", b"value")
        with refused(errno.EDQUOT):
            client.write(made.nodeid, opened.fh, b"x" * 4 * BLOCK, BLOCK)
        with refused(errno.EIO):
            client.mkdir(ROOT_ID, b"directory", 0o755)
        client.mkdir(ROOT_ID, b"directory", 0o755)
        with refused(errno.EDQUOT):
            client.mkdir(ROOT_ID, b"another", 0o755)
        closed = client.lookup(client.lookup(ROOT_ID, b"closed").nodeid, b"file").nodeid
        with refused(errno.EACCES):
            client.open(closed, os.O_RDONLY)
        client.release(made.nodeid, opened.fh)
    status = (folder / "file").stat()
    assert (status.st_uid, status.st_gid, status.st_size) == (5007, 5008, BLOCK)
    assert os.getxattr(folder / "file", "user.virtiofs.security.test") == b"value"
    told = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["operation"], line["path"], line["result"]) for line in told] == [
        ("create", "/file", "ok"),
        ("write", "/file", "ok"),
        ("setxattr", "/file", "ok"),
        ("write", "/file", "EDQUOT"),
        ("mkdir", "/directory", "EIO"),
        ("mkdir", "/directory", "ok"),
        ("mkdir", "/another", "EDQUOT"),
    ]
    assert {(line["uid"], line["pid"]) for line in told} == {(7, 9)}


def test_the_data_plane_refuses_changes_and_keeps_a_limit_by_itself(folder: Path) -> None:
    (folder / "file").write_bytes(bytes(100))
    layers: list[dict[str, Any]] = [
        {"type": "read_only"},
        {"type": "rate_limit", "bytes": 1 << 30, "group": "a"},
    ]
    with serving(folder, layers) as client:
        node = client.lookup(ROOT_ID, b"file").nodeid
        with refused(errno.EROFS):
            client.open(node, os.O_RDWR)
        opened = client.open(node, os.O_RDONLY)
        assert client.read(node, opened.fh, 200) == bytes(100)
        client.release(node, opened.fh)


def test_a_limit_that_is_used_up_holds_neither_an_unmount_nor_the_end_up(folder: Path) -> None:
    (folder / "file").write_bytes(bytes(1 << 20))
    with serving(folder, [{"type": "rate_limit", "bytes": 1000}]) as client:
        node = client.lookup(ROOT_ID, b"file").nodeid
        opened = client.open(node, os.O_RDONLY)
        assert len(client.read(node, opened.fh, 1 << 20)) == 1 << 20
        # A quarter of an hour is owed now; what follows does not wait for it.
        client.forget(node, 1)
        client.destroy()
