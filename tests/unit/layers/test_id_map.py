"""Users and groups of a guest are others on the host, as virtiofsd's --translate-uid says it."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Caller, Entry, Options
from vhostfs.layers.id_map import IdMapSettings, IdTable
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


@pytest.fixture
def host() -> MemoryFilesystem:
    return MemoryFilesystem(size=1 << 20, inodes=100, mode=0o777, uid=100_000, gid=200)


RULES = IdMapSettings(
    uid=("map:0:100000:1000", "squash-guest:1000:7:10", "squash-host:7:1000:1", "forbid-guest:2000:100"),
    gid=("guest:5:200:1", "host:200:6:1"),
)


@pytest.fixture
async def client(host: MemoryFilesystem) -> AsyncIterator[Client]:
    async with mount(RULES.wrap(host)) as client:
        yield client


@pytest.mark.parametrize(
    ("rules", "to_host", "to_guest"),
    [
        ([], {0: 0, 4294967295: 4294967295}, {0: 0}),
        (["map:10:20:5"], {9: 9, 10: 20, 14: 24, 15: 15, 20: 20}, {20: 10, 24: 14, 10: 10}),
        (["guest:10:20:5"], {12: 22}, {22: 22}),
        (["host:20:10:5"], {12: 12}, {22: 12}),
        (["squash-guest:0:1001:4294967295"], {0: 1001, 4294967294: 1001}, {1001: 1001}),
        (["squash-host:0:5:10"], {0: 0}, {0: 5, 9: 5, 10: 10}),
        (["forbid-guest:3:2", "guest:0:50:3"], {2: 52, 3: None, 4: None, 5: 5}, {3: 3}),
        (["guest:5:1:1", "guest:0:9:5", "guest:6:2:1"], {0: 9, 4: 13, 5: 1, 6: 2}, {}),
    ],
)
def test_ranges_say_what_an_id_becomes_in_each_direction(
    rules: list[str], to_host: dict[int, int | None], to_guest: dict[int, int]
) -> None:
    table = IdTable(rules)
    assert {number: table.to_host.of(number) for number in to_host} == to_host
    assert {number: table.to_guest.of(number) for number in to_guest} == to_guest


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (["1:2:3"], "should begin with one of guest, host, map"),
        (["map:1:2"], "should be map:FROM:TO:COUNT"),
        (["forbid-guest:1:2:3"], "should be forbid-guest:FROM:COUNT"),
        (["map:1:-2:3"], "in numbers"),
        (["map:1:2:0"], "a count of 1 or more"),
        (["map:4294967295:0:2"], "end at 4294967295"),
        (["map:0:4294967295:2"], "leads beyond the last id"),
        (["map:0:0:10", "squash-guest:9:1:1"], "speak of the same ids"),
        (["map:0:50:10", "host:59:1:1"], "speak of the same ids"),
    ],
)
def test_a_rule_that_is_none_is_told(rules: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        IdMapSettings(uid=tuple(rules))


async def test_who_makes_something_owns_it_as_the_host_knows_him(
    client: Client, host: MemoryFilesystem
) -> None:
    client.caller = Caller(5, 5)
    await client.write_bytes("/file", b"")
    await client.mkdir("/directory")
    await client.symlink("file", "/link")
    await client.mknod("/pipe", stat.S_IFIFO | 0o600)
    for name in ("file", "directory", "link", "pipe"):
        entry = host.lookup(Caller(), 1, name)
        assert isinstance(entry, Entry)
        assert (entry.attr.uid, entry.attr.gid) == (100_005, 200)
        assert ((await client.stat(name)).uid, (await client.stat(name)).gid) == (5, 6)


async def test_ids_of_no_range_stay_as_they_are(client: Client) -> None:
    client.caller = Caller(50_000, 60_000)
    await client.mkdir("/directory")
    attr = await client.stat("/directory")
    assert (attr.uid, attr.gid) == (50_000, 60_000)


async def test_squashed_users_are_one_on_the_host(client: Client, host: MemoryFilesystem) -> None:
    client.caller = Caller(1004, 0)
    await client.mkdir("/directory")
    entry = host.lookup(Caller(), 1, "directory")
    assert isinstance(entry, Entry)
    assert entry.attr.uid == 7
    assert (await client.stat("/directory")).uid == 1000


async def test_forbidden_users_look_and_make_nothing(client: Client) -> None:
    await client.write_bytes("/file", b"content")
    client.caller = Caller(2050, 0)
    assert await client.read_bytes("/file") == b"content"
    for change in (client.mkdir("/new"), client.symlink("file", "/new"), client.write_bytes("/new", b"")):
        with refused(errno.EPERM):
            await change
    assert await client.listdir("/") == ["file"]


async def test_files_are_given_away_as_the_host_knows_the_new_owner(
    client: Client, host: MemoryFilesystem
) -> None:
    await client.mkdir("/directory")
    await client.chown("/directory", 3, 5)
    entry = host.lookup(Caller(), 1, "directory")
    assert isinstance(entry, Entry)
    assert (entry.attr.uid, entry.attr.gid) == (100_003, 200)
    assert (await client.stat("/directory")).uid == 3
    with refused(errno.EPERM):
        await client.chown("/directory", 2000)


async def test_listings_tell_owners_as_the_guest_knows_them(client: Client) -> None:
    client.caller = Caller(5, 5)
    await client.mkdir("/directory")
    (entry,) = await client.entries("/", plus=True)
    if entry.entry is not None and entry.entry.nodeid:
        assert entry.entry.attr.uid == 5


def test_posix_acls_hold_ids_and_cannot_pass() -> None:
    inner = MemoryFilesystem(size=1 << 20, inodes=10, mode=0o755, uid=0, gid=0)
    inner.options = Options(posix_acl=True)
    with pytest.raises(ConfigurationError, match="POSIX ACLs hold ids"):
        RULES.wrap(inner)
