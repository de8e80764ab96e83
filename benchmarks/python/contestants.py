"""The file systems that are compared, each in a process of its own: behind a socket, or mounted here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.daemons import Kind, NoDaemonError, cpu_nanoseconds
from benchmarks.load import load
from benchmarks.share import DATA_SIZE, FILES, Share

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parent.parent
PEERS: Final = PROJECT / "build" / "benchmarks" / "peers"
"""The virtual environment of the other libraries, which `python-compare` makes."""
MOUNT_SECONDS: Final = 20.0

CONFIGURATION: Final = """
sandbox: {{mode: none}}
devices:
  - tag: {tag}
    socket: {{path: {socket}}}
    mounts:
      /:
        type: python
        filesystem: benchmarks.python.in_memory:{name}
        arguments: {{directory: {directory}}}
"""


@dataclass(frozen=True, slots=True)
class Served(Kind):
    """A class of in_memory.py, behind a socket."""

    class_name: str = "Def"

    def command(self, socket: Path, directory: Path, tag: str = "share") -> list[str]:
        """Return its command line."""
        file = socket.with_suffix(".yaml")
        file.write_text(
            CONFIGURATION.format(tag=tag, socket=socket, directory=directory, name=self.class_name)
        )
        program = [str(Path(sys.executable).with_name("vhostfs")), "serve", "--config", str(file)]
        return ["/usr/bin/env", f"PYTHONPATH={PROJECT}", *program]


SERVED: Final = (Served("def", ()), Served("async def", (), class_name="AsyncDef"))


@dataclass(frozen=True, slots=True)
class Mountable:
    """A file system that a program mounts: PROGRAM DIRECTORY MOUNTPOINT ARGUMENTS."""

    name: str
    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def mountables() -> tuple[Mountable, ...]:
    """Return what is compared on this host, ours first."""
    ours = (sys.executable, str(HERE / "in_memory.py"))
    peer = str(PEERS / "bin" / "python")
    return (
        Mountable("vhostfs, def", ours, ("Def",)),
        Mountable("vhostfs, async def", ours, ("AsyncDef",)),
        Mountable("pyfuse3", (peer, str(HERE / "on_pyfuse3.py"))),
        Mountable("mfusepy", (peer, str(HERE / "on_mfusepy.py"))),
    )


class Mounted:
    """A file system that is mounted, with the files that are asked for open."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], mountpoint: Path, stack: ExitStack
    ) -> None:
        """Open the files, for as long as the stack lasts."""
        self.name = name
        self._process = process
        self._ffi, self._library = ffi, _ = load()
        self._calls = ffi.new("struct calls *")
        self._called = ffi.new("struct called *")

        def opened(place: str, flags: int) -> int:
            descriptor = os.open(mountpoint / place, flags)
            stack.callback(os.close, descriptor)
            return descriptor

        self._calls.directory = opened("files", os.O_RDONLY | os.O_DIRECTORY)
        self._calls.file = opened("files/file-00000", os.O_RDONLY)
        self._calls.read_file = opened("read", os.O_RDONLY)
        self._calls.write_file = opened("write", os.O_RDWR)
        self._calls.data_size = DATA_SIZE
        self._calls.entries = FILES

    def run(self, call: int, block: int, threads: int, seconds: float) -> tuple[float, float]:
        """Call for a while; return calls a second, and CPU microseconds of the process a call.

        NoDaemonError where a result is not as it should be.
        """
        calls, called = self._calls, self._called
        calls.call, calls.block, calls.threads = call, block, threads
        calls.nanoseconds = int(seconds * 1e9)
        before = cpu_nanoseconds(self._process.pid)
        error = self._library.calls_run(calls, called)
        spent = cpu_nanoseconds(self._process.pid) - before
        wrong = self._ffi.string(called.wrong).decode()
        if error or wrong:
            raise NoDaemonError(f"{self.name}: {wrong or os.strerror(-error)}")
        return called.calls / (called.nanoseconds / 1e9), spent / 1e3 / called.calls


@contextmanager
def mounted(kind: Mountable, share: Share, mountpoint: Path, log: Path) -> Iterator[Mounted]:
    """Mount a file system, and unmount it again; NoDaemonError where it does not appear."""
    mountpoint.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*kind.program, str(share.directory), str(mountpoint), *kind.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": f"{PROJECT}:{HERE}"},
        )
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoDaemonError(f"{kind.name} did not mount: {log.read_text(errors='replace')}")
            time.sleep(0.02)
        with ExitStack() as stack:
            yield Mounted(kind.name, process, mountpoint, stack)
    finally:
        subprocess.run(["umount", "--lazy", str(mountpoint)], check=False, capture_output=True)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_written(share: Share) -> None:
    """Look, as the host, at what was written: each page holds its number or nothing. NoDaemonError if not."""
    words = memoryview(share.write_file.read_bytes()).cast("Q")
    page = 4096 // 8
    written = 0
    for number in range(len(words) // page):
        first, last = words[number * page], words[(number + 1) * page - 1]
        if first != last or first not in {0, number}:
            raise NoDaemonError(f"page {number} of the file that was written holds {first} and {last}")
        written += first == number
    if not written:
        raise NoDaemonError("nothing was written")
