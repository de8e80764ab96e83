"""vhostfs in a guest, whose kernel has what this host's has not: requests of /dev/fuse over io_uring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.guests.guest import Guest
from tests.integration.lanes import QEMU, UML, Lane, QemuLane

PROJECT = Path(__file__).parents[2]


def _run_tests(guest: Guest, tests: str) -> None:
    """Run tests of mounts in a guest that has the project on the device of this tag; all have to be run."""
    project = guest.mount("project")
    finished = guest.try_run(
        "echo Y >/sys/module/fuse/parameters/enable_uring &&"
        f" cd {project} && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={project}"
        f" .venv/bin/python -m pytest -p no:cacheprovider -q {tests}",
        timeout=180,
    )
    assert finished.status == 0, finished.output
    assert " skipped" not in finished.output, finished.output


def _project(directory: Path) -> Daemon:
    return Daemon(directory, PROJECT, "project", "--readonly", "--cache=always")


@pytest.mark.parametrize("lane", [UML], indirect=True)
def test_mounts_whose_requests_go_over_io_uring_keep_what_they_promise(lane: Lane, tmp_path: Path) -> None:
    """The tests of mounts pass where the kernel has io_uring for them, those that need it among them."""
    with _project(tmp_path) as project, lane.own_guest([project]) as guest:
        # Left out is what goes another way: where nothing is said of threads, a loop reads for Python.
        _run_tests(
            guest,
            "tests/mounting/test_rings.py tests/mounting/test_requests.py"
            " tests/mounting/test_files_passed_through.py"
            " -k 'not None and not forgotten and not any_size'",
        )


@pytest.mark.parametrize("lane", QEMU[1:], indirect=True)
def test_each_processor_has_a_ring(qemu: QemuLane, tmp_path: Path) -> None:
    """Where there are two processors, each has a ring of its own, and requests of both are answered."""
    with _project(tmp_path) as project, qemu.own_guest([project], processors=2) as guest:
        _run_tests(guest, "tests/mounting/test_rings.py -k test_all_requests")
