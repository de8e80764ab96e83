"""What a configuration file may say, and how it becomes the model.

Pydantic stands here, at the edge, and nowhere else. All faults of a file are told at once, one line each:
`vhostfs.yaml:12:7: devices[0].mounts./.cache: should be 'never', 'metadata', 'auto' or 'always'`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.functional_validators import BeforeValidator

from vhostfs.config import model
from vhostfs.config.checking import AbsolutePath, Part, faults_of
from vhostfs.config.mounts import MountReader
from vhostfs.config.yaml_document import Fault, YamlDocument, YamlPath, YamlValue, dotted
from vhostfs.errors import ConfigurationError


def _octal(value: object) -> object:
    """Read permission bits as chmod does, whether or not they are quoted or begin with a 0."""
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"(0o)?[0-7]{3,4}", text):
        raise ValueError("should be permission bits in octal, such as 0660")
    bits = int(text.removeprefix("0o"), 8)
    if bits > 0o777:
        raise ValueError("should be permission bits in octal, 0777 at most")
    return bits


def _duplicates_nothing(text: object) -> object:
    """Take a group by number too."""
    return str(text) if isinstance(text, int) and not isinstance(text, bool) else text


class SocketPart(Part):
    """devices[].socket."""

    path: AbsolutePath | None = None
    group: Annotated[str | None, BeforeValidator(_duplicates_nothing)] = None
    mode: Annotated[int | None, BeforeValidator(_octal)] = None
    fd: Annotated[int, Field(ge=0)] | None = None
    systemd: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("path")
    @classmethod
    def _fits(cls, path: str | None) -> str | None:
        if path is not None and len(path.encode()) > model.SOCKET_PATH_LIMIT:
            raise ValueError(f"a socket's path has at most {model.SOCKET_PATH_LIMIT} bytes")
        return path

    @model_validator(mode="after")
    def _one_origin(self) -> SocketPart:
        if sum(origin is not None for origin in (self.path, self.fd, self.systemd)) != 1:
            raise ValueError("needs one of path, fd and systemd")
        if self.path is None and (self.group is not None or self.mode is not None):
            raise ValueError("group and mode belong to path; another's socket is taken as it is")
        return self

    def settings(self) -> model.SocketSettings:
        """Return the model of it."""
        if self.path is not None:
            return model.PathSocket(PurePosixPath(self.path), self.group, self.mode)
        if self.fd is not None:
            return model.InheritedSocket(self.fd)
        assert self.systemd is not None
        return model.ActivatedSocket(self.systemd)


Mounts = dict[PurePosixPath, model.MountSettings]


class DevicePart(Part):
    """devices[]."""

    socket: SocketPart
    mounts: dict[str, Any]
    """Each is checked by MountReader."""
    tag: Annotated[str, Field(min_length=1)] | None = None
    request_queues: Annotated[int, Field(ge=1, le=model.REQUEST_QUEUE_LIMIT)] = 1
    packed: bool = False
    poll_microseconds: Annotated[int, Field(ge=0, le=1_000_000)] = model.POLL_MICROSECONDS
    pool_threads: Annotated[int, Field(ge=1, le=1024)] = model.POOL_THREADS
    io_uring: Annotated[model.IoUring, Field(strict=False)] = model.IoUring.AUTO

    @field_validator("tag")
    @classmethod
    def _tag_fits(cls, tag: str | None) -> str | None:
        if tag is not None and len(tag.encode()) > model.TAG_LIMIT:
            raise ValueError(f"a tag has at most {model.TAG_LIMIT} bytes")
        if tag is not None and not tag.isprintable():
            raise ValueError("a tag has printable characters only")
        return tag

    @field_validator("mounts")
    @classmethod
    def _some(cls, mounts: dict[str, Any]) -> dict[str, Any]:
        if not mounts:
            raise ValueError("needs a mount")
        if len(mounts) > model.MOUNTS_LIMIT:
            raise ValueError(f"a device has at most {model.MOUNTS_LIMIT} mounts")
        return mounts

    def settings(self, mounts: Mounts) -> model.DeviceSettings:
        """Return the model of it."""
        return model.DeviceSettings(
            socket=self.socket.settings(),
            mounts=mounts,
            tag=self.tag,
            request_queues=self.request_queues,
            packed=self.packed,
            poll_microseconds=self.poll_microseconds,
            pool_threads=self.pool_threads,
            io_uring=self.io_uring,
        )


UserNumber = Annotated[int, Field(ge=0, le=2**32 - 2)]


class IdRangePart(Part):
    """sandbox.uid_map[] and sandbox.gid_map[]."""

    inside: UserNumber
    outside: UserNumber
    count: Annotated[int, Field(ge=1, le=2**32 - 1)]

    def settings(self) -> model.IdRange:
        """Return the model of it."""
        return model.IdRange(self.inside, self.outside, self.count)


class SandboxPart(Part):
    """sandbox."""

    mode: Annotated[model.SandboxMode, Field(strict=False)] = model.SandboxMode.NAMESPACE
    uid_map: list[IdRangePart] = Field(default_factory=list)
    gid_map: list[IdRangePart] = Field(default_factory=list)

    def settings(self) -> model.SandboxSettings:
        """Return the model of it."""
        return model.SandboxSettings(
            self.mode,
            tuple(part.settings() for part in self.uid_map),
            tuple(part.settings() for part in self.gid_map),
        )


class LogPart(Part):
    """log."""

    level: Literal["trace", "debug", "info", "warn", "error", "off"] = "info"
    format: Annotated[model.LogFormat, Field(strict=False)] = model.LogFormat.TEXT
    destination: Annotated[model.LogDestination, Field(strict=False)] = model.LogDestination.STDERR

    def settings(self) -> model.LogSettings:
        """Return the model of it."""
        return model.LogSettings(model.LogLevel[self.level.upper()], self.format, self.destination)


class ConfigurationPart(Part):
    """The whole file."""

    devices: Annotated[list[DevicePart], Field(min_length=1)]
    sandbox: SandboxPart = SandboxPart()
    log: LogPart = LogPart()
    rlimit_nofile: Annotated[int, Field(ge=0)] | None = None
    once: bool = False
    control: SocketPart | None = None

    def settings(self, mounts: Mapping[int, Mounts]) -> model.Configuration:
        """Return the model of it, with the mounts of each device."""
        return model.Configuration(
            devices=tuple(device.settings(mounts[index]) for index, device in enumerate(self.devices)),
            sandbox=self.sandbox.settings(),
            log=self.log.settings(),
            rlimit_nofile=self.rlimit_nofile,
            once=self.once,
            control=None if self.control is None else self.control.settings(),
        )


def load(path: Path) -> model.Configuration:
    """Read a configuration file.

    Raise ConfigurationError, one line for each fault, where it cannot be read or served.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> model.Configuration:
    """Read a configuration from text; `name` stands for the file in what is raised, as by load."""
    document = YamlDocument(text)
    faults = list(document.faults)
    configuration = None
    if not (faults and document.data is None):
        reader = MountReader(document)
        mounts = _mounts(reader, document.data)
        faults += reader.faults
        try:
            checked = ConfigurationPart.model_validate({} if document.data is None else document.data)
        except ValidationError as error:
            faults += faults_of(error, document, (), ConfigurationPart)
        else:
            configuration = checked.settings(mounts)
    if configuration is not None and not faults:
        faults += (
            Fault(document.place(place), dotted(place), reason)
            for place, reason in model.contradictions(configuration)
        )
    if configuration is None or faults:
        faults.sort(key=lambda fault: (fault.place.line, fault.place.column))
        raise ConfigurationError("\n".join(_line(name, fault) for fault in faults))
    return configuration


