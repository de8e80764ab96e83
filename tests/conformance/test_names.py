"""Names: making, linking, renaming and removing them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.conformance.place import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, Place
from tests.conformance.refusals import refused


def plant(place: Place) -> None:
    """Make one of every kind."""
    place.write("file", b"content")
    place.mkdir("dir")
    place.write("dir/inner", b"inner")
    place.mkdir("dir/sub")
    place.mkdir("hollow")
    place.symlink("file", "link")
    place.mknod("fifo", stat.S_IFIFO | 0o644)


def test_a_new_file_is_empty_and_its_makers(place: Place) -> None:
    place.chmod("", 0o777)
    place.as_user(1000, 1001).mknod("file", stat.S_IFREG | 0o640)
    about = place.stat("file")
    assert (about.mode, about.size, about.nlink) == (stat.S_IFREG | 0o640, 0, 1)
    assert (about.uid, about.gid) == (1000, 1001)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
def test_files_of_every_type_can_be_made(place: Place, kind: int) -> None:
    place.mknod("node", kind | 0o604)
    assert place.stat("node").mode == kind | 0o604


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_keep_their_number(place: Place, kind: int) -> None:
    place.mknod("node", kind | 0o600, os.makedev(8, 17))
    about = place.stat("node")
    assert (about.mode, about.rdev) == (kind | 0o600, os.makedev(8, 17))


def test_a_symbolic_link_keeps_its_target(place: Place) -> None:
    place.symlink("some/where else", "link")
    about = place.stat("link")
    assert place.readlink("link") == "some/where else"
    assert (stat.S_IFMT(about.mode), about.size) == (stat.S_IFLNK, 15)
    place.symlink("x" * 4000, "long")
    assert place.readlink("long") == "x" * 4000


def is_text(name: str) -> bool:
    """Tell whether the bytes of a name are UTF-8."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


@pytest.mark.parametrize("name", ["n" * 255, "ünï", "\udcff\udcfe", " ", "...", "a\nb", "-", "\\"])
def test_names_are_bytes_of_any_kind(place: Place, name: str) -> None:
    if place.differs("names-are-text") and not is_text(name):
        refused(errno.EILSEQ, lambda: place.write(name, b"x"))
        refused(errno.EILSEQ, lambda: place.mkdir(name))
        refused(errno.ENOENT, lambda: place.stat(name))
        return
    place.write(name, b"x")
    assert place.names() == [name]
    assert place.read(name) == b"x"
    place.unlink(name)
    assert place.names() == []


@pytest.mark.parametrize("name", [".vhostfs-meta", ".vhostfs-probe-1", "dir_$folder$"])
def test_no_name_means_more_than_a_file(place: Place, name: str) -> None:
    if not place.differs("reserved-names"):
        place.write(name, b"content")
        place.rename(name, "file")
        place.rename("file", name)
        assert place.names() == [name]
        return
    place.write("file", b"content")
    for make in (place.write, place.mkdir, lambda name: place.symlink("x", name)):
        refused(errno.EPERM, lambda make=make: make(name))  # type: ignore[misc]
    refused(errno.EPERM, lambda: place.rename("file", name))
    assert place.names() == ["file"]


def test_paths_may_be_long(place: Place) -> None:
    name = "n" * 250
    for depth in range(1, 5):
        place.mkdir("/".join([name] * depth))
    deepest = "/".join([name] * 4)
    place.write(f"{deepest}/file")
    above = "above" * 6
    place.mkdir(above)
    if place.differs("paths-are-keys"):
        refused(errno.ENAMETOOLONG, lambda: place.mkdir(f"{deepest}/{name}"))
        refused(errno.ENAMETOOLONG, lambda: place.write(f"{deepest}/{name}"))
        refused(errno.ENAMETOOLONG, lambda: place.rename(name, f"{above}/{name}"))
        assert (place.names(deepest), place.names(above)) == (["file"], [])
        return
    place.mkdir(f"{deepest}/{name}")
    place.rename(name, f"{above}/{name}")
    assert sorted(place.names(f"{above}/{deepest}")) == sorted(["file", name])


