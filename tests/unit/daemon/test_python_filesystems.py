"""A file system in Python is served as a directory is: from a module's name, from a file, from a program."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import vhostfs
from tests.frontend.client import FuseClient
from tests.frontend.daemons import Daemon, running_daemon
from tests.frontend.frontend import Frontend
from tests.unit.daemon.conftest import wait_until_listening
from tests.unit.daemon.test_daemon import WATCHED
from vhostfs.control.client import list_mounts
from vhostfs.errors import StartError
from vhostfs.filesystem import ROOT, Attr, Caller, Entry, Filesystem, ReadBuffer
from vhostfs.fuse_abi.opcodes import ROOT_ID, Opcode
from vhostfs.serving import Mounts

VHOSTFS = [sys.executable, "-c", "import sys; from vhostfs.cli import main; sys.exit(main())"]

MODULE = """\
import asyncio
import sys

from vhostfs.filesystem import ROOT, Attr, Entry, Filesystem


def say(text):
    sys.stderr.write(f"{text}\\n")


class Note(Filesystem):
    def __init__(self, text="a note"):
        self.text = text.encode()

    def init(self, session):
        say("began")

    def destroy(self):
        say("ended")

    def lookup(self, caller, parent, name):
        return Entry(Attr.file(2, len(self.text))) if name == "note" else None

    async def getattr(self, caller, node, handle):
        if node != ROOT:
            say("waits")
            await asyncio.sleep(3600)
        return Attr.directory(ROOT)

    def read(self, caller, node, handle, offset, buffer):
        return self.text[offset : offset + buffer.size]

    def statfs(self, caller, node):
        raise RuntimeError("a fault of the file system's")


class Broken(Note):
    def init(self, session):
        raise RuntimeError("it cannot begin")


note = Note()
several = [note]


def write(text="written"):
    return Note(text)


def nothing():
    pass


def missing():
    raise FileNotFoundError(2, "No such file or directory", "/somewhere")


