"""Orders to a bucket's mount, as its daemon's control socket gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vhostfs.backends.s3.filesystem import S3Filesystem
from vhostfs.filesystem import Order, Progress


async def told(
    filesystem: S3Filesystem,
    name: str,
    *,
    descriptors: Sequence[int] = (),
    report: Callable[[Progress], None] = lambda _progress: None,
    **arguments: str,
) -> Any:
    """Return what a mount answers to an order."""
    return await filesystem.commands()[name](Order(arguments, descriptors, report))


async def unwritten(filesystem: S3Filesystem) -> int:
    """Return how many files the bucket does not have yet, as a mount tells it."""
    count = (await told(filesystem, "s3-status"))["unwritten files"]
    assert isinstance(count, int)
    return count
