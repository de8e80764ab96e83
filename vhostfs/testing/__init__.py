"""For tests of file systems: a kernel in the same process, which speaks FUSE to a session.

    async def test_the_greeting_can_be_read() -> None:
        async with mount(Hello()) as client:
            assert await client.read_bytes("/hello") == b"Hello, guest"

Everything on the way is the real thing (decoding, tables, packing) but the data plane, which is bytearrays.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vhostfs.filesystem import Filesystem, PathFilesystem, by_nodes
from vhostfs.fuse_abi.flags import InitFlags
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION
from vhostfs.testing.client import Client, file_attr
from vhostfs.testing.kernel import OFFERED, KernelClient
from vhostfs.testing.memory_channel import MemoryChannel, Request

__all__ = ["Client", "KernelClient", "MemoryChannel", "Request", "file_attr", "mount"]


@asynccontextmanager
async def mount(
    filesystem: Filesystem[Any] | PathFilesystem[Any],
    *,
    mount: int = 0,
    name: str = "test",
    minor: int = KERNEL_MINOR_VERSION,
    offered: InitFlags = OFFERED,
) -> AsyncIterator[Client]:
    """Serve a file system to a client, as the given mount of a device; at the end `destroy` has returned.

    `offered` are the INIT flags of its kernel. Raises AssertionError if the session answered a request twice
    or not at all.
    """
    client = Client(by_nodes(filesystem), mount=mount, name=name, offered=offered)
    client.begin(minor)
    try:
        yield client
    finally:
        client.end()
        await client.session.close()
    assert not client.channel.requests, "requests were not answered by the end of the session"