@pytest.mark.parametrize(
    ("number", "call"),
    [
        (errno.EEXIST, lambda place: place.mkdir("file")),
        (errno.EEXIST, lambda place: place.mkdir("dir")),
        (errno.EEXIST, lambda place: place.mknod("link", stat.S_IFREG | 0o644)),
        (errno.EEXIST, lambda place: place.symlink("x", "fifo")),
        (errno.EEXIST, lambda place: place.link("file", "hollow")),
        (errno.EEXIST, lambda place: place.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL)),
        (errno.ENOENT, lambda place: place.mkdir("missing/new")),
        (errno.ENOENT, lambda place: place.stat("missing")),
        (errno.ENOENT, lambda place: place.open("missing", os.O_RDONLY)),
        (errno.ENOENT, lambda place: place.link("missing", "new")),
        (errno.ENOENT, lambda place: place.unlink("missing")),
        (errno.ENOENT, lambda place: place.rmdir("missing")),
        (errno.ENOENT, lambda place: place.rename("missing", "new")),
        (errno.ENOENT, lambda place: place.rename("file", "missing/new")),
        (errno.ENOTDIR, lambda place: place.mkdir("file/new")),
        (errno.ENOTDIR, lambda place: place.stat("file/new")),
        (errno.ENOTDIR, lambda place: place.unlink("fifo/new")),
        (errno.ENOTDIR, lambda place: place.rmdir("file")),
        (errno.ENOTDIR, lambda place: place.rmdir("link")),
        (errno.ENOTDIR, lambda place: place.rename("hollow", "file")),
        (errno.ENOTDIR, lambda place: place.rename("file", "fifo/new")),
        (errno.EISDIR, lambda place: place.unlink("hollow")),
        (errno.EISDIR, lambda place: place.rename("file", "hollow")),
        (errno.EISDIR, lambda place: place.open("dir", os.O_WRONLY)),
        (errno.ENOTEMPTY, lambda place: place.rmdir("dir")),
        (errno.ENOTEMPTY, lambda place: place.rename("hollow", "dir")),
        (errno.ENOTEMPTY, lambda place: place.rename("dir/sub", "dir")),
        (errno.ENOTEMPTY, lambda place: place.rename("dir/inner", "dir")),
        (errno.EINVAL, lambda place: place.rename("dir", "dir/new")),
        (errno.EINVAL, lambda place: place.rename("dir", "dir/sub/new")),
        (errno.EINVAL, lambda place: place.rename("dir", "dir/sub", RENAME_EXCHANGE)),
        (errno.EINVAL, lambda place: place.rename("dir/sub", "dir", RENAME_EXCHANGE)),
        (errno.EINVAL, lambda place: place.readlink("file")),
        (errno.EPERM, lambda place: place.link("dir", "new")),
        (errno.ELOOP, lambda place: place.open("link", os.O_RDONLY)),
        (errno.ENAMETOOLONG, lambda place: place.mkdir("n" * 256)),
        (errno.ENAMETOOLONG, lambda place: place.stat("n" * 256)),
        (errno.ENAMETOOLONG, lambda place: place.rename("file", "n" * 256)),
        (errno.EEXIST, lambda place: place.rename("file", "fifo", RENAME_NOREPLACE)),
        (errno.EEXIST, lambda place: place.rename("file", "file", RENAME_NOREPLACE)),
        (errno.ENOENT, lambda place: place.rename("file", "missing", RENAME_EXCHANGE)),
        (errno.ENOENT, lambda place: place.rename("missing", "file", RENAME_EXCHANGE)),
        (errno.EINVAL, lambda place: place.rename("file", "fifo", RENAME_EXCHANGE | RENAME_NOREPLACE)),
        (errno.EINVAL, lambda place: place.rename("file", "fifo", RENAME_EXCHANGE | RENAME_WHITEOUT)),
        (errno.EINVAL, lambda place: place.rename("file", "fifo", 0x80)),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    place: Place, number: int, call: Callable[[Place], object]
) -> None:
    plant(place)
    refused(number, lambda: call(place))
    assert sorted(place.names()) == ["dir", "fifo", "file", "hollow", "link"]
    assert sorted(place.names("dir")) == ["inner", "sub"]
    assert place.read("file") == b"content"


