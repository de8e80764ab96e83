"""A mount of type archive is read from within the daemon's sandbox, its temporary files included."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

from tests.frontend.client import FuseClient
from tests.frontend.daemons import running_daemon
from tests.frontend.frontend import Frontend
from vhostfs.fuse_abi.opcodes import ROOT_ID

DATA = os.urandom(10_000) * 2


def test_compressed_members_are_read_in_the_sandbox(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file", DATA)
    mount = {"type": "archive", "path": f"{tmp_path}/archive.zip", "spool_dir": str(tmp_path)}
    device = {"tag": "zip", "socket": {"path": f"{tmp_path}/socket"}, "mounts": {"/": mount}}
    configuration = {"sandbox": {"mode": "namespace"}, "devices": [device]}
    (tmp_path / "vhostfs.yaml").write_text(json.dumps(configuration))
    command = [sys.executable, "-c", "import sys; from vhostfs.cli import main; sys.exit(main())"]
    options = ["serve", "--config", f"{tmp_path}/vhostfs.yaml"]
    with (
        running_daemon([*command, *options], tmp_path / "socket") as daemon,
        Frontend.start(tmp_path / "socket") as frontend,
    ):
        client = FuseClient(frontend)
        client.init()
        entry = client.lookup(ROOT_ID, b"file")
        assert client.read(entry.nodeid, client.open(entry.nodeid).fh, 40_000) == DATA
        assert daemon.stop() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"archive.zip", "vhostfs.yaml"}
