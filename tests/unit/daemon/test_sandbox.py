"""Locked in, the daemon has its shares and nothing else of the host, by any of its ways to get there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vhostfs.sandbox import KEPT_CAPABILITIES

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: to be locked in as root, and to become other users"
)

REPOSITORY = Path(__file__).parents[3]
USER = 1234
KEPT = sum(1 << number for number in KEPT_CAPABILITIES.values())
NOSUID_NODEV = os.ST_NOSUID | os.ST_NODEV


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share with a file and a directory, which any user may change."""
    made = tmp_path / "share"
    (made / "below").mkdir(parents=True)
    (made / "file").write_text("content")
    for path in (made, *made.iterdir(), tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o777)
    return made


def locked_in(mode: str, *shares: Path, **wishes: Any) -> dict[str, Any]:
    """Return what a process sees and may do once it is locked in, or why it could not be."""
    wish = {"mode": mode, "shares": [str(each) for each in shares], **wishes}
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.daemon.locked_in", json.dumps(wish)],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_root_keeps_its_share_and_loses_the_host(share: Path) -> None:
    seen = locked_in("namespace", share)
    assert seen["root"] == ["0"]
    assert seen["shares"] == [["below", "file"]]
    assert seen["above"] == [["0"]]
    assert seen["root_refuses"] == "EROFS"
    assert seen["interfaces"] == ["lo"]
    assert seen["cwd"] == "/"
    assert seen["flags"][0] & NOSUID_NODEV == NOSUID_NODEV


@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_files_are_reopened_through_proc_although_it_is_hidden(mode: str, share: Path) -> None:
    assert locked_in(mode, share)["reopened"] == "content"


@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_root_keeps_the_capabilities_that_serving_needs(mode: str, share: Path) -> None:
    seen = locked_in(mode, share)
    assert seen["capabilities"] == {"CapInh": 0, "CapPrm": KEPT, "CapEff": KEPT, "CapBnd": KEPT, "CapAmb": 0}
    assert seen["keeps_capabilities_as_another_user"]
    assert seen["no_new_privileges"]


@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_modes_of_new_files_are_the_guests(mode: str, share: Path) -> None:
    assert locked_in(mode, share)["created_mode"] == 0o666


def test_nothing_is_reached_by_the_way_of_what_is_kept(share: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "socket").touch()
    seen = locked_in("namespace", share, kept=[str(run)])
    assert seen["above_kept"] == [["socket"]]
    assert not seen["above_proc_self_fd"]
    assert seen["removed_in_kept"] == [""]
    assert list(run.iterdir()) == []


def test_several_shares_stand_side_by_side_even_one_inside_another(share: Path) -> None:
    (share / "below" / "below").mkdir()
    (share / "below" / "file").touch()
    seen = locked_in("namespace", share, share / "below")
    assert seen["root"] == ["0", "1"]
    assert seen["shares"] == [["below", "file"], ["below", "file"]]
    assert seen["above"] == [["0", "1"], ["0", "1"]]


def test_what_the_host_mounts_below_a_share_later_appears(share: Path) -> None:
    seen = locked_in("namespace", share, host=True, mount_later=str(share / "below"))
    assert seen["below"] == [["mounted-late"]]


def test_chroot_has_the_share_as_its_root(share: Path) -> None:
    seen = locked_in("chroot", share)
    assert seen["root"] == seen["above"][0]
    assert seen["shares"] == [["below", "file"]]
    assert seen["uid"] == 0


def test_none_hides_nothing(share: Path) -> None:
    seen = locked_in("none", share)
    assert "proc" in seen["root"]
    assert seen["above"] == [["share"]]


def test_a_user_becomes_root_over_itself_alone(share: Path) -> None:
    seen = locked_in("namespace", share, uid=USER, uid_map=[(0, USER, 1)], gid_map=[(0, USER, 1)])
    assert seen["uid_map"] == ["0", str(USER), "1"]
    assert seen["uid"] == 0
    assert seen["root"] == ["0"]
    assert seen["shares"] == [["below", "file"]]
    assert seen["reopened"] == "content"
    assert seen["capabilities"]["CapEff"] == KEPT
    assert (share / "created").stat().st_uid == USER


def test_a_user_without_a_range_of_its_own_needs_no_maps(share: Path) -> None:
    seen = locked_in("namespace", share, uid=USER)
    assert seen["uid_map"][:3] == ["0", str(USER), "1"]


def test_root_may_map_whom_it_likes(share: Path) -> None:
    seen = locked_in(
        "namespace",
        share,
        uid_map=[(0, USER, 1), (1, 100_000, 65_535)],
        gid_map=[(0, USER, 1), (1, 100_000, 65_535)],
    )
    assert seen["uid_map"] == ["0", str(USER), "1", "1", "100000", "65535"]
    assert (share / "created").stat().st_uid == USER


@pytest.mark.parametrize(
    ("mode", "wishes", "sentence"),
    [
        (
            "chroot",
            {"uid": USER},
            "the sandbox could not change its root to {share}: Operation not permitted; run as root, or use"
            " --sandbox none",
        ),
        (
            "namespace",
            {"uid_map": [(5, 1000, 1)], "gid_map": [(0, 0, 1)]},
            "the sandbox could not become root of its user namespace: Invalid argument; map a user and a"
            " group to 0",
        ),
    ],
)
def test_a_refusal_names_the_step_and_an_alternative(
    mode: str, wishes: dict[str, Any], sentence: str, share: Path
) -> None:
    assert locked_in(mode, share, **wishes) == {"refused": sentence.format(share=share)}


@pytest.mark.parametrize("mode", ["namespace", "chroot", "none"])
def test_a_share_that_is_no_directory_is_a_sentence(mode: str, share: Path) -> None:
    for name, reason in (("missing", "No such file or directory"), ("file", "Not a directory")):
        refused = locked_in(mode, share / name)["refused"]
        assert refused == f"the shared directory {share / name} cannot be opened: {reason}"
