"""A socket is where and for whom it was asked for, and gone afterwards; no other's is touched."""

from __future__ import annotations

import gc
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import pytest

from vhostfs import listening
from vhostfs.config.model import ActivatedSocket, InheritedSocket, PathSocket
from vhostfs.errors import StartError
from vhostfs.listening import forget_passed_sockets, open_listener


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home.sock"


def at(path: Path, group: str | None = None, mode: int | None = None) -> PathSocket:
    return PathSocket(PurePosixPath(path), group, mode)


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def others() -> Iterator[socket.socket]:
    """A listening socket that somebody else made."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("\0vhostfs-test")
        made.listen()
        yield made


@pytest.mark.parametrize(
    ("group", "mode", "expected"),
    [(None, None, 0o600), ("0", None, 0o660), (None, 0o666, 0o666), ("0", 0o620, 0o620)],
)
def test_a_socket_has_its_mode_whatever_the_umask(
    path: Path, group: str | None, mode: int | None, expected: int
) -> None:
    if group is not None:
        group = str(os.getegid())
    old = os.umask(0o077)
    try:
        listener = open_listener(at(path, group, mode), {})
    finally:
        os.umask(old)
    with closing(listener):
        assert stat.S_IMODE(path.stat().st_mode) == expected
        assert can_connect(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a socket to any group")
@pytest.mark.parametrize("group", ["daemon", "1"])
def test_a_socket_belongs_to_its_group_by_name_or_number(path: Path, group: str) -> None:
    with closing(open_listener(at(path, group), {})):
        assert path.stat().st_gid == 1


def test_a_socket_is_removed_in_the_end(path: Path) -> None:
    listener = open_listener(at(path), {})
    listener.close()
    assert not path.exists()
    listener.close()


def test_a_socket_is_removed_through_its_directory_wherever_that_is_now(path: Path) -> None:
    listener = open_listener(at(path), {})
    moved = path.parent.with_name(path.parent.name + "-moved")
    path.parent.rename(moved)
    listener.close()
    assert list(moved.iterdir()) == []
    moved.rename(path.parent)


def test_another_ones_socket_of_the_same_name_stays(path: Path) -> None:
    first = open_listener(at(path), {})
    path.unlink()
    with closing(open_listener(at(path), {})):
        first.close()
        assert can_connect(path)


def test_what_an_ended_daemon_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(path))
    with closing(open_listener(at(path), {})):
        assert can_connect(path)


def test_a_socket_that_somebody_answers_is_an_error_and_stays(path: Path) -> None:
    with closing(open_listener(at(path), {})):
        with pytest.raises(StartError, match=f"^another process listens at {path}$"):
            open_listener(at(path), {})
        assert can_connect(path)


def test_a_file_is_not_taken_for_a_socket(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(StartError, match="exists and is not a socket"):
        open_listener(at(path), {})
    assert path.read_text() == "precious"


def test_a_socket_that_cannot_be_made_is_a_sentence_and_leaves_nothing(path: Path) -> None:
    gc.collect()  # what other tests left behind may go at any time
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(
        StartError, match=r"no socket can be made at /no/such/place: No such file or directory"
    ):
        open_listener(PathSocket(PurePosixPath("/no/such/place")), {})
    with pytest.raises(StartError, match="there is no group no-such-group"):
        open_listener(at(path, "no-such-group"), {})
    assert not path.exists()
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_listening_descriptor_is_taken_as_it_is(others: socket.socket) -> None:
    listener = open_listener(InheritedSocket(os.dup(others.fileno())), {})
    with closing(listener):
        assert listener.socket.getsockname() == others.getsockname()
        assert not listener.socket.get_inheritable()


def test_a_descriptor_that_is_no_listening_socket_is_refused() -> None:
    with pytest.raises(StartError, match="descriptor 9999 is no socket: Bad file descriptor"):
        open_listener(InheritedSocket(9999), {})
    with open("/dev/null") as file, pytest.raises(StartError, match="is no socket: "):  # noqa: PTH123
        open_listener(InheritedSocket(file.fileno()), {})
    with socket.socket(socket.AF_UNIX) as idle, pytest.raises(StartError, match="does not listen"):
        open_listener(InheritedSocket(idle.fileno()), {})
    with socket.socket(socket.AF_INET) as foreign, pytest.raises(StartError, match="of the family AF_UNIX"):
        open_listener(InheritedSocket(foreign.fileno()), {})


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Two listening sockets, one after the other; the names they are bound to."""
    first = 200
    monkeypatch.setattr(listening, "FIRST_PASSED_DESCRIPTOR", first)
    for index in range(2):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"\0vhostfs-passed-{index}")
            made.listen()
            os.dup2(made.fileno(), first + index)
    yield "vhostfs-passed-0", "vhostfs-passed-1"
    for index in range(2):
        os.close(first + index)


@pytest.mark.parametrize(("name", "index"), [("home", 0), ("work", 1), ("0", 0), ("1", 1)])
def test_systemds_sockets_are_found_by_name_and_by_place(
    name: str, index: int, passed: tuple[str, str]
) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "home:work"}
    listener = open_listener(ActivatedSocket(name), environment)
    assert listener.socket.getsockname() == b"\0" + passed[index].encode()
    listener.socket.detach()
    forget_passed_sockets(environment)
    assert environment == {}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "systemd passed no socket to this process, so there is none called home"),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, "systemd passed no socket to this process"),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "1"}, "systemd passed 1 sockets, and none is called home"),
        (
            {"LISTEN_PID": "self", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "work:home"},
            "systemd passed 1 sockets, and none is called home",
        ),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "many"}, "systemd passed 0 sockets, and none is called home"),
    ],
)
def test_a_socket_that_systemd_did_not_pass_is_a_sentence(environment: dict[str, str], sentence: str) -> None:
    environment = {key: value.replace("self", str(os.getpid())) for key, value in environment.items()}
    with pytest.raises(StartError, match=sentence):
        open_listener(ActivatedSocket("home"), environment)
