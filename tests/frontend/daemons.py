"""Start a virtio-fs daemon as a process of its own, listen to what it says, and end it."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QEMU_VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
"""The daemon of QEMU up to 7.2, from Debian 12: a second opinion on the front-end."""

READY = "Waiting for vhost-user socket connection..."
"""What every virtio-fs daemon says when a front-end may connect."""

START_TIMEOUT = 30.0
END_TIMEOUT = 20.0


class DaemonFailedError(Exception):
    """Raised when a daemon did not do in time what was awaited; the text holds all that it said."""


class Daemon:
    """A running daemon. A thread reads its standard error, so that it never waits for its reader."""

    def __init__(self, command: list[str], socket: Path) -> None:
        self.socket = socket
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="daemon-log", daemon=True)
        self._reader.start()

    @property
    def lines_said(self) -> int:
        """How many lines the daemon has said; wait_for_line starts from such a mark."""
        with self._news:
            return len(self._lines)

    def log(self, after: int = 0) -> str:
        """Return the lines from a mark on."""
        with self._news:
            return "".join(self._lines[after:])

    def wait_for_line(self, text: str, *, after: int = 0, timeout: float = START_TIMEOUT) -> str:
        """Wait for a line that holds text, at or beyond a mark, and return it."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for line in self._lines[after:]:
                    if text in line:
                        return line
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise DaemonFailedError(f"the daemon never said {text!r}, but:\n{''.join(self._lines)}")

    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status; DaemonFailedError and SIGKILL if it stays."""
        if self.alive():
            self.process.send_signal(number)
        try:
            return self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DaemonFailedError(f"the daemon ignored signal {number}:\n{self.log()}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Kill the process if it still runs, and read the rest of what it said."""
        if self.alive():
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@contextmanager
def running_daemon(command: list[str], socket: Path) -> Iterator[Daemon]:
    """Provide a daemon that has announced, in virtiofsd's words, that it listens on socket."""
    daemon = Daemon(command, socket)
    try:
        daemon.wait_for_line(READY)
        yield daemon
    finally:
        daemon.close()


@contextmanager
def running_qemu_virtiofsd(directory: Path, socket: Path) -> Iterator[Daemon]:
    """Provide QEMU's own daemon, which serves one connection."""
    options = ["-o", f"source={directory}", "-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr"]
    with running_daemon([str(QEMU_VIRTIOFSD), f"--socket-path={socket}", *options], socket) as daemon:
        yield daemon
