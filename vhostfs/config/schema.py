"""What a configuration file may say, and how it becomes the model.

Pydantic stands here, at the edge, and nowhere else. All faults of a file are told at once, one line each:
`vhostfs.yaml:12:7: devices[0].mounts./.cache: should be 'never', 'metadata', 'auto' or 'always'`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator

from vhostfs.config import model
from vhostfs.config.yaml_document import Fault, YamlDocument, YamlPath, dotted
from vhostfs.errors import ConfigurationError
from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode

REASONS: Final = {
    "missing": "missing",
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "list_type": "should be a list",
    "string_type": "should be text; put it in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
}
"""What pydantic's kinds of errors are called here; the others keep its words."""

READDIRPLUS: Final = {
    "auto": ReaddirplusMode.AUTO,
    "always": ReaddirplusMode.ON,
    "never": ReaddirplusMode.OFF,
}


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("should be an absolute path")
    if "\0" in path:
        raise ValueError("should not contain NUL")
    return path


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


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping of the file: no key that is not declared, no value that only resembles the right one."""

    model_config = ConfigDict(extra="forbid", strict=True)


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


# The second kind of mount makes this a union, told apart by `type`.
MountPart = PassthroughPart


class DevicePart(Part):
    """devices[]."""

    socket: SocketPart
    mounts: dict[str, MountPart]
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
    def _has_root(cls, mounts: dict[str, MountPart]) -> dict[str, MountPart]:
        if list(mounts) != ["/"]:
            raise ValueError("needs one mount, at /")
        return mounts

    def settings(self) -> model.DeviceSettings:
        """Return the model of it."""
        return model.DeviceSettings(
            socket=self.socket.settings(),
            mounts={PurePosixPath(place): mount.settings() for place, mount in self.mounts.items()},
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
    uid_map: list[IdRangePart] = []
    gid_map: list[IdRangePart] = []

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

    def settings(self) -> model.Configuration:
        """Return the model of it."""
        return model.Configuration(
            devices=tuple(device.settings() for device in self.devices),
            sandbox=self.sandbox.settings(),
            log=self.log.settings(),
            rlimit_nofile=self.rlimit_nofile,
            once=self.once,
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
        try:
            configuration = ConfigurationPart.model_validate(
                {} if document.data is None else document.data
            ).settings()
        except ValidationError as error:
            faults += (_fault(document, detail) for detail in error.errors(include_url=False))
    if configuration is not None:
        faults += (
            Fault(document.place(place), dotted(place), reason)
            for place, reason in model.contradictions(configuration)
        )
    if configuration is None or faults:
        faults.sort(key=lambda fault: (fault.place.line, fault.place.column))
        raise ConfigurationError("\n".join(_line(name, fault) for fault in faults))
    return configuration


def _line(name: str, fault: Fault) -> str:
    key = f"{fault.key}: " if fault.key else ""
    return f"{name}:{fault.place.line}:{fault.place.column}: {key}{fault.reason}"


def _fault(document: YamlDocument, detail: Any) -> Fault:
    path: YamlPath = tuple(detail["loc"])
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        return Fault(document.place(path), dotted(path), "unknown key" + _nearest(path))
    reason = REASONS.get(kind) or re.sub(r"^(Value error, |Input )", "", detail["msg"])
    return Fault(document.place_of_value(path), dotted(path), reason)


def _nearest(path: YamlPath) -> str:
    """Return a proposal for an unknown key, or nothing."""
    known = _keys_beside(path)
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _keys_beside(path: YamlPath) -> list[str]:
    parts: dict[tuple[object, ...], type[Part]] = {
        (): ConfigurationPart,
        ("sandbox",): SandboxPart,
        ("sandbox", "uid_map", 0): IdRangePart,
        ("sandbox", "gid_map", 0): IdRangePart,
        ("log",): LogPart,
        ("devices", 0): DevicePart,
        ("devices", 0, "socket"): SocketPart,
        ("devices", 0, "mounts", "/"): PassthroughPart,
        ("devices", 0, "mounts", "/", "timeouts"): TimeoutsPart,
        ("devices", 0, "mounts", "/", "locks"): LocksPart,
    }
    above = [0 if isinstance(step, int) else step for step in path[:-1]]
    if len(above) > 3 and above[2] == "mounts":
        above[3] = "/"
    return list(parts[tuple(above)].model_fields)
