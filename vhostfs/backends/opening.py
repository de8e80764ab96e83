"""Paths of the host that settings name, opened by name or, in a sandbox, from descriptors that were passed.

A daemon that is locked in sees no path. To add a mount to it, `vhostfs mounts add` opens what the settings
name and passes the descriptors; while Backend.open runs, `open_path` finds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import PurePath, PurePosixPath
from typing import Final

PROC_SELF_FD: Final = "/proc/self/fd"


@dataclass(frozen=True, slots=True)
class Passed:
    """Descriptors by the paths that they were opened by, and an O_PATH one of /proc/self/fd."""

    proc_self_descriptor: int
    descriptors: Mapping[PurePosixPath, int] = field(default_factory=dict)


_passed: ContextVar[Passed | None] = ContextVar("_passed", default=None)


@contextmanager
def passing(passed: Passed) -> Iterator[None]:
    """Have open_path find these, in this context, for as long as the block runs."""
    token = _passed.set(passed)
    try:
        yield
    finally:
        _passed.reset(token)


def open_path(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file or directory that settings name, and return the descriptor, which is the caller's.

    Call it in Backend.open. Where descriptors were passed, nothing is found by name: OSError ENOENT for any
    other path. What was passed may be read only.
    """
    passed = _passed.get()
    flags |= os.O_CLOEXEC
    if passed is None:
        return os.open(path, flags)
    if os.fspath(path) == PROC_SELF_FD:
        return os.open(".", flags, dir_fd=passed.proc_self_descriptor)
    descriptor = passed.descriptors.get(PurePosixPath(path))
    if descriptor is None:
        raise FileNotFoundError(2, "it is out of sight in the sandbox, and was not passed", os.fspath(path))
    try:
        return os.open(str(descriptor), flags, dir_fd=passed.proc_self_descriptor)
    except PermissionError:
        # Whoever passed it may have been allowed what the daemon is not.
        return os.dup(descriptor)


def named_paths(settings: object) -> Iterator[PurePosixPath]:
    """Yield the paths of the host that settings name, those of mounts and layers inside included.

    These are the fields that hold a path.
    """
    if isinstance(settings, PurePath):
        yield PurePosixPath(settings)
    elif isinstance(settings, tuple | list):
        for each in settings:
            yield from named_paths(each)
    elif is_dataclass(settings):
        for each in fields(settings):
            yield from named_paths(getattr(settings, each.name))
