"""A share is mounted as it is described, and its descriptors stay whose they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vhostfs.backends.passthrough import PassthroughOptions, mount_passthrough
from vhostfs.fuse_abi.negotiation import CacheMode
from vhostfs.virtqueue import Device, DeviceOptions, SessionOptions

SESSION = SessionOptions(
    init_flags=0,
    max_write=1 << 20,
    max_readahead=1 << 20,
    max_pages=256,
    max_background=64,
    congestion_threshold=48,
)


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(DeviceOptions(queues=2), SESSION)
    yield made
    made.close()


@pytest.fixture
def options(tmp_path: Path) -> Iterator[PassthroughOptions]:
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc/self/fd", os.O_PATH)
    yield PassthroughOptions(root, proc, CacheMode.AUTO, 1.0, 1.0, 0.0, descriptor_budget=64)
    os.close(root)
    os.close(proc)


@pytest.mark.parametrize("cache", CacheMode)
def test_a_directory_is_mounted_once_at_each_number(
    device: Device, options: PassthroughOptions, cache: CacheMode
) -> None:
    mount_passthrough(device, replace(options, cache=cache))
    mount_passthrough(device, replace(options, cache=cache), mount=1)
    with pytest.raises(OSError, match="busy"):
        mount_passthrough(device, options)
    os.fstat(options.root_descriptor)
    os.fstat(options.proc_self_descriptor)


def test_a_file_is_no_share(device: Device, options: PassthroughOptions, tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        with pytest.raises(NotADirectoryError):
            mount_passthrough(device, replace(options, root_descriptor=file))
    finally:
        os.close(file)


def test_each_switch_sets_a_bit_of_its_own(options: PassthroughOptions) -> None:
    switches = [field.name for field in fields(options) if field.type == "bool"]
    assert options.flags == 0
    bits = [replace(options, **{name: True}).flags for name in switches]  # type: ignore[arg-type]
    assert sorted(bits) == [1 << place for place in range(len(switches))]


def test_times_are_kept_however_long_they_are(device: Device, options: PassthroughOptions) -> None:
    forever = replace(options, entry_seconds=1e30, attribute_seconds=86400.0, negative_seconds=0.5)
    mount_passthrough(device, forever)
