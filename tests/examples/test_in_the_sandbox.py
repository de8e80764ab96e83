"""The examples that need something of the host have it in the daemon's sandbox, too."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from tests.examples.test_git_history import commits, repository
from tests.frontend.client import FuseClient
from tests.frontend.daemons import running_daemon
from tests.frontend.frontend import Frontend
from tests.unit.daemon.test_python_filesystems import VHOSTFS
from vhostfs.fuse_abi.opcodes import ROOT_ID

__all__ = ["repository"]


def test_examples_keep_what_they_need_of_the_host(tmp_path: Path, repository: Path) -> None:
    database, socket = tmp_path / "notes.db", tmp_path / "examples.sock"
    examples: dict[str, tuple[str, dict[str, str]]] = {
        "/processes": ("examples.processes:Processes", {}),
        "/notes": ("examples.sqlite_table:Notes", {"database": str(database)}),
        "/history": ("examples.git_history:History", {"repository": str(repository)}),
    }
    device = {
        "tag": "examples",
        "socket": {"path": str(socket)},
        "mounts": {
            place: {"type": "python", "filesystem": name, "arguments": arguments}
            for place, (name, arguments) in examples.items()
        },
    }
    (tmp_path / "vhostfs.yaml").write_text(json.dumps({"devices": [device]}))
    command = [*VHOSTFS, "serve", "--config", str(tmp_path / "vhostfs.yaml")]
    with running_daemon(command, socket) as daemon:
        with Frontend.start(socket) as frontend:
            client = FuseClient(frontend)
            client.init()

            def read(path: str) -> bytes:
                return client.read(client.walk(path.encode()).nodeid, 0, 4096)

            assert read(f"history/{commits(repository)[-1]}/file") == b"first"
            name = client.walk(f"processes/{os.getpid()}/name".encode()).nodeid
            opened = client.open(name, os.O_RDONLY)
            assert client.read(name, opened.fh, 4096) == Path("/proc/self/comm").read_bytes()
            notes = client.walk(b"notes").nodeid
            note = client.mknod(notes, b"note", 0o100644).nodeid
            assert client.write(note, 0, b"written in the sandbox") == 22
            assert client.getattr(ROOT_ID).attr.nlink
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT * FROM notes").fetchall() == [("note", b"written in the sandbox")]
    connection.close()
