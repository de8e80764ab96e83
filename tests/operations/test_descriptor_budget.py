"""A guest may know more files than the daemon may open, and each stays itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of

LIMIT = 256
FEW = f"--rlimit-nofile={LIMIT}"
COUNT = 10_000


def open_descriptors(mount: Mount) -> int:
    """Return how many descriptors the daemon has open."""
    return len(list(Path(f"/proc/{mount.daemon.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide 10,000 files in 100 directories."""
    root = tmp_path_factory.mktemp("tree")
    for outer in range(100):
        directory = root / f"dir{outer:02}"
        directory.mkdir()
        for inner in range(COUNT // 100):
            (directory / f"file{inner:02}").write_bytes(b"%d/%d" % (outer, inner))
    return root


@pytest.mark.timeout(100)
def test_ten_thousand_files_are_walked_held_and_read_again_with_256_descriptors(
    tree: Path, shares: Shares
) -> None:
    with shares.mounted(FEW) as mount:
        client = mount.client
        (mount.directory / "tree").mkdir()
        for path in tree.iterdir():
            os.rename(path, mount.directory / "tree" / path.name)  # noqa: PTH104
        top = mount.node("tree")
        held: dict[tuple[int, int], int] = {}
        for outer in range(100):
            directory = client.lookup(top, b"dir%02d" % outer).nodeid
            for entry in client.list_directory(directory, plus=True, size=65536):
                if entry.name.startswith(b"file"):
                    assert entry.entry is not None
                    held[outer, int(entry.name[4:])] = entry.entry.nodeid
        assert len(held) == COUNT
        assert len(set(held.values())) == COUNT
        assert open_descriptors(mount) <= LIMIT
        for (outer, inner), node in held.items():
            opened = client.open(node)
            assert client.read(node, opened.fh, 100) == b"%d/%d" % (outer, inner)
            client.release(node, opened.fh)
        assert open_descriptors(mount) <= LIMIT
        for outer in range(100):
            directory = client.lookup(top, b"dir%02d" % outer).nodeid
            assert client.lookup(directory, b"file07").nodeid == held[outer, 7]


def test_nodes_beyond_the_budget_follow_the_guests_renames_and_removals(shares: Shares) -> None:
    with shares.mounted(FEW) as mount:
        client = mount.client
        nodes = {}
        for index in range(600):
            (mount.directory / f"dir{index}").mkdir()
            (mount.directory / f"dir{index}" / "file").write_bytes(b"%d" % index)
            directory = client.lookup(1, b"dir%d" % index).nodeid
            nodes[index] = directory, client.lookup(directory, b"file").nodeid
        for index in range(0, 600, 7):
            client.rename(1, b"dir%d" % index, 1, b"moved%d" % index)
        for index in range(0, 600, 5):
            client.unlink(nodes[index][0], b"file")
            client.forget(nodes[index][1])
        for index, (directory, node) in nodes.items():
            if index % 5:
                assert client.lookup(directory, b"file").nodeid == node
                opened = client.open(node)
                assert client.read(node, opened.fh, 10) == b"%d" % index
                client.release(node, opened.fh)
        assert open_descriptors(mount) <= LIMIT


def test_too_many_open_files_are_an_error_of_the_guest_that_goes_away(shares: Shares) -> None:
    with shares.mounted(FEW) as mount:
        client = mount.client
        (mount.directory / "file").write_bytes(b"content")
        node = mount.node("file")
        handles: list[int] = []
        for _ in range(2 * LIMIT):
            number = errno_of(lambda: handles.append(client.open(node).fh))
            if number is not None:
                break
        assert number in {errno.EMFILE, errno.ENFILE}
        assert len(handles) >= LIMIT // 4
        assert client.getattr(node).attr.size == 7
        assert client.read(node, handles[0], 10) == b"content"
        for fh in handles:
            client.release(node, fh)
        assert client.read(node, client.open(node).fh, 10) == b"content"
        assert errno_of(lambda: client.lookup(1, b"file")) is None


def test_an_unknown_number_of_lookups_costs_no_descriptor_each(shares: Shares) -> None:
    with shares.mounted("--xattr") as mount:
        for index in range(2000):
            (mount.directory / f"file{index}").touch()
        before = open_descriptors(mount)
        for index in range(2000):
            mount.client.lookup(1, b"file%d" % index)
        assert open_descriptors(mount) < before + 100
