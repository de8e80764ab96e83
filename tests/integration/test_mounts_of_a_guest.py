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


MOUNT_AND_READ = """
set -e
echo Y >/sys/module/fuse/parameters/enable_uring
mkdir /tmp/share /tmp/mount && echo content >/tmp/share/file
cat >/tmp/rings.yaml <<END
devices:
  - socket: {{path: /run/none}}
    mounts:
      /: {{type: passthrough, cache: never, shared_dir: /tmp/share,
          layers: [{{type: rate_limit, bytes: 1GiB}}]}}
END
reads() {{
    sum=0
    for task in $(grep -l ^vhostfs-fuse /proc/$daemon/task/*/comm); do
        sum=$((sum + $(sed -n 's/^syscr: //p' ${{task%comm}}io)))
    done
    echo $sum
}}
cd {project}
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={project} .venv/bin/python -c '
import sys
from vhostfs.cli import main
sys.exit(main())
' mount -f /tmp/rings.yaml /tmp/mount 2>/tmp/rings.log &
daemon=$!
until grep -q 'requests go over io_uring' /tmp/rings.log; do
    kill -0 $daemon || {{ cat /tmp/rings.log; exit 1; }}
    [ ! -e /tmp/mount/file ] || cat /tmp/mount/file >/tmp/copy
done
before=$(reads)
for processor in 0 1; do
    for number in $(seq 50); do taskset -c $processor cat /tmp/mount/file; done
done >/tmp/copies
echo $(($(reads) - before)) $(grep -l ^vhostfs-ring /proc/$daemon/task/*/comm | wc -l) $(sort -u /tmp/copies)
umount /tmp/mount
wait $daemon
"""


@pytest.mark.parametrize("lane", QEMU[1:], indirect=True)
def test_each_processor_has_a_ring(qemu: QemuLane, tmp_path: Path) -> None:
    """Where there are two processors, each has a ring of its own, and requests of both go by these."""
    with _project(tmp_path) as project, qemu.own_guest([project], processors=2) as guest:
        said = guest.run(MOUNT_AND_READ.format(project=guest.mount("project")), timeout=180)
    reads, rings, content = said.split()
    # What is forgotten, and no more, comes by the device: the file, perhaps again.
    assert int(reads) <= 2
    assert (int(rings), content) == (2, "content")
