"""A daemon starts or says why not, serves whoever comes, survives whoever leaves, and ends when told to."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.frontend.client import FuseClient
from tests.frontend.daemons import READY, running_daemon
from tests.frontend.frontend import Frontend
from tests.unit.daemon.conftest import (
    VHOSTFSD,
    RunDaemon,
    listening,
    read_file,
    refused,
    wait_until_listening,
)
from vhostfs.fuse_abi.opcodes import ROOT_ID
from vhostfs.fuse_abi.structures import FileLock

USER = 1234

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: to be locked in as root, or to become a user"
)


@pytest.mark.parametrize("sandbox", ["namespace", pytest.param("chroot", marks=needs_root), "none"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_daemon_and_its_socket(
    run: RunDaemon, socket: Path, sandbox: str, number: int
) -> None:
    with run(f"--sandbox={sandbox}") as daemon:
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert read_file(socket) == b"content"
        assert daemon.stop(number) == 0
        assert not socket.exists()
    assert "Traceback" not in daemon.log()


def test_the_daemon_ends_while_a_guest_is_at_work(run: RunDaemon, socket: Path) -> None:
    with run() as daemon, Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        client.open(client.lookup(ROOT_ID, b"file").nodeid)
        assert daemon.stop() == 0


def test_when_a_front_end_goes_the_next_one_finds_a_clean_device(run: RunDaemon, socket: Path) -> None:
    with run() as daemon:
        for _ in range(3):
            assert read_file(socket) == b"content"
        assert daemon.stop() == 0
    assert daemon.log().count("a front-end connected") == 3


def open_descriptors(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def test_front_ends_leave_no_descriptors_behind(run: RunDaemon, socket: Path) -> None:
    with run() as daemon:
        counts = []
        for _ in range(12):
            assert read_file(socket) == b"content"
            with Frontend.connect(socket) as silent:
                silent.socket.raw.send(b"\x01")
            # Whoever is served next knows that the last one's things are gone.
            with Frontend.start(socket):
                counts.append(open_descriptors(daemon.process.pid))
        assert len(set(counts[2:])) == 1


def test_without_standard_streams_nothing_else_takes_their_place(share: Path, socket: Path) -> None:
    closing = "import os, sys; [os.close(number) for number in range(3)]; os.execv(sys.argv[1], sys.argv[1:])"
    command = [*VHOSTFSD, f"--socket-path={socket}", f"--shared-dir={share}"]
    process = subprocess.Popen([sys.executable, "-c", closing, *command])
    try:
        wait_until_listening(socket)
        assert read_file(socket) == b"content"
        targets = {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)}
        assert targets == {"/dev/null"}
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_once_ends_with_the_front_end(run: RunDaemon, socket: Path) -> None:
    with run("--once") as daemon:
        assert read_file(socket) == b"content"
        assert daemon.process.wait(20) == 0
        assert not socket.exists()


def test_what_a_front_end_says_wrong_costs_its_connection_and_one_line(run: RunDaemon, socket: Path) -> None:
    with run() as daemon:
        with Frontend.connect(socket) as frontend:
            frontend.socket.raw.send(b"\xff" * 12)
            frontend.socket.wait_for_end()
        assert read_file(socket) == b"content"
        assert daemon.stop() == 0
    assert sum(" ERROR " in line for line in daemon.log().splitlines()) == 1
    assert "Traceback" not in daemon.log()


def test_one_daemon_serves_many_devices_each_for_itself(tmp_path: Path) -> None:
    devices = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"content of {name}")
        devices.append(
            {
                "tag": name,
                "socket": {"path": f"{tmp_path}/{name}.sock", "mode": "0666"},
                "mounts": {"/": {"type": "passthrough", "shared_dir": f"{tmp_path}/{name}"}},
            }
        )
    config = tmp_path / "vhostfs.yaml"
    config.write_text(json.dumps({"devices": devices}))
    with running_daemon([*VHOSTFSD, "--config", str(config)], tmp_path / "a.sock") as daemon:
        with Frontend.connect(tmp_path / "b.sock") as hostile:
            hostile.socket.raw.send(b"\xff" * 12)
            hostile.socket.wait_for_end()
        for name in ("c", "a", "b"):
            assert read_file(tmp_path / f"{name}.sock") == f"content of {name}".encode()
            assert stat.S_IMODE((tmp_path / f"{name}.sock").stat().st_mode) == 0o666
        assert daemon.stop() == 0
    assert list(tmp_path.glob("*.sock")) == []


def test_an_inherited_socket_is_served_and_left_behind(share: Path, socket: Path) -> None:
    with listening(socket) as made:
        command = [*VHOSTFSD, f"--fd={made.fileno()}", f"--shared-dir={share}"]
        process = subprocess.Popen(command, pass_fds=[made.fileno()], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        with process, process.stderr as log:
            assert READY in log.readline()
            assert read_file(socket) == b"content"
            process.terminate()
            assert process.wait(20) == 0
    assert socket.exists()


AS_SYSTEMD_DOES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemds_socket_is_served(share: Path, socket: Path) -> None:
    with listening(socket) as made:
        passing = [sys.executable, "-c", AS_SYSTEMD_DOES, str(made.fileno())]
        command = [*passing, *VHOSTFSD, f"--shared-dir={share}"]
        process = subprocess.Popen(command, pass_fds=[made.fileno()], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        with process, process.stderr as log:
            assert READY in log.readline()
            assert read_file(socket) == b"content"
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--socket-path={tmp}/s", "--shared-dir={tmp}/no"],
            "the shared directory {tmp}/no cannot be opened: No",
        ),
        (
            ["--socket-path={tmp}/no/s", "--shared-dir={tmp}"],
            "no socket can be made at {tmp}/no/s: No such file",
        ),
        (["--fd=999", "--shared-dir={tmp}"], "descriptor 999 is no socket: Bad file descriptor"),
        (
            ["--socket-path={tmp}/s", "--shared-dir={tmp}", "--rlimit-nofile=20"],
            "20 open descriptors are too few",
        ),
    ],
)
def test_what_the_host_refuses_at_the_start_is_one_sentence(
    options: list[str], sentence: str, tmp_path: Path
) -> None:
    status, text = refused(*(option.format(tmp=tmp_path) for option in options))
    assert (status, len(text.splitlines())) == (1, 1)
    assert text.startswith("vhostfs: " + sentence.format(tmp=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_two_daemons_at_one_socket_are_one_too_many(run: RunDaemon, share: Path, socket: Path) -> None:
    with run():
        status, text = refused(f"--socket-path={socket}", f"--shared-dir={share}")
        assert (status, text) == (1, f"vhostfs: another process listens at {socket}\n")
        assert read_file(socket) == b"content"


def test_a_daemon_that_was_killed_leaves_nothing_in_the_way(run: RunDaemon, socket: Path) -> None:
    with run() as daemon:
        daemon.stop(signal.SIGKILL)
        assert socket.exists()
    with run() as daemon:
        assert read_file(socket) == b"content"


def test_wrong_usage_and_faults_of_a_file_have_their_own_status(tmp_path: Path) -> None:
    assert refused("--nonsense")[0] == 2
    (tmp_path / "bad.yaml").write_text("devices: 1\nbeside: 2\n")
    assert refused(f"--config={tmp_path}/bad.yaml") == (
        1,
        f"{tmp_path}/bad.yaml:1:10: devices: should be a list\n"
        f"{tmp_path}/bad.yaml:2:1: beside: unknown key;"
        " known here: devices, sandbox, log, rlimit_nofile, once, control\n",
    )


def test_256_descriptors_are_enough_for_a_thousand_files(run: RunDaemon, share: Path, socket: Path) -> None:
    for number in range(1000):
        (share / f"{number}").write_text(f"{number}")
    with run("--rlimit-nofile=256") as daemon, Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        nodes = [client.lookup(ROOT_ID, str(number).encode()).nodeid for number in range(1000)]
        for number, nodeid in enumerate(nodes):
            opened = client.open(nodeid)
            assert client.read(nodeid, opened.fh, 100) == str(number).encode()
            client.release(nodeid, opened.fh)
        assert open_descriptors(daemon.process.pid) < 256


def test_events_are_json_where_asked(run: RunDaemon, socket: Path) -> None:
    with run("--log-format=json") as daemon:
        assert read_file(socket) == b"content"
        assert daemon.stop() == 0
    messages = [json.loads(line)["message"] for line in daemon.log().splitlines()]
    assert messages[0] == READY
    assert "ending: SIGTERM" in messages
    assert messages[-1] == "ended"


def test_launchers_hear_that_it_is_ready_although_nothing_is_logged(run: RunDaemon) -> None:
    with run("--log-level=off") as daemon:
        assert daemon.stop() == 0
    assert len(daemon.log().splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "limit"), [("--rlimit-nofile=300", 300), ("--rlimit-nofile=0", 700), (None, None)]
)
def test_the_limit_of_descriptors_is_what_was_asked_for(
    run: RunDaemon, option: str | None, limit: int | None
) -> None:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, old[1]))
    try:
        with run(*([] if option is None else [option])) as daemon:
            soft, _ = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert soft == (limit or min(old[1], 1_000_000))


WITH_A_FAILING_DEVICE = """
import sys
from vhostfs import serving
serve_device = serving.serve_device
async def serve(listener, device, offer, *, name, once):
    if name == "fails":
        raise RuntimeError("a fault of our own")
    await serve_device(listener, device, offer, name=name, once=once)
