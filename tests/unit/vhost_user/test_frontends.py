"""Traced front-ends are served: each gets the answers that it waits for, and the device the right work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.vhost_user import frontend_script as script
from tests.unit.vhost_user.frontend_script import Conversation, R, Sent, split
from vhostfs.vhost_user.events import (
    BackchannelSet,
    DeviceReset,
    FeaturesSet,
    LogSet,
    MemoryRegionAdded,
    MemoryTableReplaced,
    QueueAddressesSet,
    QueueBaseRequested,
    QueueBaseSet,
    QueueCallSet,
    QueueEnabled,
    QueueErrorSet,
    QueueKickSet,
    QueueSizeSet,
)
from vhostfs.vhost_user.messages import (
    CONFIG_WINDOW,
    ConfigWindow,
    FrontendRequest,
    MemoryTable,
    VirtioFsConfig,
)
from vhostfs.vhost_user.offer import Offer
from vhostfs.vhost_user.state import RingState

TAGGED = Offer(queues=2, queue_limit=8, config=VirtioFsConfig("share", 1).to_bytes())


def states(conversation: Conversation, rings: int = 2) -> set[RingState]:
    return {ring.state for ring in conversation.backend.rings[:rings]}


@pytest.mark.parametrize(
    ("realize", "start", "stop"),
    [
        (script.qemu_7_realize, script.qemu_7_start, script.qemu_7_stop),
        (script.qemu_11_realize, script.qemu_11_start, script.qemu_11_stop),
    ],
    ids=["QEMU 7.2", "QEMU 11.1"],
)
@pytest.mark.parametrize("rings", [2, 5])
def test_qemu_boots_pauses_and_continues(
    realize: Callable[[int], list[Sent]],
    start: Callable[..., list[Sent]],
    stop: Callable[[int], list[Sent]],
    rings: int,
) -> None:
    conversation = Conversation(base=77)
    conversation.play(realize(rings))
    conversation.play(start(rings))
    assert states(conversation, rings) == {RingState.RUNNING}
    assert conversation.backend.regions == [script.LOW_MEMORY, script.HIGH_MEMORY]

    conversation.play(stop(rings))
    assert states(conversation, rings) == {RingState.STOPPED}
    assert {ring.base for ring in conversation.backend.rings[:rings]} == {77}

    conversation.play(start(rings, bases=77, with_memory=False))
    assert states(conversation, rings) == {RingState.RUNNING}
    assert conversation.backend.regions == [script.LOW_MEMORY, script.HIGH_MEMORY]
    assert not conversation.remarks
    assert not conversation.ledger.open


def test_qemu_11_resets_the_machine_and_keeps_its_memory() -> None:
    conversation = Conversation()
    conversation.play(script.qemu_11_realize())
    conversation.play(script.qemu_11_start())
    conversation.play([*script.qemu_11_stop(), script.RESET, script.RESET])
    assert states(conversation) == {RingState.STOPPED}
    conversation.play(script.qemu_11_start(with_memory=False))
    assert states(conversation) == {RingState.RUNNING}
    assert conversation.backend.regions == [script.LOW_MEMORY, script.HIGH_MEMORY]
    assert DeviceReset() in conversation.events
    assert not conversation.remarks


def test_a_running_guest_is_logged_and_stopped_when_qemu_11_migrates_it() -> None:
    conversation = Conversation()
    conversation.play(script.qemu_11_realize())
    conversation.play(script.qemu_11_start())
    conversation.events.clear()
    conversation.play(script.qemu_11_migration_log())
    assert [type(event) for event in conversation.events] == [
        LogSet,
        FeaturesSet,
        QueueAddressesSet,
        QueueAddressesSet,
    ]
    assert all(event.log for event in conversation.events if isinstance(event, QueueAddressesSet))
    assert states(conversation) == {RingState.RUNNING}
    conversation.play(script.qemu_11_stop())
    assert states(conversation) == {RingState.STOPPED}
    assert not conversation.remarks


def test_user_mode_linux_restarts_rings_that_it_never_stopped() -> None:
    conversation = Conversation(TAGGED)
    conversation.play(script.uml_probe())
    conversation.play(script.uml_start())
    assert states(conversation) == {RingState.RUNNING}
    conversation.play(script.uml_stop())
    assert states(conversation) == {RingState.KICKED}
    conversation.events.clear()
    conversation.play(script.uml_start())
    assert states(conversation) == {RingState.RUNNING}
    assert {ring.base for ring in conversation.backend.rings[:2]} == {0}
    assert not conversation.remarks


@pytest.mark.parametrize("size", [*range(1, 37), 40])
def test_user_mode_linux_reads_the_tag_in_pieces_of_every_size(size: int) -> None:
    conversation = Conversation(TAGGED)
    answer = conversation.send(R.GET_CONFIG, ConfigWindow(0, size, 0, bytes(size)))
    header, body = split(answer)
    assert (header.request, header.flags) == (R.GET_CONFIG, 0x5)
    window = CONFIG_WINDOW.parse(body)
    assert window == ConfigWindow(0, size, 0, TAGGED.config[:size])


def test_cloud_hypervisor_is_acknowledged_everywhere() -> None:
    conversation = Conversation()
    conversation.play(script.cloud_hypervisor_start())
    assert states(conversation) == {RingState.RUNNING}
    assert not conversation.remarks


def test_crosvm_is_served_without_a_single_acknowledgement() -> None:
    conversation = Conversation(TAGGED)
    conversation.play(script.crosvm_start())
    assert states(conversation) == {RingState.RUNNING}
    assert {ring.size for ring in conversation.backend.rings[:2]} == {32768}
    assert not conversation.remarks


def test_the_device_is_asked_for_each_step_in_the_order_of_the_messages() -> None:
    conversation = Conversation()
    conversation.play(script.qemu_7_realize(1))
    conversation.play(script.qemu_7_start(1))
    conversation.play(script.qemu_7_stop(1))
    assert [type(event) for event in conversation.events if not isinstance(event, QueueCallSet)] == [
        BackchannelSet,
        QueueErrorSet,
        FeaturesSet,
        MemoryRegionAdded,
        MemoryRegionAdded,
        QueueSizeSet,
        QueueBaseSet,
        QueueAddressesSet,
        QueueKickSet,
        QueueEnabled,
        QueueEnabled,
        QueueBaseRequested,
    ]


def test_a_whole_new_memory_table_may_come_while_rings_run() -> None:
    conversation = Conversation(TAGGED)
    conversation.play(script.uml_probe())
    conversation.play(script.uml_start())
    table = MemoryTable((script.LOW_MEMORY,))
    conversation.play([Sent(FrontendRequest.SET_MEM_TABLE, table, True, 1)])
    assert conversation.backend.regions == [script.LOW_MEMORY]
    assert isinstance(conversation.events[-1], MemoryTableReplaced)
    assert states(conversation) == {RingState.RUNNING}
