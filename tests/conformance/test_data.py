"""Contents: reading, writing, truncating, holes, reservations and copies."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from tests.conformance.place import (
    OpenFile,
    Place,
)
from tests.conformance.refusals import refused
from vhostfs.fuse_abi.flags import FallocateFlags

PAGE = 4096
PATTERN = bytes(range(256)) * 4096


@pytest.fixture
def file(place: Place) -> Iterator[OpenFile]:
    """Provide a new file, open for reading and writing."""
    with place.open("file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644) as file:
        yield file


def map_of(file: OpenFile) -> list[tuple[int, int]]:
    """Return where a file holds data, each piece from and to."""
    pieces: list[tuple[int, int]] = []
    at = 0
    while True:
        try:
            begin = file.seek(at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO  # noqa: PT017
            return pieces
        at = file.seek(begin, os.SEEK_HOLE)
        pieces.append((begin, at))


def blocks(place: Place, file: OpenFile, taken: int) -> int:
    """Return how many blocks a file shows of which so many bytes were written or reserved."""
    return -(-file.stat().size // 512) if place.differs("no-holes") else taken // 512


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 65536, 1 << 20])
def test_what_was_written_is_read_back(file: OpenFile, size: int) -> None:
    data = PATTERN[:size]
    assert file.write(data) == size
    assert file.read(size) == data
    assert file.stat().size == size
    assert file.read(100, size) == b""
    assert file.read(100, size - 1) == data[-1:]


def test_many_writes_make_one_file(file: OpenFile) -> None:
    for number in range(24):
        file.write(bytes([number]) * 131072, number * 131072)
    assert file.stat().size == 24 * 131072
    for number in range(24):
        assert file.read(131072, number * 131072) == bytes([number]) * 131072
    assert file.read(1 << 20, 65536)[65535:65537] == b"\0\1"


def test_writes_may_come_in_any_order(file: OpenFile) -> None:
    order = [(number * 37) % 64 for number in range(64)]
    for number in order:
        file.write(bytes([number]) * PAGE, number * PAGE)
    assert file.read(64 * PAGE) == b"".join(bytes([number]) * PAGE for number in range(64))


def test_writes_overwrite(file: OpenFile) -> None:
    file.write(b"a" * 10000)
    file.write(b"b" * 3000, 3500)
    assert file.read(20000) == b"a" * 3500 + b"b" * 3000 + b"a" * 3500
    file.write(b"c" * 3000, 8000)
    assert file.read(20000)[6500:] == b"a" * 1500 + b"c" * 3000


def test_an_empty_write_changes_nothing(file: OpenFile) -> None:
    assert file.write(b"", 100) == 0
    assert file.stat().size == 0


def test_what_was_never_written_reads_as_zeroes(place: Place, file: OpenFile) -> None:
    file.write(b"end", 3 * PAGE + 5)
    assert file.read(4 * PAGE) == bytes(3 * PAGE + 5) + b"end"
    assert file.stat().blocks == blocks(place, file, PAGE)


def test_files_may_be_sparse_and_huge(place: Place, file: OpenFile) -> None:
    place.unlink("file")  # who has no holes would send them
    file.write(b"far", 1 << 40)
    size = (1 << 40) + 3
    assert (file.stat().size, file.stat().blocks) == (size, blocks(place, file, PAGE))
    assert file.read(10, (1 << 40) - 2) == b"\0\0far"
    assert map_of(file) == [(0 if place.differs("no-holes") else 1 << 40, size)]


def test_appending_goes_to_the_end(place: Place) -> None:
    place.write("file", b"first")
    with place.open("file", os.O_WRONLY | os.O_APPEND) as file:
        file.write(b" second", 0)
    assert place.read("file") == b"first second"


def test_opening_may_truncate(place: Place) -> None:
    place.write("file", b"content")
    place.open("file", os.O_RDWR | os.O_TRUNC).close()
    assert place.stat("file").size == 0
    assert place.stat("file").blocks == 0


def test_truncating_cuts_off_and_lengthens(place: Place, file: OpenFile) -> None:
    file.write(b"x" * 10000)
    file.truncate(5000)
    assert (file.stat().size, file.stat().blocks) == (5000, blocks(place, file, 2 * PAGE))
    file.truncate(10000)
    assert file.read(10000) == b"x" * 5000 + bytes(5000)
    assert file.stat().blocks == blocks(place, file, 2 * PAGE)
    place.truncate("file", 0)
    assert (file.stat().size, file.stat().blocks) == (0, 0)


def test_files_can_be_lengthened_far(place: Place, file: OpenFile) -> None:
    if place.differs("no-larger-than-objects"):
        refused(errno.EFBIG, lambda: place.truncate("file", (5 << 40) + 1))
        refused(errno.EFBIG, lambda: file.write(b"x", 5 << 40))
        assert file.stat().size == 0
        return
    place.truncate("file", 1 << 50)
    assert file.stat().size == 1 << 50
    assert map_of(file) == []


def test_what_lies_behind_the_end_never_comes_back(file: OpenFile) -> None:
    file.write(b"x" * PAGE)
    file.truncate(10)
    file.write(b"y", 20)
    assert file.read(100) == b"x" * 10 + bytes(10) + b"y"
    file.truncate(5)
    file.fallocate(0, 0, 100)
    assert file.read(200) == b"xxxxx" + bytes(95)


def test_only_files_can_be_truncated(place: Place) -> None:
    place.mkdir("dir")
    place.mknod("fifo", stat.S_IFIFO | 0o644)
    place.write("file", b"content")
    refused(errno.EISDIR, lambda: place.truncate("dir", 0))
    refused(errno.EINVAL, lambda: place.truncate("fifo", 0))
    refused(errno.EINVAL, lambda: place.truncate("file", -1))
    assert place.read("file") == b"content"


def test_data_and_holes_can_be_found(place: Place, file: OpenFile) -> None:
    file.truncate(100 * PAGE)
    file.write(b"a", 10 * PAGE + 5)
    file.write(b"b" * PAGE * 2, 20 * PAGE)
    file.write(b"c", 99 * PAGE)
    assert file.seek(10 * PAGE + 7, os.SEEK_DATA) == 10 * PAGE + 7
    if place.differs("no-holes"):
        assert map_of(file) == [(0, 100 * PAGE)]
    else:
        assert map_of(file) == [
            (10 * PAGE, 11 * PAGE),
            (20 * PAGE, 22 * PAGE),
            (99 * PAGE, 100 * PAGE),
        ]
        assert file.seek(5, os.SEEK_HOLE) == 5
        assert file.seek(21 * PAGE + 1, os.SEEK_HOLE) == 22 * PAGE
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        refused(errno.ENXIO, lambda whence=whence: file.seek(100 * PAGE, whence))  # type: ignore[misc]
        refused(errno.ENXIO, lambda whence=whence: file.seek(-1, whence))  # type: ignore[misc]


def test_a_full_file_has_its_hole_at_the_end(file: OpenFile) -> None:
    file.write(b"x" * 5000)
    assert file.seek(0, os.SEEK_HOLE) == 5000
    assert file.seek(4999, os.SEEK_DATA) == 4999


def test_holes_can_be_punched(place: Place, file: OpenFile) -> None:
    file.write(PATTERN[: 8 * PAGE])
    file.fallocate(FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE, PAGE + 10, 3 * PAGE)
    expected = PATTERN[: PAGE + 10] + bytes(3 * PAGE) + PATTERN[4 * PAGE + 10 : 8 * PAGE]
    assert file.read(8 * PAGE) == expected
    assert map_of(file) == (
        [(0, 8 * PAGE)] if place.differs("no-holes") else [(0, 2 * PAGE), (4 * PAGE, 8 * PAGE)]
    )
    assert file.stat().blocks == blocks(place, file, 6 * PAGE)
    file.fallocate(FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE, 5 * PAGE + 1, 10)
    assert file.read(12, 5 * PAGE) == PATTERN[:1] + bytes(10) + PATTERN[11:12]
    file.fallocate(FallocateFlags.PUNCH_HOLE | FallocateFlags.KEEP_SIZE, 0, 1 << 40)
    assert (file.stat().size, file.stat().blocks) == (8 * PAGE, blocks(place, file, 0))
    assert file.read(9 * PAGE) == bytes(8 * PAGE)


def test_space_can_be_reserved(place: Place, file: OpenFile) -> None:
    file.write(b"x" * 10)
    file.fallocate(0, 0, 3 * PAGE)
    assert (file.stat().size, file.stat().blocks) == (3 * PAGE, 24)
    assert file.read(4 * PAGE) == b"x" * 10 + bytes(3 * PAGE - 10)
    file.fallocate(FallocateFlags.KEEP_SIZE, 3 * PAGE, 2 * PAGE)
    assert (file.stat().size, file.stat().blocks) == (3 * PAGE, blocks(place, file, 5 * PAGE))
    file.write(b"y" * PAGE, 3 * PAGE)
    assert (file.stat().size, file.stat().blocks) == (4 * PAGE, blocks(place, file, 5 * PAGE))
    file.truncate(4 * PAGE)
    assert file.stat().blocks == 32


def test_ranges_can_be_zeroed(place: Place, file: OpenFile) -> None:
    file.write(b"x" * 3 * PAGE)
    if place.differs("no-zero-range"):
        refused(errno.EOPNOTSUPP, lambda: file.fallocate(FallocateFlags.ZERO_RANGE, 100, PAGE))
        return
    file.fallocate(FallocateFlags.ZERO_RANGE, 100, PAGE)
    assert file.read(3 * PAGE) == b"x" * 100 + bytes(PAGE) + b"x" * (2 * PAGE - 100)
    file.fallocate(FallocateFlags.ZERO_RANGE, 2 * PAGE, 3 * PAGE)
    assert file.stat().size == 5 * PAGE
    file.fallocate(FallocateFlags.ZERO_RANGE | FallocateFlags.KEEP_SIZE, 0, 8 * PAGE)
    assert (file.stat().size, file.stat().blocks) == (5 * PAGE, blocks(place, file, 8 * PAGE))
    assert file.read(6 * PAGE) == bytes(5 * PAGE)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "number"),
    [
        (0, 0, 0, errno.EINVAL),
        (0, -1, 10, errno.EINVAL),
        (0, 0, -1, errno.EINVAL),
        (0, (1 << 63) - 1, 10, errno.EFBIG),
        (FallocateFlags.PUNCH_HOLE, 0, 10, errno.EOPNOTSUPP),
        (FallocateFlags.COLLAPSE_RANGE, 0, PAGE, errno.EOPNOTSUPP),
        (FallocateFlags.INSERT_RANGE, 0, PAGE, errno.EOPNOTSUPP),
        (0x4000, 0, 10, errno.EOPNOTSUPP),
    ],
)
def test_what_cannot_be_reserved_is_refused(
    file: OpenFile, mode: int, offset: int, length: int, number: int
) -> None:
    file.write(b"content")
    refused(number, lambda: file.fallocate(mode, offset, length))
    assert file.read(100) == b"content"


def test_no_file_is_larger_than_the_kernel_can_count(file: OpenFile) -> None:
    refused(errno.EINVAL, lambda: file.write(b"too far", (1 << 63) - 1))
    assert file.stat().size == 0


def test_what_is_free_is_told(place: Place, file: OpenFile) -> None:
    before = place.statfs()
    assert 0 < before.bavail == before.bfree <= before.blocks
    assert 0 < before.ffree <= before.files
    assert before.namelen == 255
    file.write(b"x" * PAGE)
    file.sync()
    after = place.statfs()
    if place.differs("no-limits"):
        assert (after.blocks * after.frsize, after.files) == (1 << 52, 1 << 40)
        assert (after.bfree, after.ffree) == (before.blocks, before.files)
    else:
        assert before.bfree * before.frsize - after.bfree * after.frsize == PAGE


def test_data_is_copied_between_files(place: Place, file: OpenFile) -> None:
    file.write(PATTERN[:30000])
    with place.open("copy", os.O_RDWR | os.O_CREAT) as copy:
        assert file.copy_to(100, copy, 5000, 20000) == 20000
        assert copy.read(100000) == bytes(5000) + PATTERN[100:20100]
        assert file.copy_to(29990, copy, 0, 1000) == 10
        assert file.copy_to(30000, copy, 0, 1000) == 0
        assert copy.read(10) == PATTERN[29990:30000]


def test_data_is_copied_within_a_file(file: OpenFile) -> None:
    file.write(PATTERN[:10000])
    assert file.copy_to(0, file, 10000, 10000) == 10000
    assert file.read(20000) == PATTERN[:10000] * 2
    refused(errno.EINVAL, lambda: file.copy_to(0, file, 5000, 10000))


def test_syncing_succeeds(file: OpenFile) -> None:
    file.write(b"content")
    file.sync()
    file.sync(data_only=True)
