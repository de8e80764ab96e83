"""Whatever a guest does to a memory file system: it stays within its limits, and its books are right."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.in_process import InProcessClient, mounted
from tests.conformance.refusals import refused
from tests.frontend.client import Caller, FuseClient
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.backends.memory.nodes import Directory
from vhostfs.filesystem import ROOT as ROOT_NODE
from vhostfs.filesystem import Caller as KernelCaller
from vhostfs.fuse_abi.flags import FallocateFlags, SetattrValid
from vhostfs.fuse_abi.structures import EntryOut, OpenOut, SetattrIn

PAGES = 40
INODES = 30
LAST = (1 << 63) - 1
CALLER = KernelCaller()


def memory(pages: int = PAGES, inodes: int = INODES) -> MemoryFilesystem:
    return MemoryFilesystem(size=pages * 4096, inodes=inodes, mode=0o755)


def free(filesystem: MemoryFilesystem) -> tuple[int, int]:
    figures = filesystem.statfs(CALLER, ROOT_NODE)
    return figures.bfree, figures.ffree


def check_books(filesystem: MemoryFilesystem, pages: int = PAGES) -> None:
    """Check that what is charged is what is there, that names lead somewhere, and that links are counted."""
    nodes = filesystem._nodes
    names: dict[int, int] = dict.fromkeys(nodes, 0)
    for node in nodes.values():
        if isinstance(node, Directory):
            inside = [node.find(name) for name in node._names]
            assert all(each is not None and nodes[each.number] is each for each in inside)
            assert node.nlink in {0, 2 + sum(isinstance(each, Directory) for each in inside)}
            for each in inside:
                assert each is not None
                names[each.number] += 1
                assert not isinstance(each, Directory) or each.parent is node
    for node in nodes.values():
        if not isinstance(node, Directory):
            assert node.nlink == names[node.number]
    assert free(filesystem)[0] == pages - sum(node.pages for node in nodes.values())


@contextmanager
def served(filesystem: MemoryFilesystem) -> Iterator[InProcessClient]:
    """Serve it, and check its books; what lost its name is gone at the end."""
    with mounted(filesystem) as client:
        yield client
    check_books(filesystem)
    assert all(node.nlink for node in filesystem._nodes.values())


# ---- Anything ----


@dataclass(frozen=True)
class Known:
    """Some node, or some open file with its node, of those that the session has given out."""

    number: int
    handle: bool = False


NODES = st.one_of(st.integers(0, 7).map(Known), st.sampled_from([0, 1, 100, 1 << 48, LAST, (1 << 64) - 1]))
FILES = st.one_of(
    st.integers(0, 7).map(lambda number: Known(number, handle=True)),
    st.tuples(NODES, st.sampled_from([0, 1, 100, (1 << 64) - 1])),
)
DIRECTORIES = st.one_of(st.just(ROOT_NODE), st.just(ROOT_NODE), NODES)
NAMES = st.sampled_from(
    [b"a", b"a", b"b", b"b", b"c", b"\xff", b"n" * 255, b"n" * 256, b".", b"..", b"", b"a/b"]
)
OFFSETS = st.one_of(
    st.integers(0, 60).map(lambda page: page * 4096),
    st.integers(0, 20_000),
    st.sampled_from([1 << 40, LAST - 4096, LAST - 1, LAST, LAST + 1, (1 << 64) - 4096, (1 << 64) - 1]),
)
SIZES = st.one_of(st.integers(0, 20_000), st.sampled_from([1 << 20]))
FLAGS = st.one_of(st.integers(0, 7), st.sampled_from([os.O_RDWR, os.O_TRUNC | os.O_WRONLY, (1 << 32) - 1]))
MODES = st.sampled_from([0, 0o644, 0o170000, 0o100644, 0o040755, 0o120777, 0o010644, (1 << 32) - 1])
IDS = st.sampled_from([0, 1000, (1 << 32) - 2, (1 << 32) - 1])
XATTRS = st.sampled_from(
    [b"user.a", b"user.b", b"security.capability", b"user.", b"x", b"", b"user." + b"n" * 251]
)
VALUES = st.sampled_from([b"", b"1", b"x" * 20_000, b"x" * 65_537])

SETATTRS = st.builds(
    SetattrIn,
    valid=st.integers(0, (1 << 13) - 1).map(SetattrValid),
    size=OFFSETS,
    atime=OFFSETS,
    mtime=OFFSETS,
    ctime=OFFSETS,
    atimensec=st.sampled_from([0, 999_999_999, (1 << 32) - 1]),
    mode=MODES,
    uid=IDS,
    gid=IDS,
)

REQUESTS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "lookup": (DIRECTORIES, NAMES),
    "forget": (NODES, st.integers(0, 3)),
    "getattr": (st.one_of(NODES, FILES),),
    "setattr": (NODES, SETATTRS),
    "statx": (NODES, FLAGS),
    "readlink": (NODES,),
    "mknod": (DIRECTORIES, NAMES, MODES),
    "mkdir": (DIRECTORIES, NAMES, MODES),
    "symlink": (DIRECTORIES, NAMES, st.sampled_from([b"", b"x", b"x" * 200, b"x" * 5000])),
    "link": (NODES, DIRECTORIES, NAMES),
    "unlink": (DIRECTORIES, NAMES),
    "rmdir": (DIRECTORIES, NAMES),
    "rename2": (DIRECTORIES, NAMES, DIRECTORIES, NAMES, st.one_of(st.integers(0, 4), FLAGS)),
    "open": (NODES, FLAGS),
    "create": (DIRECTORIES, NAMES, FLAGS, MODES),
    "tmpfile": (NODES, FLAGS, MODES),
    "read": (FILES, SIZES, OFFSETS),
    "write": (FILES, SIZES.map(lambda size: b"x" * size), OFFSETS),
    "release": (FILES,),
    "fallocate": (FILES, FLAGS, OFFSETS, OFFSETS),
    "lseek": (FILES, OFFSETS, FLAGS),
    "copy_file_range_64": (st.tuples(FILES, OFFSETS), st.tuples(FILES, OFFSETS), OFFSETS),
    "opendir": (NODES,),
    "readdir": (FILES, st.sampled_from([0, 100, 4096]), OFFSETS),
    "readdirplus": (FILES, st.sampled_from([0, 200, 4096]), OFFSETS),
    "releasedir": (FILES,),
    "getxattr": (NODES, XATTRS, st.sampled_from([0, 10, 65536])),
    "listxattr": (NODES, st.sampled_from([0, 10, 65536])),
    "setxattr": (NODES, XATTRS, VALUES, st.sampled_from([0, 0, 1, 2, 4])),
    "removexattr": (NODES, XATTRS),
    "statfs": (NODES,),
}
STEPS: st.SearchStrategy[list[tuple[str, tuple[Any, ...]]]] = st.lists(
    st.one_of([st.tuples(st.just(name), st.tuples(*arguments)) for name, arguments in REQUESTS.items()]),
    min_size=30,
    max_size=60,
)


class Guest:
    """Makes requests, and remembers what it was given."""

    def __init__(self, client: InProcessClient) -> None:
        self.client = client
        self.nodes = [ROOT_NODE]
        self.files: list[tuple[int, int]] = []

    def request(self, method: str, arguments: tuple[Any, ...]) -> None:
        """Make a request."""
        if method == "copy_file_range_64":
            arguments = (*(tuple(self.flat(each)) for each in arguments[:2]), arguments[2])
        else:
            arguments = tuple(self.flat(arguments))
        with suppress(OSError):
            self.learn(arguments, getattr(self.client, method)(*arguments))

    def flat(self, arguments: Iterable[Any]) -> Iterator[Any]:
        """Yield arguments, what is Known and tuples in their parts."""
        for each in arguments:
            if isinstance(each, tuple):
                yield from self.flat(each)
            elif not isinstance(each, Known):
                yield each
            elif each.handle:
                yield from self.files[each.number % len(self.files)] if self.files else (ROOT_NODE, 1)
            else:
                yield self.nodes[each.number % len(self.nodes)]

    def learn(self, arguments: tuple[Any, ...], result: object) -> None:
        """Remember nodes and handles."""
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, EntryOut):
                self.nodes.append(each.nodeid)
            elif isinstance(each, OpenOut):
                self.files.append((self.nodes[-1] if isinstance(result, tuple) else arguments[0], each.fh))


def play(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    """Make requests, and check the books after each."""
    filesystem = memory()
    with served(filesystem) as client:
        guest = Guest(client)
        for name in (b"a", b"b"):
            guest.request("create", (ROOT_NODE, name))
        guest.request("mkdir", (ROOT_NODE, b"c"))
        for method, arguments in steps:
            guest.request(method, arguments)
            check_books(filesystem)


@settings(max_examples=60, derandomize=True)
@given(steps=STEPS)
def test_any_requests_are_answered_and_the_books_stay_right(steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    play(steps)


# ---- Limits ----


def made(client: FuseClient, name: bytes = b"file") -> tuple[int, int]:
    """Make a file; return its node and handle."""
    entry, opened = client.create(ROOT_NODE, name)
    return entry.nodeid, opened.fh


def test_a_file_ends_where_the_kernel_can_count_no_further() -> None:
    with served(memory()) as client:
        node, fh = made(client)
        assert client.write(node, fh, b"x", LAST - 1) == 1
        assert client.getattr(node).attr.size == LAST
        assert client.read(node, fh, 100, LAST - 3) == b"\0\0x"
        for offset in (LAST, LAST + 1, (1 << 64) - 1):
            with pytest.raises(OSError, match=r"too large|Invalid"):
                client.write(node, fh, b"x", offset)
        assert client.lseek(node, fh, 0, os.SEEK_DATA) == LAST - 4095
        client.fallocate(node, fh, FallocateFlags.KEEP_SIZE | FallocateFlags.PUNCH_HOLE, 0, LAST)
        assert client.read(node, fh, 100, LAST - 3) == b"\0\0\0"
        client.truncate(node, 0)


@pytest.mark.parametrize("mode", [0, 1, 0x10])
def test_more_than_there_is_cannot_be_reserved(mode: int) -> None:
    filesystem = memory()
    with served(filesystem) as client:
        node, fh = made(client)
        client.truncate(node, LAST)
        for page in range(0, 20, 2):
            client.write(node, fh, b"x", page << 40)
        refused(errno.ENOSPC, lambda: client.fallocate(node, fh, mode, 0, LAST))
        assert free(filesystem)[0] == PAGES - 10 if mode != 0x10 else PAGES


def test_removed_files_that_are_open_count_until_they_are_closed() -> None:
    filesystem = memory()
    with served(filesystem) as client:
        nodes = []
        for number in range(PAGES // 8):
            nodes.append(made(client))
            client.write(*nodes[-1], b"x" * 8 * 4096)
            client.unlink(ROOT_NODE, b"file")
            client.forget(nodes[-1][0])
            assert free(filesystem)[0] == PAGES - 8 * (number + 1)
        node, fh = made(client)
        refused(errno.ENOSPC, lambda: client.write(node, fh, b"x"))
        client.release(*nodes[0])
        assert free(filesystem)[0] == 8
    assert free(filesystem) == (PAGES, INODES - 2)


def test_files_that_the_kernel_never_forgets_are_gone_with_its_session() -> None:
    filesystem = memory()
    with served(filesystem) as client:
        for _ in range(INODES - 1):
            node, fh = made(client)
            client.release(node, fh)
            client.unlink(ROOT_NODE, b"file")
        refused(errno.ENOSPC, lambda: made(client))
    assert free(filesystem) == (PAGES, INODES - 1)


def test_attributes_are_taken_from_the_inodes() -> None:
    filesystem = memory(inodes=200)
    with served(filesystem) as client:
        node, fh = made(client)
        client.release(node, fh)
        for number in range(3):
            client.setxattr(node, b"user.%d" % number, b"x" * 60_000)
        refused(errno.ENOSPC, lambda: client.setxattr(node, b"user.3", b"x" * 60_000))
        client.unlink(ROOT_NODE, b"file")
        client.forget(node)
        assert free(filesystem)[1] == 199


def test_the_names_of_attributes_fit_into_what_lists_them() -> None:
    with served(memory(inodes=10_000)) as client:
        node, _ = made(client)
        for number in range(65536 // 246):
            client.setxattr(node, b"user.%0240d" % number, b"")
        refused(errno.ENOSPC, lambda: client.setxattr(node, b"user." + b"n" * 240, b""))
        assert len(client.listxattr(node)) == 65536 // 246


def test_directories_may_be_deep() -> None:
    depth = 3000
    filesystem = memory(inodes=depth + 10)
    with served(filesystem) as client:
        node = ROOT_NODE
        for _ in range(depth):
            node = client.mkdir(node, b"d").nodeid
        client.mkdir(ROOT_NODE, b"other")
        client.rename(ROOT_NODE, b"other", node, b"other")
        refused(errno.EINVAL, lambda: client.rename(ROOT_NODE, b"d", node, b"d"))
        refused(errno.EINVAL, lambda: client.rename2(ROOT_NODE, b"d", node, b"other", 2))
        refused(errno.ENOTEMPTY, lambda: client.rename(node, b"other", ROOT_NODE, b"d"))
    filesystem.destroy()


def test_nothing_is_made_in_a_removed_directory() -> None:
    with served(memory()) as client:
        gone = client.mkdir(ROOT_NODE, b"gone").nodeid
        node, _ = made(client)
        client.rmdir(ROOT_NODE, b"gone")
        calls: list[Callable[[], object]] = [
            lambda: client.mkdir(gone, b"x"),
            lambda: client.mknod(gone, b"x", 0o100644),
            lambda: client.symlink(gone, b"x", b"y"),
            lambda: client.link(node, gone, b"x"),
            lambda: client.create(gone, b"x"),
            lambda: client.rename(ROOT_NODE, b"file", gone, b"x"),
        ]
        for call in calls:
            refused(errno.ENOENT, call)
        assert [entry.name for entry in client.list_directory(gone)] == [b".", b".."]


def test_who_changes_a_file_is_not_who_may_keep_its_power() -> None:
    with served(memory()) as client:
        node, fh = made(client)
        client.chmod(node, 0o6755)
        user = client.as_caller(Caller(1000, 1000))
        user.fallocate(node, fh, 0, 0, 10)
        assert client.getattr(node).attr.mode & 0o7777 == 0o755
