"""A Ceph cluster in miniature: a monitor, an OSD that keeps all in memory, and a RADOS Gateway before them.

They are Debian sid's, unpacked by `scripts/guest-images ceph-sid`, and run by sid's own loader as the user
who runs the tests. All listen on loopback, keep their files in one directory, and end with the tests.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

ADDRESS: Final = "127.0.0.1"
ACCESS_KEY: Final = "ceph-access"
SECRET: Final = "ceph-secret"  # noqa: S105
START_SECONDS: Final = 90.0

# The monitor proposes a change at once: it waits a second otherwise, for each of the pools that are made.
# cephx stays on, as the gateway hangs without it. Nothing is kept twice, nor written down for ever.
CONFIGURATION: Final = """\
[global]
fsid = {fsid}
mon_host = [v2:{address}:{monitor}]
public_addr = {address}
cluster_addr = {address}
ms_bind_msgr1 = false
keyring = {directory}/keyring
run_dir = {directory}
admin_socket =
crash_dir =
log_to_file = false
log_to_stderr = true
mon_cluster_log_to_file = false
mon_data = {directory}/mon
osd_data = {directory}/osd
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
paxos_propose_interval = 0.01
paxos_min_wait = 0.01
osd_class_dir = {libraries}/rados-classes
erasure_code_dir = {libraries}/ceph/erasure-code
plugin_dir = {libraries}/ceph

[client.rgw]
rgw_frontends = beast endpoint={address}:{gateway}
rgw_data = {directory}
rgw_thread_pool_size = 32
rgw_enable_lc_threads = false
"""

CAPABILITIES: Final = {
    "mon.": ("mon", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw": ("mon", "allow *", "osd", "allow *"),
}


class CephError(Exception):
    """Raised when the cluster does not come up; the sentence holds what its programs said."""


class Ceph:
    """The programs of an unpacked Ceph, and the directory of one cluster."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._root, self._directory = root, directory
        self._libraries = root / "usr/lib/x86_64-linux-gnu"
        monitor, self.gateway = _free_ports(2)
        self._monitor = monitor
        self._fsid = str(uuid.uuid4())
        (directory / "ceph.conf").write_text(
            CONFIGURATION.format(
                fsid=self._fsid,
                address=ADDRESS,
                monitor=monitor,
                gateway=self.gateway,
                directory=directory,
                libraries=self._libraries,
            )
        )

    @property
    def url(self) -> str:
        """Return where the gateway listens."""
        return f"http://{ADDRESS}:{self.gateway}"

    def run(self, program: str, *arguments: str) -> None:
        """Run a program to its end; raise CephError."""
        try:
            done = subprocess.run(
                self._command(program, arguments),
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CephError(f"{program} does not end: {error.stderr!r}\n{self.log()}") from None
        if done.returncode:
            raise CephError(f"{program} {' '.join(arguments)}: {done.stderr[-2000:]}\n{self.log()}")

    @contextmanager
    def running(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Let a program run, in the foreground as it sees it."""
        with (self._directory / f"{program}.log").open("wb") as log:
            process = subprocess.Popen(
                # They end with this process, also where that is killed.
                ["setpriv", "--pdeathsig", "KILL", *self._command(program, ("-f", *arguments))],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()  # nothing that it has is worth the seconds of an orderly end
            process.wait()

    def make(self) -> None:
        """Make the keys, the maps and the directories of a cluster with one monitor and one OSD."""
        for number, (name, capabilities) in enumerate(CAPABILITIES.items()):
            pairs = [
                word
                for kind, granted in zip(capabilities[::2], capabilities[1::2], strict=True)
                for word in ("--cap", kind, granted)
            ]
            made = [] if number else ["--create-keyring"]
            self.run("ceph-authtool", "keyring", *made, "--gen-key", "--name", name, *pairs)
        address = f"[v2:{ADDRESS}:{self._monitor}]"
        self.run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, "monmap")
        self.run("osdmaptool", "--createsimple", "1", "osdmap")
        (self._directory / "mon").mkdir()
        (self._directory / "osd").mkdir()
        maps = ("--monmap", "monmap", "--osdmap", "osdmap", "--keyring", "keyring")
        self.run("ceph-mon", "--mkfs", "-i", "a", *maps)
        self.run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", str(uuid.uuid4()), "--no-mon-config")

    def log(self) -> str:
        """Return the last that each program has said."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self._directory.glob("*.log"))
        )

    @property
    def _environment(self) -> dict[str, str]:
        return {"CEPH_CONF": str(self._directory / "ceph.conf"), "PATH": "/usr/bin:/bin", "HOME": "/"}

    def _command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        libraries = ":".join(str(self._libraries / name) for name in ("", "ceph"))
        loader = str(self._libraries / "ld-linux-x86-64.so.2")
        return [loader, "--library-path", libraries, str(self._root / "usr/bin" / program), *arguments]


@contextmanager
def ceph_gateway(root: Path, directory: Path) -> Iterator[str]:
    """Provide the URL of a gateway with one user, who has ACCESS_KEY and SECRET; raise CephError."""
    ceph = Ceph(root, directory)
    ceph.make()
    with ExitStack() as stack:
        stack.enter_context(ceph.running("ceph-mon", "-i", "a"))
        stack.enter_context(ceph.running("ceph-osd", "-i", "0"))
        user = ("--uid=tests", "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET}")
        ceph.run("radosgw-admin", "-n", "client.rgw", "user", "create", *user)
        gateway = stack.enter_context(ceph.running("radosgw", "-n", "client.rgw"))
        deadline = time.monotonic() + START_SECONDS
        while not _answers(ceph.gateway):
            if gateway.poll() is not None or time.monotonic() > deadline:
                raise CephError(f"the gateway does not answer:\n{ceph.log()}")
            time.sleep(0.05)
        yield ceph.url


def _answers(port: int) -> bool:
    connection = HTTPConnection(ADDRESS, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind((ADDRESS, 0))
        return [each.getsockname()[1] for each in sockets]
