"""Start a virtio-fs daemon as a process of its own, and end it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QEMU_VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
"""The daemon of QEMU up to 7.2, from Debian 12: a second opinion on the front-end."""

READY = "Waiting for vhost-user socket connection..."
"""What every virtio-fs daemon says when a front-end may connect."""

START_TIMEOUT = 30.0
END_TIMEOUT = 20.0


class DaemonFailedError(Exception):
    """Raised when a daemon ended or stayed silent where a line was awaited; the text holds what it said."""


@dataclass(slots=True)
class Daemon:
    """A running daemon. Its standard error is read only while something is awaited, into log."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: str = ""

    def wait_for_line(self, text: str, timeout: float = START_TIMEOUT, *, after: int = 0) -> int:
        """Wait until the log holds text beyond position after; return where the line with it ends."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + timeout
        descriptor = self.process.stderr.fileno()
        while True:
            found = self.log.find(text, after)
            if found >= 0 and (end := self.log.find("\n", found)) >= 0:
                return end + 1
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(descriptor, 65536) if ready else b""
            if not part:
                raise DaemonFailedError(f"the daemon never said {text!r}, but:\n{self.log}")
            self.log += part.decode(errors="replace")

    def read_log(self) -> str:
        """Return all that the daemon has said so far, without waiting."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        while select.select([descriptor], [], [], 0)[0] and (part := os.read(descriptor, 65536)):
            self.log += part.decode(errors="replace")
        return self.log

    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status; one that does not end in time is killed and fails."""
        if self.alive():
            self.process.send_signal(number)
        try:
            status = self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise DaemonFailedError(
                f"the daemon did not end after signal {number}:\n{self.read_log()}"
            ) from None
        self.read_log()
        return status


@contextmanager
def running_daemon(command: list[str], socket: Path) -> Iterator[Daemon]:
    """Provide a daemon that has announced, in virtiofsd's words, that it listens on socket."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    daemon = Daemon(process, socket)
    try:
        daemon.wait_for_line(READY)
        yield daemon
    finally:
        if daemon.alive():
            process.kill()
        process.wait()
        daemon.read_log()
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def running_qemu_virtiofsd(directory: Path, socket: Path) -> Iterator[Daemon]:
    """Provide QEMU's own daemon, which serves one connection."""
    options = ["-o", f"source={directory}", "-o", "sandbox=chroot", "-o", "cache=auto", "-o", "xattr"]
    command = [str(QEMU_VIRTIOFSD), f"--socket-path={socket}", *options]
    with running_daemon(command, socket) as daemon:
        yield daemon
