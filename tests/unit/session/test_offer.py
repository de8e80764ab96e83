"""What is wanted of the kernel follows from what a file system implements, and how it wants to be treated."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from tests.unit.session.everything import Everything
from vhostfs.filesystem import OPERATIONS, Attr, Caller, Filesystem, Options
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.session import Session
from vhostfs.session.offer import OPCODES, RULES, wanted_flags, wanted_opcodes
from vhostfs.testing import MemoryChannel

ALWAYS = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


@pytest.mark.parametrize(
    ("methods", "opcodes"),
    [
        (set(), set()),
        ({"rename"}, {Opcode.RENAME, Opcode.RENAME2}),
        ({"readdir"}, {Opcode.READDIR, Opcode.READDIRPLUS, Opcode.OPENDIR, Opcode.RELEASEDIR}),
        ({"open"}, {Opcode.OPEN, Opcode.RELEASE}),
        ({"create"}, {Opcode.CREATE, Opcode.OPEN, Opcode.RELEASE}),
        ({"flock"}, {Opcode.SETLK, Opcode.SETLKW}),
        ({"getlk", "setlk"}, {Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW}),
        ({"copy_file_range"}, {Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64}),
    ],
)
def test_only_requests_that_are_answered_reach_python(methods: set[str], opcodes: set[Opcode]) -> None:
    assert wanted_opcodes(frozenset(methods)) == ALWAYS | opcodes


def test_every_method_has_its_opcodes_and_every_flag_its_rule() -> None:
    assert set(OPCODES) == set(OPERATIONS)
    assert [rule.flag for rule in RULES] == list(InitFlags)
    assert all(rule.why.endswith(".") for rule in RULES)


def test_a_session_wants_what_its_file_system_implements() -> None:
    class Small(Filesystem[Any]):
        def getattr(self, caller: Caller, node: int, handle: Any) -> Attr:
            return Attr.directory(node)

    assert Session(Small(), MemoryChannel()).opcodes == ALWAYS | {Opcode.GETATTR}
    everything = Session(Everything(), MemoryChannel())
    session_own = {
        Opcode.INIT,
        Opcode.DESTROY,
        Opcode.NOTIFY_REPLY,
        Opcode.SETUPMAPPING,
        Opcode.REMOVEMAPPING,
    }
    assert everything.opcodes == {each for each in Opcode if each < 4096} - session_own
    assert InitFlags.POSIX_LOCKS | InitFlags.FLOCK_LOCKS in everything.init_flags


@pytest.mark.parametrize(
    ("option", "flags"),
    [
        ("writeback", InitFlags.WRITEBACK_CACHE),
        ("posix_acl", InitFlags.POSIX_ACL | InitFlags.DONT_MASK),
        ("cache_symlinks", InitFlags.CACHE_SYMLINKS),
        ("direct_io_mmap", InitFlags.DIRECT_IO_ALLOW_MMAP),
        ("nfs_export", InitFlags.EXPORT_SUPPORT),
    ],
)
def test_an_option_takes_its_flags_and_no_other(option: str, flags: InitFlags) -> None:
    assert option in {field.name for field in fields(Options)}
    without = wanted_flags(Options(), frozenset(OPERATIONS))
    taken: Any = {option: True}
    assert wanted_flags(Options(**taken), frozenset(OPERATIONS)) == without | flags
    assert not without & flags


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("open", InitFlags.ATOMIC_O_TRUNC),
        ("readdir", InitFlags.DO_READDIRPLUS | InitFlags.READDIRPLUS_AUTO),
        ("setlk", InitFlags.POSIX_LOCKS),
        ("flock", InitFlags.FLOCK_LOCKS),
    ],
)
def test_a_method_takes_its_flags(method: str, flags: InitFlags) -> None:
    rest = frozenset(OPERATIONS) - {method}
    assert not wanted_flags(Options(), rest) & flags
    assert flags in wanted_flags(Options(), frozenset(OPERATIONS))
