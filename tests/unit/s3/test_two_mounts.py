"""Two mounts of a bucket in turns: what one was told is in the bucket is there, whatever the other does."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import dataclass, field

import pytest

from tests.fake_s3.server import FakeS3
from tests.unit.s3.conftest import MakeFilesystem
from vhostfs.fuse_abi.flags import SetattrValid
from vhostfs.fuse_abi.structures import SetattrIn
from vhostfs.testing import Client, mount

pytestmark = pytest.mark.anyio

NAMES = ("a", "b", "d/a", "d/b", "e/a", "d", "e")
STEPS = 60
HISTORIES = 20

REFUSALS = {
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ESTALE,
}


@dataclass(slots=True, eq=False)
class _File:
    """A file that a program has open, as it knows it."""

    node: int
    handle: int
    path: str
    data: bytes
    known: list[bytes | None]
    """What the bucket had of it when the program last knew, and what was written since."""
    is_unsaved: bool = False
    """It was written, and neither closed nor renamed since."""
    is_gone: bool = False
    """It was deleted, replaced or refused: what is written to it is nobody's."""


@dataclass(slots=True)
class _Program:
    """Who works on one of the mounts."""

    client: Client
    server: FakeS3
    choices: random.Random
    files: list[_File] = field(default_factory=list)
    saved: int = 0
    """How often close has said that what was written is in the bucket."""

    async def step(self, number: int) -> None:
        """Do anything; OSError where that cannot be."""
        steps = (
            *(self._create, self._open, self._open, self._close, self._unlink),
            *(self._rename, self._rename, self._look),
        )
        if self.files and self.choices.random() < 0.5:
            await self.choices.choice((self._write, self._write, self._cut, self._flush))(
                self.choices.choice(self.files), b"%d;" % number
            )
        else:
            await self.choices.choice(steps)(self.choices.choice(NAMES))

    async def _place(self, path: str) -> tuple[int, str]:
        directory, _, name = path.rpartition("/")
        if not directory:
            return self.client.root, name
        return (await self.client.lookup(self.client.root, directory)).nodeid, name

    async def _node(self, path: str) -> int:
        return (await self.client.lookup(*await self._place(path))).nodeid

    async def _create(self, path: str) -> None:
        entry, opened = await self.client.create_at(*await self._place(path), os.O_RDWR, 0o644)
        self.files.append(_File(entry.nodeid, opened.fh, path, b"", [None, b""], is_unsaved=True))

    async def _open(self, path: str) -> None:
        node = await self._node(path)
        handle = (await self.client.open_node(node, os.O_RDWR)).fh
        try:
            data = await self.client.read(node, handle, 0, 4096)
        except OSError:
            await self.client.release(node, handle)
            raise
        file = _File(node, handle, path, data, [data])
        for each in self._same(file):
            if each.data == data:
                file.known, file.is_unsaved = list(each.known), each.is_unsaved
            else:
                each.is_gone = True
        self.files.append(file)

    async def _write(self, file: _File, data: bytes) -> None:
        await self.client.write(file.node, file.handle, len(file.data) // 2, data)
        self._changed(
            file, file.data[: len(file.data) // 2] + data + file.data[len(file.data) // 2 + len(data) :]
        )

    async def _cut(self, file: _File, _data: bytes) -> None:
        changes = SetattrIn(SetattrValid.SIZE | SetattrValid.FH, fh=file.handle, size=3)
        await self.client.setattr(file.node, changes)
        self._changed(file, file.data[:3].ljust(3, b"\0"))

    def _changed(self, file: _File, data: bytes) -> None:
        for each in self._same(file):
            each.data, each.is_unsaved = data, not each.is_gone
            each.known.append(data)

    def _same(self, file: _File) -> list[_File]:
        return [each for each in self.files if each.node == file.node]

    async def _flush(self, file: _File, _data: bytes = b"") -> None:
        """Close a descriptor, and see in the bucket what was written, in place of what was known."""
        before = self._in_bucket(file.path)
        try:
            await self.client.flush(file.node, file.handle)
        except OSError:  # it was told that it is not there
            self._forget(file.node)
            raise
        if file.is_unsaved:
            assert before in file.known
            assert self._in_bucket(file.path) == file.data
            self.saved += 1
        for each in (file, *self._same(file)):
            if each.is_unsaved:
                each.known, each.is_unsaved = [file.data], False

    def _in_bucket(self, path: str) -> bytes | None:
        found = self.server.bucket.objects.get(path)
        return None if found is None else bytes(found.data)

    async def _close(self, _path: str) -> None:
        if self.files:
            file = self.files.pop(self.choices.randrange(len(self.files)))
            try:
                await self._flush(file)
            finally:
                await self.client.release(file.node, file.handle)

    async def _unlink(self, path: str) -> None:
        node = await self._node(path)
        await self.client.unlink(f"/{path}")
        self._forget(node)

    async def _rename(self, path: str) -> None:
        node, new = await self._node(path), self.choices.choice(NAMES)
        try:
            replaced = await self._node(new)
        except OSError:
            replaced = 0
        try:
            await self.client.rename(f"/{path}", f"/{new}")
        except OSError:  # it may have saved the file, and others have done what they want with it
            for file in self.files:
                file.is_unsaved = file.is_unsaved and file.node != node
            raise
        if replaced != node:
            self._forget(replaced)
        for file in self.files:
            if file.node == node or file.path.startswith(f"{path}/"):
                file.path = new + file.path.removeprefix(path)
                file.is_unsaved = False  # it is in the bucket, or is written under its new name
                file.known = [self._in_bucket(file.path), file.data]

    def _forget(self, node: int) -> None:
        """Take note that nothing more is promised of a file."""
        for file in self.files:
            if file.node == node:
                file.is_gone, file.is_unsaved = True, False

    async def _look(self, path: str) -> None:
        await self.client.listdir("/")
        await self.client.exists(f"/{path}")


@pytest.mark.parametrize("seconds", [0.0, 60.0], ids=["strict", "60s"])
async def test_what_close_has_said_is_in_the_bucket_is_there(
    make_filesystem: MakeFilesystem, server: FakeS3, seconds: float
) -> None:
    """Who cannot be told that is told ESTALE."""
    saved = 0
    for history in range(HISTORIES):
        for name in ("a", "d/a", "d/b", "e/a"):
            server.bucket.put(name, f"first {name}".encode(), {})
        async with (
            mount(make_filesystem(seconds=seconds)) as one,
            mount(make_filesystem(seconds=seconds)) as other,
        ):
            choices = random.Random(history)
            programs = [_Program(client, server, choices) for client in (one, other)]
            for number in range(STEPS):
                try:
                    await choices.choice(programs).step(number)
                except OSError as error:
                    if error.errno not in REFUSALS:
                        raise
            for program in programs:
                saved += program.saved
                for file in program.files:
                    await program.client.release(file.node, file.handle)
        server.bucket.objects.clear()
    assert saved > 2 * HISTORIES
    assert not server.bucket.uploads
