"""What mounts the bucket: vhostfs, s3fs and rclone, each in a process of its own and with nothing cached."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.daemons import NoDaemonError, cpu_nanoseconds
from benchmarks.s3.store import Store

MOUNT_SECONDS: Final = 30.0
END_SECONDS: Final = 30.0
QUIET_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant works: the store, where it mounts, and a directory of its own, empty at first."""

    store: Store
    mountpoint: Path
    work: Path
    peers: Path


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that mounts a bucket: its name in tables, and its command line in a place."""

    name: str
    command: Callable[[Place], list[str]]


def vhostfs(name: str = "vhostfs", **settings: object) -> Contestant:
    """Return vhostfs with settings beside those that say which bucket."""

    def command(place: Place) -> list[str]:
        secret = place.work / "secret"
        secret.write_text(place.store.secret)
        state = place.work / "state"
        state.mkdir()
        told = {
            "bucket": place.store.bucket,
            "endpoint": place.store.url,
            "access_key": place.store.access_key,
            "secret_key_file": secret,
            "state_dir": state,
            **settings,
        }
        lines = "".join(f"        {key}: {value}\n" for key, value in told.items())
        configuration = place.work / "vhostfs.yaml"
        configuration.write_text(
            f"devices:\n  - socket: {{path: {place.work}/unused}}\n    tag: bucket\n"
            f"    mounts:\n      /:\n        type: s3\n{lines}"
        )
        program = str(Path(sys.executable).with_name("vhostfs"))
        return [program, "mount", "-f", str(configuration), str(place.mountpoint)]

    return Contestant(name, command)


def _s3fs(place: Place) -> list[str]:
    password = place.work / "password"
    password.touch(0o600)
    password.write_text(f"{place.store.access_key}:{place.store.secret}")
    options = [
        f"passwd_file={password}",
        f"url={place.store.url}",
        f"tmpdir={place.work}",
        "use_path_request_style",
        "listobjectsv2",
    ]
    program = [str(place.peers / "s3fs"), place.store.bucket, str(place.mountpoint), "-f"]
    return [*program, *(word for option in options for word in ("-o", option))]


def _rclone(*more: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        store = place.store
        return [
            *(str(place.peers / "rclone"), "mount", f":s3:{store.bucket}", str(place.mountpoint)),
            *("--config", os.devnull, "--cache-dir", str(place.work)),
            *("--s3-provider", "Other", "--s3-endpoint", store.url, "--s3-list-version", "2"),
            *("--s3-access-key-id", store.access_key, "--s3-secret-access-key", store.secret),
            *("--vfs-cache-mode", "full", *more),
        ]

    return command


TUNED: Final = (
    *("--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "4M", "--use-server-modtime"),
    *("--vfs-fast-fingerprint", "--vfs-write-back", "0", "--transfers", "16"),
)
S3FS: Final = Contestant("s3fs", _s3fs)
RCLONE: Final = Contestant("rclone", _rclone())
RCLONE_TUNED: Final = Contestant("rclone, tuned", _rclone(*TUNED))
PEERS: Final = (S3FS, RCLONE, RCLONE_TUNED)


class Mounted:
    """A bucket that is mounted."""

    def __init__(self, contestant: Contestant, place: Place, process: subprocess.Popen[bytes]) -> None:
        self.name = contestant.name
        self.store = place.store
        self.path = place.mountpoint
        self._process = process

    def cpu_seconds(self) -> float:
        """Return what its processes have used of the processors."""
        return cpu_nanoseconds(self._process.pid) / 1e9

    def peak_resident_bytes(self) -> int:
        """Return the most memory that it has held."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def _settled(store: Store) -> None:
    """Return when nothing more is asked of the store: what a mount asks at its beginning is not measured."""
    before, now = None, store.counts()
    while now != before:
        time.sleep(QUIET_SECONDS)
        before, now = now, store.counts()


@contextmanager
def mounted(contestant: Contestant, place: Place) -> Iterator[Mounted]:
    """Mount a bucket, and unmount it again; NoDaemonError where it does not appear."""
    place.mountpoint.mkdir()
    place.work.mkdir()
    log = place.work / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            contestant.command(place), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not place.mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoDaemonError(f"{contestant.name} did not mount: {log.read_text(errors='replace')}")
            time.sleep(0.02)
        _settled(place.store)
        yield Mounted(contestant, place, process)
    finally:
        subprocess.run(["umount", "--lazy", str(place.mountpoint)], check=False, capture_output=True)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
