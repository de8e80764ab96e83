"""What an overlay of memory file systems does for a guest, and what that leaves in its layers."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Any

import pytest

from tests.unit.backends.overlays import (
    Content,
    Watched,
    content_of,
    fill,
    layer,
    memory,
    node_of,
    overlaid,
    tree,
)
from tests.unit.refusals import refused
from vhostfs.backends.memory import MemoryFilesystem, MemorySettings
from vhostfs.backends.named import NamedSettings
from vhostfs.backends.overlay import OverlayFilesystem, OverlaySettings
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import (
    Attr,
    Caller,
    DirEntry,
    Filesystem,
    FileType,
    RenameFlags,
)
from vhostfs.testing import mount

pytestmark = [pytest.mark.anyio, pytest.mark.vhostfs_quiet]

OPAQUE = "trusted.overlay.opaque"
REDIRECT = "trusted.overlay.redirect"
PAGE = 4096


async def xattr(filesystem: Filesystem[Any], path: str, name: str) -> bytes | int | None:
    """Return an extended attribute that a layer has, seen by itself; None where it has none such."""
    async with mount(filesystem) as client:
        try:
            return await client.getxattr_node(await node_of(client, path), name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return None


# ---- What is seen ----


async def test_each_name_shows_the_topmost_file_and_directories_are_merged() -> None:
    top = await layer({"file": b"top", "dir": {"a": b"top"}, "kind": {"inner": b""}})
    middle = await layer({"file": b"middle", "dir": {"a": b"middle", "b": b"middle"}, "link": "file"})
    bottom = await layer({"dir": {"c": b"bottom"}, "link": b"hidden", "kind": b"a file", "rest": b"bottom"})
    async with overlaid(top, middle, bottom) as client:
        assert await tree(client) == {
            "file": b"top",
            "dir": {"a": b"top", "b": b"middle", "c": b"bottom"},
            "kind": {"inner": b""},
            "link": "file",
            "rest": b"bottom",
        }


async def test_a_directory_below_a_file_is_not_merged_with_what_is_below_that() -> None:
    top = await layer({"dir": {"a": b""}})
    bottom = await layer({"dir": {"b": b""}})
    async with overlaid(top, await layer({"dir": b"a file"}), bottom) as client:
        assert await client.listdir("dir") == ["a"]


async def test_whiteouts_and_opaque_directories_of_any_layer_hide_what_is_below_them() -> None:
    top = await layer({"gone": None, "dir": {"a": None}})
    middle = await layer({"opaque": {"new": b""}, "gone": b"hidden"}, "opaque")
    bottom = await layer({"gone": b"", "dir": {"a": b"", "b": b""}, "opaque": {"old": b""}})
    async with overlaid(top, middle, bottom) as client:
        assert await tree(client) == {"dir": {"b": b""}, "opaque": {"new": b""}}
        assert not await client.exists("gone")


async def test_empty_files_that_are_marked_hide_too_where_the_directory_says_so() -> None:
    middle = await layer({"dir": {"a": b"", "b": b""}, "other": {"a": b""}})
    async with mount(middle) as client:
        await client.setxattr_node(await node_of(client, "dir"), OPAQUE, b"x")
        for path in ("dir/a", "other/a"):
            await client.setxattr_node(await node_of(client, path), "trusted.overlay.whiteout", b"y")
    bottom = await layer({"dir": {"a": b"hidden", "c": b""}, "other": {"a": b"hidden"}})
    async with overlaid(memory(), middle, bottom) as client:
        assert await tree(client) == {"dir": {"b": b"", "c": b""}, "other": {"a": b""}}
        await client.write_bytes("dir/a", b"new")
        assert await client.read_bytes("dir/a") == b"new"


async def test_files_whose_data_is_in_another_layer_are_refused() -> None:
    top = await layer({"file": b""})
    async with mount(top) as client:
        await client.setxattr_node(await node_of(client, "file"), "trusted.overlay.metacopy", b"")
    async with overlaid(top, await layer({"file": b"data"})) as client:
        with refused(errno.EPERM):
            await client.stat("file")


# ---- Copies ----


async def test_a_changed_file_is_copied_up_with_all_that_it_has() -> None:
    lower = await layer({"dir": {"sub": {"file": b"content"}}})
    async with mount(lower) as client:
        for path, mode in (("dir", 0o2750), ("dir/sub", 0o711), ("dir/sub/file", 0o4640)):
            await client.chown(path, 7, 8)
            await client.chmod(path, mode)
            await client.utime(path, 1_000_000_001, 2_000_000_002)
        node = await node_of(client, "dir/sub/file")
        await client.setxattr_node(node, "user.colour", b"red")
        await client.setxattr_node(node, "security.capability", b"guarded")
    upper = memory()
    async with overlaid(upper, lower) as client:
        before = {path: await client.stat(path) for path in ("dir", "dir/sub", "dir/sub/file")}
        node = await node_of(client, "dir/sub/file")
        await client.setxattr_node(node, "user.shape", b"round")
        for path, attr in before.items():
            now = await client.stat(path)
            assert (now.ino, now.mode, now.size) == (attr.ino, attr.mode, attr.size)
            assert (now.uid, now.gid) == (7, 8)
            assert (now.atime_ns, now.mtime_ns) == (1_000_000_001, 2_000_000_002)
        names = await client.listxattr_node(node)
        assert isinstance(names, list)
        assert sorted(names) == ["security.capability", "user.colour", "user.shape"]
        assert await client.getxattr_node(node, "security.capability") == b"guarded"
        assert await client.getxattr_node(node, "user.colour") == b"red"
        assert await client.read_bytes("dir/sub/file") == b"content"
    assert await content_of(upper) == {"dir": {"sub": {"file": b"content"}}}
    assert await xattr(lower, "dir/sub/file", "user.shape") is None


@pytest.mark.parametrize("kind", ["link", "fifo", "device"])
async def test_files_of_every_kind_are_copied_up(kind: str) -> None:
    lower = await layer({"link": "target"})
    async with mount(lower) as client:
        await client.mknod("fifo", stat.S_IFIFO | 0o640)
        await client.mknod("device", stat.S_IFBLK | 0o600, os.makedev(8, 1))
    upper = memory()
    async with overlaid(upper, lower) as client:
        before = await client.stat(kind)
        await client.chown(kind, 5, 6)
        after = await client.stat(kind)
        assert (after.mode, after.rdev, after.ino) == (before.mode, before.rdev, before.ino)
        assert (after.uid, after.gid) == (5, 6)
    assert list(await content_of(upper)) == [kind]


async def test_a_file_opened_for_reading_shows_what_is_written_to_its_copy() -> None:
    async with overlaid(memory(), await layer({"file": b"old content"})) as client:
        node = await node_of(client, "file")
        reader = (await client.open_node(node)).fh
        assert await client.read(node, reader, 0, 100) == b"old content"
        writer = (await client.open_node(node, os.O_WRONLY)).fh
        assert await client.write(node, writer, 0, b"new") == 3
        assert await client.read(node, reader, 0, 100) == b"new content"
        assert (await client.getattr(node, reader)).attr.size == 11
        assert await client.lseek(node, reader, 0, os.SEEK_HOLE) == 11
        await client.release(node, writer)
        await client.release(node, reader)


@pytest.mark.parametrize("way", ["open", "setattr"])
async def test_what_is_cut_off_is_not_copied(way: str) -> None:
    lower = Watched(await layer({"file": bytes(range(256)) * 40_000}))
    async with overlaid(memory(), lower) as client:
        if way == "open":
            await client.write_bytes("file", b"new")
        else:
            await client.truncate("file", 3)
        assert (await client.stat("file")).size == 3
        assert lower.asked["read"] == (way == "setattr")


async def test_holes_stay_holes() -> None:
    lower = memory()
    async with mount(lower) as client:
        await client.write_bytes("file", b"begin")
        await client.truncate("file", 1 << 40)
        node = await node_of(client, "file")
        opened = await client.open_node(node, os.O_RDWR)
        await client.write(node, opened.fh, 1 << 30, b"middle")
        await client.release(node, opened.fh)
        blocks = (await client.stat("file")).blocks
    async with overlaid(memory(), lower) as client:
        await client.chmod("file", 0o600)
        about = await client.stat("file")
        assert (about.size, about.blocks) == (1 << 40, blocks)
        node = await node_of(client, "file")
        opened = await client.open_node(node)
        assert await client.read(node, opened.fh, (1 << 30) - 2, 10) == b"\0\0middle\0\0"
        await client.release(node, opened.fh)


async def test_a_copy_that_does_not_fit_leaves_the_file_as_it_was() -> None:
    lower = await layer({"dir": {"file": b"x" * (1 << 20)}})
    upper = memory(64 << 10)
    async with overlaid(upper, lower) as client:
        with refused(errno.ENOSPC):
            await client.chmod("dir/file", 0o600)
        assert (await client.stat("dir/file")).mode == stat.S_IFREG | 0o644
        assert await client.read_bytes("dir/file") == b"x" * (1 << 20)
        free = (await client.statfs()).bfree
        await client.truncate("dir/file", 10)
        assert free - (await client.statfs()).bfree < 8
    assert await content_of(upper) == {"dir": {"file": b"x" * 10}}


async def test_what_a_crash_left_is_not_seen_and_goes_at_the_next_start() -> None:
    upper = await layer({".vhostfs-overlay": {"#1": {"deep": {"er": b"half a copy"}}, "#2": b"", "#3": None}})
    async with overlaid(upper, await layer({"file": b""})) as client:
        assert await client.listdir() == ["file"]
        assert not await client.exists(".vhostfs-overlay")
        for call in (client.mkdir(".vhostfs-overlay"), client.rename("file", ".vhostfs-overlay")):
            with refused(errno.EPERM):
                await call
    assert await content_of(upper) == {}


async def test_an_overlay_begins_also_where_the_upper_layer_is_full() -> None:
    upper = MemoryFilesystem(size=8 * PAGE, inodes=10, mode=0o755)
    async with mount(upper) as client:
        with refused(errno.ENOSPC):
            for number in range(20):
                await client.write_bytes(f"file{number}", b"")
    async with overlaid(upper, await layer({"lower": b"content"})) as client:
        assert await client.read_bytes("lower") == b"content"
        with refused(errno.ENOSPC):
            await client.chmod("lower", 0o600)
        await client.unlink("file0")


async def test_an_overlay_does_not_begin_where_the_upper_layer_cannot_be_marked() -> None:
    upper = memory()

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    upper.setxattr = refuse  # type: ignore[assignment]
    overlay = OverlayFilesystem([memory()], upper)
    with pytest.raises(PermissionError, match="see userxattr"):
        await overlay.init(None)  # type: ignore[arg-type]
    assert await content_of(upper) == {}


async def test_layers_may_be_overlays_themselves() -> None:
    inner = OverlayFilesystem(
        [await layer({"dir": {"a": b"a", "b": b"b"}})], await layer({"dir": {"a": None}})
    )
    async with overlaid(memory(), inner, await layer({"dir": {"c": b"c"}})) as client:
        assert await tree(client) == {"dir": {"b": b"b", "c": b"c"}}
        assert len({(await client.stat(path)).ino for path in ("dir", "dir/b", "dir/c")}) == 3
        await client.write_bytes("dir/b", b"new")
        await client.unlink("dir/c")
        assert await tree(client) == {"dir": {"b": b"new"}}


async def test_copies_may_be_made_beside_the_upper_layer() -> None:
    upper = await layer({"data": {}, "work": {"kept": b""}})
    filesystem = OverlayFilesystem([await layer({"file": b"old"})], upper, upper_path="data", work="work")
    async with mount(filesystem) as client:
        await client.write_bytes("file", b"new")
        await client.mkdir(".vhostfs-overlay")
        assert sorted(await client.listdir()) == [".vhostfs-overlay", "file"]
    expected = {"data": {"file": b"new", ".vhostfs-overlay": {}}, "work": {"kept": b""}}
    assert await content_of(upper) == expected


async def test_a_number_stays_while_a_file_is_known_and_after() -> None:
    upper, lower = memory(), await layer({"dir": {"file": b""}, "other": {"again": b""}})
    async with overlaid(upper, lower) as client:
        numbers = [(await client.stat(path)).ino for path in ("dir", "dir/file")]
        await client.chmod("dir/file", 0o600)
        assert [(await client.stat(path)).ino for path in ("dir", "dir/file")] == numbers
        await client.rename("dir/file", "other/file")
        await client.rename("dir", "elsewhere")
    async with overlaid(upper, lower) as client:
        assert [(await client.stat(path)).ino for path in ("elsewhere", "other/file")] == numbers
        assert {entry.name: entry.ino for entry in await client.entries("other")}[b"file"] == numbers[1]
        assert {entry.name: entry.ino for entry in await client.entries()}[b"elsewhere"] == numbers[0]


async def test_numbers_of_different_layers_differ() -> None:
    layers = [await layer({f"file{index}": b""}) for index in range(3)]
    async with overlaid(*layers) as client:
        assert len({(await client.stat(f"file{index}")).ino for index in range(3)}) == 3


# ---- Names ----


async def test_a_removed_name_of_a_lower_layer_leaves_a_whiteout() -> None:
    upper, lower = memory(), await layer({"dir": {"a": b"", "b": b""}, "link": "x"})
    async with overlaid(upper, lower) as client:
        await client.unlink("dir/a")
        await client.unlink("link")
        assert await tree(client) == {"dir": {"b": b""}}
        with refused(errno.ENOENT):
            await client.unlink("dir/a")
    assert await content_of(upper) == {"dir": {"a": None}, "link": None}


async def test_a_removed_name_of_the_upper_layer_alone_leaves_nothing() -> None:
    upper = await layer({"dir": {"a": b""}})
    async with overlaid(upper, await layer({"dir": {}})) as client:
        await client.unlink("dir/a")
        await client.mkdir("dir/sub")
        await client.rmdir("dir/sub")
    assert await content_of(upper) == {"dir": {}}


async def test_what_is_made_in_the_place_of_a_whiteout_is_the_callers_and_has_nothing_from_below() -> None:
    upper, lower = memory(), await layer({"file": b"old", "dir": {"old": b""}})
    async with overlaid(upper, lower) as client:
        await client.chown("/", 0, 50)
        await client.chmod("/", 0o2777)
        await client.unlink("file")
        await client.unlink("dir/old")
        await client.rmdir("dir")
        client.caller = Caller(1000, 1001)
        await client.write_bytes("file", b"new", 0o640)
        await client.mkdir("dir", 0o750)
        file, directory = await client.stat("file"), await client.stat("dir")
        assert (file.uid, file.gid, file.mode) == (1000, 50, stat.S_IFREG | 0o640)
        assert (directory.uid, directory.gid) == (1000, 50)
        assert directory.mode == stat.S_IFDIR | 0o2750
        assert await tree(client) == {"file": b"new", "dir": {}}
    assert await content_of(upper) == {"file": b"new", "dir": {}}
    assert await xattr(upper, "dir", OPAQUE) == b"y"


async def test_a_merged_directory_goes_when_all_that_it_holds_is_whiteouts() -> None:
    upper, lower = memory(), await layer({"dir": {"a": b"", "sub": {"b": b""}}})
    async with overlaid(upper, lower) as client:
        for path in ("dir/a", "dir/sub/b"):
            await client.unlink(path)
        with refused(errno.ENOTEMPTY):
            await client.rmdir("dir")
        await client.rmdir("dir/sub")
        await client.rmdir("dir")
        assert await tree(client) == {}
    assert await content_of(upper) == {"dir": None}


async def test_a_renamed_directory_of_a_lower_layer_is_found_by_its_redirect() -> None:
    upper = memory()
    lower = await layer({"dir": {"sub": {"deep": {"file": b"x"}}, "a": b"a"}, "else": {}})
    async with overlaid(upper, lower) as client:
        await client.rename("dir", "new")
        await client.rename("new/sub/deep", "else/deep")
        await client.rename("else/deep", "else/deeper")
        expected: Content = {"new": {"a": b"a", "sub": {}}, "else": {"deeper": {"file": b"x"}}}
        assert await tree(client) == expected
        await client.mkdir("dir")
        expected = {**expected, "dir": {}}
    async with overlaid(upper, lower) as client:
        assert await tree(client) == expected
        await client.unlink("else/deeper/file")
        await client.rmdir("else/deeper")
    assert await xattr(upper, "new", REDIRECT) == b"dir"
    assert await content_of(upper) == {
        "dir": {},
        "new": {"sub": {"deep": None}},
        "else": {},
    }


async def test_where_redirects_are_not_followed_directories_of_lower_layers_stay() -> None:
    upper, lower = memory(), await layer({"dir": {"a": b""}})
    async with overlaid(upper, lower, userxattr=True) as client:
        with refused(errno.EXDEV):
            await client.rename("dir", "new")
        await client.mkdir("own")
        await client.rename("own", "new")
        await client.unlink("dir/a")
        await client.rmdir("dir")
        await client.mkdir("dir")
        assert await tree(client) == {"dir": {}, "new": {}}
    assert await xattr(upper, "dir", "user.overlay.opaque") == b"y"


async def test_a_directory_moved_over_what_a_lower_layer_has_is_not_merged_with_it() -> None:
    upper, lower = memory(), await layer({"dir": {"a": b""}, "new": {}})
    async with overlaid(upper, lower) as client:
        await client.mkdir("own")
        await client.unlink("dir/a")
        await client.rename("own", "dir")
        assert await tree(client) == {"dir": {}, "new": {}}
        await client.rename("dir", "new")
        await client.mkdir("dir")
        assert await tree(client) == {"dir": {}, "new": {}}
    async with overlaid(upper, lower) as client:
        assert await tree(client) == {"dir": {}, "new": {}}


async def test_names_of_different_layers_can_be_exchanged() -> None:
    upper, lower = memory(), await layer({"file": b"file", "dir": {"a": b""}})
    async with overlaid(upper, lower) as client:
        await client.rename("file", "dir", RenameFlags.EXCHANGE)
        assert await tree(client) == {"file": {"a": b""}, "dir": b"file"}
    async with overlaid(upper, lower) as client:
        assert await tree(client) == {"file": {"a": b""}, "dir": b"file"}


async def test_a_linked_file_of_a_lower_layer_is_one_file_from_then_on() -> None:
    upper, lower = memory(), await layer({"file": b"old", "dir": {}})
    async with overlaid(upper, lower) as client:
        await client.link("file", "dir/again")
        await client.write_bytes("dir/again", b"new")
        assert await client.read_bytes("file") == b"new"
        one, other = await client.stat("file"), await client.stat("dir/again")
        assert (one.ino, one.nlink) == (other.ino, 2)
        await client.unlink("file")
        assert (await client.stat("dir/again")).nlink == 1
    assert await content_of(upper) == {"dir": {"again": b"new"}, "file": None}


async def test_names_of_one_file_in_a_lower_layer_part_when_it_is_copied_up() -> None:
    lower = await layer({"file": b"old"})
    async with mount(lower) as client:
        await client.link("file", "again")
    async with overlaid(memory(), lower) as client:
        await client.write_bytes("file", b"new")
        assert await client.read_bytes("again") == b"old"
        assert (await client.stat("file")).ino != (await client.stat("again")).ino


async def test_a_removed_file_lives_as_long_as_it_is_open() -> None:
    upper, lower = Watched(memory()), await layer({"file": b"content"})
    async with overlaid(upper, lower) as client:
        entry = await client.lookup(client.root, "file")
        node = entry.nodeid
        reader = (await client.open_node(node)).fh
        await client.unlink("file")
        assert await client.read(node, reader, 0, 100) == b"content"
        writer = (await client.open_node(node, os.O_RDWR)).fh
        await client.write(node, writer, 0, b"C")
        assert await client.read(node, reader, 0, 100) == b"Content"
        assert await client.listdir() == []
        for handle in (reader, writer):
            await client.release(node, handle)
        client.forget(node)
    assert await content_of(upper.inner) == {"file": None}


# ---- Listings ----


async def test_a_listing_goes_on_from_its_cookies_whatever_happens_meanwhile() -> None:
    upper = await layer({f"upper{index}": b"" for index in range(5)})
    lower = await layer({f"lower{index}": b"" for index in range(40)} | {"upper1": b"hidden"})
    async with overlaid(upper, lower) as client:
        expected = {b".", b"..", *(b"upper%d" % index for index in range(5))}
        expected |= {b"lower%d" % index for index in range(40)}
        fh = (await client.opendir(client.root)).fh
        seen = await client.readdir(client.root, fh, size=300)
        await client.chmod("lower20", 0o600)
        await client.unlink("lower30")
        await client.unlink("upper0")
        while page := await client.readdir(client.root, fh, seen[-1].off, size=300):
            seen += page
        names = [entry.name for entry in seen]
        assert len(names) == len(set(names))
        assert set(names) - {b"lower30", b"upper0"} == expected - {b"lower30", b"upper0"}
        for place in (3, 7, 20):
            again = await client.readdir(client.root, fh, seen[place].off, size=300)
            assert again[0].name == names[place + 1]
        await client.releasedir(client.root, fh)
        assert b"lower30" not in [entry.name for entry in await client.entries()]


async def test_types_and_numbers_of_a_listing_are_those_of_the_files() -> None:
    upper = await layer({"dir": {"new": b""}, "link": "x", "upper": {}})
    lower = await layer({"dir": {"old": b"", "fifo": b""}, "file": b"", "link": b""})
    async with overlaid(upper, lower) as client:
        await client.chmod("dir/old", 0o600)
        for path in ("", "dir"):
            for entry in await client.entries(path or "/"):
                about = await client.stat(f"{path}/{os.fsdecode(entry.name)}")
                assert (entry.ino, entry.type) == (about.ino, stat.S_IFMT(about.mode) >> 12), entry.name


class Endless(Filesystem[None]):
    """A directory of many files, none of which it holds."""

    COUNT = 100_000

    def __init__(self) -> None:
        self.yielded = 0

    def getattr(self, caller: Caller, node: int, handle: None) -> Attr:
        """Know the root."""
        return Attr.directory(node)

    def lookup(self, caller: Caller, parent: int, name: str) -> None:
        """Find nothing."""

    def readdir(self, caller: Caller, node: int, handle: None, offset: int) -> Iterable[DirEntry]:
        """List names that are made up."""
        for number in range(offset, self.COUNT):
            self.yielded = number
            yield DirEntry(f"file{number}", number + 2, FileType.REGULAR, number + 1)


async def test_of_the_lowest_layer_no_more_is_listed_than_is_wanted() -> None:
    lowest = Endless()
    async with overlaid(await layer({"file7": b"", "new": b""}), lowest) as client:
        fh = (await client.opendir(client.root)).fh
        page = await client.readdir(client.root, fh, size=PAGE)
        assert 50 < lowest.yielded < 500
        offset = page[-1].off + Endless.COUNT - 1000
        page = await client.readdir(client.root, fh, offset, size=PAGE)
        assert lowest.yielded > Endless.COUNT - 1000
        assert b"file7" not in [entry.name for entry in page]
        await client.releasedir(client.root, fh)


# ---- Attributes of the overlay's own; no upper layer ----


async def test_the_overlays_own_attributes_are_not_seen_and_cannot_be_forged() -> None:
    upper, lower = memory(), await layer({"dir": {"a": b""}})
    async with overlaid(upper, lower) as client:
        await client.rename("dir", "new")
        node = await node_of(client, "new")
        assert await client.listxattr_node(node) == []
        with refused(errno.ENODATA):
            await client.getxattr_node(node, REDIRECT)
        await client.setxattr_node(node, OPAQUE, b"y")
        assert await client.getxattr_node(node, OPAQUE) == b"y"
        assert await client.listxattr_node(node) == [OPAQUE]
    async with overlaid(upper, lower) as client:
        assert await tree(client) == {"new": {"a": b""}}
        node = await node_of(client, "new")
        await client.removexattr_node(node, OPAQUE)
        assert await client.listxattr_node(node) == []


async def test_without_an_upper_layer_nothing_changes() -> None:
    lower = await layer({"file": b"content", "dir": {"a": b""}})
    async with overlaid(None, memory(), lower) as client:
        node = await node_of(client, "file")
        for call in (
            client.write_bytes("new", b""),
            client.write_bytes("file", b""),
            client.mkdir("new"),
            client.mknod("new", stat.S_IFIFO),
            client.symlink("x", "new"),
            client.link("file", "new"),
            client.unlink("file"),
            client.rmdir("dir"),
            client.rename("file", "new"),
            client.chmod("file", 0),
            client.truncate("file", 0),
            client.open_node(node, os.O_RDWR),
            client.setxattr_node(node, "user.x", b""),
            client.removexattr_node(node, "user.x"),
            client.tmpfile(client.root),
        ):
            with refused(errno.EROFS):
                await call
        assert await tree(client) == {"file": b"content", "dir": {"a": b""}}


# ---- Settings ----


@pytest.mark.parametrize(
    ("lowers", "upper_path", "work"),
    [(0, "", ""), (1, "/data", "work"), (1, "data", "../work"), (1, "data", "data/work"), (1, "", "work")],
)
def test_settings_that_make_no_overlay_are_refused(lowers: int, upper_path: str, work: str) -> None:
    lower = tuple(MemorySettings() for _ in range(lowers))
    with pytest.raises(ValueError, match=r"layer|work"):
        OverlaySettings(lower, MemorySettings(), upper_path, work)


async def test_settings_open_every_layer() -> None:
    settings = OverlaySettings((MemorySettings(), MemorySettings()), MemorySettings())
    async with mount(settings.open()) as client:
        await fill(client, {"dir": {"file": b"content"}})
        assert await tree(client) == {"dir": {"file": b"content"}}


def test_an_upper_layer_that_keeps_no_attributes_is_refused() -> None:
    upper = NamedSettings(f"{__name__}:Endless")
    with pytest.raises(ConfigurationError, match="extended attributes"):
        OverlaySettings((MemorySettings(),), upper).open()
