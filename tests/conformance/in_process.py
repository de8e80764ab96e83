"""The client of a front-end, whose requests go to a session in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from tests.frontend.client import ROOT, Caller, FuseClient
from vhostfs.filesystem import Caller as KernelCaller
from vhostfs.filesystem import Filesystem
from vhostfs.fuse_abi.extensions import Extensions
from vhostfs.fuse_abi.layout import Structure
from vhostfs.fuse_abi.opcodes import Opcode
from vhostfs.testing import Client

__all__ = ["InProcessClient", "mounted"]


class InProcessClient(FuseClient):
    """Sends each request to a session and runs the event loop until it has its answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kernel: Client, caller: Caller = ROOT) -> None:
        """Take a kernel whose session has begun, on a loop that does not run meanwhile."""
        self.caller = caller
        self._loop = loop
        self._kernel = kernel

    def as_caller(self, caller: Caller) -> InProcessClient:
        """Return a client of the same session whose requests another caller makes."""
        return InProcessClient(self._loop, self._kernel, caller)

    def request(
        self,
        opcode: int,
        nodeid: int,
        *parts: bytes | Structure,
        out_size: int = 0,
        extensions: Extensions | None = None,
    ) -> bytes:
        """Send a request and return what its reply holds behind the header; OSError where it is an error."""
        packed = [part.pack() if isinstance(part, Structure) else part for part in parts]
        data = packed.pop() if opcode == Opcode.WRITE else b""
        body = b"".join(packed)
        extra = b"" if extensions is None else extensions.pack()
        if extra:
            body = body.ljust(-(-len(body) // 8) * 8, b"\0")
        return self._loop.run_until_complete(self._asked(opcode, nodeid, body, extra, data, out_size))

    async def _asked(
        self, opcode: int, nodeid: int, body: bytes, extra: bytes, data: bytes, room: int
    ) -> bytes:
        kernel = self._kernel
        kernel.caller = KernelCaller(self.caller.uid, self.caller.gid, self.caller.pid)
        return await kernel.request(opcode, nodeid, body, room=room, data=data, extensions=extra)

    def forget(self, nodeid: int, lookups: int = 1) -> None:
        """Forget a node."""
        self._loop.run_until_complete(self._forgotten(nodeid, lookups))

    async def _forgotten(self, nodeid: int, lookups: int) -> None:
        self._kernel.forget(nodeid, lookups)


@contextmanager
def mounted(
    filesystem: Filesystem[Any], loop: asyncio.AbstractEventLoop | None = None
) -> Iterator[InProcessClient]:
    """Serve a file system in this process; at the end all is answered, and no fault of it was met.

    On a loop of its own, or on one that others use too, and which does not run meanwhile.
    """
    with ExitStack() as stack:
        if loop is None:
            loop = stack.enter_context(closing(asyncio.new_event_loop()))
        yield from _served(filesystem, loop)


def _served(filesystem: Filesystem[Any], loop: asyncio.AbstractEventLoop) -> Iterator[InProcessClient]:
    async def begin() -> Client:
        kernel = Client(filesystem)
        kernel.begin()
        return kernel

    async def end(kernel: Client) -> None:
        kernel.end()
        await kernel.session.close()

    kernel = loop.run_until_complete(begin())
    try:
        yield InProcessClient(loop, kernel)
    finally:
        loop.run_until_complete(end(kernel))
    assert not kernel.channel.requests
    assert kernel.session.faults == 0
