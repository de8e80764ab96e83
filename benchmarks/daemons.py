"""The daemons that are compared: how each is started, and what it has used of the processors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_SECONDS: Final = 20.0
PLACES: Final = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
)
"""Where distributions put a virtiofsd, which is on nobody's PATH."""


class NoDaemonError(Exception):
    """Raised when a daemon is not to be found, or does not start; the text says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A daemon to compare: its name in tables, and its program."""

    name: str
    program: tuple[str, ...]
    legacy: bool = False
    """Takes QEMU's old `-o source=` options."""
    queues: int = 1
    """Request queues that it serves."""

    def command(self, socket: Path, directory: Path, tag: str = "share") -> list[str]:
        """Return its command line: extended attributes, and no sandbox where it can do without.

        A legacy daemon tells nobody a tag.
        """
        if self.legacy:
            legacy = f"source={directory},sandbox=chroot,cache=auto,xattr"
            return [*self.program, f"--socket-path={socket}", "-o", legacy]
        options = ["--sandbox", "none", "--tag", tag, "--cache", "auto", "--xattr"]
        return [*self.program, "--socket-path", str(socket), "--shared-dir", str(directory), *options]


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip()


def _virtiofsd(path: str) -> Kind:
    said = _version(path)
    if "Fabrice" in said or "FUSE kernel interface" in said:
        return Kind(f"virtiofsd (C) {said.split()[2]}", (path,), legacy=True)
    return Kind(" ".join(said.split("\n")[0].split()[:2]) or path, (path,))


def find(name: str) -> Kind:
    """Return the daemon of a name: vhostfs, virtiofsd (an installed one), or the path of either.

    VHOSTFS_BENCHMARK_VIRTIOFSD names another virtiofsd, which may be a script that starts one.
    """
    if name == "vhostfs":
        # That of the environment which runs the benchmark, whatever else is installed.
        return find(str(Path(sys.executable).with_name("vhostfs")))
    if name == "virtiofsd":
        chosen = os.environ.get("VHOSTFS_BENCHMARK_VIRTIOFSD") or shutil.which("virtiofsd")
        name = chosen or next((place for place in PLACES if Path(place).exists()), "")
        if not name:
            raise NoDaemonError(
                f"no virtiofsd is installed ({', '.join(PLACES)}); VHOSTFS_BENCHMARK_VIRTIOFSD names one"
            )
    if not os.access(name, os.X_OK):
        raise NoDaemonError(f"{name}: there is no such program")
    if Path(name).name.startswith("vhostfs"):
        return Kind("vhostfs", (name, "serve", "--num-request-queues", "4"), queues=4)
    return _virtiofsd(name)


def _family(process: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def _cpu_clock(process: int) -> int:
    """Return the clock of a process's CPU time: clock_getcpuclockid(3), which Python has only for threads."""
    return (~process << 3) | 2


def cpu_nanoseconds(process: int) -> int:
    """Return what a process and all that descend from it have used of the processors."""
    return sum(time.clock_gettime_ns(_cpu_clock(each)) for each in _family(process))


class RunningDaemon:
    """A daemon that listens."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.process = process
        self.socket = socket

    def threads(self) -> list[int]:
        """Return the ids of all its threads."""
        return [
            int(task.name)
            for each in _family(self.process.pid)
            for task in Path(f"/proc/{each}/task").iterdir()
        ]

    def cpu_nanoseconds(self) -> int:
        """Return what its processes have used of the processors, in threads that have ended too."""
        return cpu_nanoseconds(self.process.pid)

    def resident_bytes(self) -> int:
        """Return how much memory it holds."""
        pages = 0
        for each in _family(self.process.pid):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(
    kind: Kind, socket: Path, directory: Path, log: Path, tag: str = "share"
) -> Iterator[RunningDaemon]:
    """Provide a daemon that listens, and end it; NoDaemonError where it does not start."""
    with log.open("wb") as output:
        # A vhostfs of another checkout is to run its own package, not the one that measures.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            kind.command(socket, directory, tag),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoDaemonError(f"{kind.name} did not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)
        yield RunningDaemon(process, socket)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
