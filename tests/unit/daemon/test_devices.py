"""Settings reach the data plane, the session and the front-end as what they mean there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from vhostfs.config.model import (
    TIMEOUTS,
    Configuration,
    DeviceSettings,
    InheritedSocket,
    LockOwner,
    Locks,
    PassthroughSettings,
    Timeouts,
)
from vhostfs.devices import (
    descriptor_budgets,
    make_device,
    native_flags,
    negotiation,
    offer,
    passthrough_options,
)
from vhostfs.errors import StartError
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.negotiation import CacheMode, NegotiationSettings, ReaddirplusMode
from vhostfs.sandbox import Sandbox
from vhostfs.vhost_user.messages import VirtioFsConfig

ROOT = PurePosixPath("/")
MOUNT = PassthroughSettings(shared_dir=PurePosixPath("/srv"))
SANDBOX = Sandbox(shares={PurePosixPath("/srv"): 7}, proc_self_fd=8)


def device(**changes: object) -> DeviceSettings:
    made = DeviceSettings(socket=InheritedSocket(3), mounts={ROOT: MOUNT})
    return replace(made, **changes)  # type: ignore[arg-type]


def test_the_defaults_negotiate_as_virtiofsd_does() -> None:
    assert negotiation(MOUNT) == NegotiationSettings(
        cache=CacheMode.AUTO,
        writeback=False,
        allow_mmap=False,
        readdirplus=ReaddirplusMode.AUTO,
        posix_acl=False,
        killpriv_v2=False,
        announce_submounts=True,
        posix_locks=False,
        flock=False,
    )


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        (replace(MOUNT, posix_acl=True), InitFlags.POSIX_ACL),
        (replace(MOUNT, killpriv_v2=True), InitFlags.HANDLE_KILLPRIV_V2),
        (replace(MOUNT, writeback=True), InitFlags.WRITEBACK_CACHE),
        (replace(MOUNT, locks=Locks(posix=LockOwner.HOST)), InitFlags.POSIX_LOCKS),
        (replace(MOUNT, locks=Locks(flock=LockOwner.HOST)), InitFlags.FLOCK_LOCKS),
        (replace(MOUNT, cache=CacheMode.NEVER, allow_mmap=True), InitFlags.DIRECT_IO_ALLOW_MMAP),
        (MOUNT, InitFlags.READDIRPLUS_AUTO),
        (MOUNT, InitFlags.SUBMOUNTS),
    ],
)
def test_a_setting_takes_its_flag_in_init(settings: PassthroughSettings, flag: InitFlags) -> None:
    assert flag in native_flags(settings)
    without = replace(MOUNT, announce_submounts=False, readdirplus=ReaddirplusMode.OFF, cache=CacheMode.NEVER)
    assert flag not in native_flags(without)


def test_attributes_that_expire_at_once_are_not_listed() -> None:
    listing = replace(MOUNT, cache=CacheMode.NEVER, readdirplus=ReaddirplusMode.ON)
    assert negotiation(listing).readdirplus is ReaddirplusMode.OFF


def test_a_mount_is_told_all_its_settings() -> None:
    settings = replace(
        MOUNT,
        cache=CacheMode.METADATA,
        timeouts=Timeouts(1.5, 2.5, 0.5),
        read_only=True,
        xattr=True,
        direct_io=True,
        allow_mmap=True,
        writeback=True,
        announce_submounts=False,
        locks=Locks(LockOwner.HOST, LockOwner.HOST),
    )
    told = passthrough_options(settings, SANDBOX, 99)
    assert (told.root_descriptor, told.proc_self_descriptor, told.descriptor_budget) == (7, 8, 99)
    assert told.cache is CacheMode.METADATA
    assert (told.entry_seconds, told.attribute_seconds, told.negative_seconds) == (1.5, 2.5, 0.5)
    assert all((told.read_only, told.xattr, told.direct_io, told.allow_mmap, told.writeback))
    assert all((told.posix_locks, told.flock))
    assert not told.announce_submounts


@pytest.mark.parametrize(
    ("requested", "told", "served"), [(1, 2, 64), (4, 5, 64), (100, 101, 101), (255, 256, 256)]
)
def test_a_front_end_may_set_up_more_queues_than_it_is_told_of(
    requested: int, told: int, served: int
) -> None:
    made = offer(device(request_queues=requested))
    assert (made.queues, made.queue_limit) == (told, served)


def test_the_configuration_space_is_offered_with_a_tag_alone() -> None:
    assert offer(device()).config == b""
    assert offer(device(tag="home", request_queues=3)).config == VirtioFsConfig("home", 3).to_bytes()
    assert offer(device(packed=True)).packed


def test_half_of_the_descriptors_are_shared_out_among_the_mounts() -> None:
    other = replace(MOUNT, shared_dir=PurePosixPath("/other"))
    given = replace(MOUNT, shared_dir=PurePosixPath("/given"), descriptors=200)
    three = Configuration(tuple(device(mounts={ROOT: mount}) for mount in (MOUNT, other, given)))
    assert descriptor_budgets(three, 1000) == {MOUNT: 200, other: 200, given: 200}
    assert descriptor_budgets(Configuration((device(),)), 256) == {MOUNT: 128}


@pytest.mark.parametrize(
    ("mount", "limit", "sentence"),
    [
        (MOUNT, 31, "31 open descriptors are too few for the mounts; raise rlimit_nofile"),
        (
            replace(MOUNT, descriptors=1000),
            1000,
            "the mounts may keep 1000 descriptors, and the process only 1000 in all",
        ),
    ],
)
def test_too_few_descriptors_are_told_at_the_start(
    mount: PassthroughSettings, limit: int, sentence: str
) -> None:
    with pytest.raises(StartError, match=f"^{sentence}$"):
        descriptor_budgets(Configuration((device(mounts={ROOT: mount}),)), limit)


def test_a_mount_that_the_host_refuses_is_a_sentence() -> None:
    nowhere = Sandbox(shares={PurePosixPath("/srv"): -1}, proc_self_fd=-1)
    with pytest.raises(StartError, match=r"^home: /srv cannot be mounted: Bad file descriptor$"):
        make_device(device(tag="home"), nowhere, {MOUNT: 100}, {})


def test_time_outs_are_those_of_the_mode_unless_given() -> None:
    assert TIMEOUTS[CacheMode.NEVER] == Timeouts(0.0, 0.0, 0.0)
    assert TIMEOUTS[CacheMode.AUTO] == Timeouts(1.0, 1.0, 1.0)
    for mode in (CacheMode.METADATA, CacheMode.ALWAYS):
        assert TIMEOUTS[mode] == Timeouts(86_400.0, 86_400.0, 1.0)