serving.serve_device = serve
from vhostfs.cli import daemon_main
sys.exit(daemon_main())
"""


def test_a_device_that_fails_leaves_the_others_running(tmp_path: Path, share: Path) -> None:
    mount = {"type": "passthrough", "shared_dir": str(share)}
    devices = [
        {"tag": name, "socket": {"path": f"{tmp_path}/{name}"}, "mounts": {"/": mount}}
        for name in ("fails", "works")
    ]
    config = tmp_path / "vhostfs.yaml"
    config.write_text(json.dumps({"devices": devices}))
    command = [sys.executable, "-c", WITH_A_FAILING_DEVICE, "--config", str(config)]
    with running_daemon(command, tmp_path / "works") as daemon:
        daemon.wait_for_line("fails: this device is no longer served")
        assert read_file(tmp_path / "works") == b"content"
        assert not (tmp_path / "fails").exists()
        assert daemon.stop() == 1
    assert "RuntimeError: a fault of our own" in daemon.log()


WATCHED = """
import sys
from vhostfs import sandbox
entered = sandbox.enter
def enter(*arguments, **keywords):
    result = entered(*arguments, **keywords)
    def watch(event, details):
        if event in {"import", "open"}:
            sys.stderr.write(f"forbidden: {event} {details[0]}\\n")
    sys.addaudithook(watch)
    return result
