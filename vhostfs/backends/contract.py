"""What a package gives to add a type of mount, or of layer, to the configuration.

An entry point of the group `vhostfs.backends` (or `vhostfs.layers`) names the type and leads to a subclass of
Backend (or Layer): a frozen, slotted dataclass whose fields are the keys that the type takes, checked
strictly against their annotations, unknown keys being errors. A field of type Backend is a mount in turn,
given as one is given under `mounts`.

    @dataclass(frozen=True, slots=True)
    class ClockSettings(Backend):
        utc: bool = False

        def open(self) -> Filesystem[None]:
            return Clock(utc=self.utc)
"""

from __future__ import annotations

from typing import Any, ClassVar

from vhostfs.filesystem import Filesystem


class Backend:
    """The settings of one mount, and the way to its file system."""

    __slots__ = ()

    network: ClassVar[bool] = False
    """Whether it needs the host's network: the sandbox then leaves it."""

    def open(self) -> Filesystem[Any]:
        """Return the file system, with everything opened and imported that is found by path.

        Called once, before the sandbox hides the host's files and before there is an event loop; what needs
        the loop begins in Filesystem.init. Raises OSError or ConfigurationError.
        """
        raise NotImplementedError


class Layer:
    """The settings of one layer over a mount."""

    __slots__ = ()

    def wrap(self, inner: Filesystem[Any]) -> Filesystem[Any]:
        """Return a file system that stands before another one. As Backend.open, otherwise."""
        raise NotImplementedError
