"""A shared directory under layers: what the data plane is told of them, and what Python serves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vhostfs.config import model
from vhostfs.fuse_abi.negotiation import CacheMode

if TYPE_CHECKING:
    # What layers are made of costs time that a directory without any does not need to start.
    from vhostfs.backends.contract import Backend, Layer


def told_to_the_data_plane(
    settings: model.PassthroughSettings, layers: Sequence[Layer]
) -> model.PassthroughSettings | None:
    """Return the mount with what its layers do, where the data plane does all of that; else None."""
    if not layers:
        return settings
    from vhostfs.layers.rate_limit import RateLimitSettings  # noqa: PLC0415
    from vhostfs.layers.read_only import ReadOnlySettings  # noqa: PLC0415

    limits = tuple(layer for layer in layers if isinstance(layer, RateLimitSettings))
    read_only = any(isinstance(layer, ReadOnlySettings) for layer in layers)
    if not all(isinstance(layer, ReadOnlySettings | RateLimitSettings) for layer in layers):
        return None
    if len(limits) > model.MOUNT_LIMITS:
        return None
    return replace(settings, read_only=settings.read_only or read_only, rate_limits=limits)


def not_served_by_python(settings: model.PassthroughSettings) -> Iterator[tuple[str, ...]]:
    """Yield the keys that ask for what the data plane alone does."""
    if settings.locks.posix is model.LockOwner.HOST:
        yield "locks", "posix"
    if settings.locks.flock is model.LockOwner.HOST:
        yield "locks", "flock"
    if settings.direct_io:
        yield ("direct_io",)
    if settings.killpriv_v2:
        yield ("killpriv_v2",)


def served_by_python(settings: model.PassthroughSettings) -> Backend:
    """Return the mount that Python serves as the data plane serves a directory."""
    from vhostfs.backends.contract import Layered  # noqa: PLC0415
    from vhostfs.backends.directory import DirectorySettings  # noqa: PLC0415
    from vhostfs.layers.read_only import ReadOnlySettings  # noqa: PLC0415

    directory = DirectorySettings(
        settings.shared_dir,
        xattr=settings.xattr,
        posix_acl=settings.posix_acl,
        writeback=settings.writeback,
        keep_cache=settings.cache is CacheMode.ALWAYS,
        direct_io=settings.cache in {CacheMode.NEVER, CacheMode.METADATA},
        direct_io_mmap=settings.allow_mmap,
        entry_seconds=settings.timeouts.entry,
        attr_seconds=settings.timeouts.attribute,
        negative_seconds=settings.timeouts.negative,
        descriptors=settings.descriptors,
    )
    return Layered(directory, (ReadOnlySettings(),)) if settings.read_only else directory


def under_layers(name: str, backend: Backend, layers: tuple[Layer, ...]) -> model.FilesystemSettings:
    """Return a mount of a file system in Python under layers, which may be none."""
    from vhostfs.backends.contract import Layered, needs_network  # noqa: PLC0415

    whole = Layered(backend, layers) if layers else backend
    return model.FilesystemSettings(name, whole, needs_network(whole))