def test_a_linked_file_is_one_file(place: Place) -> None:
    place.write("file", b"content")
    place.mkdir("dir")
    if place.differs("no-second-names"):
        refused(errno.EPERM, lambda: place.link("file", "dir/again"))
        assert (place.stat("file").nlink, place.names("dir")) == (1, [])
        return
    place.link("file", "dir/again")
    assert place.stat("file") == place.stat("dir/again")
    assert place.stat("file").nlink == 2
    place.write("dir/again", b"changed")
    assert place.read("file") == b"changed"
    place.unlink("file")
    assert place.stat("dir/again").nlink == 1


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_special_files_and_links_can_be_linked(place: Place, kind: int) -> None:
    place.mknod("special", kind | 0o644)
    if place.differs("no-second-names"):
        refused(errno.EPERM, lambda: place.link("special", "again"))
        assert place.names() == ["special"]
        return
    place.link("special", "again")
    assert place.stat("again").nlink == 2
    place.symlink("special", "link")
    place.link("link", "link again")
    assert place.readlink("link again") == "special"


def test_directories_count_their_subdirectories(place: Place) -> None:
    if place.differs("merged-directories-have-one-link"):
        place.mkdir("one")
        place.mkdir("one/inner")
        assert (place.stat().nlink, place.stat("one").nlink) == (1, 3)
        return
    if place.differs("directories-have-one-link"):
        place.mkdir("one")
        place.mkdir("one/inner")
        assert (place.stat().nlink, place.stat("one").nlink, place.stat("one/inner").nlink) == (1, 1, 1)
        return
    assert place.stat().nlink == 2
    place.mkdir("one")
    place.mkdir("two")
    place.mkdir("one/inner")
    assert (place.stat().nlink, place.stat("one").nlink, place.stat("two").nlink) == (4, 3, 2)
    place.rename("one/inner", "two/inner")
    assert (place.stat().nlink, place.stat("one").nlink, place.stat("two").nlink) == (4, 2, 3)
    place.rename("one", "two/inner")
    assert (place.stat().nlink, place.stat("two").nlink) == (3, 3)
    place.write("file")
    place.rename("file", "two/inner", RENAME_EXCHANGE)
    assert (place.stat().nlink, place.stat("two").nlink) == (4, 2)
    place.rmdir("file")
    assert place.stat().nlink == 3


def test_renaming_replaces(place: Place) -> None:
    plant(place)
    number = place.stat("file").ino
    place.rename("file", "link")
    assert (place.stat("link").ino, place.read("link")) == (number, b"content")
    place.rename("dir", "hollow")
    assert sorted(place.names()) == ["fifo", "hollow", "link"]
    assert sorted(place.names("hollow")) == ["inner", "sub"]


def test_renaming_to_another_name_of_the_same_file_does_nothing(place: Place) -> None:
    place.write("file", b"content")
    place.rename("file", "file")
    assert place.read("file") == b"content"
    if place.differs("no-second-names"):
        refused(errno.EPERM, lambda: place.link("file", "again"))
        return
    place.link("file", "again")
    place.rename("file", "again")
    assert sorted(place.names()) == ["again", "file"]
    assert place.stat("file").nlink == 2


def test_two_names_can_be_exchanged(place: Place) -> None:
    plant(place)
    file, directory = place.stat("file").ino, place.stat("dir/sub").ino
    if place.differs("no-exchange"):
        refused(errno.EINVAL, lambda: place.rename("file", "dir/sub", RENAME_EXCHANGE))
        assert (place.stat("file").ino, place.stat("dir/sub").ino) == (file, directory)
        return
    place.rename("file", "dir/sub", RENAME_EXCHANGE)
    assert (place.stat("file").ino, place.stat("dir/sub").ino) == (directory, file)
    assert dict(place.listing("file"))[".."] == place.stat().ino


