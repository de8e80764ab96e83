"""What a directory of the host does for a guest, compared with the host's own view of it."""

# ruff: noqa: ASYNC240, the host is looked at while nothing else runs
from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.directory import DirectoryFilesystem, DirectorySettings
from vhostfs.filesystem import Attr, Caller, FileType, Opened, Options, RenameFlags
from vhostfs.fuse_abi.flags import SetattrValid, WriteFlags
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acting as other users takes root")


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """Return the shared directory: beside it lies what no guest may reach."""
    (tmp_path / "outside").write_bytes(b"secret")
    shared = tmp_path / "share"
    shared.mkdir()
    return shared


@pytest.fixture
def filesystem(share: Path) -> Iterator[DirectoryFilesystem]:
    """Return the file system, whose descriptors are all closed at the end."""
    before = _descriptors()
    filesystem = DirectoryFilesystem(share)
    yield filesystem
    filesystem.close()
    assert _descriptors() == before, "descriptors were left open"


@pytest.fixture
async def client(filesystem: DirectoryFilesystem) -> AsyncIterator[Client]:
    """Return a kernel that has it mounted."""
    async with mount(filesystem) as client:
        yield client


def _descriptors() -> int:
    return len([name for name in os.listdir("/proc/self/fd") if _leads_to_a_file(name)])  # noqa: PTH208


def _leads_to_a_file(name: str) -> bool:
    try:
        target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    except FileNotFoundError:
        return False
    return target.startswith("/") and not target.startswith("/proc/")


async def test_attributes_are_those_that_the_host_shows(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"x" * 10_000)
    (share / "file").chmod(0o640)
    os.mkfifo(share / "pipe")
    (share / "link").symlink_to("file")
    for name in ("file", "pipe", "link"):
        assert await client.stat(name) == Attr.from_stat((share / name).lstat())


async def test_what_is_made_is_there_on_the_host(client: Client, share: Path) -> None:
    await client.mkdir("/sub", 0o750)
    await client.write_bytes("/sub/file", b"content", 0o640)
    await client.symlink("nowhere", "/sub/link")
    await client.mknod("/sub/pipe", stat.S_IFIFO | 0o600)
    assert stat.S_IMODE((share / "sub").stat().st_mode) == 0o750
    assert (share / "sub/file").read_bytes() == b"content"
    assert stat.S_IMODE((share / "sub/file").stat().st_mode) == 0o640
    assert os.readlink(share / "sub/link") == "nowhere"  # noqa: PTH115
    assert stat.S_ISFIFO((share / "sub/pipe").lstat().st_mode)


async def test_modes_are_kept_whatever_the_umask_of_the_daemon(client: Client, share: Path) -> None:
    before = os.umask(0o077)
    try:
        await client.mkdir("/open", 0o777)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((share / "open").stat().st_mode) == 0o777


async def test_data_is_read_and_written_at_any_offset(client: Client, share: Path) -> None:
    (share / "file").write_bytes(bytes(range(256)) * 64)
    node = (await client.lookup(client.root, "file")).nodeid
    fh = (await client.open_node(node, os.O_RDWR)).fh
    assert await client.read(node, fh, 100, 5) == bytes(range(100, 105))
    assert await client.read(node, fh, 16_380, 100) == bytes(range(252, 256))
    assert await client.read(node, fh, 1 << 40, 100) == b""
    assert await client.write(node, fh, 20_000, b"tail") == 4
    assert (share / "file").read_bytes()[16_384:] == bytes(20_000 - 16_384) + b"tail"
    await client.release(node, fh)


async def test_data_that_is_not_cached_is_read_all_the_same(client: Client, share: Path) -> None:
    content = os.urandom(1 << 20)
    (share / "file").write_bytes(content)
    with (share / "file").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert await client.read_bytes("/file") == content


