"""How a bucket is shown, and what an open file is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vhostfs.backends.s3.contents import Contents
from vhostfs.backends.s3.naming.nodes import Defaults, Node
from vhostfs.backends.s3.writing.committing import Conflict
from vhostfs.backends.s3.writing.room import UNWRITTEN_SIZE
from vhostfs.backends.s3.writing.scheduling import Write


class Metadata(StrEnum):
    """How much is asked to know what POSIX wants to know of a file."""

    NONE = "none"
    """Nothing: size and time of the listing, the mount's defaults for the rest."""
    LAZY = "lazy"
    """Listings show the defaults; a file that is looked at is asked for."""
    FULL = "full"
    """Listings show what is true: by an index in each directory, and a request for each file it lacks."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """How the bucket is shown."""

    prefix: str = ""
    """What all keys begin with; empty, or with a slash at its end."""
    seconds: float = 60.0
    """How long what is known may be believed; 0 asks at every open and lookup."""
    metadata: Metadata = Metadata.LAZY
    conflict: Conflict = Conflict.ERROR
    write: Write = Write.SYNC
    unwritten_size: int = UNWRITTEN_SIZE
    """How many bytes may wait for a store that takes none, with `writeback`."""
    defaults: Defaults = field(default_factory=Defaults)
    read_only: bool = False
    directory_limit: int = 10_000
    """The most objects that a directory may have to be renamed."""


class Handle:
    """An open file, and the contents that it had when it was opened."""

    __slots__ = ("answered", "contents", "node")

    def __init__(self, node: Node, contents: Contents) -> None:
        self.node = node
        self.contents = contents
        self.answered = False
