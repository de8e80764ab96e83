"""What the kernel calls the nodes that it knows: paths, put together from what a file system answers.

A node has every name by which the kernel has come to it, which are several for hard links. Names follow
renames and removals that pass through the layer; what the host does behind its back is noticed when the
kernel looks a name up again. A file whose last name went keeps the path that it had.
"""

from __future__ import annotations

from typing import Final

from vhostfs.filesystem import ROOT

_DEEPEST: Final = 4096


class Known:
    """A node that the kernel knows, or that is on the way to one. Equal to itself alone."""

    __slots__ = ("children", "denied", "held", "is_directory", "last", "names", "node", "path", "version")

    def __init__(self, node: int) -> None:
        self.node = node
        self.names: dict[tuple[Known, str], None] = {}
        """Its names with their directories, the latest last."""
        self.last = f"/#{node}"
        """The path of the name that went last."""
        self.children = 0
        self.held = True
        self.is_directory = True
        self.denied: dict[str, int] | None = None
        """A layer's own: what it found out about the node's names, good for Names.version == version."""
        self.version = 0
        self.path: tuple[int, str] | None = None
        """Its path, good while Names counts as many moves."""


class Names:
    """The names of all nodes that a kernel knows."""

    def __init__(self) -> None:
        """Know the root."""
        self._root = Known(ROOT)
        self._nodes: dict[int, Known] = {ROOT: self._root}
        self._children: dict[tuple[Known, str], Known] = {}
        self.version = 0
        """Counts renames of what may be a directory: they change paths of others."""
        self._moved = 0
        """Counts changes of names that others lie below."""

    def clear(self) -> None:
        """Know nothing but the root."""
        self.__init__()  # type: ignore[misc]

    def known(self, node: int) -> Known | None:
        """Return what is known of a node."""
        return self._nodes.get(node)

    def child(self, parent: int, name: str) -> Known | None:
        """Return what a name was last seen to lead to."""
        directory = self._nodes.get(parent)
        return None if directory is None else self._children.get((directory, name))

    # ---- Paths ----

    def path(self, node: int) -> str:
        """Return the path of a node by the latest of its names, or by the last that it had."""
        known = self._nodes.get(node)
        if known is None:
            return f"/#{node}"
        path = known.path
        if path is None or path[0] != self._moved:
            path = known.path = self._moved, _path(known)
        return path[1]

    def paths(self, known: Known) -> list[str]:
        """Return the paths of a node by all of its names, or the last that it had."""
        if known is self._root:
            return ["/"]
        return [_joined(_path(directory), name) for directory, name in known.names] or [known.last]

    def path_below(self, parent: int, name: str) -> str:
        """Return the path that a name in a directory has."""
        return _joined(self.path(parent), name)

    # ---- What happens ----

    def add(self, parent: int, name: str, node: int, *, is_directory: bool) -> None:
        """Take note that a name leads to a node."""
        directory = self._nodes.get(parent)
        if directory is None or node == ROOT or name in {".", ".."}:
            return
        key = directory, name
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = Known(node)
        known.held = True
        known.is_directory = is_directory
        before = self._children.get(key)
        if before is known:
            return
        if before is not None:
            self._lose(before, key)
        self._give(known, key)

    def add_unnamed(self, parent: int, node: int) -> None:
        """Take note of a file that was made in a directory without a name."""
        known = self._nodes.setdefault(node, Known(node))
        known.held = True
        known.is_directory = False
        known.last = self.path_below(parent, f"#{node}")
        self._changed(known)

    def remove(self, parent: int, name: str) -> None:
        """Take note that a name leads nowhere."""
        directory = self._nodes.get(parent)
        if directory is not None:
            key = directory, name
            known = self._children.get(key)
            if known is not None:
                self._lose(known, key)

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, *, exchange: bool) -> None:
        """Take note of a rename that was done."""
        source, target = self._nodes.get(parent), self._nodes.get(new_parent)
        if source is None or target is None:
            return
        old, new = (source, name), (target, new_name)
        moved, replaced = self._children.get(old), self._children.get(new)
        if moved is not None and moved is replaced:
            return  # two names of one file: nothing happens
        if moved is None or moved.is_directory or (replaced is not None and replaced.is_directory):
            self.version += 1
        # Those that move have a name all the time: what keeps them stays.
        if moved is not None:
            self._take(moved, old)
        if replaced is not None:
            self._take(replaced, new)
        if moved is not None:
            self._give(moved, new)
        if replaced is not None and exchange:
            self._give(replaced, old)
        for known in (replaced, source, target):
            if known is not None:
                self._drop_idle(known)

    def forget(self, node: int) -> None:
        """Take note that the kernel does not know a node any more."""
        known = self._nodes.get(node)
        if known is not None and known is not self._root:
            known.held = False
            self._drop_idle(known)

    def _give(self, known: Known, key: tuple[Known, str]) -> None:
        self._children[key] = known
        known.names[key] = None
        self._changed(known)
        key[0].children += 1

    def _take(self, known: Known, key: tuple[Known, str]) -> None:
        if len(known.names) == 1:
            known.last = _joined(_path(key[0]), key[1])
        del self._children[key]
        known.names.pop(key, None)
        self._changed(known)
        key[0].children -= 1

    def _changed(self, known: Known) -> None:
        known.denied = known.path = None
        self._moved += known.children > 0

    def _lose(self, known: Known, key: tuple[Known, str]) -> None:
        self._take(known, key)
        self._drop_idle(known)
        self._drop_idle(key[0])

    def _drop_idle(self, known: Known) -> None:
        """Drop what nobody holds and nothing is below of, and then perhaps what it was in."""
        waiting = [known]
        while waiting:
            each = waiting.pop()
            if each.held or each.children or self._nodes.get(each.node) is not each:
                continue
            del self._nodes[each.node]
            for key in list(each.names):
                self._take(each, key)
                waiting.append(key[0])


def _joined(directory: str, name: str) -> str:
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


def _path(known: Known) -> str:
    names = []
    for _ in range(_DEEPEST):
        if not known.names:
            break
        known, name = next(reversed(known.names))
        names.append(name)
    beginning = "" if known.node == ROOT else known.last
    return f"{beginning}/{'/'.join(reversed(names))}" if names else beginning or "/"
