"""The daemon under test, started for one device and stopped with a look at how it fared."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_READY = "Waiting for vhost-user socket connection..."
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_LOG_LINES = 60
# A daemon that meets nothing wrong logs neither.
_TROUBLE = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b|Sanitizer")


class DaemonFailedError(AssertionError):
    """Raised when the daemon did not start, logged an error, or did not stop with 0; carries its log."""


class Daemon:
    """``vhostfsd`` for one device: serves a directory under a tag, on a socket in ``workplace``.

    Ready to be connected to once made. As a context manager it is stopped at the end, exit status and log
    checked. With ``packed`` it offers packed rings, and with ``mounts`` it has these, by place, and a control
    socket; either starts it by a configuration file. With ``filesystem`` it is ``vhostfs serve``, for a file
    system in Python, MODULE:NAME, that is found from ``directory``.
    """

    def __init__(
        self,
        workplace: Path,
        directory: Path,
        tag: str,
        *options: str,
        packed: bool = False,
        filesystem: str | None = None,
        mounts: Mapping[str, object] | None = None,
    ) -> None:
        self.tag = tag
        self.directory = directory
        self.packed = packed
        self.socket = workplace / f"{tag}.sock"
        self.control = workplace / f"{tag}.control"
        self._lines: list[str] = []
        self._logged = threading.Condition()
        self._ended = False
        program = [str(Path(sys.prefix) / "bin/vhostfsd")]
        share = ["--socket-path", str(self.socket), "--shared-dir", str(directory), "--tag", tag]
        if packed or mounts is not None:
            configuration = {
                "control": None if mounts is None else {"path": str(self.control)},
                "devices": [
                    {
                        "tag": tag,
                        "socket": {"path": str(self.socket)},
                        "packed": packed,
                        "mounts": mounts or {"/": {"type": "passthrough", "shared_dir": str(directory)}},
                    }
                ],
            }
            file = workplace / f"{tag}.yaml"
            file.write_text(json.dumps(configuration))
            share = ["--config", str(file)]
        if filesystem is not None:
            program = [str(Path(sys.prefix) / "bin/vhostfs"), "serve", filesystem]
            share = ["--socket-path", str(self.socket), "--tag", tag]
        self._process = subprocess.Popen(
            [*program, *share, *options],
            cwd=directory if filesystem is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self.wait_logged(_READY, times=1)
        except DaemonFailedError:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
            raise

    @property
    def log(self) -> str:
        """What it has written on its standard error so far."""
        return "".join(self._lines)

    def wait_logged(self, text: str, *, times: int) -> None:
        """Wait until this many lines of its log hold a text. Raises DaemonFailedError after 30 seconds."""
        with self._logged:
            self._logged.wait_for(
                lambda: self._ended or sum(text in line for line in self._lines) >= times, _START_SECONDS
            )
        if sum(text in line for line in self._lines) < times:
            raise self._failed(f"did not log {text!r} ({times} times)")

    def mounts(self, *arguments: str) -> list[str]:
        """Run ``vhostfs mounts`` and return the lines it printed; CalledProcessError where it fails."""
        program = [str(Path(sys.prefix) / "bin/vhostfs"), "mounts", "--control", str(self.control)]
        done = subprocess.run([*program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.splitlines()

    def status(self, key: str) -> int:
        """Read a number of /proc/PID/status, such as VmRSS, in KiB."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0])
        raise KeyError(key)

    def open_files(self) -> int:
        """Count the descriptors that it has open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def wait_open_files(self, count: int) -> None:
        """Wait until it has no more descriptors open than this. Raises DaemonFailedError after 30 seconds."""
        deadline = time.monotonic() + _STOP_SECONDS
        while self.open_files() > count:
            if time.monotonic() > deadline:
                raise self._failed(f"keeps {self.open_files()} files open where {count} should be")
            time.sleep(0.02)

    def open_files_limit(self) -> int:
        """Read how many descriptors it may have open."""
        return resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE)[0]

    def stop(self) -> None:
        """Ask it to end, and wait. Raises DaemonFailedError unless it exits with 0 and logged no trouble."""
        if self._process.poll() is not None:
            raise self._failed(f"exited with {self._process.returncode} before it was asked to")
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
            raise self._failed("did not end within 30 seconds of SIGTERM") from None
        self._reader.join(_STOP_SECONDS)
        if status != 0:
            raise self._failed(f"exited with {status} on SIGTERM")
        if _TROUBLE.search(self.log):
            raise self._failed("logged an error")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except DaemonFailedError as failure:
            # The test's own failure comes first; what the daemon says about it helps to understand it.
            if error is None:
                raise
            error.add_note(str(failure))

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._logged:
                    self._lines.append(line)
                    self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    def _failed(self, what: str) -> DaemonFailedError:
        end = "".join(self._lines[-_LOG_LINES:])
        return DaemonFailedError(f"vhostfsd for {self.directory} {what}; the end of its log:\n{end}")
