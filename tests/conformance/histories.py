"""Histories: any calls in any order, made in two places at once, which must go alike at every step.

One place is a directory of the host, the other is what is checked. Compared are what each call returns or is
refused with, and after each step all that can be seen in the two trees.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import groupby, zip_longest
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.conformance.detached import detached_tmpfs
from tests.conformance.host import HostPlace
from tests.conformance.place import OpenFile, Place
from vhostfs.fuse_abi.flags import FallocateFlags

PAGE = 4096
SIZE = 100 * PAGE
INODES = 24
"""Small, so that histories meet the limits."""

MESSAGE = 2000
"""Most letters of what went otherwise."""

LONG_AGO = 1_000_000_000_000_000_000
OPEN_FILES = 4

NAMES = st.sampled_from(["a", "b", "c", "\udcff"])
PATHS = st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join), st.sampled_from(["a/b/a", "a/b/b", "b/c/c"]))
MODES = st.sampled_from([0o644, 0o755, 0o4711, 0o2770, 0])
OFFSETS = st.sampled_from([0, 1, 4095, 4096, 5000, 8192, 12288, 65536, 200_000])
LENGTHS = st.sampled_from([1, 100, 4096, 5000, 20_000, 140_000])
FAR = st.sampled_from([(1 << 20) + 5, 1 << 40, (1 << 62) + 4097])
SIZES = st.one_of(OFFSETS, FAR)
ATTRIBUTES = st.sampled_from(
    ["user.a", "user.b", "trusted.a", "security.a", "user." + "n" * 250, "nowhere.a"]
)
VALUES = st.sampled_from([b"", b"1", b"x" * 100, b"y" * 5000])
RENAMES = st.sampled_from([0, 0, 0, 1, 2, 4, 5])
INDEXES = st.integers(0, OPEN_FILES - 1)
TARGETS = ("/dev/null", "/" * 200 + "dev/null")
"""Where links lead: to a file, so that no path leads through one."""


def drawn(name: str) -> st.SearchStrategy[Any]:
    """Draw from what the histories that run have by a name: one kind of places may take less than another."""
    return st.runner().flatmap(lambda histories: getattr(histories, name))


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return what a call returns, or its errno by name."""
    try:
        return "returned", call()
    except OSError as error:
        return "refused", errno.errorcode.get(error.errno or 0, error.errno)


def agreed(seen: object, wanted: object) -> None:
    """Check that what is checked went as on the host."""
    if seen != wanted and isinstance(seen, dict) and isinstance(wanted, dict):
        path = next(each for each in (*seen, *wanted) if seen.get(each) != wanted.get(each))
        pairs = zip_longest(seen.get(path, ()), wanted.get(path, ()))
        told = [f"{mine} instead of {theirs}" for mine, theirs in pairs if mine != theirs]
        raise AssertionError(f"{path!r}: {'; '.join(told)}"[:MESSAGE])
    assert seen == wanted, f"{seen} instead of {wanted}"[:MESSAGE]


def repeated(data: bytes) -> str:
    """Return data in few words: each byte in hexadecimal, and how often it comes."""
    return " ".join(f"{byte:02x}*{sum(1 for _ in same)}" for byte, same in groupby(data))


