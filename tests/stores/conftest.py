"""The stores: each test gets an empty bucket of each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
from obstore.store import MemoryStore, S3Store

from tests.guests.images import MissingImageError
from tests.stores.servers import Place, Server, ceph_gateway, fake_place, ministack, obstore_place
from vhostfs.backends.obstore.store import Traits
from vhostfs.backends.s3.store import ObjectStore

STORES: Final = (
    *("fake", "ministack", "obstore in memory", "obstore on ministack"),
    pytest.param("ceph", marks=pytest.mark.ceph),
)


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
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of each store in turn."""
    found: str = request.param
    return found


@pytest.fixture
def server(request: pytest.FixtureRequest, name: str) -> Server | None:
    """Return the server of this run that a store needs; None for those that live in the test's event loop."""
    if name in {"fake", "obstore in memory"}:
        return None
    found: Server = request.getfixturevalue(f"{name.rpartition(' ')[2]}_server")
    return found


@pytest.fixture
async def place(name: str, server: Server | None) -> AsyncIterator[Place]:
    """Provide an empty bucket."""
    async with AsyncExitStack() as stack:
        if name == "obstore in memory":
            yield stack.enter_context(obstore_place(name, MemoryStore(), Traits()))
        elif name == "obstore on ministack":
            assert server is not None
            store = S3Store(
                await server.new_bucket(),
                endpoint=server.url,
                access_key_id=server.credentials.access_key,
                secret_access_key=server.credentials.secret_key,
                client_options={"allow_http": True},
            )
            yield stack.enter_context(obstore_place(name, store, Traits(conditional_copy=False)))
        else:
            yield await stack.enter_async_context(fake_place() if server is None else server.place())


@pytest.fixture
def store(place: Place) -> ObjectStore:
    """Return a client of the bucket."""
    return place.make()
