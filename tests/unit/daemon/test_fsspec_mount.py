"""A mount of type fsspec reaches its server from within the daemon's sandbox, by the server's name."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import running_daemon
from tests.frontend.frontend import Frontend
from vhostfs.fuse_abi.opcodes import ROOT_ID

DATA = os.urandom(10_000)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a directory, and says nothing."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the parameter's name there
        """Say nothing."""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Serve a directory with one file over HTTP."""
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "file").write_bytes(DATA)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_server_is_found_by_its_name_in_the_sandbox(port: int, tmp_path: Path) -> None:
    mount = {"type": "fsspec", "url": f"http://localhost:{port}/", "timeout_seconds": 30.0}
    device = {"tag": "web", "socket": {"path": f"{tmp_path}/socket"}, "mounts": {"/": mount}}
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
        assert entry.attr.size == len(DATA)
        assert client.read(entry.nodeid, client.open(entry.nodeid).fh, 20_000) == DATA
        assert b"file" in [each.name for each in client.readdir(ROOT_ID, client.opendir(ROOT_ID).fh)]
        assert daemon.stop() == 0
        assert "failed" not in daemon.log()
