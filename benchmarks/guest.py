"""A guest without a kernel: it connects to a daemon, learns the nodes of a share, and runs workloads."""

from __future__ import annotations

import errno
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.load import load
from benchmarks.share import DATA_SIZE, FILES, XATTR_VALUE, Share
from benchmarks.workloads import Workload
from tests.frontend.frontend import Frontend, FrontendOptions
from tests.frontend.memory import Region, RegionSpec
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION, KERNEL_VERSION, ROOT_ID, Opcode
from vhostfs.fuse_abi.structures import EntryOut, InitIn, InitOut, OpenIn, OpenOut

QUEUE_SIZE: Final = 1024
"""What large requests need: an indirect table may hold no more entries than the ring."""

SLOTS: Final = 32
FORGETS: Final = 64
PAGES_A_SLOT: Final = 260
MEMORY_ADDRESS: Final = 0x4000_0000
SEED: Final = 20_260_101
LISTEN_SECONDS: Final = 20.0

LINUX_6_18_FLAGS: Final = InitFlags.joined(0x7BFFFFFB, 0x5FF)


class WrongReplyError(Exception):
    """Raised when a daemon gave a reply that was not as it should be: what it takes means nothing then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a guest saw of one run. Latencies are those of single requests, in microseconds."""

    cycles: int
    requests: int
    seconds: float
    calls: int
    kicks: int
    median: float
    percentile_99: float
    worst: float


class PageFile:
    """Memory for requests and their data, which guests that run in turn share.

    Where pages come to lie in the host's memory makes a large transfer dearer or cheaper by half: so all
    daemons are measured on the same ones.
    """

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("pages")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def region(self, size: int) -> Region:
        """Return the first bytes of it as a region of a guest."""
        if os.fstat(self._descriptor).st_size < size:
            os.ftruncate(self._descriptor, size)
        mapping = mmap.mmap(self._descriptor, size)
        return Region(
            RegionSpec(MEMORY_ADDRESS, size), os.dup(self._descriptor), mapping, memoryview(mapping)
        )


