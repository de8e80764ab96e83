"""What a package gives to add a type of mount, or of layer, to the configuration.

An entry point of the group `vhostfs.backends` (or `vhostfs.layers`) names the type and leads to a subclass of
Backend (or Layer): a frozen, slotted dataclass whose fields are the keys that the type takes, checked
strictly against their annotations (pydantic's, where they are Annotated), unknown keys being errors; a
ValueError of __post_init__ is told as a fault of the mount. A field of type Backend, Backend | None or
tuple[Backend, ...] takes mounts in turn, given as one is given under `mounts`, layers included; one of type
PurePosixPath an absolute path of the host. No field is called `type` or `layers`.

    @dataclass(frozen=True, slots=True)
    class ClockSettings(Backend):
        utc: bool = False

        def open(self) -> Filesystem[None]:
            return Clock(utc=self.utc)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

from vhostfs.filesystem import Filesystem, PathFilesystem, by_nodes


class Backend:
    """The settings of one mount, and the way to its file system."""

    __slots__ = ()

    network: ClassVar[bool] = False
    """Whether it needs the host's network: the sandbox then leaves it."""

    def open(self) -> Filesystem[Any]:
        """Return the file system, with everything opened and imported that is found by path.

        Called once, before the sandbox hides the host's files and before there is an event loop; what needs
        the loop begins in Filesystem.init. A mount that is added to a running daemon is opened by a worker
        thread inside the sandbox, where open_path (vhostfs.backends.opening) still finds what a field of
        the settings has the path of. Raises OSError or ConfigurationError.
        """
        raise NotImplementedError


class Layer:
    """The settings of one layer over a mount."""

    __slots__ = ()

    network: ClassVar[bool] = False
    """As Backend.network."""

    def wrap(self, inner: Filesystem[Any]) -> Filesystem[Any]:
        """Return a file system that stands before another one. As Backend.open, otherwise."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Layered(Backend):
    """A mount under layers, of which a request meets the first one first."""

    backend: Backend
    layers: tuple[Layer, ...]

    def open(self) -> Filesystem[Any]:
        """Open the mount, and wrap it from the last layer to the first."""
        filesystem = self.backend.open()
        for layer in reversed(self.layers):
            filesystem = layer.wrap(filesystem)
        return filesystem


@dataclass(frozen=True, slots=True)
class Given(Backend):
    """A file system that is there already: of a program that serves it by itself."""

    filesystem: Filesystem[Any] | PathFilesystem[Any]

    def open(self) -> Filesystem[Any]:
        """Return it."""
        return by_nodes(self.filesystem)


def needs_network(settings: Backend | Layer) -> bool:
    """Tell whether a mount, a layer of it or a mount inside it needs the host's network."""
    return settings.network or any(needs_network(inner) for inner in _inside(settings))


def _inside(settings: Backend | Layer) -> Iterator[Backend | Layer]:
    """Yield the mounts and layers that are fields of settings."""
    if not is_dataclass(settings):
        return
    for field in fields(settings):
        value = getattr(settings, field.name)
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, Backend | Layer):
                yield each
