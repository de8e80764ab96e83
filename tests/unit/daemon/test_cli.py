"""The commands say what they do, and load no more than that takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vhostfs import __version__
from vhostfs.cli import daemon_main, main

CONFIGS = Path(__file__).parents[3] / "configs"


def status_of(command: list[str]) -> int | str | None:
    """Return the status with which a command ends by itself."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def test_check_names_the_devices_of_a_file_without_faults(capsys: pytest.CaptureFixture[str]) -> None:
    path = CONFIGS / "several-machines.yaml"
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"{path}: no faults; devices: home (/run/vhostfs/home-a.sock), "
        "home (/run/vhostfs/home-b.sock), packages\n"
    )


def test_check_warns_of_settings_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f"
    mount = {"type": "passthrough", "shared_dir": "/srv", "cache": "never", "writeback": True}
    path.write_text(json.dumps({"devices": [{"tag": "a", "socket": {"fd": 3}, "mounts": {"/": mount}}]}))
    assert main(["check", str(path)]) == 0
    assert f"{path}: warning: a: writeback does nothing with cache never\n" in capsys.readouterr().out


def test_check_tells_all_faults_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f"
    path.write_text("devices: 1\nonce: maybe\n")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr() == (
        "",
        f"{path}:1:10: devices: should be a list\n{path}:2:7: once: should be true or false\n",
    )


def test_launchers_learn_what_the_program_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon_main(["--print-capabilities"]) == 0
    assert json.loads(capsys.readouterr().out) == {"type": "fs", "features": ["separate-options"]}


def test_libvirt_finds_the_program_by_its_description() -> None:
    description = json.loads((CONFIGS / "50-vhostfs.json").read_text())
    assert (description["type"], Path(description["binary"]).name) == ("fs", "vhostfsd")
    assert description["features"] == ["separate-options"]


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["--version"]) == 0
    assert capsys.readouterr().out == f"vhostfs {__version__}\n"


@pytest.mark.parametrize("command", [[], ["nonsense"], ["serve"], ["check"], ["check", "a", "b"]])
def test_wrong_usage_has_a_status_of_its_own(command: list[str]) -> None:
    assert status_of(command) == 2


@pytest.mark.parametrize("command", [["--help"], ["serve", "--help"], ["check", "--help"]])
def test_help_is_there(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(command) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_serving_by_options_loads_nothing_that_reads_files() -> None:
    code = "import sys, vhostfs.cli, vhostfs.daemon; print({'yaml', 'pydantic'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"


def test_help_and_check_load_nothing_that_serves() -> None:
    code = (
        "import sys, vhostfs.cli, vhostfs.config.schema; print({'anyio', 'vhostfs._core'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