def mistaken():
    return Note(no_such_argument=1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with file systems, in the working directory."""
    (tmp_path / "notes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "notes"


@contextmanager
def serving(socket: Path, *options: str) -> Iterator[Daemon]:
    with running_daemon([*VHOSTFS, "serve", f"--socket-path={socket}", *options], socket) as daemon:
        yield daemon


def read_note(socket: Path) -> bytes:
    with Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        return client.read(client.lookup(ROOT_ID, b"note").nodeid, 0, 1 << 16)


@pytest.mark.parametrize("sandbox", ["namespace", "none"])
def test_what_a_module_calls_a_file_system_is_served(module: str, socket: Path, sandbox: str) -> None:
    with serving(socket, f"{module}:note", f"--sandbox={sandbox}") as daemon:
        assert read_note(socket) == b"a note"
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize(("name", "text"), [("Note", b"a note"), ("write", b"written")])
def test_a_class_or_a_function_is_called_for_one(module: str, socket: Path, name: str, text: bytes) -> None:
    with serving(socket, f"{module}:{name}"):
        assert read_note(socket) == text


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("notes:several", 1, "notes:several is a list, no file system and not callable"),
        ("notes:nothing", 1, "notes:nothing returned a NoneType, which is no file system"),
        ("notes:missing", 1, "No such file or directory: '/somewhere'"),
        ("notes:mistaken", 1, "/ cannot be opened: TypeError: Note.__init__() got an unexpected keyword"),
        ("notes:other", 1, "there is no notes:other"),
        ("other.notes:note", 1, "there is no module other"),
        ("notes", 2, "'notes' should be MODULE:NAME, such as my.module:fs"),
    ],
)
def test_what_is_no_file_system_is_told_in_a_sentence(
    module: str, socket: Path, name: str, status: int, reason: str
) -> None:
    command = [*VHOSTFS, "serve", name, f"--socket-path={socket}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status
    assert reason in done.stderr.splitlines()[-1]
    assert not socket.exists()


def test_options_of_a_directory_do_not_stand_beside_a_file_system(module: str, socket: Path) -> None:
    command = [*VHOSTFS, "serve", f"{module}:note", f"--socket-path={socket}", "--cache=never"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--cache cannot stand beside a file system in Python" in done.stderr


def said(daemon: Daemon) -> list[str]:
    """Return what the file system noted of its sessions."""
    return [line for line in daemon.log().splitlines() if line in {"began", "ended"}]


def test_an_unmount_ends_the_file_system_and_is_answered(module: str, socket: Path) -> None:
    with serving(socket, f"{module}:note") as daemon:
        with Frontend.start(socket) as frontend:
            client = FuseClient(frontend)
            for _ in range(2):
                client.init()
                client.lookup(ROOT_ID, b"note")
                assert client.request(Opcode.DESTROY, 0) == b""
        assert daemon.stop() == 0
    assert said(daemon) == ["began", "ended"] * 2


def test_each_front_end_begins_the_file_system_anew(module: str, socket: Path) -> None:
    with serving(socket, f"{module}:note") as daemon:
        for _ in range(3):
            assert read_note(socket) == b"a note"
        assert daemon.stop() == 0
    assert said(daemon) == ["began", "ended"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_file_system_ends_before_the_daemon_does(module: str, socket: Path, number: int) -> None:
    with serving(socket, f"{module}:note") as daemon, Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        client.lookup(ROOT_ID, b"note")
        assert daemon.stop(number) == 0
    assert daemon.log().count("ended\n") >= 1
    assert "Traceback" not in daemon.log()


def test_an_operation_that_waits_holds_up_neither_the_next_guest_nor_the_end(
    module: str, socket: Path
) -> None:
    with serving(socket, f"{module}:note") as daemon:
        with Frontend.start(socket) as frontend:
            wait_in_vain(daemon, FuseClient(frontend))
        with Frontend.start(socket) as frontend:
            wait_in_vain(daemon, FuseClient(frontend))
            assert daemon.stop() == 0


def wait_in_vain(daemon: Daemon, client: FuseClient) -> None:
    """Ask for what is never answered, and for something else meanwhile."""
    mark = daemon.lines_said
    client.init()
    node = client.lookup(ROOT_ID, b"note").nodeid
    client.start(Opcode.GETATTR, node, bytes(16), out_size=104)
    daemon.wait_for_line("waits", after=mark)
    assert client.read(node, 0, 100) == b"a note"


def test_a_fault_in_a_file_system_costs_that_request_alone(module: str, socket: Path) -> None:
    with serving(socket, f"{module}:note") as daemon, Frontend.start(socket) as frontend:
        client = FuseClient(frontend)
        client.init()
        with pytest.raises(OSError, match=r"Input/output error") as raised:
            client.request(Opcode.STATFS, ROOT_ID, out_size=80)
        assert raised.value.errno == errno.EIO
        assert client.read(client.lookup(ROOT_ID, b"note").nodeid, 0, 100) == b"a note"
        daemon.wait_for_line("RuntimeError: a fault of the file system's")
        client.request(Opcode.DESTROY, 0)
        daemon.wait_for_line("faults of the file system in the session that ended: 1")


def test_faults_are_counted_where_mounts_are_listed(module: str, tmp_path: Path) -> None:
    mount = {"type": "python", "filesystem": f"{module}:note"}
    device = {"tag": "notes", "socket": {"path": f"{tmp_path}/socket"}, "mounts": {"/": mount}}
    configuration = {"devices": [device], "control": {"path": f"{tmp_path}/control"}}
    (tmp_path / "vhostfs.yaml").write_text(json.dumps(configuration))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {VHOSTFS[2]}"]
    with (
        running_daemon([*command, "serve", "--config", "vhostfs.yaml"], tmp_path / "socket"),
        Frontend.start(tmp_path / "socket") as frontend,
    ):
        client = FuseClient(frontend)
        client.init()
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                client.request(Opcode.STATFS, ROOT_ID, out_size=80)
        assert [line.faults for line in list_mounts(tmp_path / "control")] == [2]


def test_locked_in_nothing_more_is_imported_for_a_file_system(module: str, socket: Path) -> None:
    program = WATCHED.replace("daemon_main", "main")
    options = ["serve", f"{module}:note", f"--socket-path={socket}", "--sandbox=none"]
    with running_daemon([sys.executable, "-c", program, *options], socket) as daemon:
        assert read_note(socket) == b"a note"
        assert daemon.stop() == 0
    assert [line for line in daemon.log().splitlines() if "forbidden" in line] == []


def test_a_file_configures_file_systems_beside_directories(module: str, tmp_path: Path, share: Path) -> None:
    greeting = {"type": "python", "filesystem": f"{module}:write", "arguments": {"text": "hello"}}
    mounts = {"directory": {"type": "passthrough", "shared_dir": str(share)}, "greeting": greeting}
    devices = [
        {"tag": name, "socket": {"path": f"{tmp_path}/{name}"}, "mounts": {"/": mount}}
        for name, mount in mounts.items()
    ]
    (tmp_path / "vhostfs.yaml").write_text(json.dumps({"devices": devices}))
    command = [*VHOSTFS, "serve", "--config", "vhostfs.yaml"]
    environment_module = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {VHOSTFS[2]}"]
    with running_daemon([*environment_module, *command[3:]], tmp_path / "greeting") as daemon:
        assert read_note(tmp_path / "greeting") == b"hello"
        assert daemon.stop() == 0


def test_one_daemon_serves_many_devices_at_once_and_a_broken_one_costs_the_others_nothing(
    module: str, tmp_path: Path
) -> None:
    names = [*(f"note{number}" for number in range(8)), "broken"]
    devices = [
        {
            "tag": name,
            "socket": {"path": f"{tmp_path}/{name}"},
            "mounts": {"/": {"type": "python", "filesystem": f"{module}:{kind}", "arguments": arguments}},
        }
        for name in names
        for kind, arguments in [("Broken", {}) if name == "broken" else ("write", {"text": name})]
    ]
    (tmp_path / "vhostfs.yaml").write_text(json.dumps({"devices": devices}))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {VHOSTFS[2]}"]
    with running_daemon([*command, "serve", "--config", "vhostfs.yaml"], tmp_path / "broken") as daemon:
        with ExitStack() as guests:
            clients = {}
            for name in names:
                clients[name] = FuseClient(guests.enter_context(Frontend.start(tmp_path / name)))
                clients[name].init()
            waiting = clients["note0"].lookup(ROOT_ID, b"note").nodeid
            clients["note0"].start(Opcode.GETATTR, waiting, bytes(16), out_size=104)
            with pytest.raises(OSError, match="Input/output error"):
                clients.pop("broken").lookup(ROOT_ID, b"note")
            for name, client in clients.items():
                assert client.read(client.lookup(ROOT_ID, b"note").nodeid, 0, 100) == name.encode()
        daemon.wait_for_line("broken: init failed: RuntimeError: it cannot begin")
        assert daemon.stop() == 0


@pytest.mark.parametrize("network", [True, False])
def test_the_host_s_network_is_kept_for_who_needs_it(tmp_path: Path, network: bool) -> None:
    name = f"{__name__}:Memo"
    mount = {"type": "python", "filesystem": name, "network": network}
    device = {"socket": {"path": f"{tmp_path}/socket"}, "mounts": {"/": mount}}
    (tmp_path / "vhostfs.yaml").write_text(json.dumps({"devices": [device]}))
    command = [*VHOSTFS, "serve", "--config", f"{tmp_path}/vhostfs.yaml"]
    with running_daemon(command, tmp_path / "socket") as daemon:
        namespaces = [Path(f"/proc/{process}/ns/net").readlink() for process in (daemon.process.pid, "self")]
        assert (namespaces[0] == namespaces[1]) == network
        assert read_note(tmp_path / "socket") == b"memo"


class Memo(Filesystem[None]):
    """One file, `note`."""

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry | None:
        return Entry(Attr.file(2, 4)) if name == "note" else None

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        return Attr.directory(ROOT) if node == ROOT else Attr.file(2, 4)

    def read(self, caller: Caller, node: int, handle: None, offset: int, buffer: ReadBuffer) -> bytes:
        return b"memo"[offset : offset + buffer.size]


def test_a_program_serves_several_file_systems_of_its_own(tmp_path: Path) -> None:
    async def serve_two() -> list[bytes]:
        async with anyio.create_task_group() as group:
            for name in ("one", "two"):
                await group.start(vhostfs.serve, Memo(), tmp_path / name)
            read = [await anyio.to_thread.run_sync(read_note, tmp_path / name) for name in ("one", "two")]
            group.cancel_scope.cancel()
        return read

    assert anyio.run(serve_two) == [b"memo", b"memo"]
    assert list(tmp_path.iterdir()) == []


def test_a_program_may_serve_one_front_end(tmp_path: Path) -> None:
    async def serve_once() -> None:
        async with anyio.create_task_group() as group:
            await group.start(partial(vhostfs.serve, Memo(), tmp_path / "s", once=True))
            read.append(await anyio.to_thread.run_sync(read_note, tmp_path / "s"))

    read: list[bytes] = []
    anyio.run(serve_once)
    assert read == [b"memo"]


def test_a_program_that_serves_ends_by_a_signal(socket: Path) -> None:
    program = """
        import sys, vhostfs
        from tests.unit.daemon.test_python_filesystems import Memo
        vhostfs.run(Memo(), sys.argv[1], tag="memo")
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(socket)])
    try:
        wait_until_listening(socket)
        assert read_note(socket) == b"memo"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert not socket.exists()


