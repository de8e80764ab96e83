"""What the daemon's options give a guest: attributes, lists, locks, collected writes, sandboxes, mounts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from tests.guests.daemon import Daemon
from tests.integration.conftest import MountShares
from tests.integration.fio import fio
from tests.integration.lanes import Lane


@pytest.mark.parametrize("sandbox", ["namespace", "chroot", "none"])
def test_each_sandbox_serves_alike(mount_shares: MountShares, sandbox: str) -> None:
    """A guest reads, writes, and runs a program from a share in whatever sandbox the daemon is."""
    (share,) = mount_shares([f"--sandbox={sandbox}"])
    (share.host / "in").write_text("from the host")
    share.guest.run(f"cp {share.place}/in {share.place}/out && cp /usr/bin/printf {share.place}/program")
    assert (share.host / "out").read_text() == "from the host"
    assert share.guest.run(f"{share.place}/program runs") == "runs"


def test_extended_attributes_and_access_control_lists_are_the_hosts(mount_shares: MountShares) -> None:
    """With --xattr and --posix-acl either side finds what the other sets; directories hand lists on."""
    (share,) = mount_shares(["--xattr", "--posix-acl"])
    guest, place, host = share.guest, share.place, share.host
    (host / "file").touch(0o640)
    os.setxattr(host / "file", "user.host", b"says hello")
    assert guest.run(f"getfattr --absolute-names --only-values -n user.host {place}/file") == "says hello"
    guest.run(f"setfattr -n user.guest -v answers {place}/file && setfattr -x user.host {place}/file")
    assert os.listxattr(host / "file") == ["user.guest"]
    assert os.getxattr(host / "file", "user.guest") == b"answers"
    guest.run(f"setfacl -m u:1001:r {place}/file && mkdir {place}/d && setfacl -d -m u:1001:rwx {place}/d")
    assert "system.posix_acl_access" in os.listxattr(host / "file")
    assert guest.run(f"setpriv --reuid 1001 --regid 1001 --clear-groups cat {place}/file") == ""
    assert guest.try_run(f"setpriv --reuid 1002 --regid 1001 --clear-groups cat {place}/file").status != 0
    # A default list stands in for the umask.
    guest.run(f"umask 077 && touch {place}/d/passed-on && sync {place}/d/passed-on")
    assert "user:1001:rwx" in guest.run(f"getfacl -cn {place}/d/passed-on")


def test_a_lock_kept_on_the_host_holds_on_both_sides(mount_shares: MountShares) -> None:
    """With --flock=host one side waits for the other's lock, and the guest's other work goes on meanwhile."""
    (share,) = mount_shares(["--flock=host"])
    guest, place = share.guest, share.place
    guest.run(f"mkfifo {place}/go")
    holder = guest.start(f"flock {place}/lock sh -c 'echo >{place}/locked; cat {place}/go'")
    guest.run(f"until [ -s {place}/locked ]; do :; done")
    with (share.host / "lock").open("r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        guest.run(f"echo released >{place}/go")
        assert holder.wait() == "released\n"
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiter = guest.start(f"flock {place}/lock echo got it")
        guest.run(f"touch {place}/other && ls -l {place} && cat {place}/other")
        fcntl.flock(file, fcntl.LOCK_UN)
        assert waiter.wait() == "got it\n"


def test_a_database_of_the_guest_is_locked_for_the_host(mount_shares: MountShares) -> None:
    """With --posix-locks=host SQLite on the host waits while SQLite in the guest writes."""
    (share,) = mount_shares(["--posix-locks=host"])
    guest, place = share.guest, share.place
    guest.run(f"mkfifo {place}/go && sqlite3 {place}/data.db 'CREATE TABLE entries (number)'")
    statements = (
        "'BEGIN EXCLUSIVE' '.shell echo >locked' '.shell cat go' 'INSERT INTO entries VALUES (7)' COMMIT"
    )
    writer = guest.start(f"cd {place} && sqlite3 -bail data.db {statements}")
    guest.run(f"until [ -s {place}/locked ]; do :; done")
    with contextlib.closing(sqlite3.connect(share.host / "data.db", timeout=0)) as database:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            database.execute("SELECT * FROM entries")
        guest.run(f"echo go >{place}/go")
        writer.wait()
        assert database.execute("SELECT * FROM entries").fetchall() == [(7,)]


def test_writes_that_the_guest_collects_reach_the_host_when_it_synchronises(
    mount_shares: MountShares,
) -> None:
    """With --writeback fio finds what it wrote, and after sync the host has it, too."""
    (share,) = mount_shares(["--writeback"])
    guest, place = share.guest, share.place
    guest.run(fio(place, "--rw=randrw --bs=2k --size=4m --ioengine=psync"), timeout=120)
    guest.run(f"for n in $(seq 2000); do echo line $n; done >{place}/lines && sync {place}/lines")
    assert (share.host / "lines").read_text() == "".join(f"line {n}\n" for n in range(1, 2001))
    (file,) = share.host.glob("job*")
    checksum = guest.run(f"sync && sha256sum <{place}/{file.name}").split()[0]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("cache", ["never", "always"])
def test_what_the_guest_has_over_a_mount_of_the_host_stays(lane: Lane, cache: str, tmp_path: Path) -> None:
    """Neither names asked for anew nor listings with attributes detach what is mounted there."""
    with (
        Daemon(tmp_path, Path("/"), "whole", "--readonly", f"--cache={cache}") as daemon,
        lane.guest_with([daemon]) as guest,
    ):
        place = guest.mount("whole", "ro")
        # Linux itself mounts a mount of the host when somebody goes there.
        inside = f"{place}/proc/sys"
        assert guest.run(f"cd {inside} && ls -l {place} {inside} >/dev/null && pwd -P") == f"{inside}\n"
        guest.run(f"mount -t tmpfs over {place}/proc && echo mine >{place}/proc/file && ls -l {place}")
        assert guest.run(f"cat {place}/proc/file") == "mine\n"
        guest.run(f"umount -R {place}")