def _connect(socket: Path, options: FrontendOptions) -> Frontend:
    """Connect to a socket that may be bound, and not yet listened on."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while True:
        try:
            return Frontend.connect(socket, options)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Guest:
    """A connection to a daemon that serves a populated share."""

    def __init__(self, socket: Path, share: Share, queues: int, pages: PageFile) -> None:
        self._ffi, self._library = load()
        self.share = share
        self.queues = queues
        self._frontend = _connect(socket, FrontendOptions(request_queues=queues, queue_size=QUEUE_SIZE))
        self._keep: list[Any] = []
        self._guest = self._ffi.NULL
        try:
            self._start(pages)
            self._material = self._learn()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave, and free the memory."""
        self._library.guest_destroy(self._guest)
        self._guest = self._ffi.NULL
        self._keep.clear()
        self._frontend.close()

    def run(self, workload: Workload, *, depth: int, queues: int, seconds: float) -> Outcome:
        """Run a workload for a while; WrongReplyError where any reply was not as it should be."""
        asked = c_workload(workload, depth, queues)
        outcome = self._ffi.new("struct outcome *")
        error = self._library.guest_run(self._guest, asked, self._material, int(seconds * 1e9), outcome)
        wrong = self._ffi.string(outcome.wrong).decode()
        if wrong:
            raise WrongReplyError(f"{workload.name}: {wrong}")
        if error:
            raise OSError(-error, os.strerror(-error))
        return Outcome(
            outcome.cycles,
            outcome.requests,
            outcome.nanoseconds / 1e9,
            outcome.calls,
            outcome.kicks,
            outcome.median / 1e3,
            outcome.percentile_99 / 1e3,
            outcome.worst / 1e3,
        )

    def verify(self) -> None:
        """Look, as the host, for what was written; WrongReplyError where it is not there."""
        with self.share.write_file.open("rb") as file:
            if self._library.guest_verify(self._guest, file.fileno()):
                raise WrongReplyError("what was written is not in the file")

    def _start(self, pages: PageFile) -> None:
        frontend, ffi = self._frontend, self._ffi
        frontend.negotiate()
        size = (self.queues * SLOTS + FORGETS) * PAGES_A_SLOT * 4096
        region = pages.region(size)
        frontend.memory.regions.append(region)
        frontend.share_memory()
        frontend.create_queues()
        frontend.start_queues()
        rings = ffi.new("struct guest_ring[]", len(frontend.queues))
        for ring, queue in zip(rings, frontend.queues, strict=True):
            at = queue.ring.addresses
            ring.descriptors = self._address(at.descriptors, 16 * QUEUE_SIZE)
            ring.available = self._address(at.driver, 6 + 2 * QUEUE_SIZE)
            ring.used = self._address(at.device, 6 + 8 * QUEUE_SIZE)
            ring.kick_fd, ring.call_fd = queue.kick_descriptor, queue.call_descriptor
            ring.size = QUEUE_SIZE
        memory = ffi.from_buffer("uint8_t[]", region.view)
        self._keep.append(memory)
        self._guest = self._library.guest_create(memory, region.gpa, size, rings, len(rings), SEED)
        if not self._guest:
            raise MemoryError("the guest's memory could not be laid out")

    def _address(self, gpa: int, size: int) -> Any:
        view = self._ffi.from_buffer("uint8_t[]", self._frontend.memory.view(gpa, size))
        self._keep.append(view)
        return view

    def _call(self, opcode: Opcode, nodeid: int, arguments: bytes, reply_size: int) -> bytes:
        reply = self._ffi.new("uint8_t[]", reply_size)
        result = self._library.guest_call(
            self._guest, opcode, nodeid, arguments, len(arguments), reply, reply_size
        )
        if result < 0:
            raise OSError(-result, f"{opcode.name}: {errno.errorcode.get(-result)}")
        return bytes(self._ffi.buffer(reply, result))

    def _ask[R: Structure](self, kind: type[R], opcode: Opcode, nodeid: int, arguments: bytes) -> R:
        return kind.unpack_from(self._call(opcode, nodeid, arguments, kind.SIZE))

    def lookup(self, parent: int, name: str) -> int:
        """Have the daemon look up a name, and return its nodeid; OSError where it answers an error."""
        return self._ask(EntryOut, Opcode.LOOKUP, parent, name.encode() + b"\0").nodeid

    def _open(self, nodeid: int, flags: int) -> int:
        return self._ask(OpenOut, Opcode.OPEN, nodeid, OpenIn(flags).pack()).fh

    def _learn(self) -> Any:
        low, high = LINUX_6_18_FLAGS.split
        init = InitIn(KERNEL_VERSION, KERNEL_MINOR_VERSION, 0x20000, low, high).pack()
        answer = InitOut.unpack_prefix(self._call(Opcode.INIT, 0, init, InitOut.SIZE))
        if answer.max_write < 1 << 20:
            raise WrongReplyError(f"the daemon takes writes of {answer.max_write} bytes only")
        directory = self.lookup(ROOT_ID, "files")
        files = self._ffi.new(
            "uint64_t[]", [self.lookup(directory, f"file-{number:05}") for number in range(FILES)]
        )
        self._keep.append(files)
        material = self._ffi.new("struct material *")
        material.directory, material.files, material.file_count = directory, files, FILES
        material.xattr_size = len(XATTR_VALUE)
        material.cold_directory = self.lookup(ROOT_ID, "cold")
        material.new_directory = self.lookup(ROOT_ID, "new")
        material.read_file = self.lookup(ROOT_ID, "read")
        material.read_handle = self._open(material.read_file, os.O_RDONLY)
        material.write_file = self.lookup(ROOT_ID, "write")
        material.write_handle = self._open(material.write_file, os.O_RDWR)
        material.background_file = self.lookup(ROOT_ID, "background")
        material.background_handle = self._open(material.background_file, os.O_RDWR)
        material.data_size = DATA_SIZE
        return material


def c_workload(workload: Workload, depth: int, queues: int) -> Any:
    """Return a workload as load.h has it."""
    ffi, _ = load()
    asked = ffi.new("struct workload *")
    for at, step in enumerate(workload.steps):
        asked.steps[at] = step
    asked.step_count = len(workload.steps)
    for at, step in enumerate(workload.background):
        asked.background[at] = step
    asked.background_count = len(workload.background)
    asked.depth, asked.queues = depth, queues
    asked.block, asked.random = workload.block, workload.random
    return asked


def bare_cost(share: Share, workload: Workload, seconds: float) -> float:
    """Return the CPU microseconds that the system calls of a cycle take by themselves."""
    ffi, library = load()
    opened = [
        os.open(share.directory / "files", os.O_RDONLY | os.O_DIRECTORY),
        os.open(share.directory / "new", os.O_RDONLY | os.O_DIRECTORY),
        os.open(share.read_file, os.O_RDONLY),
        os.open(share.bare_file, os.O_RDWR),
    ]
    try:
        calls = ffi.new("struct bare_share *", (*opened, DATA_SIZE, FILES))
        spent = library.bare_run(calls, c_workload(workload, 1, 1), int(seconds * 1e9))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if spent < 0:
        raise OSError(-spent, os.strerror(-spent))
    return float(spent) / 1e3
