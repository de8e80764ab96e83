"""Histories of a bucket beside a directory: at times its file system begins anew, and another one looks on.

Left out is what no bucket can do (second names, files without names, holes, exchanges), and what it does
otherwise: the times of directories stay as they are when their entries change.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tests.conformance.histories import (
    LENGTHS,
    LONG_AGO,
    OFFSETS,
    PATHS,
    Histories,
    agreed,
    outcome,
)
from tests.conformance.in_bucket import BucketPlace, LocalBucket, local_bucket
from tests.conformance.place import Place
from vhostfs.backends.s3.options import Metadata
from vhostfs.backends.s3.writing.scheduling import Write


class BucketHistories(Histories):
    """A bucket goes as a directory does."""

    exact: ClassVar[bool] = False
    attribute_names: ClassVar[st.SearchStrategy[str]] = st.sampled_from(
        ["user.a", "user.ü", "trusted.a", "security.a", "nowhere.a"]
    )
    attribute_values: ClassVar[st.SearchStrategy[bytes]] = st.sampled_from([b"", b"1", b"\xff\0" * 50])
    """Few and short enough for what an object has room for."""
    rename_flags: ClassVar[st.SearchStrategy[int]] = st.sampled_from([0, 0, 0, 1])
    sizes: ClassVar[st.SearchStrategy[int]] = OFFSETS
    write_offsets: ClassVar[st.SearchStrategy[int]] = OFFSETS
    range_lengths: ClassVar[st.SearchStrategy[int]] = st.one_of(LENGTHS, st.sampled_from([0]))
    metadata: ClassVar[Metadata] = Metadata.LAZY
    seconds: ClassVar[float] = 60.0

    def subject(self) -> Place:
        self.bucket: LocalBucket = self.stack.enter_context(local_bucket())
        self.mounting = self.stack.enter_context(ExitStack())
        return self.mount()

    def mount(self) -> Place:
        """Begin a session."""
        options = {"metadata": self.metadata, "seconds": self.seconds, "prefix": "prefix/", **self.more()}
        return BucketPlace(self.mounting.enter_context(self.bucket.mounted(**options)))

    def more(self) -> dict[str, Any]:
        """Return further options."""
        return {}

    # ---- What cannot be done ----

    def both(self, call: Callable[[Place], Any]) -> None:
        """Do what is refused because a name is no text in neither of the two."""
        seen = outcome(lambda: call(self.checked))
        if seen != ("refused", "EILSEQ"):
            agreed(seen, outcome(lambda: call(self.real)))

    @initialize()
    def plant(self) -> None:
        for place in (self.real, self.checked):
            place.mkdir("a")
            place.mkdir("a/b")
            place.write("b", b"content")
            place.write("a/c", b"more of it")
        self.opening(lambda place: place.open("b", os.O_RDWR))

    def link(self, path: str, new_path: str) -> None:
        """Leave second names out."""

    def link_open_file(self, index: int, path: str) -> None:
        """Leave second names out."""

    def tmpfile(self, path: str, more: int) -> None:
        """Leave files without names out."""

    def copy(self, source: int, sink: int, offset: int, sink_offset: int, length: int) -> None:
        """Leave it to the kernel, which copies by reading and writing."""

    # ---- What is seen ----

    @invariant()
    def both_look_alike(self) -> None:
        """Look at the open files alone: to open others, and to close them, commits what was written."""
        for real, checked in self.files:
            about, wanted = checked.stat(), real.stat()
            agreed((about.mode, about.size), (wanted.mode, wanted.size))
            agreed(self.content(checked), self.content(real))

    @rule()
    def look(self) -> None:
        """Look at everything."""
        agreed(self.portrait(self.checked), self.portrait(self.real))

    @rule(path=PATHS)
    def look_at(self, path: str) -> None:
        """Look at one file."""
        self.both(lambda place: list(self.attributes(place, path, {})))

    @rule(path=PATHS)
    def names(self, path: str) -> None:
        self.both(lambda place: sorted(place.names(path)) if not self.is_link(path) else [])

    @rule()
    def begin_anew(self) -> None:
        """End the session, and begin another one with a file system that knows nothing."""
        self.close_files()
        self.mounting.close()
        self.checked = self.mount()
        self.look()

    @rule()
    def look_from_elsewhere(self) -> None:
        """Let another mount of the bucket look: what was synced is there."""
        self.checked.sync()
        with ExitStack() as stack:
            options = {"metadata": self.metadata, "prefix": "prefix/", "read_only": True}
            place = BucketPlace(stack.enter_context(self.bucket.mounted(**options)))
            agreed(self.portrait(place), self.portrait(self.real))

    def close_files(self) -> None:
        """Close what is open."""
        while self.files:
            for file in self.files.pop():
                file.close()

    def attributes(self, place: Place, path: str, inodes: dict[int, str]) -> Iterable[Any]:
        about = place.stat(path)
        yield oct(about.mode)
        yield about.uid
        yield about.gid
        yield about.rdev
        yield inodes.setdefault(about.ino, path)
        if not stat.S_ISDIR(about.mode):
            yield about.mtime_ns == LONG_AGO
            yield about.size
        for name in sorted(place.listxattr(path)):
            yield name, place.getxattr(path, name)
        if stat.S_ISLNK(about.mode):
            yield place.readlink(path)


class StrictHistories(BucketHistories):
    """Of a bucket of which nothing is believed."""

    seconds: ClassVar[float] = 0.0


class FullHistories(BucketHistories):
    """Of a bucket with an index in each directory."""

    metadata: ClassVar[Metadata] = Metadata.FULL


class WritebackHistories(BucketHistories):
    """Of a bucket that gets what is closed a moment later, from a journal."""

    def subject(self) -> Place:
        self.state = Path(self.stack.enter_context(TemporaryDirectory()))
        return super().subject()

    def more(self) -> dict[str, Any]:
        return {"write": Write.WRITEBACK, "state": self.state}


class PlainHistories(BucketHistories):
    """Of a bucket of which nothing but names, contents and sizes is asked."""

    metadata: ClassVar[Metadata] = Metadata.NONE

    def symlink(self, path: str, leads_to: str) -> None:
        """Leave out what a listing does not tell from a file."""

    def mknod(self, path: str, kind: int, mode: int) -> None:
        """Leave out what a listing does not tell from a file."""

    def attributes(self, place: Place, path: str, inodes: dict[int, str]) -> Iterable[Any]:
        about = place.stat(path)
        yield oct(stat.S_IFMT(about.mode))
        yield inodes.setdefault(about.ino, path)
        if stat.S_ISREG(about.mode):
            yield about.size
