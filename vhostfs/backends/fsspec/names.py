"""From names to paths of an implementation and back, and what it tells of a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, unquote

_NAME_LIMIT: Final = 255
_SIZE_LIMIT: Final = (1 << 63) - 1
_TIME_LIMIT: Final = 1 << 63
_TIMES: Final = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")
_VERSIONS: Final = ("ETag", "etag", "Content-MD5", "Digest", "md5", "generation", "version_id", *_TIMES)


@dataclass(frozen=True, slots=True)
class Found:
    """What a path is, as far as that is known."""

    path: str
    directory: bool
    size: int | None = 0
    mtime_ns: int = 0
    permissions: int | None = None
    version: tuple[str, ...] = ()
    """Another one as soon as the content may be another; without any, nobody can tell."""


class Names:
    """The names of one implementation; those of HTTP are quoted: a guest's '%', '?', '#' mean themselves."""

    def __init__(self, root_marker: str, *, quoted: bool) -> None:
        self._root_marker = root_marker
        self._quoted = quoted

    def join(self, directory: str, name: str) -> str:
        """Return the path of a name in a directory."""
        if self._quoted:
            # Names that are no UTF-8 are bytes of a URL as any others.
            name = quote(os.fsencode(name), safe="")
        base = directory.rstrip("/")
        return f"{base}/{name}" if base else self._root_marker + name

    def split(self, directory: str, path: str) -> str | None:
        """Return the name of a path that a listing of the directory has; None where it is no name in it."""
        base = directory.strip("/")
        rest = path.strip("/")
        if base and not rest.startswith(f"{base}/"):
            return None
        name = rest[len(base) :].lstrip("/")
        if self._quoted:
            if set(name) & {"/", "?", "#"}:
                return None
            name = os.fsdecode(unquote(name, "utf-8", "surrogateescape").encode("utf-8", "surrogateescape"))
        return name if _is_name(name) else None


def _is_name(name: str) -> bool:
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        return False
    try:
        return len(os.fsencode(name)) <= _NAME_LIMIT
    except UnicodeEncodeError:
        return False


def found_by(info: Mapping[str, Any], path: str | None = None) -> Found:
    """Return what an implementation's info says; at its own path, unless another is given."""
    size = info.get("size")
    if not isinstance(size, int) or not 0 <= size <= _SIZE_LIMIT:
        size = None
    mode = info.get("mode")
    moment = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    return Found(
        path=str(info["name"]) if path is None else path,
        directory=info.get("type") == "directory",
        size=size,
        mtime_ns=_nanoseconds(moment),
        permissions=mode & 0o7777 if isinstance(mode, int) else None,
        version=tuple(str(info[key]) for key in _VERSIONS if info.get(key) is not None),
    )


def _nanoseconds(moment: object) -> int:
    """Return a time, however an implementation writes it; 0 where that is unknown."""
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment) if moment[:1].isdigit() else parsedate_to_datetime(moment)
        if isinstance(moment, datetime):
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            moment = moment.timestamp()
        if isinstance(moment, int | float) and not isinstance(moment, bool):
            nanoseconds = int(moment * 1_000_000_000)
            return nanoseconds if abs(nanoseconds) < _TIME_LIMIT else 0
    except (ValueError, OverflowError, TypeError):
        pass
    return 0