sandbox.enter = enter
from vhostfs.cli import daemon_main
sys.exit(daemon_main())
"""


def test_locked_in_nothing_is_imported_or_opened_by_name(share: Path, socket: Path) -> None:
    options = [f"--socket-path={socket}", f"--shared-dir={share}", "--sandbox=none", "--log-level=trace"]
    with running_daemon([sys.executable, "-c", WATCHED, *options], socket) as daemon:
        with Frontend.connect(socket) as frontend:
            frontend.socket.raw.send(b"\xff" * 12)
            frontend.socket.wait_for_end()
        assert read_file(socket) == b"content"
        assert daemon.stop() == 0
    assert [line for line in daemon.log().splitlines() if "forbidden" in line] == []


AS_A_USER = f"""
import ctypes, os, sys
from vhostfs import cli, daemon
daemon._import_everything()  # the interpreter may be where only root can look
os.setgroups([])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, as for a program that a user starts
sys.exit(cli.daemon_main())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the user's, where it reaches it: each run of pytest keeps users out of pytest's own."""
    with TemporaryDirectory(prefix="vhostfs-home-") as directory:
        os.chown(directory, USER, USER)
        share = Path(directory) / "share"
        share.mkdir()
        os.chown(share, USER, USER)
        yield Path(directory)


@needs_root
@pytest.mark.parametrize("sandbox", ["namespace", "none"])
def test_a_user_serves_its_own_files_as_roots_of_the_guest(home: Path, sandbox: str) -> None:
    socket, share = home / "socket", home / "share"
    options = [f"--socket-path={socket}", f"--shared-dir={share}", f"--sandbox={sandbox}"]
    with running_daemon([sys.executable, "-c", AS_A_USER, *options], socket) as daemon:
        with Frontend.start(socket) as frontend:
            client = FuseClient(frontend)
            client.init()
            entry, opened = client.create(ROOT_ID, b"new")
            assert client.write(entry.nodeid, opened.fh, b"data", 0) == 4
            assert entry.attr.uid == (0 if sandbox == "namespace" else USER)
        assert daemon.stop() == 0
    assert (share / "new").read_bytes() == b"data"
    assert (share / "new").stat().st_uid == USER


WHOLE_FILE = (1 << 63) - 1


def test_a_guest_that_waits_for_a_lock_does_not_keep_the_daemon(
    run: RunDaemon, share: Path, socket: Path
) -> None:
    with (
        run("--posix-locks=host") as daemon,
        Frontend.start(socket) as frontend,
        (share / "file").open("r+") as held,
    ):
        client = FuseClient(frontend)
        client.init()
        nodeid = client.lookup(ROOT_ID, b"file").nodeid
        opened = client.open(nodeid, os.O_RDWR)
        fcntl.lockf(held, fcntl.LOCK_EX)
        lock = FileLock(0, WHOLE_FILE, fcntl.F_WRLCK)
        waiting = client.start_setlkw(nodeid, opened.fh, 1, lock)
        with pytest.raises(BlockingIOError):
            client.setlk(nodeid, opened.fh, 1, lock)
        assert daemon.stop() == 0
        with pytest.raises(InterruptedError):
            waiting.result()


def test_two_devices_see_each_others_locks_where_the_host_keeps_them(tmp_path: Path, share: Path) -> None:
    mount = {"type": "passthrough", "shared_dir": str(share), "locks": {"posix": "host", "flock": "host"}}
    devices = [{"socket": {"path": f"{tmp_path}/{name}"}, "mounts": {"/": mount}} for name in "ab"]
    config = tmp_path / "vhostfs.yaml"
    config.write_text(json.dumps({"devices": devices}))
    with (
        running_daemon([*VHOSTFSD, "--config", str(config)], tmp_path / "a"),
        Frontend.start(tmp_path / "a") as first,
        Frontend.start(tmp_path / "b") as second,
    ):
        lock = FileLock(0, WHOLE_FILE, fcntl.F_WRLCK)
        for number, frontend in enumerate((first, second)):
            client = FuseClient(frontend)
            client.init()
            nodeid = client.lookup(ROOT_ID, b"file").nodeid
            opened = client.open(nodeid, os.O_RDWR)
            if number == 0:
                client.setlk(nodeid, opened.fh, 1, lock)
                client.flock(nodeid, opened.fh, 1, fcntl.F_WRLCK)
            else:
                with pytest.raises(BlockingIOError):
                    client.setlk(nodeid, opened.fh, 1, lock)
                with pytest.raises(BlockingIOError):
                    client.flock(nodeid, opened.fh, 1, fcntl.F_WRLCK)