async def test_appending_goes_to_where_the_file_ends_on_the_host(client: Client, share: Path) -> None:
    (share / "log").write_bytes(b"one ")
    node = (await client.lookup(client.root, "log")).nodeid
    fh = (await client.open_node(node, os.O_WRONLY | os.O_APPEND)).fh
    with (share / "log").open("ab") as host:
        host.write(b"two ")
    await client.write(node, fh, 4, b"three")
    assert (share / "log").read_bytes() == b"one two three"
    await client.write(node, fh, 0, b"ONE", WriteFlags.CACHE)
    assert (share / "log").read_bytes() == b"ONE two three"
    await client.release(node, fh)


async def test_links_are_never_followed(client: Client, share: Path) -> None:
    (share / "out").symlink_to("../outside")
    (share / "up").symlink_to("..")
    assert stat.S_ISLNK((await client.stat("/out")).mode)
    with refused(errno.ELOOP):
        await client.read_bytes("/out")
    with pytest.raises(NotADirectoryError):
        await client.stat("/up/outside")
    with refused(errno.EINVAL):
        await client.truncate("/out", 0)
    await client.chown("/out", os.geteuid(), os.getegid())
    assert (share.parent / "outside").read_bytes() == b"secret"


async def test_a_directory_that_became_a_link_on_the_host_leads_nowhere_else(
    client: Client, share: Path
) -> None:
    (share / "sub").mkdir()
    node = (await client.lookup(client.root, "sub")).nodeid
    (share / "sub").rename(share / "moved")
    (share / "sub").symlink_to("..")
    with pytest.raises(FileNotFoundError):
        await client.lookup(node, "outside")
    await client.mkdir_at(node, "inside")
    assert (share / "moved/inside").is_dir()


