"""What people do on a share: copy trees, write and read back, clone repositories, keep databases."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import MountedShare, MountShares
from tests.integration.fio import fio

# What git asks of a directory's owner is not the point here.
_GIT = "git -c safe.directory=*"


def _make_tree(top: Path, directories: int, files: int, largest: int) -> None:
    """Make directories with so many files each, of sizes from 0 to ``largest`` bytes."""
    source = random.Random(2)
    for number in range(directories):
        directory = top / f"directory-{number:03}"
        directory.mkdir(parents=True)
        for name in range(files):
            (directory / f"file-{name:03}").write_bytes(
                source.randbytes(source.choice([0, 1, 511, 4096, largest]))
            )


def _checksums(top: Path) -> str:
    """List the files below a directory like ``sha256sum`` does, sorted by name."""
    paths = sorted(path for path in top.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(top)}\n" for path in paths
    )


_SHA256_TREE = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"


def test_a_guest_mounts_the_share_by_its_tag(share: MountedShare) -> None:
    """What the host has is there, and the guest is told that it is virtio-fs with the host's space."""
    (share.host / "greeting").write_text("hello\n")
    assert share.guest.run(f"cat {share.place}/greeting") == "hello\n"
    assert f"share0 {share.place} virtiofs rw" in share.guest.run("cat /proc/mounts")
    blocks = int(share.guest.run(f"stat -f -c %b {share.place}")) * int(
        share.guest.run(f"stat -f -c %S {share.place}")
    )
    host = os.statvfs(share.host)
    assert blocks == host.f_blocks * host.f_frsize


def test_2000_files_come_out_of_a_share_and_go_into_it_unharmed(share: MountedShare) -> None:
    """The guest copies a tree from the share to its memory and back; both copies equal the original."""
    _make_tree(share.host / "in", directories=20, files=100, largest=20_000)
    expected = _checksums(share.host / "in")
    assert expected.count("\n") == 2000
    share.guest.run(f"cp -r {share.place}/in /tmp/copy && cp -r /tmp/copy {share.place}/out", timeout=120)
    assert share.guest.run(f"cd /tmp/copy && {_SHA256_TREE}") == expected
    assert share.guest.run(f"cd {share.place}/out && {_SHA256_TREE}") == expected
    assert _checksums(share.host / "out") == expected
    share.guest.run(f"rm -r /tmp/copy {share.place}/in {share.place}/out", timeout=120)
    assert list(share.host.iterdir()) == []


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("--rw=randrw --bs=4k --size=8m --ioengine=psync", id="randrw-4k"),
        pytest.param("--rw=randrw --bs=4k --size=8m --ioengine=psync --direct=1", id="randrw-4k-direct"),
        pytest.param("--rw=write --bs=1m --size=64m --ioengine=psync --fsync=16", id="seq-1m"),
        pytest.param("--rw=randrw --bs=4k --size=8m --ioengine=mmap", id="mmap"),
    ],
)
def test_fio_reads_back_what_it_wrote(share: MountedShare, pattern: str) -> None:
    """Every block that fio writes it finds again with the right checksum, on the host's side too."""
    share.guest.run(fio(share.place, pattern), timeout=180)
    if "--rw=write" in pattern:
        share.guest.run("echo 3 >/proc/sys/vm/drop_caches")
        share.guest.run(fio(share.place, f"{pattern} --verify_only=1"), timeout=180)
        subprocess.run(fio(str(share.host), f"{pattern} --verify_only=1"), shell=True, check=True, timeout=60)


def test_git_clones_a_repository_whole(share: MountedShare) -> None:
    """A clone made by the guest passes git's own checks, in the guest and on the host."""
    repository = share.host / "repository"
    subprocess.run(["git", "init", "-q", "--bare", repository], check=True, timeout=30)
    subprocess.run(
        ["git", "-C", repository, "fast-import", "--quiet"], input=_git_history(), check=True, timeout=60
    )
    share.guest.run(f"{_GIT} clone -q -b main {share.place}/repository {share.place}/clone", timeout=120)
    share.guest.run(f"{_GIT} -C {share.place}/clone fsck --full --strict", timeout=120)
    assert share.guest.run(f"{_GIT} -C {share.place}/clone status --porcelain") == ""
    check = f"{_GIT} -C {share.host}/clone fsck --full --strict"
    subprocess.run(check.split(), check=True, capture_output=True, timeout=60)
    assert len(list((share.host / "clone").glob("directory*/*"))) == 300


def _git_history() -> bytes:
    source = random.Random(7)
    stream = b""
    for commit in range(30):
        stream += b"commit refs/heads/main\ncommitter A Tester <tester@example.org> %d +0000\n" % (
            1_600_000_000 + commit
        )
        stream += b"data 6\ncommit\n"
        for file in range(10):
            data = source.randbytes(3000).hex().encode()
            stream += b"M 100644 inline directory%d/file%d\ndata %d\n%s\n" % (commit, file, len(data), data)
    return stream


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_with_full_synchronisation_stays_whole(share: MountedShare, journal: str) -> None:
    """SQLite in the guest commits with synchronous=FULL; the host then finds all rows in a sound database."""
    statements = [
        f"PRAGMA journal_mode={journal}; PRAGMA synchronous=FULL;",
        "CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT);",
        *(f"BEGIN; INSERT INTO entries VALUES ({n}, hex(randomblob(500))); COMMIT;" for n in range(100)),
        "UPDATE entries SET text = text || 'x' WHERE number % 3 = 0;",
        "DELETE FROM entries WHERE number % 10 = 9;",
    ]
    (share.host / "statements.sql").write_text("\n".join(statements))
    share.guest.run(f"sqlite3 -bail {share.place}/data.db <{share.place}/statements.sql", timeout=120)
    assert share.guest.run(f"sqlite3 {share.place}/data.db 'PRAGMA integrity_check'") == "ok\n"
    with sqlite3.connect(share.host / "data.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM entries").fetchall() == [(90,)]
    database.close()


def test_two_devices_are_two_shares(mount_shares: MountShares) -> None:
    """A guest works on two shares at once; what goes to one is not in the other, and files can move."""
    one, two = mount_shares([], [])
    jobs = [
        share.guest.start(fio(share.place, "--rw=randrw --bs=4k --size=4m --ioengine=psync"))
        for share in (one, two)
    ]
    for job in jobs:
        job.wait()
    assert [path.name for path in one.host.iterdir()] == [path.name for path in two.host.iterdir()]
    (file,) = one.host.iterdir()
    expected = file.read_bytes()
    assert expected != (two.host / file.name).read_bytes()
    one.guest.run(f"mv {one.place}/{file.name} {two.place}/moved")
    assert (two.host / "moved").read_bytes() == expected
    assert list(one.host.iterdir()) == []


def test_10000_files_that_the_guest_holds_cost_no_more_than_256_descriptors(
    mount_shares: MountShares,
) -> None:
    """A guest that knows 10,000 files reads them all, twice, while the daemon may open 256 files."""
    (share,) = mount_shares(["--rlimit-nofile=256"])
    _make_tree(share.host / "tree", directories=100, files=100, largest=1000)
    expected = _checksums(share.host / "tree")
    guest = share.guest
    assert guest.run(f"find {share.place}/tree -type f | wc -l", timeout=120).strip() == "10000"
    assert guest.run(f"cd {share.place}/tree && {_SHA256_TREE}", timeout=200) == expected
    assert guest.run(f"cd {share.place}/tree && {_SHA256_TREE}", timeout=200) == expected
    assert share.daemon.open_files_limit() == 256
    assert share.daemon.open_files() <= 256
