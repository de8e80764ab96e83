"""Renames that are under way, as the journal keeps them: from which key to which, and how far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vhostfs.backends.s3.journal.intents import Intent


@dataclass(frozen=True, slots=True)
class Copied:
    """An object that was copied, and that the store has answered it."""

    etag: str
    """Of the version that was copied."""
    made: str
    """Of the copy."""
    modified: int = 0
    """When that version was written, as listings have it; 0 where none has told."""


@dataclass(slots=True)
class Rename:
    """A file or directory that gets another name; a directory's keys end with a slash."""

    number: str
    """Its own, in hexadecimal."""
    old: str
    new: str
    replaces: bool = False
    """Something had the new name, which it takes the place of."""
    happened: bool = False
    """All is copied: nothing is left but to delete what has the old name."""
    copies: dict[str, Copied] = field(default_factory=dict)
    """By the old key."""

    @property
    def is_directory(self) -> bool:
        """Tell whether it is a directory that is renamed."""
        return self.old.endswith("/")

    def key(self, old: str) -> str:
        """Return the new key of an object."""
        return self.new + old.removeprefix(self.old)


def said(rename: Rename) -> dict[str, Any]:
    """Return a rename as a record's text."""
    return {
        "is": "rename",
        "number": rename.number,
        "old": rename.old,
        "new": rename.new,
        "replaces": rename.replaces,
        "happened": rename.happened,
    }


def said_copied(rename: Rename, key: str, copied: Copied) -> dict[str, Any]:
    """Return a copy as a record's text."""
    return {
        "is": "copied",
        "number": rename.number,
        "key": key,
        "etag": copied.etag,
        "made": copied.made,
        "modified": copied.modified,
    }


def said_moved(etags: Mapping[str, str | None]) -> bytes:
    """Return as data of a record which intents have other keys by a rename, and their ETags."""
    return json.dumps(etags, separators=(",", ":")).encode()


def understood(text: Mapping[str, Any]) -> Rename:
    """Return what a record says; ValueError for what makes no sense."""
    rename = Rename(
        str(text["number"]),
        str(text["old"]),
        str(text["new"]),
        bool(text["replaces"]),
        bool(text["happened"]),
    )
    old, new = rename.old, rename.new
    inside = rename.is_directory and (old.startswith(new) or new.startswith(old))
    if not old or not new or old == new or inside or rename.is_directory != new.endswith("/"):
        raise ValueError("keys do not fit")
    return rename


def understood_copied(text: Mapping[str, Any]) -> tuple[str, Copied]:
    """Return the old key of a copy that a record says, and the copy."""
    return str(text["key"]), Copied(str(text["etag"]), str(text["made"]), int(text["modified"]))


def move(rename: Rename, intents: Mapping[str, Intent], data: bytes | memoryview) -> None:
    """Give intents the keys that they have once a rename has happened; ValueError where that is senseless."""
    etags = json.loads(bytes(data)) if data else {}
    if not isinstance(etags, dict):
        raise ValueError("no intents are named")
    for number, etag in etags.items():
        intent = intents.get(number)
        if intent is not None and intent.key.startswith(rename.old):
            intent.key = rename.key(intent.key)
            intent.etag = None if etag is None else str(etag)
