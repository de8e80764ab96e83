"""Fixtures of the integration tests: lanes of guests, and directories of the host mounted in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.guests.guest import Guest
from tests.guests.images import GuestImages, MissingImageError
from tests.integration.lanes import QEMU, UML, Lane, QemuLane, UmlLane

# Guests are emulated, and machines that run tests are shared and slow at times.
_TEST_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this directory more time than others."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@dataclass(frozen=True, slots=True)
class MountedShare:
    """A directory of the host, ``host``, that the guest has mounted at ``place``."""

    host: Path
    place: str
    guest: Guest
    daemon: Daemon


type MountShares = Callable[..., list[MountedShare]]


@pytest.fixture(scope="session")
def images() -> GuestImages:
    """The guest images in the user's cache."""
    return GuestImages()


def _make_lane(name: str, images: GuestImages, directory: Path) -> Lane:
    try:
        if name == "uml":
            return UmlLane(images, directory)
        if name == "qemu":
            return QemuLane(images.host_emulator(), images.kernel("bookworm"), directory)
        return QemuLane(images.sid_emulator(), images.kernel("sid"), directory)
    except MissingImageError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=[UML, *QEMU])
def lane(
    request: pytest.FixtureRequest, images: GuestImages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lane]:
    """Each kind of guest in turn."""
    with contextlib.closing(
        _make_lane(request.param, images, tmp_path_factory.mktemp(request.param))
    ) as lane:
        yield lane


@pytest.fixture
def qemu(lane: Lane) -> QemuLane:
    """The lane of a test that is marked with ``on_qemu``, for what only QEMU can do."""
    assert isinstance(lane, QemuLane)
    return lane


@pytest.fixture
def mount_shares(lane: Lane, tmp_path: Path) -> Iterator[MountShares]:
    """A function that takes lists of a daemon's options and mounts a new directory for each; called once.

    At the end of the test all is unmounted, and each daemon must stop with exit status 0 and a clean log.
    """
    with contextlib.ExitStack() as stack:

        def mount(*options: list[str]) -> list[MountedShare]:
            daemons = []
            for number, those in enumerate(options):
                directory = tmp_path / f"share{number}"
                directory.mkdir()
                daemons.append(stack.enter_context(Daemon(tmp_path, directory, directory.name, *those)))
            guest = stack.enter_context(lane.guest_with(daemons))
            return [
                MountedShare(daemon.directory, str(guest.mount(daemon.tag)), guest, daemon)
                for daemon in daemons
            ]

        yield mount


@pytest.fixture
def share(mount_shares: MountShares) -> MountedShare:
    """A new directory, served with the daemon's defaults and mounted in a guest."""
    return mount_shares([])[0]
