"""Many requests at once, on several queues and the same names: lookups are counted, files stay themselves."""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from collections.abc import Generator

import pytest

from tests.frontend.client import FuseClient, Pending
from tests.frontend.frontend import FrontendOptions
from tests.operations.shares import Mount, Shares
from tests.operations.twins import errno_of
from vhostfs.fuse_abi.directory import unpack_entries
from vhostfs.fuse_abi.opcodes import ROOT_ID, Opcode
from vhostfs.fuse_abi.structures import (
    CreateIn,
    EntryOut,
    ForgetIn,
    GetattrIn,
    LinkIn,
    MkdirIn,
    OpenIn,
    OpenOut,
    ReadIn,
    ReleaseIn,
    RenameIn,
    WriteIn,
)

QUEUES = 4
FOUR_QUEUES = FrontendOptions(request_queues=QUEUES, queue_size=256)

Actor = Generator[Pending, bytes | OSError, None]


class Guest:
    """What all actors know together: names, and how often each node was looked up."""

    def __init__(self, mount: Mount, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clients = [FuseClient(mount.frontend, queue=1 + index) for index in range(QUEUES)]
        self.hiprio = mount.client.on_queue(0)
        self.lookups: Counter[int] = Counter()
        self.directories = [ROOT_ID]

    def name(self) -> bytes:
        """Return one of few names, so that actors meet."""
        return b"name%d" % self.chance.randrange(12)

    def directory(self) -> int:
        """Return one of the directories that all actors work in."""
        return self.chance.choice(self.directories)

    def saw(self, entry: EntryOut) -> EntryOut:
        """Count a lookup."""
        if entry.nodeid:
            self.lookups[entry.nodeid] += 1
        return entry

    def forget(self, node: int, lookups: int) -> None:
        """Forget some lookups of a node."""
        self.lookups[node] -= lookups
        self.hiprio.start(Opcode.FORGET, node, ForgetIn(lookups), out_size=-1).result()


def look_up(guest: Guest, client: FuseClient) -> Actor:
    reply = yield client.start(Opcode.LOOKUP, guest.directory(), guest.name() + b"\0", out_size=EntryOut.SIZE)
    if isinstance(reply, bytes):
        entry = guest.saw(EntryOut.unpack_from(reply))
        if entry.nodeid and guest.chance.random() < 0.5:
            guest.forget(entry.nodeid, guest.lookups[entry.nodeid])


def make_and_use(guest: Guest, client: FuseClient) -> Actor:
    message = CreateIn(os.O_CREAT | os.O_RDWR, stat.S_IFREG | 0o644)
    room = EntryOut.SIZE + OpenOut.SIZE
    reply = yield client.start(Opcode.CREATE, guest.directory(), message, guest.name() + b"\0", out_size=room)
    if not isinstance(reply, bytes):
        return
    node = guest.saw(EntryOut.unpack_from(reply)).nodeid
    fh = OpenOut.unpack_from(reply, EntryOut.SIZE).fh
    mark = guest.chance.randbytes(16)
    offset = guest.chance.randrange(1 << 30)
    written = yield client.start(Opcode.WRITE, node, WriteIn(fh, offset, 16), mark, out_size=8)
    assert isinstance(written, bytes)
    read = yield client.start(Opcode.READ, node, ReadIn(fh, offset, 16), out_size=16)
    assert read == mark
    released = yield client.start(Opcode.RELEASE, node, ReleaseIn(fh))
    assert released == b""


def make_directory(guest: Guest, client: FuseClient) -> Actor:
    reply = yield client.start(
        Opcode.MKDIR, guest.directory(), MkdirIn(0o755), guest.name() + b"\0", out_size=EntryOut.SIZE
    )
    if isinstance(reply, bytes):
        guest.saw(EntryOut.unpack_from(reply))


def remove(guest: Guest, client: FuseClient) -> Actor:
    opcode = guest.chance.choice([Opcode.UNLINK, Opcode.UNLINK, Opcode.RMDIR])
    yield client.start(opcode, guest.directory(), guest.name() + b"\0")


def rename(guest: Guest, client: FuseClient) -> Actor:
    names = guest.name() + b"\0" + guest.name() + b"\0"
    yield client.start(Opcode.RENAME, guest.directory(), RenameIn(guest.directory()), names)


def link(guest: Guest, client: FuseClient) -> Actor:
    known = [node for node, count in guest.lookups.items() if count > 0]
    if known:
        message, name = LinkIn(guest.chance.choice(known)), guest.name() + b"\0"
        reply = yield client.start(Opcode.LINK, guest.directory(), message, name, out_size=EntryOut.SIZE)
        if isinstance(reply, bytes):
            guest.saw(EntryOut.unpack_from(reply))


def look(guest: Guest, client: FuseClient) -> Actor:
    known = [node for node, count in guest.lookups.items() if count > 0]
    if known:
        yield client.start(Opcode.GETATTR, guest.chance.choice(known), GetattrIn(), out_size=104)


def list_all(guest: Guest, client: FuseClient) -> Actor:
    directory = guest.directory()
    reply = yield client.start(Opcode.OPENDIR, directory, OpenIn(os.O_RDONLY), out_size=OpenOut.SIZE)
    assert isinstance(reply, bytes)
    fh = OpenOut.unpack_from(reply).fh
    offset = 0
    while True:
        reply = yield client.start(Opcode.READDIRPLUS, directory, ReadIn(fh, offset, 1024), out_size=1024)
        assert isinstance(reply, bytes)
        entries = list(unpack_entries(reply, plus=True))
        if not entries:
            break
        offset = entries[-1].off
        for entry in entries:
            if entry.entry is not None and entry.name not in {b".", b".."}:
                guest.saw(entry.entry)
    yield client.start(Opcode.RELEASEDIR, directory, ReleaseIn(fh))


DEEDS = [look_up, look_up, make_and_use, make_directory, remove, remove, rename, link, look, list_all]


def advance(actor: Actor, reply: bytes | OSError | None) -> Pending | None:
    """Let an actor go on with its reply; return its next request."""
    try:
        return next(actor) if reply is None else actor.send(reply)
    except StopIteration:
        return None


def run(guest: Guest, deeds: int, at_once: int) -> None:
    """Run random deeds, so many at once, spread over the queues."""
    under_way: list[tuple[Actor, Pending]] = []
    while deeds or under_way:
        while deeds and len(under_way) < at_once:
            deeds -= 1
            actor = guest.chance.choice(DEEDS)(guest, guest.chance.choice(guest.clients))
            pending = advance(actor, None)
            if pending is not None:
                under_way.append((actor, pending))
        actor, pending = under_way.pop(guest.chance.randrange(len(under_way)))
        reply: bytes | OSError
        try:
            reply = pending.result()
        except TimeoutError:
            raise
        except OSError as error:
            reply = error
        following = advance(actor, reply)
        if following is not None:
            under_way.append((actor, following))


@pytest.mark.parametrize("options", [(), ("--rlimit-nofile=256",)], ids=["plenty", "256 descriptors"])
@pytest.mark.parametrize("seed", range(3))
def test_lookups_stay_counted_and_files_themselves(
    seed: int, options: tuple[str, ...], shares: Shares
) -> None:
    """Forgetting exactly what was looked up must forget every node, and nothing before."""
    with shares.mounted(*options, frontend=FOUR_QUEUES) as mount:
        guest = Guest(mount, seed)
        for index in range(3):
            guest.directories.append(mount.client.mkdir(ROOT_ID, b"shared%d" % index).nodeid)
        run(guest, deeds=1500, at_once=24)
        left = {
            node: count for node, count in guest.lookups.items() if count and node not in guest.directories
        }
        for node, count in left.items():
            if count > 1:
                guest.forget(node, count - 1)
                assert errno_of(lambda: mount.client.getattr(node)) is None  # noqa: B023
            guest.forget(node, 1)
        known_dead = [node for node in guest.lookups if node not in guest.directories]
        assert len(known_dead) > 20
        for node in known_dead:
            assert errno_of(lambda: mount.client.getattr(node)) is not None  # noqa: B023
        assert mount.client.getattr(ROOT_ID).attr.ino == mount.directory.stat().st_ino
