"""Run as a program: lock this process in, and print as JSON what it can still see and do.

    python -m tests.unit.daemon.locked_in '{"mode": "namespace", "shares": ["/srv"], "uid": 1000}'

uid: become that user first. host: have mounts of one's own first, so that mount_later concerns nobody else.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from vhostfs import sandbox
from vhostfs.config.model import IdRange, SandboxMode, SandboxSettings
from vhostfs.errors import StartError

PR_SET_DUMPABLE = 4
MS_SHARED = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    wish: dict[str, Any] = json.loads(sys.argv[1])
    if "uid" in wish:
        os.setgroups([])
        os.setresgid(wish["uid"], wish["uid"], wish["uid"])
        os.setresuid(wish["uid"], wish["uid"], wish["uid"])
        # A program that a user starts belongs to that user; one that changed its user does not, in /proc.
        assert LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
    shares = [PurePosixPath(share) for share in wish["shares"]]
    settings = SandboxSettings(
        SandboxMode(wish["mode"]),
        tuple(IdRange(*part) for part in wish.get("uid_map", [])),
        tuple(IdRange(*part) for part in wish.get("gid_map", [])),
    )
    if wish.get("host"):
        be_a_host()
    go_on = mount_later(wish["mount_later"]) if "mount_later" in wish else None
    process = os.open("/proc/self", os.O_PATH)
    kept = {os.open(place, os.O_PATH): PurePosixPath(place) for place in wish.get("kept", [])}
    try:
        entered = sandbox.enter(settings, shares, kept)
    except StartError as error:
        json.dump({"refused": str(error)}, sys.stdout)
        return
    if go_on is not None:
        go_on()
    json.dump(facts(entered, shares, process, list(kept)), sys.stdout)


def be_a_host() -> None:
    """Have mounts of one's own, which are shared with whoever is locked in from here."""
    os.unshare(os.CLONE_NEWNS)
    assert LIBC.mount(None, b"/", None, ctypes.c_ulong(sandbox.MS_REC | sandbox.MS_SLAVE), None) == 0
    assert LIBC.mount(None, b"/", None, ctypes.c_ulong(sandbox.MS_REC | MS_SHARED), None) == 0


def mount_later(place: str) -> Any:
    """Leave a process outside that mounts a tmpfs when told to; return how to tell it, and wait for it."""
    ask, asked = os.pipe()
    done, finished = os.pipe()
    if os.fork() == 0:
        os.read(ask, 1)
        status = LIBC.mount(b"late", os.fsencode(place), b"tmpfs", ctypes.c_ulong(0), None)
        Path(place, "mounted-late").touch()
        os.write(finished, b"!")
        os._exit(status)

    def go_on() -> None:
        os.write(asked, b"!")
        os.read(done, 1)

    return go_on


def facts(
    entered: sandbox.Sandbox, shares: list[PurePosixPath], process: int, kept: list[int]
) -> dict[str, Any]:
    """Return what the process sees and may do."""
    status = read(process, "status")
    return {
        "root": sorted(path.name for path in Path("/").iterdir()),
        "shares": [listing(entered.shares[share], ".") for share in shares],
        "below": [listing(entered.shares[share], "below") for share in shares],
        "above": [listing(entered.shares[share], "..") for share in shares],
        "above_kept": [listing(each, "..") for each in kept],
        "removed_in_kept": [refusal(partial(os.unlink, "socket", dir_fd=each)) for each in kept],
        "above_proc_self_fd": "self" in listing(entered.proc_self_fd, "../.."),
        "flags": [os.fstatvfs(entered.shares[share]).f_flag for share in shares],
        "reopened": read(
            entered.proc_self_fd, str(os.open("file", os.O_PATH, dir_fd=entered.shares[shares[0]]))
        ),
        "root_refuses": refusal(lambda: Path("/new").mkdir()),
        "created_mode": created_mode(entered.shares[shares[0]]),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "uid": os.getuid(),
        "uid_map": read(process, "uid_map").split(),
        "capabilities": {
            line.split(":")[0]: int(line.split()[1], 16)
            for line in status.splitlines()
            if line.startswith("Cap")
        },
        "keeps_capabilities_as_another_user": LIBC.prctl(sandbox.PR_GET_SECUREBITS, 0, 0, 0, 0)
        == sandbox.SECBIT_NO_SETUID_FIXUP,
        "no_new_privileges": "NoNewPrivs:\t1" in status,
        "cwd": str(Path.cwd()),
    }


def listing(directory: int, name: str) -> list[str]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    try:
        return sorted(os.listdir(descriptor))  # noqa: PTH208 - no path
    finally:
        os.close(descriptor)


def read(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 1 << 16).decode()
    finally:
        os.close(descriptor)


def created_mode(directory: int) -> int:
    descriptor = os.open("created", os.O_CREAT | os.O_WRONLY, 0o666, dir_fd=directory)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def refusal(attempt: Any) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


if __name__ == "__main__":
    main()
