"""The guest benchmark: every step runs in a real guest, and one that did not do its work is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import guest_comparison, guest_report
from benchmarks.daemons import find
from benchmarks.guest_comparison import Contestant, contestants
from benchmarks.guest_inputs import Sizes
from benchmarks.guest_report import GuestComparison, StepSamples
from benchmarks.guest_steps import STEPS, WrongResultError
from tests.guests.images import GuestImages, MissingImageError

pytestmark = [pytest.mark.uml, pytest.mark.timeout(300)]

TINY = Sizes(files=60, transactions=2, mebibytes=1)
BY_NAME = {step.name: step for step in STEPS}


@pytest.fixture(autouse=True, scope="module")
def _image() -> None:
    try:
        GuestImages().user_mode_linux()
    except MissingImageError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contestant]:
    """Provide vhostfs with a guest, for several tests."""
    with contestants([find("vhostfs")], tmp_path_factory.mktemp("guest"), TINY) as [one]:
        yield one


@pytest.fixture
def one(running: Contestant) -> Contestant:
    """Provide vhostfs with a guest, before the first step."""
    running.clear()
    return running


def test_a_comparison_prints_every_step_and_keeps_what_the_report_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    sizes = ["--files=60", "--transactions=2", "--mebibytes=1", "--rounds=2"]
    status = guest_comparison.main(
        ["vhostfs", "vhostfs", *sizes, f"--directory={tmp_path}", f"--json={kept}"]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert set(json.loads(kept.read_text())) == {"machine", "daemons", "steps"}
    comparison = GuestComparison.load(kept)
    assert comparison.daemons == ["vhostfs", "vhostfs (2)"]
    assert [row.step for row in comparison.steps] == [step.name for step in STEPS]
    for row in comparison.steps:
        for figures in (row.samples, row.cpu):
            assert [len(taken) for taken in figures.values()] == [2, 2]
        assert all(seconds > 0 for taken in row.samples.values() for seconds in taken)
        assert f"| {row.step} |" in printed.out
        assert f"| {row.step} |" in guest_report.section(kept)


def _tree_lacks_files(host: Path) -> None:
    shutil.rmtree(host / "tree/texts-000")


def _tree_is_gone(host: Path) -> None:
    shutil.rmtree(host / "tree")


def _modules_are_others(host: Path) -> None:
    next((host / "tree/modules").rglob("*.py")).write_text("value = 1\n")


def _clone_is_clean(host: Path) -> None:
    shutil.copy(host / "tree/texts-000/text-00003.txt", host / "clone/texts-000/text-00003.txt")


def _data_is_other(host: Path) -> None:
    with (host.parent / "inputs/read4k").open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"other")


@pytest.mark.parametrize(
    ("harm", "step", "reason"),
    [
        (_clone_is_clean, "git status", "printed ''"),
        (_tree_lacks_files, "find", "files, not"),
        (_tree_lacks_files, "grep -r", "files, not"),
        (_modules_are_others, "compileall", "not what the host compiles"),
        (_tree_is_gone, "grep -r", "ended with 2"),
        (_data_is_other, "fio, random read of 4 KiB", "verify"),
    ],
)
def test_a_step_that_did_something_else_ends_the_run(
    one: Contestant, harm: Callable[[Path], None], step: str, reason: str
) -> None:
    one.measure(BY_NAME["untar"])
    one.measure(BY_NAME["git clone"])
    harm(one.place.host)
    with pytest.raises(WrongResultError, match=f"(?s)vhostfs: {step}: .*{reason}"):
        one.measure(BY_NAME[step])


def test_a_comparison_with_a_wrong_result_prints_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_comparison, "STEPS", [BY_NAME["grep -r"]])
    status = guest_comparison.main(
        ["vhostfs", "--files=60", "--transactions=1", "--mebibytes=1", f"--directory={tmp_path}"]
    )
    printed = capsys.readouterr()
    assert status == 1
    assert "grep -r" in printed.err
    assert printed.out == ""


def test_a_ratio_is_the_median_of_neighbouring_runs() -> None:
    row = StepSamples("find", {"a": [1.0, 4.0, 1.0], "b": [2.0, 4.0, 3.0]}, {"a": [1.0] * 3, "b": [4.0] * 3})
    assert row.speed("a", "b") == 2.0
    assert row.cpu_ratio("a", "b") == 0.25
