"""A layer that allows or denies operations by path.

Rules are looked at in order, and the first one that is about a path and an operation decides. What a file may
be asked is decided by its names of now, at every request: also of files that are open, and after renames. A
file that the kernel has come to by several names is allowed what all of them are allowed; one whose last name
went keeps that name's rules.

No file comes to be allowed more by getting another name. A link or a rename that would do that is refused
with EXDEV, upon which mv(1) copies, as far as the rules let it; so is a directory's rename where rules look
at what is below its old name otherwise than at what would be below the new one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from vhostfs.backends.contract import Layer
from vhostfs.filesystem import OPERATIONS, Caller, DirEntry, Filesystem, RenameFlags, implements
from vhostfs.filesystem.refusals import refused
from vhostfs.layers.interception import BY_NAME, GIVING_UP, Intercepted
from vhostfs.layers.listing import each_entry
from vhostfs.layers.names import Known
from vhostfs.layers.patterns import names_of
from vhostfs.layers.selection import EVERYWHERE, Selection, errno_of

type Denied = Mapping[str, int]
"""The operations that are denied, with the errno of each."""

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_NO_REPLACE: Final = RenameFlags.NOREPLACE
_DATA_RULES: Final = {"fallocate": "write", "copy_file_range": "write", "lseek": "read", "bmap": "read"}
"""What an operation needs to be allowed beside itself."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Whether operations on paths are allowed."""

    action: Literal["allow", "deny"]
    paths: tuple[str, ...] = EVERYWHERE
    operations: tuple[str, ...] = ("any",)
    error: Literal["EACCES", "EPERM", "EROFS", "ENOENT"] = "EACCES"
    """What a denied operation is answered."""


class _Rule:
    def __init__(self, rule: PolicyRule) -> None:
        self.selection = Selection(rule.operations, rule.paths)
        self.error = errno_of(rule.error) if rule.action == "deny" else 0


