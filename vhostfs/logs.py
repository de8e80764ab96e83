"""Logs: one line an event, by stdlib logging, to stderr or syslog.

Nothing here waits for a reader. The event loop logs too, and a daemon must not stop serving because a
terminal is stopped or a log collector hangs: a line that cannot be taken at once is dropped, and the next one
that can be says how many were lost. What a guest or a front-end wrote cannot forge a line: control characters
are escaped.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import socket
import time
from typing import Final

from vhostfs.config.model import LogDestination, LogFormat, LogLevel, LogSettings

LINE_LIMIT: Final = 4000
"""Most bytes of a line: less than PIPE_BUF, so that a pipe which poll calls writable takes it whole."""

SYSLOG_SOCKET: Final = "/dev/log"
SYSLOG_FACILITY_DAEMON: Final = 3 << 3

CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_STANDARD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"},
)


def escaped(text: str) -> str:
    """Return the text with control characters as backslash escapes."""
    return CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """2026-01-31T12:00:00.123Z INFO vhostfs.daemon: text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows in the same one."""
        text = f"{timestamp(record)} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return escaped(text)


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, what was given as extra, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, object] = {
            "time": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class SyslogFormatter(TextFormatter):
    """The text without time, which syslog adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return escaped(text)


def timestamp(record: logging.LogRecord) -> str:
    """Return the time of an event in UTC: no time zone file is looked for, which a sandbox may hide."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class UnwaitingHandler(logging.Handler):
    """Hands whole lines to a descriptor that is ready for them, and drops and counts them while it is not."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Format and pass on a record; never raises, never waits."""
        try:
            line = self.format(record)
        except Exception:  # a faulty log call must not fail what it reports
            line = f"unformattable event of {record.name}:{record.lineno}: {record.msg!r}"
        if self._lost and self.pass_on(record.levelno, f"{self._lost} lines were lost"):
            self._lost = 0
        if not self.pass_on(record.levelno, line):
            self._lost += 1

    def pass_on(self, level: int, line: str) -> bool:
        """Give the line away and return True, or return False where that would wait or fails."""
        raise NotImplementedError


class StderrHandler(UnwaitingHandler):
    """Writes to standard error."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def pass_on(self, level: int, line: str) -> bool:
        """Write the line where that does not wait."""
        try:
            if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
                return False
            os.write(self._descriptor, line.encode(errors="backslashreplace")[:LINE_LIMIT] + b"\n")
        except OSError:
            return False
        return True


class SyslogHandler(UnwaitingHandler):
    """Sends datagrams to the local syslog. Its socket is connected once, before a sandbox hides the path."""

    def __init__(self, path: str = SYSLOG_SOCKET) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def pass_on(self, level: int, line: str) -> bool:
        """Send the line where that does not wait."""
        header = f"<{SYSLOG_FACILITY_DAEMON | _severity(level)}>vhostfs[{os.getpid()}]: "
        try:
            self._socket.send(header.encode() + line.encode(errors="backslashreplace")[:LINE_LIMIT])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _severity(level: int) -> int:
    """Return syslog's number for a level of logging."""
    for bound, severity in (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
    ):
        if level >= bound:
            return severity
    return 7


def set_up(settings: LogSettings) -> None:
    """Send all events of the process where the settings say; what an earlier call set up is undone.

    Where no syslog answers, events go to stderr, the first of them saying so.
    """
    trouble = None
    handler: UnwaitingHandler | None = None
    if settings.destination is LogDestination.SYSLOG:
        try:
            handler = SyslogHandler()
        except OSError as error:
            trouble = f"syslog cannot be reached, logging to stderr: {error.strerror}"
        else:
            handler.setFormatter(JsonFormatter() if settings.format is LogFormat.JSON else SyslogFormatter())
    if handler is None:
        handler = stderr_handler(settings.format)
    logging.addLevelName(LogLevel.TRACE, "TRACE")
    logging.addLevelName(logging.WARNING, "WARN")
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, UnwaitingHandler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    root.setLevel(settings.level)
    # Libraries have their own idea of what matters; their chatter is for those who hunt a fault in vhostfs.
    logging.getLogger("asyncio").setLevel(max(settings.level, logging.WARNING))
    logging.captureWarnings(True)
    if trouble is not None:
        logging.getLogger(__name__).warning(trouble)


def stderr_handler(form: LogFormat) -> StderrHandler:
    """Return a handler of standard error."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    return handler


def announce(settings: LogSettings, text: str) -> None:
    """Write an event to stderr whatever the level and destination: launchers wait for its text there."""
    record = logging.LogRecord("vhostfs.daemon", logging.INFO, __file__, 0, text, None, None)
    stderr_handler(settings.format).emit(record)
