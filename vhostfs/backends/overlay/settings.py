"""The settings of an overlay: which mounts its layers are."""

from __future__ import annotations

from dataclasses import dataclass

from vhostfs.backends.contract import Backend
from vhostfs.backends.overlay.filesystem import OverlayFilesystem, check_layers
from vhostfs.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class OverlaySettings(Backend):
    """Several mounts, one over the other, as overlayfs has them."""

    lower: tuple[Backend, ...]
    """The layers that stay as they are, the topmost first; at least one."""
    upper: Backend | None = None
    """The layer that takes all changes; without it the overlay is read-only."""
    upper_path: str = ""
    """The directory of the upper mount that is the layer; all of it, if none is given."""
    work: str | None = None
    """The directory of the upper mount where files are made before they are moved; upper_path, if none is
    given."""
    userxattr: bool = False
    """Mark directories by user.overlay.* attributes, as the kernel does under its option of this name."""

    def __post_init__(self) -> None:
        """Refuse what cannot be an overlay, by ValueError."""
        check_layers(len(self.lower), self.upper_path, self.upper_path if self.work is None else self.work)

    def open(self) -> OverlayFilesystem:
        """Return the overlay over its opened layers."""
        upper = self.upper.open() if self.upper is not None else None
        lowers = [lower.open() for lower in self.lower]
        try:
            return OverlayFilesystem(
                lowers, upper, upper_path=self.upper_path, work=self.work, userxattr=self.userxattr
            )
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