def test_a_socket_or_tag_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no socket can be made"):
        anyio.run(vhostfs.serve, Memo(), tmp_path / "nowhere" / "socket")

    async def with_a_long_tag() -> None:
        await vhostfs.serve(Memo(), tmp_path / "socket", tag="x" * 37)

    with pytest.raises(ValueError, match="a tag has 1 to 36 bytes"):
        anyio.run(with_a_long_tag)


@pytest.mark.parametrize("program", ["import vhostfs", "import vhostfs.daemon"])
def test_what_serves_directories_alone_loads_no_api_for_file_systems(program: str) -> None:
    code = f"{program}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"vhostfs.filesystem", "vhostfs.session", "importlib.metadata", "pydantic"} & set(loaded)


def test_a_program_serves_a_tree_whose_mounts_come_and_go(socket: Path) -> None:
    class Other(Memo):
        closed = False

        def close(self) -> None:
            self.closed = True

    def look(client: FuseClient, path: bytes) -> bytes:
        return client.read(client.walk(path).nodeid, 0, 100)

    def work(mounts: Mounts) -> None:
        """Be the guest, in a thread, and have the program change its mounts."""
        more = Other()
        with Frontend.start(socket) as frontend:
            client = FuseClient(frontend)
            client.init()
            assert look(client, b"deep/other/note") == b"memo"
            anyio.from_thread.run(mounts.add, "/more", more)
            assert look(client, b"more/note") == b"memo"
            assert [str(place) for place in mounts.places] == ["/", "/deep/other", "/more"]
            with pytest.raises(OSError, match="another mount is there"):
                anyio.from_thread.run(mounts.add, "/more", Memo())
            anyio.from_thread.run(mounts.remove, "/more")
            assert more.closed
            with pytest.raises(FileNotFoundError):
                look(client, b"more/note")
            with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
                anyio.from_thread.run(mounts.remove, "/")

    async def serve() -> None:
        async with anyio.create_task_group() as group:
            mounts = await group.start(vhostfs.serve, {"/": Memo(), "/deep/other": Memo()}, socket)
            await anyio.to_thread.run_sync(work, mounts)
            group.cancel_scope.cancel()
        with pytest.raises(OSError, match="the device is not served"):
            await mounts.add("/more", Memo())

    anyio.run(serve)


def test_nothing_cannot_be_served(socket: Path) -> None:
    with pytest.raises(ValueError, match="nothing to serve"):
        anyio.run(vhostfs.serve, {}, socket)
