"""What may be done is decided by path, and nothing gets around it by another name."""

from __future__ import annotations

import errno
import os
from contextlib import AbstractAsyncContextManager
from typing import Literal

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.filesystem import Caller, Entry, RenameFlags
from vhostfs.layers.policy import PolicyRule, PolicySettings
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]


def deny(
    *operations: str, paths: tuple[str, ...], error: Literal["EACCES", "EPERM"] = "EACCES"
) -> PolicyRule:
    return PolicyRule("deny", paths, operations, error)


def allow(*operations: str, paths: tuple[str, ...]) -> PolicyRule:
    return PolicyRule("allow", paths, operations)


def filled() -> MemoryFilesystem:
    """Return a file system with files named `file` in the directories open, open/sub, closed and logs."""
    filesystem = MemoryFilesystem(size=1 << 20, inodes=100, mode=0o755, uid=0, gid=0)
    nodes = {"": 1}
    for path in ("open", "open/sub", "closed", "logs"):
        above, _, name = path.rpartition("/")
        entry = filesystem.mkdir(Caller(), nodes[above], name, 0o755)
        assert isinstance(entry, Entry)
        nodes[path] = entry.attr.ino
        filesystem.mknod(Caller(), entry.attr.ino, "file", 0o100644, 0)
    return filesystem


def under(
    *rules: PolicyRule, default: Literal["allow", "deny"] = "allow", inner: MemoryFilesystem | None = None
) -> AbstractAsyncContextManager[Client]:
    filesystem = filled() if inner is None else inner
    return mount(PolicySettings(rules, default).wrap(filesystem))


async def know(client: Client, *paths: str) -> None:
    """Look names up and keep them, as Linux does before it renames one."""
    for path in paths:
        node = client.root
        for name in path.split("/")[1:]:
            try:
                node = (await client.lookup(node, name)).nodeid
            except OSError:
                break


async def rename(client: Client, old: str, new: str, flags: RenameFlags | int = 0) -> None:
    await know(client, old, new)
    await client.rename(old, new, flags)


async def opened(client: Client, path: str, flags: int = os.O_RDWR) -> tuple[int, int]:
    node = client.root
    for name in path.split("/"):
        node = (await client.lookup(node, name)).nodeid
    return node, (await client.open_node(node, flags)).fh


async def test_the_first_rule_about_a_path_and_an_operation_decides() -> None:
    async with under(
        allow("unlink", paths=("/logs/keep/**", "/logs/file")),
        deny("unlink", paths=("/logs/**",), error="EPERM"),
    ) as client:
        await client.unlink("/logs/file")
        await client.write_bytes("/logs/other", b"")
        with refused(errno.EPERM):
            await client.unlink("/logs/other")
        await client.unlink("/open/file")


async def test_what_no_rule_decides_may_be_denied() -> None:
    async with under(
        allow("any", paths=("/open/**",)), allow("lookup", "getattr", paths=("/",)), default="deny"
    ) as client:
        assert await client.read_bytes("/open/file") == b""
        await client.write_bytes("/open/new", b"new")
        with refused(errno.EACCES):
            await client.stat("/closed")
        with refused(errno.EACCES):
            await client.listdir("/")


async def test_opening_for_writing_takes_that_writing_is_allowed() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
            with refused(errno.EACCES):
                await opened(client, "closed/file", flags)
        with refused(errno.EACCES):
            await client.truncate("/closed/file", 0)
        with refused(errno.EACCES):
            await client.write_bytes("/closed/new", b"")
        node, fh = await opened(client, "closed/file", os.O_RDONLY)
        with refused(errno.EACCES):
            await client.write(node, fh, 0, b"data")
        await client.chmod("/closed/file", 0o600)
        await client.release(node, fh)


async def test_names_that_may_not_be_looked_up_are_not_listed() -> None:
    async with under(PolicyRule("deny", ("/closed", "/open/s*"), ("lookup",), "ENOENT")) as client:
        assert sorted(await client.listdir("/")) == ["logs", "open"]
        assert await client.listdir("/open") == ["file"]
        assert not await client.exists("/closed")


async def test_a_rename_is_looked_at_by_both_names() -> None:
    async with under(deny("rename", paths=("/closed/**",))) as client:
        for names in (("/closed/file", "/open/new"), ("/open/file", "/closed/new"), ("/closed", "/new")):
            with refused(errno.EACCES):
                await rename(client, *names)
        with refused(errno.EACCES):
            await rename(client, "/open/file", "/closed/file", RenameFlags.EXCHANGE)
        await rename(client, "/open/file", "/logs/new")


