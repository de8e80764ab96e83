"""The directory that a daemon serves while it is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import load

FILES: Final = 1000
DATA_SIZE: Final = 64 << 20
PAGE: Final = 4096
XATTR_VALUE: Final = b"sixteen bytes it"


@dataclass(frozen=True, slots=True)
class Share:
    """A populated directory: files/ and cold/ of 1,000 small files each, new/, and files of data."""

    directory: Path

    @property
    def read_file(self) -> Path:
        return self.directory / "read"

    @property
    def write_file(self) -> Path:
        return self.directory / "write"

    @property
    def bare_file(self) -> Path:
        """What the bare system calls write to: what a daemon wrote is looked at afterwards."""
        return self.directory / "bare"

    @property
    def background_file(self) -> Path:
        return self.directory / "background"

    def drop_cached_data(self) -> None:
        """Make the next reads of the file of data come from the disk."""
        with self.read_file.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _small_files(directory: Path) -> None:
    directory.mkdir()
    for number in range(FILES):
        path = directory / f"file-{number:05}"
        path.write_bytes(b"x" * (100 + number))
        os.setxattr(path, "user.benchmark", XATTR_VALUE)


def make_share(directory: Path) -> Share:
    """Populate a directory, which must not exist."""
    share = Share(directory)
    directory.mkdir(parents=True)
    _small_files(directory / "files")
    _small_files(directory / "cold")
    (directory / "new").mkdir()
    ffi, library = load()
    page = ffi.new("uint8_t[]", PAGE)
    with share.read_file.open("wb") as file:
        for number in range(DATA_SIZE // PAGE):
            library.fill_page(page, number)
            file.write(ffi.buffer(page))
    sizes = {share.write_file: DATA_SIZE, share.bare_file: DATA_SIZE, share.background_file: 1 << 20}
    for path, size in sizes.items():
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
    return share
