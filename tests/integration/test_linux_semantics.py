"""Calls in a guest answer as the host's own file system answers them: Linux itself is the judge."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.integration.conftest import MountShares

_CALLS = Path(__file__).with_name("calls.c")

_LOCKS_ON_THE_HOST = ["--xattr", "--posix-locks=host", "--flock=host", "--killpriv-v2"]
_NOTHING_CACHED = ["--xattr", "--cache=never", "--allow-mmap"]
_ALL_CACHED = ["--xattr", "--cache=always", "--writeback", "--allow-direct-io"]


def _compile(directory: Path) -> Path:
    program = directory / "calls"
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-std=gnu17", "-O1", "-o", program, _CALLS], check=True, timeout=60)
    return program


def test_calls_answer_in_a_guest_as_on_the_host(mount_shares: MountShares, tmp_path: Path) -> None:
    """The same calls, errors and all, in a directory of the host and in shares with different options."""
    program = _compile(tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    told = subprocess.run([program, plain], capture_output=True, text=True, timeout=120, check=True).stdout
    expected = told.splitlines()
    assert expected[-1] == "done"
    shares = mount_shares(_LOCKS_ON_THE_HOST, _ALL_CACHED, _NOTHING_CACHED)
    unknown = "nothing"
    major, minor = map(int, shares[0].guest.run("uname -r").split(".")[:2])
    if (major, minor) < (6, 6):
        # Such a kernel has no birth times for FUSE, and maps nothing that it must not cache.
        unknown = "STATX_BTIME"
        shares.pop()
    for share in shares:
        shutil.copy(program, share.host / "calls")
        (share.host / "work").mkdir()
        answered = share.guest.run(f"{share.place}/calls {share.place}/work", timeout=120).splitlines()
        assert [line for line in answered if unknown not in line] == [
            line for line in expected if unknown not in line
        ]
