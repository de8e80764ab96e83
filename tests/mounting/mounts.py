"""File systems mounted on this host: by the command, a process, or by the library, on a thread here."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vhostfs.mounting import Mount, Sources, mounted
from vhostfs.transports.fuse_device import MountOptions

COMMAND = [sys.executable, "-c", "import sys; from vhostfs.cli import main; sys.exit(main())", "mount"]
PATIENCE = 30


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `vhostfs mount` until it is in the background, or has failed."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


class Daemon:
    """`vhostfs mount -f`, whose session has begun."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "-f", *map(str, arguments)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.log = ""
        self.await_line("session began")

    def await_line(self, text: str) -> None:
        """Wait for a line of the log; AssertionError where the daemon ends before."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line
            if text in line:
                return
        raise AssertionError(self.log)

    def ended(self) -> int:
        """Wait for the end; the exit status."""
        _, rest = self.process.communicate(timeout=PATIENCE)
        self.log += rest
        return self.process.returncode


@contextmanager
def daemon(*arguments: object) -> Iterator[Daemon]:
    """Run `vhostfs mount` beside a test; it is killed at the end, if it still runs."""
    made = Daemon(*arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@dataclass(frozen=True, slots=True)
class OnThread:
    """A mount that a loop of this process serves on a thread of its own."""

    loop: asyncio.AbstractEventLoop
    mount: Mount

    def call(self, act: Callable[[], None]) -> None:
        """Have something done on the loop, and wait until it is."""

        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)


@contextmanager
def on_thread(
    source: Sources, mountpoint: Path, options: MountOptions | None = None, threads: int | None = None
) -> Iterator[OnThread]:
    """Mount in this process while the block runs. What faults pages of it in needs a process of its own."""
    began = threading.Event()
    made: list[OnThread] = []
    failures: list[BaseException] = []
    end = asyncio.Event()

    async def serve() -> None:
        async with mounted(source, mountpoint, options, threads=threads) as mount:
            made.append(OnThread(asyncio.get_running_loop(), mount))
            began.set()
            ending = asyncio.ensure_future(end.wait())
            waiting = asyncio.ensure_future(mount.wait())
            await asyncio.wait([ending, waiting], return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            waiting.cancel()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            began.set()

    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    try:
        if made:
            yield made[0]
    finally:
        if made and thread.is_alive():
            made[0].loop.call_soon_threadsafe(end.set)
        thread.join()
        for failure in failures:
            raise failure


def device_of(mountpoint: Path) -> tuple[str, str] | None:
    """Return the device number and type of what is mounted at a path; None: nothing is."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(mountpoint):
            found = fields[2], fields[fields.index("-") + 1]
    return found


def mount_line(mountpoint: Path) -> str:
    """Return the line of /proc/mounts about a path."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return next(line for line in reversed(lines) if re.match(rf"\S+ {re.escape(str(mountpoint))} ", line))


def abort(mountpoint: Path, scratch: Path) -> None:
    """Abort a connection, as an administrator may."""
    found = device_of(mountpoint)
    assert found is not None
    control = scratch / "fusectl"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", str(control)], check=True)
    try:
        (control / found[0].split(":")[1] / "abort").write_text("1")
    finally:
        unmount(control, "-l")


def unmount(mountpoint: Path, *options: str) -> None:
    """Unmount as an administrator does."""
    subprocess.run(["umount", *options, str(mountpoint)], check=True)


def open_fuse_descriptors(pid: int) -> int:
    """Count the descriptors of /dev/fuse that a process has."""
    links = Path(f"/proc/{pid}/fd")
    return sum(os.path.realpath(link) == "/dev/fuse" for link in links.iterdir())
