"""Host and guest work on the same files: what one side does the other sees."""

from __future__ import annotations

import os
import stat

import pytest

from tests.integration.conftest import MountedShare, MountShares


def test_the_guest_sees_at_once_what_the_host_changes_where_nothing_is_cached(
    mount_shares: MountShares,
) -> None:
    """With cache=never the guest's next look shows the host's change: names, sizes and contents."""
    (share,) = mount_shares(["--cache=never"])
    guest, place = share.guest, share.place
    assert guest.try_run(f"cat {place}/file").status != 0
    (share.host / "file").write_text("first")
    assert guest.run(f"cat {place}/file") == "first"
    (share.host / "file").write_text("the second is longer")
    assert guest.run(f"stat -c %s {place}/file; cat {place}/file") == "20\nthe second is longer"
    (share.host / "file").rename(share.host / "other")
    assert guest.run(f"ls {place}") == "other\n"
    assert guest.try_run(f"cat {place}/file").status != 0
    (share.host / "other").chmod(0o600)
    assert guest.run(f"stat -c %a {place}/other") == "600\n"
    (share.host / "other").unlink()
    assert guest.run(f"ls {place}") == ""


@pytest.mark.parametrize("cache", ["auto", "metadata"])
def test_the_guest_sees_what_the_host_changes_once_the_time_out_has_passed(
    mount_shares: MountShares, cache: str
) -> None:
    """With a cache the host's change shows when the time-out is over; contents show with metadata too."""
    (share,) = mount_shares([f"--cache={cache}"])
    guest, place = share.guest, share.place
    (share.host / "file").write_text("first")
    assert guest.run(f"cat {place}/file") == "first"
    (share.host / "file").write_text("other")
    guest.run(f"until grep -q other {place}/file; do :; done", timeout=60)
    if cache == "auto":
        assert guest.try_run(f"test -e {place}/new").status != 0
        (share.host / "new").mkdir()
        (share.host / "file").unlink()
        guest.run(f"until [ -d {place}/new ] && [ ! -e {place}/file ]; do :; done", timeout=60)


def test_the_host_sees_at_once_what_the_guest_does(share: MountedShare) -> None:
    """When a command in the guest has ended the host has its effect, without any synchronisation."""
    guest, place, host = share.guest, share.place, share.host
    guest.run(f"printf 0123456789 >{place}/file")
    assert (host / "file").read_text() == "0123456789"
    guest.run(
        f"printf abc | dd of={place}/file bs=1 seek=4 conv=notrunc status=none; printf XY >>{place}/file"
    )
    assert (host / "file").read_text() == "0123abc789XY"
    guest.run(f"truncate -s 5 {place}/file && chmod 640 {place}/file && chown 1234:4321 {place}/file")
    status = (host / "file").stat()
    assert (status.st_size, stat.S_IMODE(status.st_mode)) == (5, 0o640)
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    guest.run(f"touch -d @1000000000.123456789 {place}/file && touch -h -d @2000000000 {place}/file")
    assert (host / "file").stat().st_mtime_ns == 2_000_000_000_000_000_000
    guest.run(f"cd {place} && mkdir directory && mv file directory/moved && ln -s moved directory/link")
    assert (host / "directory/link").readlink().name == "moved"
    guest.run(f"ln {place}/directory/moved {place}/second && mkfifo {place}/fifo")
    assert (host / "second").stat().st_nlink == 2
    assert stat.S_ISFIFO((host / "fifo").lstat().st_mode)
    guest.run(f"rm -r {place}/directory {place}/fifo")
    assert [path.name for path in host.iterdir()] == ["second"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the daemon must be root to make files of other users")
def test_what_another_user_makes_belongs_to_that_user(share: MountedShare) -> None:
    """Files get the owner of the guest's process that made them, one request's user never being another's."""
    guest, place = share.guest, share.place
    guest.run(f"mkdir -m 777 {place}/shared")
    guest.run(
        f"cd {place}/shared && setpriv --reuid 1001 --regid 1002 --clear-groups touch theirs && touch mine"
    )
    owners = {
        path.name: (path.stat().st_uid, path.stat().st_gid) for path in (share.host / "shared").iterdir()
    }
    assert owners == {"theirs": (1001, 1002), "mine": (0, 0)}
    refused = guest.try_run(
        f"cd {place}/shared && chmod 600 mine && setpriv --reuid 1001 --regid 1002 --clear-groups cat mine"
    )
    assert "Permission denied" in refused.output


def test_a_share_served_read_only_takes_no_change(mount_shares: MountShares) -> None:
    """With --readonly the guest reads, and each try to change something is answered with EROFS."""
    (share,) = mount_shares(["--readonly"])
    (share.host / "file").write_text("kept")
    guest, place = share.guest, share.place
    assert guest.run(f"cat {place}/file") == "kept"
    for attempt in (
        f"touch {place}/new",
        f"rm {place}/file",
        f"mkdir {place}/new",
        f"sh -c 'echo x >{place}/file'",
    ):
        refused = guest.try_run(attempt)
        assert refused.status != 0
        assert "Read-only file system" in refused.output
    assert (share.host / "file").read_text() == "kept"
    assert [path.name for path in share.host.iterdir()] == ["file"]
