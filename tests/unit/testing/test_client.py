"""The client keeps nothing of a file whose call was refused."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from vhostfs.filesystem import Attr, Caller, Entry, Filesystem
from vhostfs.testing import mount

pytestmark = pytest.mark.anyio


class Locked(Filesystem[None]):
    """A file that cannot be opened."""

    def lookup(self, caller: Caller, parent: int, name: str) -> Entry:
        return Entry(Attr.file(2))

    def open(self, caller: Caller, node: int, flags: int) -> NoReturn:
        raise PermissionError(os.strerror(1))


async def test_a_file_that_cannot_be_opened_is_forgotten() -> None:
    async with mount(Locked()) as client:
        for call in (client.read_bytes("/file"), client.write_bytes("/file", b"content")):
            with pytest.raises(PermissionError):
                await call
        assert not client.lookups
