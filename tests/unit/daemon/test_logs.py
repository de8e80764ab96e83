"""An event is one line, whoever wrote its text, and writing it never waits."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhostfs import logs
from vhostfs.config.model import LogDestination, LogFormat, LogLevel, LogSettings

Emit = Callable[[logging.LogRecord], None]


def record(text: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("vhostfs.test", level, __file__, 1, text, arguments, None)
    made.created, made.msecs = 0.25, 250.0
    return made


def failed() -> logging.LogRecord:
    """Return a record with a traceback."""
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record("it failed")
        made.exc_info = (type(error), error, error.__traceback__)
        return made


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its reading and its writing end."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def lines_of(reading: int) -> list[bytes]:
    os.set_blocking(reading, False)
    data = b""
    try:
        while piece := os.read(reading, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data.splitlines()


def test_a_text_line_has_time_level_logger_and_text() -> None:
    line = logs.TextFormatter().format(record("%s: %d things", "home", 3))
    assert line == "1970-01-01T00:00:00.250Z INFO vhostfs.test: home: 3 things"


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028"])
def test_no_text_makes_a_second_line_or_moves_a_terminal(character: str) -> None:
    for formatter in (logs.TextFormatter(), logs.SyslogFormatter(), logs.JsonFormatter()):
        line = formatter.format(record("%s", f"a{character}b"))
        assert character not in line
        assert len(line.splitlines()) == 1


def test_a_traceback_stays_in_its_line() -> None:
    line = logs.TextFormatter().format(failed())
    assert "ValueError: why" in line
    assert len(line.splitlines()) == 1


def test_a_json_line_is_one_object() -> None:
    made = record("it is %s", "so", level=logging.ERROR)
    made.device = "home"
    assert json.loads(logs.JsonFormatter().format(made)) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "error",
        "logger": "vhostfs.test",
        "message": "it is so",
        "device": "home",
    }
    assert "ValueError: why" in json.loads(logs.JsonFormatter().format(failed()))["exception"]


def test_a_reader_that_hangs_costs_lines_and_not_the_daemon(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = logs.StderrHandler(writing)
    for _ in range(200):
        handler.emit(record("x" * 1000))
    kept = len(lines_of(reading))
    assert 0 < kept < 200
    handler.emit(record("again"))
    assert lines_of(reading) == [f"{200 - kept} lines were lost".encode(), b"again"]


def test_a_reader_that_is_gone_costs_nothing_else(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    handler = logs.StderrHandler(writing)
    os.close(reading)
    handler.emit(record("nobody hears this"))
    os.close(writing)
    handler.emit(record("nor this"))


def test_a_line_has_an_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    logs.StderrHandler(writing).emit(record("ä" * 10_000))
    (line,) = lines_of(reading)
    assert len(line) == logs.LINE_LIMIT


def test_a_faulty_log_call_is_a_line_too(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    logs.StderrHandler(writing).emit(record("%d", "no number"))
    assert lines_of(reading) == [b"unformattable event of vhostfs.test:1: '%d'"]


def test_syslog_gets_datagrams_with_facility_and_severity(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        handler = logs.SyslogHandler(str(tmp_path / "log"))
        handler.setFormatter(logs.SyslogFormatter())
        # The path may go, as it does in a sandbox: the connection stays.
        (tmp_path / "log").unlink()
        handler.emit(record("one", level=logging.ERROR))
        handler.emit(record("two", level=logging.DEBUG))
        start = f"vhostfs[{os.getpid()}]: vhostfs.test: "
        assert syslog.recv(1000).decode() == f"<27>{start}one"
        assert syslog.recv(1000).decode() == f"<31>{start}two"
    handler.emit(record("nobody hears this"))
    handler.close()


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(False)


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize(
    ("level", "written"),
    [
        (LogLevel.TRACE, ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]),
        (LogLevel.INFO, ["INFO", "WARN", "ERROR"]),
        (LogLevel.ERROR, ["ERROR"]),
        (LogLevel.OFF, []),
    ],
)
def test_levels_have_virtiofsds_names(
    level: LogLevel, written: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(LogSettings(level))
    for each in (LogLevel.TRACE, LogLevel.DEBUG, LogLevel.INFO, LogLevel.WARN, LogLevel.ERROR):
        logging.getLogger("vhostfs.test").log(each, "text")
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == written


@pytest.mark.usefixtures("clean_logging")
def test_where_no_syslog_answers_stderr_is_used(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.SyslogHandler.__init__, "__defaults__", ("/no/such/socket",))
    logs.set_up(LogSettings(destination=LogDestination.SYSLOG))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(
        "WARN vhostfs.logs: syslog cannot be reached, logging to stderr: No such file or directory"
    )


@pytest.mark.parametrize("settings", [LogSettings(LogLevel.OFF), LogSettings(format=LogFormat.JSON)])
def test_what_launchers_wait_for_is_on_stderr_in_any_case(
    settings: LogSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.announce(settings, "Waiting for vhost-user socket connection...")
    (line,) = capfd.readouterr().err.splitlines()
    assert "Waiting for vhost-user socket connection..." in line
