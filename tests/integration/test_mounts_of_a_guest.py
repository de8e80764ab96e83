"""vhostfs in a guest, whose kernel has what this host's has not: requests of /dev/fuse over io_uring."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.integration.lanes import UML, Lane

PROJECT = Path(__file__).parents[2]

# Left out is what tells nothing of the way that requests take.
TESTS = (
    "tests/mounting/test_rings.py tests/mounting/test_requests.py tests/mounting/test_files_passed_through.py"
    " tests/mounting/test_notifications.py"
    " -k 'not forgotten and not any_size and not operations_may_tell'"
)


@pytest.mark.parametrize("lane", [UML], indirect=True)
def test_mounts_whose_requests_go_over_io_uring_keep_what_they_promise(lane: Lane, tmp_path: Path) -> None:
    """The tests of mounts pass where the kernel has io_uring for them, those that need it among them."""
    with (
        Daemon(tmp_path, PROJECT, "project", "--readonly", "--cache=always") as daemon,
        lane.own_guest([daemon]) as guest,
    ):
        project = guest.mount("project")
        finished = guest.try_run(
            "echo Y >/sys/module/fuse/parameters/enable_uring &&"
            f" cd {project} && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={project}"
            f" .venv/bin/python -m pytest -p no:cacheprovider -q {TESTS}",
            timeout=180,
        )
        assert finished.status == 0, finished.output
        assert " skipped" not in finished.output, finished.output