def content(file: OpenFile) -> list[tuple[int, str]]:
    """Return the pages of a file that are not all zeroes, which may be holes or reserved on one side only."""
    pages: list[tuple[int, str]] = []
    at = 0
    while True:
        try:
            begin = file.seek(at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return pages
        at = file.seek(begin, os.SEEK_HOLE)
        for offset in range(begin, at, PAGE):
            data = file.read(min(PAGE, at - offset), offset)
            if any(data):
                pages.append((offset, repeated(data)))


RANGE_MODES = [
    0,
    FallocateFlags.KEEP_SIZE,
    FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE,
    FallocateFlags.PUNCH_HOLE,
]
"""What is done to ranges of files."""


class Histories(RuleBasedStateMachine):
    """The two places, and files that are open in both. Derive, and say what is checked by `subject`."""

    exact: ClassVar[bool] = True
    """Whether space and holes are compared too."""

    attribute_names: ClassVar[st.SearchStrategy[str]] = ATTRIBUTES
    attribute_values: ClassVar[st.SearchStrategy[bytes]] = VALUES
    rename_flags: ClassVar[st.SearchStrategy[int]] = RENAMES
    sizes: ClassVar[st.SearchStrategy[int]] = SIZES
    write_offsets: ClassVar[st.SearchStrategy[int]] = st.one_of(OFFSETS, OFFSETS, FAR)
    range_lengths: ClassVar[st.SearchStrategy[int]] = st.one_of(
        LENGTHS, st.sampled_from([0, 1 << 40, 1 << 62])
    )

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.real = self.host()
        self.checked = self.subject()
        self.files: list[tuple[OpenFile, OpenFile]] = []

    def host(self) -> Place:
        """Return what it is compared with: a tmpfs, which is small where space is compared."""
        size, inodes = (SIZE, INODES) if self.exact else (SIZE << 10, INODES << 10)
        directory = detached_tmpfs(size=str(size), nr_inodes=str(inodes), mode="755")
        return HostPlace(self.stack.enter_context(directory))

    def subject(self) -> Place:
        """Return what is checked, for as long as self.stack."""
        raise NotImplementedError

    def teardown(self) -> None:
        for pair in self.files:
            for file in pair:
                file.close()
        self.stack.close()

    # ---- Doing the same twice ----

    def both(self, call: Callable[[Place], Any]) -> None:
        """Make a call in both places, and compare."""
        agreed(outcome(lambda: call(self.checked)), outcome(lambda: call(self.real)))

    def with_file(self, index: int, call: Callable[[OpenFile], Any]) -> None:
        """Make a call of an open file, where one is open."""
        if self.files:
            real, checked = self.files[index % len(self.files)]
            agreed(outcome(lambda: call(checked)), outcome(lambda: call(real)))

    def opening(self, call: Callable[[Place], OpenFile]) -> None:
        """Open a file in both places; the longest open one is closed where there are too many."""
        opened: list[OpenFile] = []

        def remembering(place: Place) -> None:
            opened.append(call(place))

        self.both(remembering)
        if opened:
            checked, real = opened
            self.files.append((real, checked))
        if len(self.files) > OPEN_FILES:
            for file in self.files.pop(0):
                file.close()

    # ---- Names ----

    @initialize()
    def plant(self) -> None:
        """Begin with a few names, so that fewer calls lead nowhere."""
        for place in (self.real, self.checked):
            place.mkdir("a")
            place.mkdir("a/b")
            place.write("b", b"content")
            place.link("b", "a/c")
        self.opening(lambda place: place.open("b", os.O_RDWR))

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        self.both(lambda place: place.mkdir(path, mode))

    @rule(
        path=PATHS,
        kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]),
        mode=MODES,
    )
    def mknod(self, path: str, kind: int, mode: int) -> None:
        self.both(lambda place: place.mknod(path, kind | mode, os.makedev(1, 3)))

    @rule(path=PATHS, leads_to=st.sampled_from(TARGETS))
    def symlink(self, path: str, leads_to: str) -> None:
        self.both(lambda place: place.symlink(leads_to, path))

    @rule(path=PATHS, new_path=PATHS)
    def link(self, path: str, new_path: str) -> None:
        self.both(lambda place: place.link(path, new_path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda place: place.unlink(path))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda place: place.rmdir(path))

    @rule(path=PATHS, new_path=PATHS, flags=drawn("rename_flags"))
    def rename(self, path: str, new_path: str, flags: int) -> None:
        self.both(lambda place: place.rename(path, new_path, flags))

    # ---- Attributes ----

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        if not self.is_link(path):
            self.both(lambda place: place.chmod(path, mode))

    @rule(path=PATHS, uid=st.sampled_from([-1, 0, 7]), gid=st.sampled_from([-1, 0, 8]))
    def chown(self, path: str, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1):
            self.both(lambda place: place.chown(path, uid, gid))

    @rule(path=PATHS)
    def utime(self, path: str) -> None:
        self.both(lambda place: place.utime(path, LONG_AGO, LONG_AGO))

    @rule(
        path=PATHS,
        name=drawn("attribute_names"),
        value=drawn("attribute_values"),
        flags=st.sampled_from([0, 0, 1, 2]),
    )
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.both(lambda place: place.setxattr(path, name, value, flags))

    @rule(path=PATHS, name=drawn("attribute_names"))
    def getxattr(self, path: str, name: str) -> None:
        self.both(lambda place: place.getxattr(path, name))

    @rule(path=PATHS, name=drawn("attribute_names"))
    def removexattr(self, path: str, name: str) -> None:
        self.both(lambda place: place.removexattr(path, name))

    @rule(path=PATHS, size=drawn("sizes"))
    def truncate(self, path: str, size: int) -> None:
        # To the size that it has is a change on tmpfs where the file has pages, and none where it has not.
        if not self.is_link(path) and outcome(lambda: self.real.stat(path).size) != ("returned", size):
            self.both(lambda place: place.truncate(path, size))

    # ---- Files ----

    @rule(path=PATHS, more=st.sampled_from([0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC]), mode=MODES)
    def open(self, path: str, more: int, mode: int) -> None:
        if not self.is_special(path):
            self.opening(lambda place: place.open(path, os.O_RDWR | more, mode))

    @rule(path=PATHS, more=st.sampled_from([0, os.O_EXCL]))
    def tmpfile(self, path: str, more: int) -> None:
        if not self.is_special(path):
            self.opening(lambda place: place.tmpfile(path, os.O_RDWR | more))

    @precondition(lambda self: bool(self.files))
    @rule(index=INDEXES)
    def close(self, index: int) -> None:
        for file in self.files.pop(index % len(self.files)):
            file.close()

    @precondition(lambda self: bool(self.files))
    @rule(index=INDEXES, offset=drawn("write_offsets"), length=LENGTHS, byte=st.sampled_from(b"xyz"))
    def write(self, index: int, offset: int, length: int, byte: int) -> None:
        self.with_file(index, lambda file: file.write(bytes([byte]) * length, offset))

    @precondition(lambda self: bool(self.files))
    @rule(index=INDEXES, offset=drawn("sizes"), length=LENGTHS)
    def read(self, index: int, offset: int, length: int) -> None:
        self.with_file(index, lambda file: file.read(length, offset))

    @precondition(lambda self: bool(self.files))
    @rule(index=INDEXES, size=drawn("sizes"))
    def ftruncate(self, index: int, size: int) -> None:
        self.with_file(index, lambda file: file.truncate(size))

    @precondition(lambda self: bool(self.files))
    @rule(
        index=INDEXES,
        mode=st.sampled_from(RANGE_MODES),
        offset=drawn("sizes"),
        length=drawn("range_lengths"),
    )
    def fallocate(self, index: int, mode: int, offset: int, length: int) -> None:
        self.with_file(index, lambda file: file.fallocate(mode, offset, length))

    @precondition(lambda self: bool(self.files))
    @rule(source=INDEXES, sink=INDEXES, offset=OFFSETS, sink_offset=OFFSETS, length=LENGTHS)
    def copy(self, source: int, sink: int, offset: int, sink_offset: int, length: int) -> None:
        from_real, from_checked = self.files[source % len(self.files)]
        to_real, to_checked = self.files[sink % len(self.files)]
        agreed(
            outcome(lambda: from_checked.copy_to(offset, to_checked, sink_offset, length)),
            outcome(lambda: from_real.copy_to(offset, to_real, sink_offset, length)),
        )

    @precondition(lambda self: bool(self.files))
    @rule(index=INDEXES, path=PATHS)
    def link_open_file(self, index: int, path: str) -> None:
        self.with_file(index, lambda file: file.link(path))

    # ---- What is seen ----

    def is_link(self, path: str) -> bool:
        """Tell whether a path is a link, which some calls would follow."""
        try:
            return stat.S_ISLNK(self.real.stat(path).mode)
        except OSError:
            return False

    def is_special(self, path: str) -> bool:
        """Tell whether a path is neither a file, a directory nor a link."""
        try:
            kind = stat.S_IFMT(self.real.stat(path).mode)
        except OSError:
            return False
        return kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}

    def attributes(self, place: Place, path: str, inodes: dict[int, str]) -> Iterable[Any]:
        """Yield all that is seen of one path, but its content."""
        about = place.stat(path)
        directory = stat.S_ISDIR(about.mode)
        yield oct(about.mode)
        yield about.uid
        yield about.gid
        yield about.rdev
        yield about.mtime_ns == LONG_AGO
        yield inodes.setdefault(about.ino, path)
        if not directory or self.exact:
            yield about.nlink
            yield about.size
        if self.exact:
            yield about.blocks
        for name in sorted(place.listxattr(path)):
            yield name, place.getxattr(path, name)
        if stat.S_ISLNK(about.mode):
            yield place.readlink(path)

    def portrait(self, place: Place) -> dict[str, list[Any]]:
        """Return all that is seen of a tree, by path, and of the open files and the whole."""
        seen: dict[str, list[Any]] = {}
        inodes: dict[int, str] = {}
        paths = [""]
        for path in paths:
            seen[path] = list(self.attributes(place, path, inodes))
            mode = int(seen[path][0], 8)
            if stat.S_ISDIR(mode):
                names = sorted(place.names(path))
                paths += [f"{path}/{name}".lstrip("/") for name in names]
            elif stat.S_ISREG(mode):
                with place.open(path, os.O_RDONLY) as file:
                    seen[path].append(self.content(file))
        if self.exact:
            figures = place.statfs()
            seen["the whole"] = [figures.blocks, figures.bfree, figures.files]
            if not self.files:
                # An open file keeps the directory that it was in, on the host.
                seen["the whole"].append(figures.ffree)
        return seen

    def content(self, file: OpenFile) -> Any:
        """Return what a file holds."""
        return content(file) if self.exact else repeated(file.read(1 << 20))

    @invariant()
    def both_look_alike(self) -> None:
        agreed(self.portrait(self.checked), self.portrait(self.real))
        for real, checked in self.files:
            about, wanted = checked.stat(), real.stat()
            agreed((about.mode, about.size, about.nlink), (wanted.mode, wanted.size, wanted.nlink))
            agreed(self.content(checked), self.content(real))
