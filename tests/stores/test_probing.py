"""What a server does not heed is found out by a mount itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.stores.servers import HEEDED, Place
from vhostfs.backends.s3.operating.probing import Probe
from vhostfs.backends.s3.store import Capabilities

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("name", ["fake", "ministack", pytest.param("ceph", marks=pytest.mark.ceph)]),
]


async def test_a_probe_finds_what_a_server_does_not_heed(name: str, place: Place) -> None:
    learnt: list[Capabilities] = []
    probe = Probe(place.make_unknowing(), learnt.append, "", writes=True, known=False)
    probe.begin()
    assert probe._task is not None
    async with asyncio.timeout(60):
        await asyncio.wait([probe._task])
    assert probe.findings is not None
    assert probe.findings.writable
    assert learnt[-1] == HEEDED.get(name, Capabilities())
    assert not (await place.make().list()).objects
    await probe.end()
