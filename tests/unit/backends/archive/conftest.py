"""File systems run on asyncio alone; archives are made and opened in a directory of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vhostfs.backends.archive import ArchiveFilesystem, SquashfsFilesystem, open_archive

type Opener = Callable[..., Any]


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of all tests here."""
    return "asyncio"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens an archive from its bytes, or its path; all are closed at the end."""
    made: list[ArchiveFilesystem | SquashfsFilesystem] = []

    def open_one(archive: bytes | Path, **options: Any) -> ArchiveFilesystem | SquashfsFilesystem:
        if isinstance(archive, bytes):
            path = tmp_path / f"archive{len(made)}"
            path.write_bytes(archive)
        else:
            path = archive
        made.append(open_archive(path, **{"spool_dir": tmp_path, **options}))
        return made[-1]

    yield open_one
    for each in made:
        each.close()
