"""Mounts of a configuration file: each checked against the type that it names, and those inside it likewise.

A mount is a mapping with `type`, the keys of that type, and perhaps `layers`: a list of mappings of the same
form, of which a request meets the first one first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import PurePosixPath
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import Field, TypeAdapter, ValidationError

from vhostfs.config import model
from vhostfs.config.checking import STRICT, AbsolutePath, Part, checked_path, faults_of
from vhostfs.config.layered import (
    not_served_by_python,
    served_by_python,
    told_to_the_data_plane,
    under_layers,
)
from vhostfs.config.yaml_document import Fault, YamlDocument, YamlPath, YamlValue, dotted
from vhostfs.errors import ConfigurationError
from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode

if TYPE_CHECKING:
    from vhostfs.backends.contract import Backend, Layer

MOUNT_KEYS: Final = ("type", "layers")
LAYER_KEYS: Final = ("type",)
"""What every mount, and every layer, may have besides the keys of its type."""

READDIRPLUS: Final = {
    "auto": ReaddirplusMode.AUTO,
    "always": ReaddirplusMode.ON,
    "never": ReaddirplusMode.OFF,
}


Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class TimeoutsPart(Part):
    """devices[].mounts[].timeouts."""

    entry: Seconds | None = None
    attribute: Seconds | None = None
    negative: Seconds | None = None

    def settings(self, cache: CacheMode) -> model.Timeouts:
        """Return the model of it; what is not given is as the cache mode has it."""
        default = model.TIMEOUTS[cache]
        return model.Timeouts(
            entry=default.entry if self.entry is None else self.entry,
            attribute=default.attribute if self.attribute is None else self.attribute,
            negative=default.negative if self.negative is None else self.negative,
        )


Owner = Annotated[model.LockOwner, Field(strict=False)]


class LocksPart(Part):
    """devices[].mounts[].locks."""

    posix: Owner = model.LockOwner.GUEST
    flock: Owner = model.LockOwner.GUEST


class PassthroughPart(Part):
    """devices[].mounts[] of type passthrough."""

    type: Literal["passthrough"]
    shared_dir: AbsolutePath
    cache: Annotated[CacheMode, Field(strict=False)] = CacheMode.AUTO
    timeouts: TimeoutsPart = TimeoutsPart()
    readdirplus: Literal["auto", "always", "never"] = "auto"
    writeback: bool = False
    xattr: bool = False
    posix_acl: bool = False
    killpriv_v2: bool = False
    announce_submounts: bool = True
    locks: LocksPart = LocksPart()
    direct_io: bool = False
    allow_mmap: bool = False
    read_only: bool = False
    descriptors: Annotated[int, Field(ge=model.MOUNT_DESCRIPTORS_MINIMUM)] | None = None

    def settings(self) -> model.PassthroughSettings:
        """Return the model of it."""
        return model.PassthroughSettings(
            shared_dir=PurePosixPath(self.shared_dir),
            cache=self.cache,
            timeouts=self.timeouts.settings(self.cache),
            readdirplus=READDIRPLUS[self.readdirplus],
            writeback=self.writeback,
            xattr=self.xattr or self.posix_acl,
            posix_acl=self.posix_acl,
            killpriv_v2=self.killpriv_v2,
            announce_submounts=self.announce_submounts,
            locks=model.Locks(self.locks.posix, self.locks.flock),
            direct_io=self.direct_io,
            allow_mmap=self.allow_mmap,
            read_only=self.read_only,
            descriptors=self.descriptors,
        )


class MountReader:
    """Turns mounts of a document into settings, and collects what is wrong with them in `faults`."""

    def __init__(self, document: YamlDocument) -> None:
        """Tell places as this document has them."""
        self.faults: list[Fault] = []
        self._groups: dict[str, tuple[Any, YamlPath]] = {}
        self.document = document

    def mount(self, raw: YamlValue, path: YamlPath, *, inside: bool = False) -> model.MountSettings | None:
        """Return the settings of what stands at a path; None where it has faults.

        `inside` another mount, which is Python's, a directory is served by Python, too.
        """
        name = self._type(raw, path)
        if not isinstance(raw, dict) or name is None:
            return None
        layers = self._layers(raw, path)
        if name == "passthrough":
            return self._passthrough(raw, path, layers, inside=inside)
        backend = self._backend(name, raw, path)
        if backend is None or layers is None:
            return None
        return under_layers(name, backend, layers)

    def _type(self, raw: YamlValue, path: YamlPath) -> str | None:
        if not isinstance(raw, dict):
            self._fault(path, "should be a mapping")
            return None
        name = raw.get("type")
        if isinstance(name, str):
            return name
        self._fault((*path, "type"), "should be text; put it in quotes" if "type" in raw else "missing")
        return None

    def _fault(self, path: YamlPath, reason: str) -> None:
        self.faults.append(Fault(self.document.place_of_value(path), dotted(path), reason))

    # ---- passthrough ----

    def _passthrough(
        self,
        raw: Mapping[str, YamlValue],
        path: YamlPath,
        layers: tuple[Layer, ...] | None,
        *,
        inside: bool,
    ) -> model.MountSettings | None:
        try:
            part = PassthroughPart.model_validate({key: raw[key] for key in raw if key != "layers"})
        except ValidationError as error:
            self.faults += faults_of(error, self.document, path, PassthroughPart, ("layers",))
            return None
        if layers is None:
            return None
        settings = part.settings()
        native = told_to_the_data_plane(settings, layers)
        if native is not None and not inside:
            return native
        missed = list(not_served_by_python(settings))
        for keys in missed:
            self._fault((*path, *keys), "not to be had where Python serves the directory, as it does here")
        return None if missed else under_layers("passthrough", served_by_python(settings), layers)

    # ---- File systems in Python ----

    def _backend(self, name: str, raw: Mapping[str, YamlValue], path: YamlPath) -> Backend | None:
        from vhostfs.backends import catalogue  # noqa: PLC0415 - costs time that native mounts do without

        try:
            kind = catalogue.backend(name)
        except ConfigurationError as error:
            self._fault((*path, "type"), str(error))
            return None
        return self._settings(kind, raw, path, MOUNT_KEYS)

    def _layers(self, raw: Mapping[str, YamlValue], path: YamlPath) -> tuple[Layer, ...] | None:
        listed = raw.get("layers", [])
        if not isinstance(listed, list):
            self._fault((*path, "layers"), "should be a list")
            return None
        found = [self._layer(each, (*path, "layers", index)) for index, each in enumerate(listed)]
        layers = tuple(layer for layer in found if layer is not None)
        return layers if len(layers) == len(found) else None

    def _layer(self, raw: YamlValue, path: YamlPath) -> Layer | None:
        from vhostfs.backends import catalogue  # noqa: PLC0415

        name = self._type(raw, path)
        if not isinstance(raw, dict) or name is None:
            return None
        try:
            kind = catalogue.layer(name)
        except ConfigurationError as error:
            self._fault((*path, "type"), str(error))
            return None
        settings = self._settings(kind, raw, path, LAYER_KEYS)
        if settings is not None and name == "rate_limit":
            self._check_group(settings, path)
        return settings

    def _check_group(self, settings: Any, path: YamlPath) -> None:
        """Note where the layers of a group of limits do not agree."""
        if settings.group is None:
            return
        first, place = self._groups.setdefault(settings.group, (settings, path))
        if first.rates != settings.rates:
            self._fault((*path, "group"), f"has another limit than at {dotted(place)}")

    def _settings[Kind: (Backend, Layer)](
        self, kind: type[Kind], raw: Mapping[str, YamlValue], path: YamlPath, others: Sequence[str]
    ) -> Kind | None:
        """Return the settings of a type; None where its keys have faults. `others` are keys of any type."""
        keys = _keys(kind)
        # As JSON: pydantic then takes a list for a tuple, and text for a path or a member of an enumeration.
        given = json.dumps({key: value for key, value in raw.items() if key not in others})
        before = len(self.faults)
        try:
            values = keys.adapter.validate_json(given)
        except ValidationError as error:
            self.faults += faults_of(error, self.document, path, kind, others)
            values = {}
        for key, value in values.items():
            if isinstance(value, PurePosixPath):
                self._check_path(value, (*path, key))
        for key in keys.mounts:
            if key in raw:
                values[key] = self._inside(raw[key], (*path, key), keys.mounts[key])
        if len(self.faults) > before:
            return None
        try:
            return kind(**values)
        except ValueError as error:
            self._fault(path, str(error))
            return None

    def _check_path(self, value: PurePosixPath, path: YamlPath) -> None:
        try:
            checked_path(str(value))
        except ValueError as error:
            self._fault(path, str(error))

    def _inside(
        self, raw: YamlValue, path: YamlPath, hint: Any
    ) -> Backend | tuple[Backend | None, ...] | None:
        """Read what a field of mounts has."""
        if get_origin(hint) is tuple:
            if isinstance(raw, list):
                return tuple(self._inner(each, (*path, index)) for index, each in enumerate(raw))
            self._fault(path, "should be a list")
            return None
        if raw is None and NoneType in get_args(hint):
            return None
        return self._inner(raw, path)

    def _inner(self, raw: YamlValue, path: YamlPath) -> Backend | None:
        """Read a mount inside another one."""
        before = len(self.faults)
        settings = self.mount(raw, path, inside=True)
        if len(self.faults) > before or settings is None:
            return None
        assert isinstance(settings, model.FilesystemSettings)
        return settings.backend


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a type of mount or layer takes."""

    adapter: TypeAdapter[dict[str, Any]]
    """Checks the keys that are given, mounts inside left as they are."""
    mounts: Mapping[str, Any]
    """The keys that hold mounts, with their types."""


def _keys(kind: type[Backend] | type[Layer]) -> _Keys:
    """Return what the fields of a dataclass mean for a file."""
    hints = get_type_hints(kind, include_extras=True)
    declared: dict[str, Any] = {}
    mounts = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if not field.init:
            continue
        hint = hints[field.name]
        if _holds_mounts(hint):
            mounts[field.name] = hint
            hint = Any
        needed = field.default is MISSING and field.default_factory is MISSING
        declared[field.name] = Required[hint] if needed else NotRequired[hint]
    mapping = TypedDict(kind.__name__, declared)  # type: ignore[misc]
    mapping.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(mapping)  # type: ignore[arg-type]
    return _Keys(adapter, mounts)


def _holds_mounts(hint: Any) -> bool:
    from vhostfs.backends.contract import Backend  # noqa: PLC0415

    return hint is Backend or any(_holds_mounts(each) for each in get_args(hint))
