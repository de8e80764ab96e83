"""Layers stand before each other in any order, over any file system, and hand on what they do not forbid."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.refusals import refused
from tests.unit.session.everything import Everything, later
from vhostfs.backends.contract import Layer
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.filesystem import Caller, Filesystem, RenameFlags, implemented
from vhostfs.layers.audit import AuditSettings
from vhostfs.layers.fault import FaultRule, FaultSettings
from vhostfs.layers.id_map import IdMapSettings
from vhostfs.layers.policy import PolicyRule, PolicySettings
from vhostfs.layers.quota import QuotaSettings
from vhostfs.layers.rate_limit import RateLimitSettings
from vhostfs.layers.read_only import ReadOnlySettings
from vhostfs.layers.xattr_map import XattrMapSettings
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

LAYERS: Sequence[Layer] = (
    IdMapSettings(("map:0:5000:100",), ("map:0:6000:100",)),
    XattrMapSettings(":map::user.virtiofs.:"),
    RateLimitSettings(requests=1_000_000, bytes=1 << 39),
    AuditSettings(),
    QuotaSettings(bytes=1 << 20, files=100),
    PolicySettings((PolicyRule("deny", ("/denied/*",), ("makes",)),)),
    FaultSettings((FaultRule(("mkdir",), ("/fails",), "EIO"), FaultRule(("getattr",), delay=1e-6, times=3))),
)

ROTATIONS = [(*LAYERS[turn:], *LAYERS[:turn]) for turn in range(len(LAYERS))]
ORDERS = [*ROTATIONS, *(tuple(reversed(order)) for order in ROTATIONS)]


def stacked(filesystem: Filesystem[Any], layers: Sequence[Layer]) -> Filesystem[Any]:
    for layer in layers:
        filesystem = layer.wrap(filesystem)
    return filesystem


async def work(client: Client) -> None:
    """Do what programs do, with a look at what each layer is to do."""
    client.caller = Caller(7, 8)
    await client.mkdir("/d")
    await client.mkdir("/denied")
    with refused(errno.EIO):
        await client.mkdir("/fails")
    with refused(errno.EACCES):
        await client.write_bytes("/denied/file", b"")
    await client.write_bytes("/d/file", b"x" * 10_000)
    attr = await client.stat("/d/file")
    assert (attr.uid, attr.gid, attr.size) == (7, 8, 10_000)
    await client.link("/d/file", "/d/again")
    await client.symlink("file", "/d/link")
    await client.setxattr("/d/file", "user.a", b"b")
    assert await client.listxattr("/d/file") == ["user.a"]
    node = (await client.lookup((await client.lookup(client.root, "d")).nodeid, "file")).nodeid
    fh = (await client.open_node(node, os.O_RDWR)).fh
    await client.rename("/d", "/e")
    await client.rename("/e/link", "/e/again", RenameFlags.EXCHANGE)
    await client.unlink("/e/file")
    assert await client.read(node, fh, 9_990, 100) == b"x" * 10
    assert await client.write(node, fh, 10_000, b"end") == 3
    await client.release(node, fh)
    assert sorted(await client.listdir("/e")) == ["again", "link"]
    assert await client.read_bytes("/e/link") == b"x" * 10_000 + b"end"
    assert await client.readlink("/e/again") == "file"
    assert (await client.statfs("/")).blocks > 0


@pytest.mark.parametrize("order", ORDERS)
async def test_layers_do_their_work_in_any_order(order: Sequence[Layer]) -> None:
    inner = MemoryFilesystem(size=1 << 22, inodes=1000, mode=0o777, uid=5000, gid=6000)
    async with mount(stacked(inner, order)) as client:
        await work(client)


@pytest.mark.skipif(os.geteuid() != 0, reason="acting as other users takes root")
@pytest.mark.parametrize("order", ORDERS[::5])
async def test_layers_do_their_work_over_a_directory(order: Sequence[Layer], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # noqa: ASYNC240
    inner = DirectoryFilesystem(tmp_path)
    async with mount(stacked(inner, order)) as client:
        await work(client)
    inner.close()
    assert (tmp_path / "e/link").stat().st_uid == 5007
    assert os.getxattr(tmp_path / "e/link", "user.virtiofs.user.a") == b"b"


@pytest.mark.parametrize("kind", [Everything, later(Everything)])
def test_what_the_inner_one_answers_is_answered_through_each_layer(kind: type[Filesystem[Any]]) -> None:
    for layer in (*LAYERS, ReadOnlySettings()):
        inner = kind()
        assert implemented(layer.wrap(inner)) == implemented(inner)


class Nothing(Filesystem[None]):
    """Answers no operation."""


def test_what_the_inner_one_does_not_answer_no_layer_answers() -> None:
    for pair in itertools.permutations((*LAYERS, ReadOnlySettings()), 2):
        assert implemented(stacked(Nothing(), pair)) == frozenset()
