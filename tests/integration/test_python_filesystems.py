"""File systems in Python, in a guest with a real kernel."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.integration import filesystems
from tests.integration.lanes import UML, Lane

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.parametrize("lane", [UML], indirect=True)

ENTRIES_AT_ONCE = 300
"""Fewer than two replies of READDIR of 4 KiB and the guest's read-ahead of one hold."""

NODES_KIB = 40 * 1024
"""What 100,000 nodes that the guest holds may cost: some 300 bytes each, and what the allocator keeps."""


def test_a_guest_uses_file_systems_in_python_and_lists_a_large_one_that_is_nowhere_a_list(
    lane: Lane, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        hello, processes, crowd = (
            stack.enter_context(Daemon(tmp_path, PROJECT, tag, *options, filesystem=name))
            for tag, name, options in (
                ("hello", "examples.hello:Hello", ["--sandbox=none"]),
                ("processes", "examples.processes:Processes", []),
                ("crowd", "tests.integration.filesystems:Crowd", []),
            )
        )
        guest = stack.enter_context(lane.guest_with([hello, processes, crowd]))
        places = [guest.mount(each.tag) for each in (hello, processes, crowd)]
        assert guest.run(f"cd {places[0]} && ls && cat hello && stat -c %s hello") == (
            "hello\nHello, guest\n13\n"
        )
        assert guest.try_run(f"touch {places[0]}/new").status != 0
        assert guest.run(f"cat {places[1]}/*/name || true").splitlines().count("vhostfs") >= 3

        before = crowd.status("VmRSS")
        listed = guest.run(
            f"ls -l {places[2]} >/tmp/list && wc -l </tmp/list && tail -n 1 /tmp/list", timeout=240
        )
        grown = crowd.status("VmHWM") - before
        count, last = listed.splitlines()
        assert int(count) == filesystems.COUNT + 1
        assert last.split()[4:5] + last.split()[-1:] == ["99999", "file99999"]
        assert 0 < int(guest.run(f"cat {places[2]}/most")) <= ENTRIES_AT_ONCE
        assert grown <= NODES_KIB
