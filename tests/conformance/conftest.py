"""The ways in which the promises are checked, each a Place: a kind of file system, and how it is reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest

from tests.conformance.detached import detached_tmpfs
from tests.conformance.differences import differences
from tests.conformance.host import HostPlace
from tests.conformance.in_process import mounted
from tests.conformance.on_host import Mounts
from tests.conformance.place import Place
from tests.conformance.requests import RequestPlace
from tests.conformance.ring import Devices, served
from vhostfs.backends.directory import DirectoryFilesystem
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.backends.overlay import OverlayFilesystem
from vhostfs.filesystem import Filesystem
from vhostfs.layers.audit import AuditSettings
from vhostfs.layers.fault import FaultRule, FaultSettings
from vhostfs.layers.id_map import IdMapSettings
from vhostfs.layers.policy import PolicyRule, PolicySettings
from vhostfs.layers.rate_limit import RateLimitSettings
from vhostfs.layers.xattr_map import XattrMapSettings

SIZE: Final = 64 << 20
"""The size of the file systems that are made for a promise."""

INODES: Final = 1000

_MEMORY: Final = f"{{{{type: memory, size: {SIZE}, inodes: {INODES}, mode: 0755}}}}"

MOUNTS: Final = {
    "memory": _MEMORY,
    "overlay": f"{{{{type: overlay, lower: [{_MEMORY}, {_MEMORY}], upper: {_MEMORY}}}}}",
    "passthrough": "{{type: passthrough, shared_dir: {tmpfs}, xattr: true, killpriv_v2: true,"
    " locks: {{posix: host, flock: host}}}}",
    "s3": "{{type: s3, {store}, prefix: all}}",
}
"""What the daemon of this run serves."""

WAYS: Final = (
    *("tmpfs", "memory", "memory under layers", "overlay of directories"),
    *(f"{kind} by {way}" for way in ("ring", "/dev/fuse") for kind in MOUNTS),
)

LAYERS: Final = (
    XattrMapSettings(":ok:all:::"),
    IdMapSettings(("map:1:1000001:999999",), ("map:1:1000001:999999",)),
    FaultSettings((FaultRule(("read", "write"), nth=1 << 60, error="EIO"),)),
    PolicySettings((PolicyRule("deny", ("/**/.no-such-name",)),)),
    AuditSettings(PurePosixPath(os.devnull)),
    RateLimitSettings(requests=10**12, bytes=10**12),
)
"""What passes everything on, as `quota` does not: it hands out no room beyond a file's end."""

if os.getuid() != 0:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> str:
    """Say why nothing is collected where it is not."""
    return "" if os.getuid() == 0 else "tests/conformance: left out, as acting as several users needs root"


@contextmanager
def tmpfs() -> Iterator[Place]:
    """A tmpfs of this machine, the yardstick."""
    with detached_tmpfs(size=str(SIZE), nr_inodes=str(INODES), mode="755") as directory:
        yield HostPlace(directory, differences("tmpfs"))


@contextmanager
def memory() -> Iterator[Place]:
    """A memory file system served in this process."""
    with mounted(MemoryFilesystem(size=SIZE, inodes=INODES, mode=0o755)) as client:
        yield RequestPlace(client, differences("memory"))


@contextmanager
def layers() -> Iterator[Place]:
    """A memory file system under a layer of each kind that may pass everything on."""
    filesystem: Filesystem[Any] = MemoryFilesystem(size=SIZE, inodes=INODES, mode=0o755)
    for layer in LAYERS:
        filesystem = layer.wrap(filesystem)
    with mounted(filesystem) as client:
        yield RequestPlace(client, differences("memory under layers"))


@contextmanager
def directories() -> Iterator[Place]:
    """An overlay of directories served in this process, of which the upper one is a tmpfs."""
    options = {"size": str(SIZE), "nr_inodes": str(INODES), "mode": "755"}
    with ExitStack() as stack:
        upper, lower = [
            stack.enter_context(closing(DirectoryFilesystem(stack.enter_context(detached_tmpfs(**options)))))
            for _ in range(2)
        ]
        with mounted(OverlayFilesystem([lower], upper)) as client:
            yield RequestPlace(client, differences("overlay of directories"))


IN_PROCESS: Final = {
    "tmpfs": tmpfs,
    "memory": memory,
    "memory under layers": layers,
    "overlay of directories": directories,
}


@pytest.fixture(scope="session")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    """Provide the daemon of this run."""
    with served(tmp_path_factory.mktemp("devices"), MOUNTS, SIZE, INODES) as devices:
        yield devices


@pytest.fixture(scope="session")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """Provide the mounts of this run on this host."""
    with Mounts(tmp_path_factory.mktemp("mounts"), MOUNTS, SIZE, INODES) as mounts:
        yield mounts


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Provide an empty directory, once for each way."""
    kind, _, way = request.param.partition(" by ")
    if not way:
        with IN_PROCESS[kind]() as place:
            yield place
    elif way == "/dev/fuse":
        if not Path("/dev/fuse").exists():
            pytest.skip("mounting on this host needs /dev/fuse")
        mounts: Mounts = request.getfixturevalue("mounts")
        place = mounts.place(kind, differences(kind, way))
        place.clear()
        yield place
    else:
        devices: Devices = request.getfixturevalue("devices")
        with devices.place(kind, differences(kind, way)) as place:
            place.clear()
            yield place