def parse_mount(text: str, name: str) -> model.MountSettings:
    """Read a single mount from text, as it would stand below `mounts`; raise as `parse` does."""
    document = YamlDocument(text)
    reader = MountReader(document)
    settings = reader.mount(document.data, ())
    faults = [*document.faults, *reader.faults]
    if settings is None or faults:
        raise ConfigurationError("\n".join(_line(name, fault) for fault in faults))
    return settings


def _line(name: str, fault: Fault) -> str:
    key = f"{fault.key}: " if fault.key else ""
    return f"{name}:{fault.place.line}:{fault.place.column}: {key}{fault.reason}"


def _mounts(reader: MountReader, data: YamlValue) -> dict[int, Mounts]:
    """Read the mounts of all devices, as far as the file has the form for it."""
    found: dict[int, Mounts] = {}
    devices = data.get("devices") if isinstance(data, dict) else None
    for index, device in enumerate(devices if isinstance(devices, list) else ()):
        mounts = device.get("mounts") if isinstance(device, dict) else None
        found[index] = {}
        for place, raw in mounts.items() if isinstance(mounts, dict) else ():
            path: YamlPath = ("devices", index, "mounts", place)
            settings = reader.mount(raw, path)
            reason = _wrong_place(place)
            if reason is not None:
                reader.faults.append(Fault(reader.document.place(path), dotted(path), reason))
            elif settings is not None:
                found[index][PurePosixPath(place)] = settings
    return found


def _wrong_place(place: object) -> str | None:
    """Return what is wrong with a place of a mount."""
    if not isinstance(place, str) or not place.startswith("/"):
        return "should be an absolute path"
    names = place.split("/")[1:]
    if place != "/" and not all(name not in {"", ".", ".."} for name in names):
        return "should be a path without empty names, '.' and '..'"
    if "\0" in place:
        return "should not contain NUL"
    if any(len(name.encode()) > model.NAME_LIMIT for name in names):
        return f"a name has at most {model.NAME_LIMIT} bytes"
    return None
