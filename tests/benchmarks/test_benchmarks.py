"""The load generator against the real daemon: every workload runs, and nothing wrong passes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.daemons import find, running
from benchmarks.guest import Guest, PageFile, WrongReplyError, bare_cost
from benchmarks.share import FILES, Share, make_share
from benchmarks.targets import goals
from benchmarks.workloads import BY_NAME, WORKLOADS

SECONDS = 0.01


@pytest.fixture
def place() -> Iterator[Path]:
    """Provide a directory in memory: a share takes 200 MB."""
    with tempfile.TemporaryDirectory(prefix="vhostfs-test-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def share(place: Path) -> Share:
    """Provide a populated share."""
    return make_share(place / "share")


@pytest.fixture
def guest(share: Share, tmp_path: Path) -> Iterator[Guest]:
    """Provide a guest of vhostfs with two queues."""
    with (
        running(find("vhostfs"), tmp_path / "socket", share.directory, tmp_path / "log") as daemon,
        PageFile() as pages,
        Guest(daemon.socket, share, 2, pages) as guest,
    ):
        yield guest


def test_every_workload_runs_at_any_depth_and_on_several_queues(guest: Guest) -> None:
    for workload in WORKLOADS:
        for depth, queues in (max(2, workload.depths[0]), 1), (4, 2):
            outcome = guest.run(workload, depth=depth, queues=queues, seconds=SECONDS)
            assert outcome.requests >= outcome.cycles > 0
            assert outcome.worst >= outcome.percentile_99 >= outcome.median > 0
    guest.verify()


def test_the_bare_calls_of_every_workload_succeed(share: Share) -> None:
    for workload in WORKLOADS:
        assert bare_cost(share, workload, SECONDS / 10) >= 0


def test_a_reply_with_other_attributes_ends_the_run(guest: Guest) -> None:
    for number in range(FILES):
        (guest.share.directory / "files" / f"file-{number:05}").write_bytes(b"")
    with pytest.raises(WrongReplyError, match="another"):
        guest.run(BY_NAME["getattr"], depth=1, queues=1, seconds=SECONDS)


def test_a_reply_with_other_content_ends_the_run(guest: Guest) -> None:
    with guest.share.read_file.open("r+b") as file:
        file.write(bytes(guest.share.read_file.stat().st_size))
    with pytest.raises(WrongReplyError, match="content"):
        guest.run(BY_NAME["read1m"], depth=1, queues=1, seconds=SECONDS)


def test_a_listing_that_lacks_an_entry_ends_the_run(guest: Guest) -> None:
    (guest.share.directory / "files" / "file-00007").unlink()
    with pytest.raises(WrongReplyError, match="999 entries"):
        guest.run(BY_NAME["readdirplus"], depth=1, queues=1, seconds=SECONDS)


def test_a_write_that_is_not_in_the_file_is_noticed(guest: Guest) -> None:
    guest.run(BY_NAME["write4k"], depth=4, queues=1, seconds=SECONDS)
    guest.verify()
    guest.run(BY_NAME["write4k"], depth=4, queues=1, seconds=SECONDS)
    with guest.share.write_file.open("r+b") as file:
        file.write(bytes(guest.share.write_file.stat().st_size))
    with pytest.raises(WrongReplyError, match="not in the file"):
        guest.verify()


def _compare(place: Path) -> int:
    options = ["--workload", "getattr", "--depth", "1", "--rounds", "1", "--seconds", str(SECONDS)]
    return comparison.main(["vhostfs", "vhostfs", "--directory", str(place), *options])


def test_a_comparison_prints_a_row_for_each_depth(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(place) == 0
    assert "| getattr | 1 |" in capsys.readouterr().out


def test_a_comparison_with_a_wrong_reply_prints_no_table(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_wrong_share(directory: Path) -> Share:
        share = make_share(directory)
        for path in (directory / "files").iterdir():
            path.write_bytes(b"")
        return share

    monkeypatch.setattr(comparison, "make_share", make_wrong_share)
    assert _compare(place) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "getattr" in said.err


def test_every_workload_but_the_empty_one_has_a_goal() -> None:
    for workload in WORKLOADS:
        aims = [goal for depth in workload.depths for goal in goals(workload, depth, 0)]
        assert bool(aims) == (workload.name != "unknown")
