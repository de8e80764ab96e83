"""Mounts of type `python`: a file system that is found by the name of its module, and its own."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vhostfs.backends.contract import Backend
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Filesystem, PathFilesystem, by_nodes


@dataclass(frozen=True, slots=True)
class NamedSettings(Backend):
    """A Filesystem, or a class or function that returns one, called with `arguments`."""

    filesystem: str
    """MODULE:NAME."""
    arguments: dict[str, Any] = field(default_factory=dict)
    # Other types know by themselves; of this one only who names it does.
    network: bool = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        """Refuse what cannot be a name."""
        module, colon, name = self.filesystem.partition(":")
        parts = (*module.split("."), *name.split("."))
        if not colon or not all(part.isidentifier() for part in parts):
            raise ValueError(f"{self.filesystem!r} should be MODULE:NAME, such as my.module:fs")

    def open(self) -> Filesystem[Any]:
        """Import the module, and call what is named if it is not a file system itself."""
        return as_filesystem(self._named(), self.filesystem, self.arguments)

    def _named(self) -> object:
        module, _, name = self.filesystem.partition(":")
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise ConfigurationError(f"{self.filesystem} cannot be loaded: {error}") from error
            raise ConfigurationError(f"there is no module {error.name}") from None
        try:
            named: object = operator.attrgetter(name)(imported)
        except AttributeError as error:
            raise ConfigurationError(f"there is no {self.filesystem}: {error}") from None
        return named


def as_filesystem(named: object, name: str, arguments: Mapping[str, Any]) -> Filesystem[Any]:
    """Return a file system, or the one that a class or function makes; ConfigurationError otherwise."""
    if isinstance(named, Filesystem | PathFilesystem):
        if arguments:
            raise ConfigurationError(f"{name} is a file system already, and takes no arguments")
        return by_nodes(named)
    if not callable(named):
        raise ConfigurationError(f"{name} is a {type(named).__name__}, no file system and not callable")
    made = named(**arguments)
    if not isinstance(made, Filesystem | PathFilesystem):
        raise ConfigurationError(f"{name} returned a {type(made).__name__}, which is no file system")
    return by_nodes(made)
