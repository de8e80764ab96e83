"""Every INIT flag has one rule with a reason, and each setting moves exactly the flags that it is about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.negotiation import (
    RULES,
    CacheMode,
    NegotiationSettings,
    ReaddirplusMode,
    never,
    wanted_flags,
)

PLAIN = NegotiationSettings(readdirplus=ReaddirplusMode.OFF)


def test_every_flag_has_exactly_one_rule_in_the_order_of_the_bits() -> None:
    assert [rule.flag for rule in RULES] == list(InitFlags)


def test_every_rule_gives_its_reason_in_a_sentence() -> None:
    for rule in RULES:
        assert rule.why.endswith(".")
        assert rule.why[0].isupper()


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        (replace(PLAIN, writeback=True), InitFlags.WRITEBACK_CACHE),
        (replace(PLAIN, writeback=True, cache=CacheMode.ALWAYS), InitFlags.WRITEBACK_CACHE),
        (replace(PLAIN, writeback=True, cache=CacheMode.NEVER), InitFlags(0)),
        (replace(PLAIN, writeback=True, cache=CacheMode.METADATA), InitFlags(0)),
        (replace(PLAIN, allow_mmap=True), InitFlags.DIRECT_IO_ALLOW_MMAP),
        (replace(PLAIN, readdirplus=ReaddirplusMode.ON), InitFlags.DO_READDIRPLUS),
        (
            replace(PLAIN, readdirplus=ReaddirplusMode.AUTO),
            InitFlags.DO_READDIRPLUS | InitFlags.READDIRPLUS_AUTO,
        ),
        (replace(PLAIN, posix_acl=True), InitFlags.POSIX_ACL | InitFlags.DONT_MASK),
        (replace(PLAIN, killpriv_v2=True), InitFlags.HANDLE_KILLPRIV_V2),
        (replace(PLAIN, announce_submounts=True), InitFlags.SUBMOUNTS),
        (replace(PLAIN, posix_locks=True), InitFlags.POSIX_LOCKS),
        (replace(PLAIN, flock=True), InitFlags.FLOCK_LOCKS),
    ],
)
def test_a_setting_adds_its_flags_and_no_others(changed: NegotiationSettings, flags: InitFlags) -> None:
    assert wanted_flags(changed) == wanted_flags(PLAIN) | flags
    assert not flags & wanted_flags(PLAIN)


def test_what_virtio_fs_cannot_carry_is_never_taken() -> None:
    refused = {rule.flag for rule in RULES if rule.taken is never}
    assert {
        InitFlags.PASSTHROUGH,
        InitFlags.OVER_IO_URING,
        InitFlags.NO_EXPORT_SUPPORT,
        InitFlags.EXPLICIT_INVAL_DATA,
        InitFlags.REQUEST_TIMEOUT,
        InitFlags.SECURITY_CTX,
    } <= refused


def test_the_flags_that_others_lean_on_are_always_taken() -> None:
    wanted = wanted_flags(PLAIN)
    assert InitFlags.INIT_EXT in wanted
    assert InitFlags.MAX_PAGES in wanted
    assert InitFlags.BIG_WRITES in wanted


def test_a_mask_splits_into_its_two_fields_and_back() -> None:
    mask = InitFlags.INIT_EXT | InitFlags.ASYNC_READ | InitFlags.CREATE_SUPP_GROUP
    assert mask.split == (0x40000001, 0x4)
    assert InitFlags.joined(*mask.split) == mask


def test_the_second_field_does_not_count_without_init_ext() -> None:
    assert InitFlags.joined(0x1, 0x4) == InitFlags.ASYNC_READ
