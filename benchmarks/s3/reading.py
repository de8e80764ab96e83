"""What is read: streams, scattered pages, and many small files. All that is read is compared afterwards."""

from __future__ import annotations

import mmap
import os
import random
from typing import Final

from benchmarks.s3 import objects
from benchmarks.s3.contestants import Mounted
from benchmarks.s3.measuring import Measured, WrongResultError, measured, side_by_side

BLOCK: Final = 1 << 20
PAGE: Final = 4096
SECONDS: Final = 2.0
LONG: Final = 120.0

_stream_memory: dict[int, mmap.mmap] = {}


def streams(mounted: Mounted, readers: int) -> tuple[float, Measured]:
    """Read as many objects from beginning to end as there are readers; return MiB a second."""
    size = objects.STREAM_SIZE

    def read(number: int) -> None:
        view = memoryview(_memory(number))
        with (mounted.path / objects.stream(number)).open("rb", buffering=0) as file:
            at = 0
            while count := file.readinto(view[at : at + BLOCK]):
                at += count
        if at != size:
            raise WrongResultError(f"{mounted.name}: a file of {size} bytes ends after {at}")

    for number in range(readers):
        _memory(number)[:] = bytes(size)  # so that it is there, and holds nothing of an earlier run
    with measured(mounted) as found:
        side_by_side(readers, readers, LONG, read)
    contents = objects.Contents(size)
    for number in range(readers):
        memory = _memory(number)
        for at in range(0, size, 64 << 20):
            if memory[at : at + (64 << 20)] != bytes(contents[at : at + (64 << 20)]):
                raise WrongResultError(f"{mounted.name}: a stream is wrong within 64 MiB of {at}")
    return readers * size / found.seconds / 2**20, found


def _memory(number: int) -> mmap.mmap:
    if number not in _stream_memory:
        _stream_memory[number] = mmap.mmap(-1, objects.STREAM_SIZE)
    return _stream_memory[number]


def scattered(mounted: Mounted, threads: int, seed: int) -> tuple[float, Measured]:
    """Read pages of a large object at random offsets, through one descriptor; return reads a second."""
    pages = objects.LARGE_SIZE // PAGE
    offsets = [PAGE * page for page in random.Random(seed).sample(range(pages), 20_000)]
    read: list[bytes] = [b""] * len(offsets)
    descriptor = os.open(mounted.path / objects.LARGE, os.O_RDONLY)

    def read_page(number: int) -> None:
        read[number] = os.pread(descriptor, PAGE, offsets[number])

    try:
        with measured(mounted) as found:
            done = side_by_side(threads, len(offsets), SECONDS, read_page)
    finally:
        os.close(descriptor)
    contents = objects.Contents(objects.LARGE_SIZE)
    for offset, page in zip(offsets[:done], read, strict=False):
        if page != contents[offset : offset + PAGE]:
            raise WrongResultError(f"{mounted.name}: the page at {offset} is wrong")
    return done / found.seconds, found


def small_files(mounted: Mounted, threads: int) -> tuple[float, Measured]:
    """List a directory and read its files in the order of their names; return files a second."""
    directory = mounted.path / "small"
    read: dict[str, bytes] = {}
    with measured(mounted) as found:
        names = sorted(os.listdir(directory))  # noqa: PTH208

        def read_file(number: int) -> None:
            with (directory / names[number]).open("rb", buffering=0) as file:
                read[names[number]] = file.read(1 << 20)

        done = side_by_side(threads, len(names), SECONDS, read_file)
    expected = bytes(objects.Contents(objects.SMALL_SIZE)[:])
    if len(names) != objects.SMALL or any(content != expected for content in read.values()):
        raise WrongResultError(f"{mounted.name}: {len(names)} small files, or one of another content")
    return done / found.seconds, found
