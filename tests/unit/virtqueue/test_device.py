"""A Device keeps the promises of csrc/core.h: errors are OSError, and each descriptor has one owner."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator

import pytest

from vhostfs.virtqueue import Device, DeviceOptions, Region, SessionOptions, initialise_core

MIB = 1 << 20
SESSION = SessionOptions(
    init_flags=0,
    max_write=MIB,
    max_readahead=MIB,
    max_pages=256,
    max_background=64,
    congestion_threshold=48,
)


@pytest.fixture
def device() -> Iterator[Device]:
    initialise_core()
    made = Device(DeviceOptions(queues=4), SESSION)
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("guest")
    os.truncate(descriptor, 8 * MIB)
    yield descriptor
    os.close(descriptor)


def region(descriptor: int, guest_address: int = 0, size: int = MIB, offset: int = 0) -> Region:
    return Region(guest_address, size, (0x7F0000000000 + guest_address) % 2**64, offset, descriptor)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def place(device: Device, index: int, start: int = 0x7F0000000000) -> None:
    device.set_queue_addresses(
        index, flags=0, descriptors=start, used=start + 0x3000, available=start + 0x2000, log=0
    )


def test_regions_come_and_go_and_their_descriptors_stay_the_caller_s(device: Device, memory: int) -> None:
    device.add_memory(region(memory, 0))
    device.add_memory(region(memory, MIB, offset=MIB))
    device.remove_memory(region(-1, 0))
    device.add_memory(region(memory, 0, offset=2 * MIB))
    device.replace_memory([region(memory, 4 * MIB)])
    device.add_memory(region(memory, 0))
    assert is_open(memory)


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (lambda device, memory: device.add_memory(region(memory, 0, 0)), errno.EINVAL),
        (lambda device, memory: device.add_memory(region(memory, 2**64 - MIB, 2 * MIB)), errno.EINVAL),
        (lambda device, memory: device.add_memory(region(memory, MIB // 2)), errno.EEXIST),
        (lambda device, memory: device.remove_memory(region(memory, MIB)), errno.ENOENT),
        (lambda device, memory: device.add_memory(region(99999, MIB)), errno.EBADF),
        (lambda device, memory: device.set_queue_size(4, 128), errno.EINVAL),
        (lambda device, memory: device.set_queue_size(0, 0), errno.EINVAL),
        (lambda device, memory: device.set_queue_base(4, 0), errno.EINVAL),
        (lambda device, memory: device.enable_queue(4, True), errno.EINVAL),
        (lambda device, memory: device.stop_queue(4), errno.EINVAL),
        (lambda device, memory: place(device, 4), errno.EINVAL),
    ],
)
def test_what_cannot_be_is_an_oserror(
    device: Device, memory: int, make: Callable[[Device, int], object], number: int
) -> None:
    device.add_memory(region(memory))
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        make(device, memory)


def test_a_ring_lies_in_guest_memory_or_is_refused(device: Device, memory: int) -> None:
    device.add_memory(region(memory))
    device.set_queue_size(0, 128)
    place(device, 0)
    with pytest.raises(OSError, match="Bad address"):
        place(device, 0, start=0x1000)


@pytest.mark.parametrize("method", ["set_queue_kick", "set_queue_call", "set_queue_error"])
@pytest.mark.parametrize("index", [1, 4])
def test_a_ring_s_descriptors_belong_to_the_device_from_the_call_on(
    device: Device, method: str, index: int
) -> None:
    descriptor = os.eventfd(0)
    try:
        getattr(device, method)(index, descriptor)
    except OSError as error:
        # A ring that lies nowhere does not start; a ring that is not there has no descriptors.
        assert index == 4 or method == "set_queue_kick", error  # noqa: PT017
        assert not is_open(descriptor)
    device.disconnect()
    assert not is_open(descriptor)


def test_a_ring_that_never_ran_stops_where_it_was_to_start(device: Device) -> None:
    device.set_queue_size(1, 128)
    device.set_queue_base(1, 77)
    assert device.stop_queue(1) == 77


def test_a_disconnect_forgets_memory_and_rings(device: Device, memory: int) -> None:
    device.set_features(1 << 32)
    device.add_memory(region(memory))
    device.set_queue_base(0, 9)
    device.disconnect()
    device.add_memory(region(memory))
    assert device.stop_queue(0) == 0


def test_a_reset_keeps_memory(device: Device, memory: int) -> None:
    device.add_memory(region(memory))
    device.reset()
    with pytest.raises(FileExistsError):
        device.add_memory(region(memory))


def test_there_are_no_events_where_nothing_happened(device: Device) -> None:
    assert device.next_event() is None
    with pytest.raises(BlockingIOError):
        os.eventfd_read(device.event_descriptor)


def test_a_closed_device_is_not_called_any_more(device: Device) -> None:
    device.close()
    device.close()
    with pytest.raises(ValueError, match="closed"):
        device.disconnect()


@pytest.mark.parametrize("queues", [0, 1, 65536])
def test_a_device_has_at_least_two_rings(queues: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        Device(DeviceOptions(queues=queues), SESSION)
