"""What is said over a control socket: one request a connection, a line of JSON, and an answer of lines.

The last line of an answer is what became of the request; those before it, which only a Tell has, say how far
it is. The descriptors that an Add comes with are of its `paths`, in their order; those of a Tell are for the
command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

REQUEST_LIMIT: Final = 1 << 16
"""Most bytes of a request."""

ANSWER_LIMIT: Final = 64 << 20
"""Most bytes of a line in answer."""

DESCRIPTOR_LIMIT: Final = 64
"""Most descriptors that come with it."""


class Message(BaseModel):
    """Has the keys that are declared, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class List(Message):
    """Say what is mounted."""

    command: Literal["list"] = "list"


class Add(Message):
    """Mount something."""

    command: Literal["add"] = "add"
    device: str | None = None
    """By its tag, or else its socket; None: the only one."""
    place: str
    mount: str
    """YAML, as it would stand below `mounts` in a configuration."""
    paths: tuple[str, ...] = ()


class Remove(Message):
    """Unmount something."""

    command: Literal["remove"] = "remove"
    device: str | None = None
    place: str


class Tell(Message):
    """Give a mount's file system a command of its own."""

    command: Literal["tell"] = "tell"
    device: str | None = None
    place: str | None = None
    """None: the only mount that knows the command."""
    name: str
    arguments: Mapping[str, str] = {}


type Request = List | Add | Remove | Tell
_REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(
    Annotated[List | Add | Remove | Tell, Field(discriminator="command")]
)


class MountLine(Message):
    """A mount, as it is listed."""

    device: str
    place: str
    type: str
    faults: int = 0
    """Operations that failed by a fault of a file system in Python, which the daemon's log tells."""


class ProgressLine(Message):
    """How far a command is."""

    what: str = ""
    done: int = 0
    total: int = 0


class Answer(Message):
    """What became of a request: `error` is a sentence, or several, where it was refused."""

    error: str | None = None
    mounts: tuple[MountLine, ...] = ()
    value: JsonValue = None
    """What a command answers."""
    progress: ProgressLine | None = None
    """Where it is there, the request goes on, and another line follows."""


def encode(message: Message) -> bytes:
    """Return a message's line."""
    return message.model_dump_json().encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """Return the request of a line; ValueError, with a sentence, where it is none."""
    try:
        return _REQUEST.validate_json(line)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def decode_answer(line: bytes) -> Answer:
    """Return the answer of a line; ValueError, with a sentence, where it is none."""
    try:
        return Answer.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(step) for step in first['loc']) or 'message'}: {first['msg']}"
