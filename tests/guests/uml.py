"""User-Mode Linux: a kernel that runs as a process, on the host's root directory, and boots in a second."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.guests.agent import Agent, LostGuestError
from tests.guests.guest import Guest, console_tail
from tests.guests.images import UserModeLinux

SCRIPTS = Path(__file__).parents[2] / "scripts/guest"
_BOOT_SECONDS = 60.0


class UmlGuest(Guest):
    """A User-Mode Linux guest with a virtio-fs device for each socket; devices cannot be added later.

    The daemons must listen before the guest is made. ``directory`` takes its console's log and its own
    files.
    """

    def __init__(self, image: UserModeLinux, sockets: Sequence[Path], directory: Path) -> None:
        self.release = image.release
        self.userland = "/"
        directory.mkdir(parents=True, exist_ok=True)
        console = directory / "console.log"
        requests_in, requests_out = os.pipe()
        answers_in, answers_out = os.pipe()
        self._descriptors = [requests_out, answers_in]
        command = [
            str(image.linux),
            "mem=512M",
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={SCRIPTS}/init"),
            *(f"virtio_uml.device={socket}:26" for socket in sockets),
            # Runs user space several times faster than with ptrace.
            "seccomp=on",
            f"uml_dir={directory}",
            *("con=null", "con0=null,fd:1", f"ssl0=fd:{requests_in},fd:{answers_out}"),
            *("quiet", "panic=-1"),
            *(f"vhostfs_main={SCRIPTS}/agent", "vhostfs_port=/dev/ttyS0", f"vhostfs_modules={image.modules}"),
        ]
        with console.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(requests_in, answers_out),
                start_new_session=True,
            )
        os.close(requests_in)
        os.close(answers_out)
        self.agent = Agent(answers_in, requests_out, console_tail(console))
        try:
            self.agent.wait_ready(_BOOT_SECONDS)
        except LostGuestError:
            self.close()
            raise

    def close(self) -> None:
        """End the guest at once, as when its power is cut. May be called twice."""
        # Its processes are threads of the kernel's process and children of it, all in one session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        while self._descriptors:
            os.close(self._descriptors.pop())


def _memory_directory() -> str:
    """Choose where the file lives that is the guest's memory."""
    return next((name for name in ("/dev/shm", "/tmp") if os.access(name, os.W_OK)), ".")
