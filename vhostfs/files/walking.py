"""The directories below a path of any file system, as os.walk has them."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any

from vhostfs.files.places import Path, Place, Tree, fail
from vhostfs.filesystem import Caller, DirEntry, Filesystem, FileType

type Walked = tuple[str, list[str], list[str]]
"""A directory's path, the names of the directories in it, and of all else."""


async def walk(
    filesystem: Filesystem[Any],
    top: Path = "/",
    *,
    top_down: bool = True,
    on_error: Callable[[OSError], None] | None = None,
    follow_symlinks: bool = False,
    caller: Caller | None = None,
) -> AsyncGenerator[Walked]:
    """Yield each directory at and below `top`, with the names in it: before those below, or behind them.

    Paths begin as `top` does. Top down, the list of directories may be changed: what is left in it is walked,
    in its order. A link to a directory counts as a directory, and is walked with `follow_symlinks` alone; one
    that leads to a directory that is being walked is ELOOP. What cannot be listed is passed to `on_error`, if
    there is one, which may raise it; `filename` says what it was. Directories on the way are held until
    the generator ends: close it (contextlib.aclosing) where it is left early.
    """
    tree = Tree(filesystem, caller)
    path = os.fspath(top)
    # Each directory under way with the names in it that are to come, last first.
    stack: list[tuple[Walked, Place, list[str]]] = []

    async def enter(place: Place, place_path: str) -> bool:
        """Take over a place, and put what is in it on the stack."""
        try:
            directories, others = await _listed(place)
        except BaseException:
            place.release()
            raise
        stack.append(((place_path, directories, others), place, []))
        return True

    def report(error: OSError, at: str) -> None:
        if on_error is not None:
            error.filename = at
            on_error(error)

    try:
        try:
            found = await tree.resolve(path)
            await enter(found, path)
        except OSError as error:
            report(error, path)
            return
        fresh = True
        while stack:
            walked, place, names = stack[-1]
            if fresh:
                if top_down:
                    yield walked
                names.extend(reversed(walked[1]))
                fresh = False
            if not names:
                if not top_down:
                    yield walked
                stack.pop()
                place.release()
                continue
            name = names.pop()
            child_path = os.path.join(walked[0], name)  # noqa: PTH118 - paths of another file system
            try:
                child = await _child(tree, place, name, follow=follow_symlinks)
                if child is not None:
                    if any(child.node == held.node for _, held, _ in stack):
                        child.release()
                        fail(errno.ELOOP, child_path)
                    fresh = await enter(child, child_path)
            except OSError as error:
                report(error, child_path)
    finally:
        for _, place, _ in stack:
            place.release()


async def _listed(place: Place) -> tuple[list[str], list[str]]:
    """Return the names of the directories and of all else in a directory."""
    place.check_directory()
    directories: list[str] = []
    others: list[str] = []
    async with place.listing() as entries:
        async for entry in entries:
            (directories if await _is_directory(place, entry) else others).append(entry.name)
    return directories, others


async def _is_directory(place: Place, entry: DirEntry) -> bool:
    """Tell whether an entry is a directory or a link to one, as os.walk has it."""
    kind = entry.type
    if kind not in {FileType.UNKNOWN, FileType.SYMLINK}:
        return kind == FileType.DIRECTORY
    try:
        with await place.tree.resolve(entry.name, start=place) as found:
            return found.attr.mode & 0o170000 == 0o040000
    except OSError:
        return False


async def _child(tree: Tree, place: Place, name: str, *, follow: bool) -> Place | None:
    """Return a directory below another one, None for a link that is not to be followed."""
    child = await tree.resolve(name, follow=follow, start=place)
    if child.attr.mode & 0o170000 == 0o120000:
        child.release()
        return None
    return child