async def test_a_rename_removes_no_name_that_may_not_be_removed() -> None:
    async with under(deny("unlink", paths=("/logs/**",))) as client:
        with refused(errno.EACCES):
            await rename(client, "/logs/file", "/logs/other")
        with refused(errno.EACCES):
            await rename(client, "/open/file", "/logs/file")
        with refused(errno.EACCES):
            await rename(client, "/open/file", "/logs/file", RenameFlags.EXCHANGE)
        await rename(client, "/open/file", "/logs/new")
        assert sorted(await client.listdir("/logs")) == ["file", "new"]


async def test_no_file_gains_by_another_name() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        with refused(errno.EXDEV):
            await rename(client, "/closed/file", "/open/new")
        with refused(errno.EXDEV):
            await client.link("/closed/file", "/open/new")
        with refused(errno.EXDEV):
            await rename(client, "/open/file", "/closed/file", RenameFlags.EXCHANGE)
        await client.link("/closed/file", "/closed/again")
        await rename(client, "/closed/file", "/closed/new")
        await rename(client, "/open/file", "/closed/file")
        with refused(errno.EACCES):
            await client.write_bytes("/closed/file", b"data")


async def test_a_directory_does_not_cross_the_border_of_a_rule() -> None:
    async with under(deny("write", paths=("/closed/**", "/open/sub/file"))) as client:
        with refused(errno.EXDEV):
            await rename(client, "/open", "/closed/open")
        with refused(errno.EXDEV):
            await rename(client, "/open/sub", "/logs/sub")
        with refused(errno.EXDEV):
            await rename(client, "/open", "/renamed")
        await client.mkdir("/closed/a")
        await client.mkdir("/closed/b")
        await rename(client, "/closed/a", "/closed/b/a")
        await rename(client, "/logs", "/renamed")


async def test_what_was_never_looked_up_is_taken_for_a_directory() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        with refused(errno.EXDEV):
            await client.rename("/open/file", "/closed/new")


async def test_rules_hold_for_files_that_were_open_when_they_got_another_name() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        node, fh = await opened(client, "open/file")
        assert await client.write(node, fh, 0, b"data") == 4
        await rename(client, "/open/file", "/closed/new")
        with refused(errno.EACCES):
            await client.write(node, fh, 0, b"more")
        await client.release(node, fh)


async def test_a_removed_file_keeps_the_rules_of_its_last_name() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        node, fh = await opened(client, "closed/file", os.O_RDONLY)
        await client.unlink("/closed/file")
        with refused(errno.EACCES):
            await client.write(node, fh, 0, b"data")
        assert await client.read(node, fh, 0, 10) == b""
        await client.release(node, fh)


async def test_a_file_of_several_names_is_allowed_what_all_of_them_are() -> None:
    filesystem = filled()
    directories = [filesystem.lookup(Caller(), 1, name) for name in ("open", "closed")]
    nodes = [entry.attr.ino for entry in directories if isinstance(entry, Entry)]
    file = filesystem.lookup(Caller(), nodes[0], "file")
    assert isinstance(file, Entry)
    filesystem.link(Caller(), file.attr.ino, nodes[1], "again")
    async with under(deny("write", paths=("/closed/**",)), inner=filesystem) as client:
        node, fh = await opened(client, "open/file")
        assert await client.write(node, fh, 0, b"data") == 4
        await client.stat("/closed/again")
        with refused(errno.EACCES):
            await client.write(node, fh, 0, b"more")
        await client.release(node, fh)


async def test_a_file_without_a_name_has_the_rules_of_its_directory() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        node = (await client.lookup(client.root, "closed")).nodeid
        with refused(errno.EACCES):
            await client.tmpfile(node, 0o600, os.O_RDWR)


async def test_forgetting_directories_hides_nothing() -> None:
    async with under(deny("write", paths=("/closed/**",))) as client:
        directory = (await client.lookup(client.root, "closed")).nodeid
        node = (await client.lookup(directory, "file")).nodeid
        client.forget(directory)
        with refused(errno.EACCES):
            await client.open_node(node, os.O_WRONLY)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (deny("wipe", paths=("/**",)), "'wipe' is no operation"),
        (deny("any", paths=("closed",)), "should begin with /"),
    ],
)
def test_rules_that_are_none_are_told(rule: PolicyRule, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PolicySettings((rule,))
