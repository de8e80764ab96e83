"""Values that keys of several types of mounts and layers take, as the configuration file writes them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic.functional_validators import BeforeValidator

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _size(value: object) -> object:
    """Read bytes, or 64K, 64 KiB and so on, units being powers of 1024."""
    found = re.fullmatch(r"(\d{1,15}) ?(?:([KMGT])(?:iB)?)?", str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError("should be a number of bytes, such as 1048576 or 64MiB")
    return int(found[1]) * _UNITS[found[2] or ""]


def _permissions(value: object) -> object:
    """Read permission bits as chmod does, whether or not they are quoted or begin with a 0."""
    found = re.fullmatch(r"(?:0o?)?([0-7]{3,4})", str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError("should be permission bits in octal, such as 0755")
    return int(found[1], 8)


Size = Annotated[int, BeforeValidator(_size)]
"""A number of bytes, which a file may give with a unit."""

Permissions = Annotated[int, BeforeValidator(_permissions)]
"""Permission bits, which a file gives in octal."""
