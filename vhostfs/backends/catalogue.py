"""The types of mounts and layers that are installed, by the names that a configuration gives them.

Packages declare them as entry points (vhostfs.backends.contract); one is imported when it is first asked for.
`passthrough` is not among them: the data plane serves it.
"""

from __future__ import annotations

import difflib
import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from vhostfs.backends.contract import Backend, Layer
from vhostfs.errors import ConfigurationError

logger = logging.getLogger(__name__)

NATIVE: Final = "passthrough"
"""The type of mount that needs no package."""

BACKENDS: Final = "vhostfs.backends"
LAYERS: Final = "vhostfs.layers"
"""The groups of entry points."""


def backend(name: str) -> type[Backend]:
    """Return the settings of a type of mount; ConfigurationError, without a place, where there is none."""
    return _loaded(BACKENDS, name, Backend)


def layer(name: str) -> type[Layer]:
    """Return the settings of a type of layer, as `backend` does of a mount."""
    return _loaded(LAYERS, name, Layer)


def load_all() -> None:
    """Import every type that is installed, so that each is at hand where no file is in sight any more.

    A warning tells of each that cannot be loaded.
    """
    for group, kind in ((BACKENDS, Backend), (LAYERS, Layer)):
        for name in _installed(group):
            try:
                _loaded(group, name, kind)
            except ConfigurationError as error:
                logger.warning("no mount of this type can be added later: %s", error)


@cache
def _installed(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


def _loaded[Kind: Backend | Layer](group: str, name: str, kind: type[Kind]) -> type[Kind]:
    points = _installed(group).get(name, [])
    if not points:
        raise ConfigurationError(_unknown(group, name))
    if len(points) > 1:
        packages = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise ConfigurationError(f"{name} is declared by several packages: {packages}")
    try:
        settings = points[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{name} cannot be loaded: {error}") from error
    if not (isinstance(settings, type) and issubclass(settings, kind)):
        raise ConfigurationError(f"{name} cannot be used: {points[0].value} is no {kind.__name__}")
    return settings


def _unknown(group: str, name: str) -> str:
    known = sorted({*_installed(group), NATIVE} if group == BACKENDS else _installed(group))
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"unknown type; did you mean {close[0]}?"
    return f"unknown type; known here: {', '.join(known)}" if known else "unknown type; none is installed"