def test_renaming_leaves_a_whiteout_behind_where_asked(place: Place) -> None:
    plant(place)
    if place.differs("no-whiteouts"):
        refused(errno.EINVAL, lambda: place.rename("file", "new", RENAME_WHITEOUT))
        refused(errno.EPERM, lambda: place.mknod("new", stat.S_IFCHR, 0))
        return
    if place.differs("no-exchange"):
        refused(errno.EINVAL, lambda: place.rename("file", "new", RENAME_WHITEOUT))
        assert place.read("file") == b"content"
        return
    place.rename("file", "new", RENAME_WHITEOUT)
    left = place.stat("file")
    assert (left.mode, left.rdev) == (stat.S_IFCHR, 0)
    assert place.read("new") == b"content"


def test_a_moved_directory_knows_its_new_parent(place: Place) -> None:
    plant(place)
    place.rename("dir/sub", "hollow/sub")
    assert dict(place.listing("hollow/sub"))[".."] == place.stat("hollow").ino
    refused(errno.EINVAL, lambda: place.rename("hollow", "hollow/sub/new"))
    place.rename("dir", "hollow/sub/dir")
    assert place.read("hollow/sub/dir/inner") == b"inner"


def test_new_files_inherit_the_group_of_a_set_group_id_directory(place: Place) -> None:
    place.mkdir("dir")
    place.chown("dir", 0, 7)
    place.chmod("dir", 0o2777)
    user = place.as_user(1000, 1000)
    user.mkdir("dir/sub", 0o755)
    user.mknod("dir/file", stat.S_IFREG | 0o644)
    user.symlink("x", "dir/link")
    assert (place.stat("dir/sub").gid, place.stat("dir/sub").mode & 0o7777) == (7, 0o2755)
    assert (place.stat("dir/file").gid, place.stat("dir/file").mode & 0o7777) == (7, 0o644)
    assert place.stat("dir/link").gid == 7


def test_inode_numbers_are_not_shared(place: Place) -> None:
    for number in range(50):
        place.write(str(number))
    assert len({place.stat(name).ino for name in place.names()}) == 50


def test_a_removed_file_that_is_open_lives_on(place: Place) -> None:
    place.write("file", b"content")
    with place.open("file", os.O_RDWR) as file:
        place.unlink("file")
        assert place.names() == []
        assert file.stat().nlink == 0
        assert file.read(100) == b"content"
        file.write(b"more", 7)
        file.truncate(9)
        assert file.read(100) == b"contentmo"
        refused(errno.ENOENT, lambda: file.link("again"))


def test_a_replaced_file_that_is_open_lives_on(place: Place) -> None:
    place.write("file", b"content")
    place.write("other", b"other")
    with place.open("file", os.O_RDONLY) as file:
        place.rename("other", "file")
        assert file.read(100) == b"content"
        assert file.stat().nlink == 0
    assert place.read("file") == b"other"


def test_a_file_without_a_name_can_be_given_one(place: Place) -> None:
    if place.differs("no-nameless-files"):
        refused(errno.EOPNOTSUPP, lambda: place.tmpfile("", os.O_RDWR))
        assert place.names() == []
        return
    with place.tmpfile("", os.O_RDWR, 0o640) as file:
        assert place.names() == []
        assert (file.stat().nlink, file.stat().mode) == (0, stat.S_IFREG | 0o640)
        file.write(b"content")
        file.link("file")
        assert file.stat().nlink == 1
        file.link("again")
        assert file.stat().nlink == 2
    assert place.read("file") == b"content"


def test_a_file_without_a_name_may_be_denied_one(place: Place) -> None:
    if place.differs("no-nameless-files"):
        refused(errno.EOPNOTSUPP, lambda: place.tmpfile("", os.O_RDWR | os.O_EXCL))
        return
    with place.tmpfile("", os.O_RDWR | os.O_EXCL) as file:
        refused(errno.ENOENT, lambda: file.link("file"))
    assert place.names() == []
