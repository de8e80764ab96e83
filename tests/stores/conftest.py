"""The stores: each test gets an empty bucket of each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from tests.guests.images import MissingImageError
from tests.stores.servers import Place, Server, ceph_gateway, fake_place, ministack
from vhostfs.backends.s3.store import ObjectStore

STORES: Final = ("fake", "ministack", pytest.param("ceph", marks=pytest.mark.ceph))


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"


@pytest.fixture(scope="session")
def ministack_server() -> Iterator[Server]:
    """Provide the ministack of this run."""
    with ministack() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Provide the Ceph cluster of this run."""
    try:
        with ceph_gateway(tmp_path_factory.mktemp("ceph")) as server:
            yield server
    except MissingImageError as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest) -> Server | None:
    """Return each server in turn; None for the tests' own, which runs in the test's event loop."""
    if request.param == "fake":
        return None
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
async def place(server: Server | None) -> AsyncIterator[Place]:
    """Provide an empty bucket."""
    async with fake_place() if server is None else server.place() as place:
        yield place


@pytest.fixture
def store(place: Place) -> ObjectStore:
    """Return a client of the bucket."""
    return place.make()
