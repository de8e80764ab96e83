"""Where the guests of the integration tests come from: one lane a kind of guest."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.guests.guest import Guest
from tests.guests.images import Emulator, GuestImages, Kernel
from tests.guests.qemu import QemuGuest
from tests.guests.uml import UmlGuest

UML = pytest.param("uml", marks=pytest.mark.uml)
QEMU = [pytest.param("qemu", marks=pytest.mark.qemu), pytest.param("qemu_sid", marks=pytest.mark.qemu_sid)]
on_qemu = pytest.mark.parametrize("lane", QEMU, indirect=True)


class Lane(ABC):
    """A kind of guest. ``directory`` takes the files of all guests of the lane."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)

    @abstractmethod
    def guest_with(self, daemons: Sequence[Daemon]) -> AbstractContextManager[Guest]:
        """Give a guest with a whole Debian and a device for each daemon, all gone at the end."""

    @abstractmethod
    def own_guest(self, daemons: Sequence[Daemon]) -> AbstractContextManager[Guest]:
        """Boot a guest like that for one test alone; its power is cut afterwards, whatever it has mounted."""

    @abstractmethod
    def close(self) -> None:
        """End the guest that serves several tests, if the lane has such a guest."""

    def _next_directory(self) -> Path:
        return self._directory / str(next(self._numbers))


class UmlLane(Lane):
    """User-Mode Linux: a guest a test, since it takes no devices later."""

    def __init__(self, images: GuestImages, directory: Path) -> None:
        super().__init__(directory)
        self._image = images.user_mode_linux()

    @contextlib.contextmanager
    def guest_with(self, daemons: Sequence[Daemon]) -> Iterator[Guest]:
        """Boot a guest with the devices."""
        with self.own_guest(daemons) as guest:
            yield guest
            _unmount(guest, daemons)

    @contextlib.contextmanager
    def own_guest(self, daemons: Sequence[Daemon]) -> Iterator[Guest]:
        """Boot a guest with the devices."""
        guest = UmlGuest(self._image, [daemon.socket for daemon in daemons], self._next_directory())
        with contextlib.closing(guest):
            yield guest

    def close(self) -> None:
        """Do nothing: each guest ended with its test."""


class QemuLane(Lane):
    """QEMU: one guest for all tests, in which each plugs its devices; its Debian is one more device."""

    def __init__(self, emulator: Emulator, kernel: Kernel, directory: Path) -> None:
        super().__init__(directory)
        self.emulator = emulator
        self._kernel = kernel
        self._guest: QemuGuest | None = None
        self._userland: Daemon | None = None

    @contextlib.contextmanager
    def guest_with(self, daemons: Sequence[Daemon]) -> Iterator[QemuGuest]:
        """Plug the devices into the lane's guest, which is booted if there is none, and out afterwards."""
        guest = self._running_guest()
        try:
            for daemon in daemons:
                guest.plug(daemon)
            yield guest
            _unmount(guest, daemons)
            for daemon in daemons:
                guest.unplug(daemon)
        except BaseException:
            # A test may have left anything behind: the next one gets another guest.
            self.close(lost=True)
            raise

    @contextlib.contextmanager
    def own_guest(
        self, daemons: Sequence[Daemon], *, kernel: Kernel | None = None, processors: int = 1, queues: int = 1
    ) -> Iterator[QemuGuest]:
        """Boot a guest with the devices; with the lane's kernel if no other is named."""
        directory = self._next_directory()
        with _serve_host_root(directory) as userland:
            guest = QemuGuest(
                self.emulator,
                kernel or self._kernel,
                directory,
                devices=[userland, *daemons],
                userland=userland,
                processors=processors,
                queues=queues,
            )
            with contextlib.closing(guest):
                yield guest

    def close(self, *, lost: bool = False) -> None:
        """End the lane's guest and its Debian's daemon, whose failure counts unless the guest was lost."""
        guest, userland = self._guest, self._userland
        self._guest = self._userland = None
        if guest is not None:
            guest.close()
        if userland is not None:
            with contextlib.suppress(*([AssertionError] if lost else [])):
                userland.stop()

    def _running_guest(self) -> QemuGuest:
        if self._guest is None:
            directory = self._next_directory()
            self._userland = _serve_host_root(directory)
            self._guest = QemuGuest(
                self.emulator, self._kernel, directory, devices=[self._userland], userland=self._userland
            )
        return self._guest


def _serve_host_root(directory: Path) -> Daemon:
    directory.mkdir(parents=True)
    return Daemon(directory, Path("/"), "hostroot", "--readonly", "--cache=always")


def _unmount(guest: Guest, daemons: Sequence[Daemon]) -> None:
    mounted = guest.run("cat /proc/mounts")
    for daemon in daemons:
        if f" /mnt/{daemon.tag} " in mounted:
            guest.unmount(daemon.tag)
