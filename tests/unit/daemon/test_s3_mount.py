"""The mount of a bucket works within the daemon's sandbox, and can be asked from outside how it does."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_s3.server import ACCESS_KEY, BUCKET, SECRET, FakeS3, listening
from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend
from vhostfs import cli
from vhostfs.fuse_abi.opcodes import ROOT_ID


@contextmanager
def serving(tmp_path: Path, server: FakeS3) -> Iterator[tuple[Daemon, FuseClient]]:
    """Serve the bucket to a guest."""
    (tmp_path / "secret").write_text(SECRET)
    mount = {
        "type": "s3",
        "bucket": BUCKET,
        "endpoint": server.url.replace("127.0.0.1", "localhost"),
        "access_key": ACCESS_KEY,
        "secret_key_file": f"{tmp_path}/secret",
        "state_dir": str(tmp_path),
    }
    configuration = {
        "sandbox": {"mode": "namespace"},
        "control": {"path": f"{tmp_path}/control"},
        "log": {"level": "debug"},
        "devices": [{"tag": "bucket", "socket": {"path": f"{tmp_path}/socket"}, "mounts": {"/": mount}}],
    }
    (tmp_path / "vhostfs.yaml").write_text(json.dumps(configuration))
    command = [sys.executable, "-c", "import sys; from vhostfs.cli import main; sys.exit(main())"]
    options = ["serve", "--config", f"{tmp_path}/vhostfs.yaml"]
    with (
        running_daemon([*command, *options], tmp_path / "socket") as daemon,
        Frontend.start(tmp_path / "socket") as frontend,
    ):
        client = FuseClient(frontend)
        client.init()
        yield daemon, client


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`vhostfs s3` with --json: returns what it says."""

    def run(*arguments: str) -> Any:
        assert cli.main(["s3", "--control", f"{tmp_path}/control", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_mount_finds_out_what_its_server_lacks_and_tells_what_it_does(
    tmp_path: Path, ask: Callable[..., Any]
) -> None:
    """In the sandbox, with the server's name; and its secret stays in the file."""
    server = FakeS3()
    server.unheeded = {("CopyObject", "if-none-match")}
    with listening(server), serving(tmp_path, server) as (daemon, client):
        line = daemon.wait_for_line("the server lacks some of S3")
        assert "If-None-Match of a copy" in line
        entry, opened = client.create(ROOT_ID, b"new", 0o644)
        client.write(entry.nodeid, opened.fh, b"data")
        client.flush(entry.nodeid, opened.fh)
        client.release(entry.nodeid, opened.fh)
        status = ask("status")
        assert status["requests"]["PutObject"] == 1
        assert len(status["lacks"]) == 1
        assert server.bucket.objects["new"].data == b"data"
        assert list(server.bucket.objects) == ["new"]
        assert ask("conflicts") == []
        assert SECRET not in daemon.log()


def test_a_daemon_starts_without_its_store_and_goes_on_when_that_is_there(
    tmp_path: Path, ask: Callable[..., Any]
) -> None:
    """It says so once, and the guest is answered EIO meanwhile."""
    server = FakeS3()
    with listening(server):
        pass  # it has a port now, at which nobody is
    server.bucket.put("file", b"data", {})
    with serving(tmp_path, server) as (daemon, client):
        daemon.wait_for_line("the store does not answer")
        for _ in range(3):
            with pytest.raises(OSError, match="Errno") as raised:
                client.lookup(ROOT_ID, b"file")
            assert raised.value.errno == errno.EIO
        assert "does not answer" in ask("status")["trouble"]
        with listening(server):
            assert client.lookup(ROOT_ID, b"file").attr.size == 4
            daemon.wait_for_line("the store answers again")
            assert ask("status")["trouble"] is None
        assert daemon.log().count("the store does not answer") == 1
