"""What tests do with a guest, whatever it runs on."""

from __future__ import annotations

import itertools
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tests.guests.agent import Agent, CommandFailedError, Finished

CONSOLE_LINES = 40
_job_numbers = itertools.count(1)


class Guest(ABC):
    """A running guest. Each method raises LostGuestError, and CommandFailedError where it checks the status.

    ``release`` is its kernel's; ``userland`` the root directory in which commands run: one with a whole
    Debian, the host's, read-only with a /tmp of its own; or "/", which on an initrd has busybox and no
    more.
    """

    release: str
    userland: str
    agent: Agent

    @abstractmethod
    def close(self) -> None:
        """End the guest at once, as when its power is cut. May be called twice."""

    def try_run(self, command: str, *, timeout: float = 60.0) -> Finished:
        """Run a shell script in the guest and return how it ended, also where it failed."""
        return self.agent.run(command, root=self.userland, timeout=timeout)

    def run(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a shell script in the guest and return what it printed."""
        return _checked(command, self.try_run(command, timeout=timeout))

    def start(self, command: str) -> Job:
        """Start a shell script in the guest and return while it runs."""
        name = f"/tmp/job-{next(_job_numbers)}"
        self.run(
            f"mkfifo {name}.status; "
            f"(sh -c {shlex.quote(command)}; echo $? >{name}.status) >{name}.output 2>&1 </dev/null &"
        )
        return Job(self, command, name)

    def mount(self, tag: str, options: str = "", *, timeout: float = 60.0) -> PurePosixPath:
        """Mount the device with the tag and say where it is; wait for one that is just being plugged in."""
        place = PurePosixPath("/mnt") / tag
        flags = f"-o {options}" if options else ""
        command = (
            f"mkdir -p {place}; tries=100; until error=$(mount -t virtiofs {flags} {tag} {place} 2>&1); do "
            'tries=$((tries - 1)); [ $tries -gt 0 ] || { echo "$error"; exit 1; }; sleep 0.2; done'
        )
        _checked(command, self.agent.run(command, root="/", timeout=timeout))
        return place

    def unmount(self, tag: str) -> None:
        """Unmount the device with the tag. Raises CommandFailedError where it is in use."""
        command = f"umount /mnt/{tag}"
        _checked(command, self.agent.run(command, root="/", timeout=60.0))


class Job:
    """A command that runs in a guest beside others."""

    __slots__ = ("_command", "_guest", "_name")

    def __init__(self, guest: Guest, command: str, name: str) -> None:
        self._guest = guest
        self._command = command
        self._name = name

    def wait(self, *, timeout: float = 120.0) -> str:
        """Wait for the command to end and return what it printed."""
        status = self._guest.run(f"cat {self._name}.status", timeout=timeout)
        output = self._guest.run(f"cat {self._name}.output")
        return _checked(self._command, Finished(int(status), output))


def console_tail(*logs: Path) -> Callable[[], str]:
    """Make a function that returns the last lines of what a guest's console and its emulator have printed."""

    def tail() -> str:
        texts = [log.read_text(errors="backslashreplace") for log in logs if log.exists()]
        return "\n".join("\n".join(text.splitlines()[-CONSOLE_LINES:]) for text in texts)

    return tail


def _checked(command: str, finished: Finished) -> str:
    if finished.status != 0:
        raise CommandFailedError(f"{command!r} ended with {finished.status} in the guest:\n{finished.output}")
    return finished.output