async def test_nothing_leads_above_the_root(
    client: Client, filesystem: DirectoryFilesystem, share: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        await client.lookup(client.root, "..")
    above = filesystem.lookup(Caller(), client.root, "..")
    assert above is not None
    assert above.node == client.root
    listed = {entry.name: entry.ino for entry in await client.list_node(client.root)}
    assert listed[b".."] == share.stat().st_ino


async def test_pipes_and_devices_of_the_host_are_not_opened(client: Client, share: Path) -> None:
    os.mkfifo(share / "pipe")
    node = (await client.lookup(client.root, "pipe")).nodeid
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with refused(errno.ENXIO):
            await client.open_node(node, flags)


async def test_all_names_of_a_file_are_one_node(client: Client, share: Path) -> None:
    (share / "one").write_bytes(b"x")
    (share / "two").hardlink_to(share / "one")
    one, two = await client.lookup(client.root, "one"), await client.lookup(client.root, "two")
    assert one.nodeid == two.nodeid
    three = await client.link_at(one.nodeid, client.root, "three")
    assert three.nodeid == one.nodeid
    assert three.attr.nlink == (share / "three").stat().st_nlink == 3


async def test_another_file_of_the_same_name_is_another_node(client: Client, share: Path) -> None:
    (share / "name").write_bytes(b"old")
    old = (await client.lookup(client.root, "name")).nodeid
    (share / "name").unlink()
    (share / "name").write_bytes(b"new")
    assert (await client.lookup(client.root, "name")).nodeid != old


async def test_a_removed_file_lives_on_while_the_guest_knows_it(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"content")
    node = (await client.lookup(client.root, "file")).nodeid
    await client.unlink_at(client.root, "file")
    fh = (await client.open_node(node)).fh
    assert await client.read(node, fh, 0, 100) == b"content"
    assert (await client.getattr(node)).attr.nlink == 0
    await client.release(node, fh)


async def test_what_the_host_renames_is_still_found(client: Client, share: Path) -> None:
    (share / "sub").mkdir()
    (share / "sub/file").write_bytes(b"content")
    directory = (await client.lookup(client.root, "sub")).nodeid
    file = (await client.lookup(directory, "file")).nodeid
    (share / "sub/file").rename(share / "elsewhere")
    (share / "sub").rename(share / "renamed")
    assert (await client.getattr(file)).attr.size == 7
    await client.mkdir_at(directory, "new")
    assert (share / "renamed/new").is_dir()


async def test_renaming_does_what_renameat2_does(client: Client, share: Path) -> None:
    (share / "a").write_bytes(b"a")
    (share / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        await client.rename("/a", "/b", RenameFlags.NOREPLACE)
    await client.rename("/a", "/b", RenameFlags.EXCHANGE)
    assert (share / "a").read_bytes() == b"b"
    await client.rename("/a", "/b")
    assert sorted(os.listdir(share)) == ["b"]  # noqa: PTH208
    (share / "sub").mkdir()
    with refused(errno.EINVAL):
        await client.rename("/sub", "/sub/below")
    with pytest.raises(IsADirectoryError):
        await client.rename("/b", "/sub")


async def test_errors_are_the_hosts(client: Client, share: Path) -> None:
    (share / "file").touch()
    (share / "sub/below").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        await client.mkdir("/file")
    with pytest.raises(FileExistsError):
        await client.create_at(client.root, "file", 0o644, os.O_WRONLY | os.O_EXCL)
    with refused(errno.ENOTEMPTY):
        await client.rmdir("/sub")
    with pytest.raises(IsADirectoryError):
        await client.unlink("/sub")
    with pytest.raises(NotADirectoryError):
        await client.rmdir("/file")
    with pytest.raises(FileNotFoundError):
        await client.unlink("/missing")
    with pytest.raises(NotADirectoryError):
        await client.stat("/file/below")
    with refused(errno.EINVAL):
        await client.readlink("/file")


async def test_attributes_change_as_asked(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"x" * 100)
    await client.chmod("/file", 0o4711)
    await client.truncate("/file", 10)
    await client.utime("/file", -1, 1_600_000_000_123_456_789)
    status = (share / "file").stat()
    assert status.st_size == 10
    assert status.st_atime_ns == -1
    assert status.st_mtime_ns == 1_600_000_000_123_456_789
    node = (await client.lookup(client.root, "file")).nodeid
    await client.setattr(node, SetattrIn(SetattrValid.MTIME, mtime=5))
    status = (share / "file").stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (-1, 5_000_000_000)
    (share / "link").symlink_to("file")
    await client.utime("/link", 1, 2)
    assert (share / "link").lstat().st_mtime_ns == 2
    with refused(errno.EOPNOTSUPP):
        await client.chmod("/link", 0o600)


async def test_set_user_id_goes_where_the_kernel_says_so(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"x" * 100)
    node = (await client.lookup(client.root, "file")).nodeid
    fh = (await client.open_node(node, os.O_WRONLY)).fh

    async def mode_after(change: str) -> int:
        (share / "file").chmod(0o6755)
        if change == "write":
            await client.write(node, fh, 0, b"y", WriteFlags.KILL_SUIDGID)
        else:
            await client.setattr(node, SetattrIn(SetattrValid.SIZE | SetattrValid.KILL_SUIDGID, size=5))
        return stat.S_IMODE((share / "file").stat().st_mode)

    assert await mode_after("write") == 0o755
    assert await mode_after("truncate") == 0o755
    await client.release(node, fh)


async def test_listings_name_everything_once_with_types(client: Client, share: Path) -> None:
    names = {f"file-{number}" for number in range(3000)}
    for name in names:
        (share / name).touch()
    (share / "sub").mkdir()
    listed = await client.listdir()
    assert len(listed) == len(names) + 1
    assert set(listed) == names | {"sub"}
    types = await client.types()
    assert types["sub"] is FileType.DIRECTORY
    assert types["file-1"] is FileType.REGULAR


async def test_a_listing_goes_on_behind_any_entry_while_others_come_and_go(
    client: Client, share: Path
) -> None:
    for number in range(500):
        (share / f"{number}").touch()
    fh = (await client.opendir(client.root)).fh
    first = await client.readdir(client.root, fh, size=4096)
    middle = first[len(first) // 2]
    whole = await client.list_node(client.root)
    behind = {entry.name for entry in whole[len(first) // 2 + 1 :]}
    for entry in first[: len(first) // 2]:
        if entry.name not in {b".", b".."}:
            (share / os.fsdecode(entry.name)).unlink()
    seen: list[bytes] = []
    offset = middle.off
    while page := await client.readdir(client.root, fh, offset, size=4096):
        seen += [entry.name for entry in page]
        offset = page[-1].off
    assert len(seen) == len(behind)
    assert set(seen) == behind
    await client.releasedir(client.root, fh)


async def test_names_of_any_bytes_pass(client: Client, share: Path) -> None:
    name = b"\xff\xfe name"
    Path(os.fsdecode(os.fsencode(share) + b"/" + name)).write_bytes(b"x")
    entry = await client.lookup(client.root, name)
    assert entry.attr.size == 1
    assert name in {entry.name for entry in await client.list_node(client.root)}


async def test_extended_attributes_are_the_hosts(client: Client, share: Path) -> None:
    (share / "file").touch()
    await client.setxattr("/file", "user.one", b"1")
    assert os.getxattr(share / "file", "user.one") == b"1"
    os.setxattr(share / "file", "user.two", b"2")
    assert sorted(await client.listxattr("/file")) == ["user.one", "user.two"]
    with pytest.raises(FileExistsError):
        await client.setxattr("/file", "user.one", b"", os.XATTR_CREATE)
    await client.removexattr("/file", "user.one")
    with refused(errno.ENODATA):
        await client.getxattr("/file", "user.one")
    with refused(errno.EOPNOTSUPP):
        await client.setxattr("/file", "system.posix_acl_access", b"")


async def test_extended_attributes_need_no_proc_in_sight(
    client: Client, filesystem: DirectoryFilesystem, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (share / "file").touch()
    monkeypatch.setattr("vhostfs.backends.directory.PROC_SELF_FD", "/nonexistent")
    before = Path.cwd()
    await client.setxattr("/file", "user.one", b"1")
    assert os.getxattr(share / "file", "user.one") == b"1"
    assert Path.cwd() == before


async def test_without_xattr_the_kernel_is_told_to_do_without(share: Path) -> None:
    (share / "file").touch()
    filesystem = DirectorySettings(PurePosixPath(share), descriptors=16).open()
    async with mount(filesystem) as client:
        with refused(errno.ENOSYS):
            await client.listxattr("/file")
    filesystem.close()


async def test_ranges_are_reserved_punched_sought_and_copied(client: Client, share: Path) -> None:
    (share / "file").write_bytes(b"x" * 65536)
    (share / "copy").touch()
    node = (await client.lookup(client.root, "file")).nodeid
    copy = (await client.lookup(client.root, "copy")).nodeid
    fh = (await client.open_node(node, os.O_RDWR)).fh
    copy_fh = (await client.open_node(copy, os.O_RDWR)).fh
    keep_size, punch = 1, 2
    await client.fallocate(node, fh, 16384, 16384, keep_size | punch)
    assert (share / "file").read_bytes()[16384:32768] == bytes(16384)
    assert await client.lseek(node, fh, 0, os.SEEK_HOLE) == 16384
    assert await client.lseek(node, fh, 16384, os.SEEK_DATA) == 32768
    with refused(errno.ENXIO):
        await client.lseek(node, fh, 1 << 30, os.SEEK_DATA)
    assert await client.copy_file_range(node, fh, 100, copy, copy_fh, 5, 1000) == 1000
    assert (share / "copy").read_bytes() == bytes(5) + b"x" * 1000
    await client.fsync(node, fh)
    await client.fsync(node, fh, datasync=True)
    await client.release(node, fh)
    await client.release(copy, copy_fh)
    await client.syncfs()


async def test_a_file_without_a_name_can_get_one(client: Client, share: Path) -> None:
    entry, opened = await client.tmpfile(client.root, 0o600, os.O_RDWR)
    await client.write(entry.nodeid, opened.fh, 0, b"content")
    assert list(share.iterdir()) == []
    await client.release(entry.nodeid, opened.fh)
    await client.link_at(entry.nodeid, client.root, "named")
    assert (share / "named").read_bytes() == b"content"


async def test_the_size_of_the_file_system_is_the_hosts(client: Client, share: Path) -> None:
    told, host = await client.statfs(), os.statvfs(share)
    assert (told.blocks, told.frsize, told.namelen) == (host.f_blocks, host.f_frsize, host.f_namemax)


async def test_the_time_of_birth_is_told(client: Client, share: Path) -> None:
    (share / "file").touch()
    node = (await client.lookup(client.root, "file")).nodeid
    told = (await client.statx(node)).stat
    assert told.ino == (share / "file").stat().st_ino
    assert told.mask & 0x7FF == 0x7FF


async def test_releasing_a_file_while_it_is_read_reads_no_other_file(share: Path) -> None:
    (share / "file").write_bytes(b"x" * 100)
    filesystem = DirectoryFilesystem(share)
    entry = filesystem.lookup(Caller(), 1, "file")
    assert entry is not None
    assert entry.node is not None
    opened = filesystem.open(Caller(), entry.node, os.O_RDONLY)
    assert isinstance(opened, Opened)
    handle = opened.handle
    reading = filesystem._in_thread(handle, lambda: os.pread(handle.fd, 100, 0))
    waiting = reading.__await__()
    next(waiting)
    handle.release()
    assert handle.fd >= 0
    filesystem.close()
    waiting.close()


# ---- Beyond the budget of descriptors ----


@pytest.fixture(params=["by file handle", "by name"])
async def crowded(
    share: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """Return a kernel of a share with many files and few descriptors."""
    if request.param == "by name":
        monkeypatch.setattr("vhostfs.backends.directory_nodes._mount_for_handles", lambda _root: -1)
    for number in range(100):
        (share / f"sub-{number}").mkdir()
        (share / f"sub-{number}/file").write_bytes(b"%d" % number)
    before = _descriptors()
    filesystem = DirectoryFilesystem(share, descriptors=16)
    async with mount(filesystem) as client:
        yield client
    filesystem.close()
    assert _descriptors() == before


async def _know_all(client: Client) -> list[int]:
    nodes = []
    for number in range(100):
        directory = (await client.lookup(client.root, f"sub-{number}")).nodeid
        nodes.append((await client.lookup(directory, "file")).nodeid)
    return nodes


async def test_nodes_beyond_the_budget_are_found_again(crowded: Client) -> None:
    before = _descriptors()
    nodes = await _know_all(crowded)
    assert _descriptors() <= before + 17
    for number, node in enumerate(nodes):
        fh = (await crowded.open_node(node)).fh
        assert await crowded.read(node, fh, 0, 10) == b"%d" % number
        await crowded.release(node, fh)
    assert _descriptors() <= before + 17
    assert await _know_all(crowded) == nodes


async def test_nodes_beyond_the_budget_follow_the_guests_own_renames(crowded: Client) -> None:
    nodes = await _know_all(crowded)
    for number in range(100):
        await crowded.rename(f"/sub-{number}/file", f"/sub-{number}/renamed")
        await crowded.rename(f"/sub-{number}", f"/moved-{number}")
    for number, node in enumerate(nodes):
        assert (await crowded.getattr(node)).attr.size == len(str(number))


async def test_removed_files_beyond_the_budget_live_on(crowded: Client, share: Path) -> None:
    nodes = await _know_all(crowded)
    for number in range(20):
        await crowded.unlink(f"/sub-{number}/file")
    await _know_all_again(crowded)
    for number, node in enumerate(nodes[:20]):
        assert (await crowded.getattr(node)).attr.size == len(str(number))


async def _know_all_again(client: Client) -> None:
    for number in range(20, 100):
        await client.stat(f"/sub-{number}/file")


async def test_another_file_in_its_place_is_not_taken_for_it(crowded: Client, share: Path) -> None:
    nodes = await _know_all(crowded)
    (share / "sub-0/file").rename(share / "kept")
    (share / "sub-0/file").write_bytes(b"another one")
    (share / "kept").unlink()
    with refused(errno.ESTALE):
        await crowded.getattr(nodes[0])


# ---- Acting as the caller ----


@needs_root
async def test_what_a_user_makes_is_the_users(client: Client, share: Path) -> None:
    share.chmod(0o755)  # the guest's kernel has checked access: the host's opinion is not asked
    client.caller = Caller(1234, 5678)
    await client.mkdir("/sub")
    await client.write_bytes("/file", b"x")
    await client.symlink("target", "/link")
    await client.mknod("/pipe", stat.S_IFIFO | 0o600)
    for name in ("sub", "file", "link", "pipe"):
        status = (share / name).lstat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)
    client.caller = Caller()
    await client.mkdir("/roots")
    assert (share / "roots").stat().st_uid == 0


@needs_root
async def test_set_group_id_directories_pass_their_group_on(client: Client, share: Path) -> None:
    os.chown(share, 0, 4321)
    share.chmod(0o2777)
    client.caller = Caller(1234, 5678)
    await client.mkdir("/sub", 0o755)
    await client.write_bytes("/file", b"x", 0o2755)
    assert (share / "sub").stat().st_gid == (share / "file").stat().st_gid == 4321
    assert (share / "sub").stat().st_mode & stat.S_ISGID
    assert not (share / "file").stat().st_mode & stat.S_ISGID, "for a group that the user is not in"


@needs_root
async def test_the_daemon_is_itself_again_afterwards(client: Client, share: Path) -> None:
    client.caller = Caller(1234, 5678, groups=(99,))
    await client.mkdir("/sub")
    with pytest.raises(FileExistsError):
        await client.mkdir("/sub")
    (share / "own").touch()
    status = (share / "own").stat()
    assert (status.st_uid, status.st_gid) == (0, 0)
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith(("Uid:", "Gid:")):
            assert line.split()[1:] == ["0"] * 4
        if line.startswith(("CapEff:", "CapPrm:")):
            capabilities = line.split()[1]
            assert int(capabilities, 16) & 0xFF == 0xFF


@needs_root
async def test_ids_that_nobody_has_are_refused(client: Client, share: Path) -> None:
    client.caller = Caller(0xFFFFFFFF, 0xFFFFFFFF)
    with pytest.raises(PermissionError):
        await client.mkdir("/sub")
    assert not (share / "sub").exists()


async def test_a_file_that_appeared_meanwhile_is_checked_again_by_the_kernel(
    client: Client, share: Path
) -> None:
    (share / "file").write_bytes(b"secret")
    client.caller = Caller(1234, 5678)
    with refused(errno.ESTALE):
        await client.create_at(client.root, "file", 0o644, os.O_RDWR)


async def test_settings_say_how_long_names_are_trusted(share: Path) -> None:
    settings = DirectorySettings(PurePosixPath(share), entry_seconds=5, attr_seconds=6, negative_seconds=7)
    filesystem = settings.open()
    assert filesystem.options == Options(entry_seconds=5, attr_seconds=6, negative_seconds=7)
    filesystem.close()


def test_a_file_cannot_be_shared(share: Path) -> None:
    (share / "file").touch()
    with pytest.raises(NotADirectoryError):
        DirectoryFilesystem(share / "file")
    with pytest.raises(FileNotFoundError):
        DirectoryFilesystem(share / "missing")