class Policy[H](Intercepted[H]):
    """Allows and denies. What no rule is about is allowed, or denied with EACCES where `default` says so."""

    def __init__(
        self, inner: Filesystem[H], rules: Iterable[PolicyRule], default: Literal["allow", "deny"] = "allow"
    ) -> None:
        """Take rules; ValueError for an operation or a pattern that is none."""
        self._rules = [_Rule(rule) for rule in rules]
        self._default = 0 if default == "allow" else errno.EACCES
        self._of_path: Callable[[str], Denied] = lru_cache(8192)(self._judge)
        super().__init__(inner)
        # An operation that changes names is looked at with what it would lead to.
        if implements(inner, "rename"):
            self._rename_followed: Callable[..., Any] = self.rename
            setattr(self, "rename", self._rename)  # noqa: B010 - an override is the inner one's otherwise
        if implements(inner, "readdir"):
            self._readdir_followed: Callable[..., Any] = self.readdir
            setattr(self, "readdir", self._readdir)  # noqa: B010

    # ---- What the rules say ----

    def _judge(self, path: str) -> Denied:
        names = names_of(path)
        denied: dict[str, int] = {}
        open_yet = set(OPERATIONS)
        for rule in self._rules:
            selection = rule.selection
            concerned = selection.operations & open_yet
            if concerned and any(pattern.matches(names) for pattern in selection.patterns):
                open_yet -= concerned
                if rule.error:
                    denied.update(dict.fromkeys(concerned, rule.error))
        if self._default:
            denied.update(dict.fromkeys(open_yet, self._default))
        return denied

    def _of_known(self, known: Known) -> Denied:
        denied = known.denied
        if denied is None or known.version != self.names.version:
            found: dict[str, int] = {}
            for path in self.names.paths(known):
                found.update(self._of_path(path))
            denied = known.denied = found
            known.version = self.names.version
        return denied

    def _of_node(self, node: int) -> Denied:
        known = self.names.known(node)
        if known is None:
            raise refused(errno.ESTALE)  # one that came by no name, of which nothing can be told
        return self._of_known(known)

    def _of_name(self, parent: int, name: str) -> Denied:
        return self._of_path(self.names.path_below(parent, name))

    # ---- Operations ----

    def before(self, operation: str, caller: Caller, arguments: tuple[Any, ...]) -> None:
        """Refuse what is denied."""
        if operation in GIVING_UP or operation == "rename":
            return
        if operation in BY_NAME:
            if operation != "lookup" or arguments[1] not in {".", ".."}:
                self._check_name(operation, arguments)
            return
        if operation == "link":
            self._check_link(*arguments)
            return
        denied = self._of_node(arguments[0])
        if not denied:
            if operation == "copy_file_range":
                _check(self._of_node(arguments[3]), operation, "write")
            return
        _check(denied, operation)
        if operation == "copy_file_range":
            _check(denied, "read")
            _check(self._of_node(arguments[3]), operation, "write")
        elif operation in _DATA_RULES:
            _check(denied, _DATA_RULES[operation])
        elif operation == "open":
            _check_opening(denied, arguments[1])
        elif operation == "tmpfile":
            _check_opening(denied, arguments[2])
        elif operation == "setattr" and arguments[2].size is not None:
            _check(denied, "write")
        elif operation == "opendir":
            _check(denied, "readdir")

    def _check_name(self, operation: str, arguments: tuple[Any, ...]) -> None:
        parent, name = arguments[0], arguments[1]
        denied = self._of_name(parent, name)
        _check(denied, operation)
        if operation == "create":
            _check_opening(denied, arguments[3])
            existing = self.names.child(parent, name)
            if existing is not None:
                _check_opening(self._of_known(existing), arguments[3])

    def _check_link(self, node: int, parent: int, name: str) -> None:
        known = self.names.known(node)
        old, new = self._of_node(node), self._of_name(parent, name)
        _check(old, "link")
        _check(new, "link")
        if known is not None:
            self._check_gain(known, old, new, [], "")

    def _check_gain(self, known: Known | None, old: Denied, new: Denied, paths: list[str], to: str) -> None:
        """Refuse that what has these rules gets those of a name that allows more."""
        if not old.keys() <= new.keys():
            raise refused(errno.EXDEV)
        if (known is None or known.is_directory) and paths:
            target = names_of(to)
            sources = [names_of(path) for path in paths]
            for rule in self._rules:
                for pattern in rule.selection.patterns:
                    there = pattern.states(target)
                    for source in sources:
                        here = pattern.states(source)
                        if here != there and (pattern.matches_below(here) or pattern.matches_below(there)):
                            raise refused(errno.EXDEV)

    def _rename(
        self, caller: Caller, parent: int, name: str, new_parent: int, new_name: str, flags: RenameFlags
    ) -> Any:
        """Rename where both names allow it, and without replacing what must not be removed."""
        old, new = self._of_name(parent, name), self._of_name(new_parent, new_name)
        exchange = RenameFlags.EXCHANGE in flags
        _check(old, "rename", "unlink", "rmdir")
        _check(new, "rename")
        moved, replaced = self.names.child(parent, name), self.names.child(new_parent, new_name)
        old_path, new_path = self.names.path_below(parent, name), self.names.path_below(new_parent, new_name)
        self._check_gain(moved, old, new, [old_path], new_path)
        if exchange:
            _check(new, "unlink", "rmdir")
            self._check_gain(replaced, new, old, [new_path], old_path)
        kept = 0 if exchange else new.get("unlink", 0) or new.get("rmdir", 0)
        if not kept:
            return self._rename_followed(caller, parent, name, new_parent, new_name, flags)
        return self._without_replacing(kept, caller, parent, name, new_parent, new_name, flags | _NO_REPLACE)

    def _without_replacing(self, kept: int, *arguments: Any) -> Any:
        try:
            answer = self._rename_followed(*arguments)
        except FileExistsError:
            raise refused(kept) from None
        return answer if answer is None else _renamed_later(answer, kept)

    def _readdir(self, caller: Caller, node: int, handle: H | None, offset: int) -> Any:
        """List what may be looked up."""

        def allowed(entry: DirEntry) -> DirEntry | None:
            if entry.name in {".", ".."} or "lookup" not in self._of_name(node, entry.name):
                return entry
            return None

        return each_entry(self._readdir_followed(caller, node, handle, offset), allowed)


async def _renamed_later(answer: Any, kept: int) -> None:
    try:
        await answer
    except FileExistsError:
        raise refused(kept) from None


def _check(denied: Denied, *operations: str) -> None:
    if denied:
        for operation in operations:
            if operation in denied:
                raise refused(denied[operation])


def _check_opening(denied: Denied, flags: int) -> None:
    if flags & os.O_ACCMODE != os.O_WRONLY:
        _check(denied, "read")
    if flags & _WRITING:
        _check(denied, "write")


@dataclass(frozen=True, slots=True)
class PolicySettings(Layer):
    """What may be done, by path."""

    rules: tuple[PolicyRule, ...]
    default: Literal["allow", "deny"] = "allow"
    """What happens where no rule decides."""

    def __post_init__(self) -> None:
        """Refuse rules that are none."""
        for rule in self.rules:
            _Rule(rule)

    def wrap(self, inner: Filesystem[Any]) -> Policy[Any]:
        """Return the layer."""
        return Policy(inner, self.rules, self.default)
