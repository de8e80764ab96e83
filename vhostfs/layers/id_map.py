"""A layer under which users and groups have other numbers than on the host.

The rules are those of virtiofsd's --translate-uid and --translate-gid. Guest to host and host to guest are
two maps of their own, each from ranges to what they become; an id of no range stays as it is.

    guest:FROM:TO:COUNT          guest ids FROM, FROM + 1, ... are the host's TO, TO + 1, ...
    host:FROM:TO:COUNT           host ids FROM, FROM + 1, ... are the guest's TO, TO + 1, ...
    map:GUEST:HOST:COUNT         both at once
    squash-guest:FROM:TO:COUNT   all these guest ids are one id of the host
    squash-host:FROM:TO:COUNT    all these host ids are one id of the guest
    forbid-guest:FROM:COUNT      nothing is made or owned by these guest ids: EPERM
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vhostfs.backends.contract import Layer
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import (
    OPERATIONS,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Filesystem,
    MaybeAwaitable,
    Opened,
    SetAttr,
    StatX,
    Wrapper,
    implements,
    then,
)
from vhostfs.filesystem.refusals import refused
from vhostfs.layers.listing import Entries, each_entry

_IDS: Final = 1 << 32
_FIELDS: Final = {"guest": 3, "host": 3, "map": 3, "squash-guest": 3, "squash-host": 3, "forbid-guest": 2}
_NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class _Range:
    """Ids from `first` to `last` become those from `target` on, or `target` alone; None: nothing."""

    first: int
    last: int
    target: int | None
    squashed: bool
    rule: str


class _Direction:
    """One direction of a map."""

    def __init__(self, ranges: Iterable[_Range]) -> None:
        """Take ranges that do not overlap; ValueError otherwise."""
        self._ranges = sorted(ranges, key=lambda each: each.first)
        for before, after in zip(self._ranges, self._ranges[1:], strict=False):
            if after.first <= before.last:
                raise ValueError(f"{before.rule} and {after.rule} speak of the same ids")
        self._firsts = [each.first for each in self._ranges]
        self._known: dict[int, int | None] = {}

    def __bool__(self) -> bool:
        """Tell whether it changes anything."""
        return bool(self._ranges)

    def of(self, number: int) -> int | None:
        """Return what an id becomes; None: it is forbidden."""
        try:
            return self._known[number]
        except KeyError:
            found = self._find(number)
            if len(self._known) < 4096:
                self._known[number] = found
            return found

    def _find(self, number: int) -> int | None:
        index = bisect_right(self._firsts, number) - 1
        if index < 0 or number > self._ranges[index].last:
            return number
        each = self._ranges[index]
        return each.target if each.squashed or each.target is None else each.target + number - each.first


class IdTable:
    """What ids of one kind, users or groups, become in either direction."""

    def __init__(self, rules: Iterable[str]) -> None:
        """Read rules; ValueError for what is none, and for two that speak of the same ids."""
        to_host: list[_Range] = []
        to_guest: list[_Range] = []
        for rule in rules:
            kind, numbers = _parsed(rule)
            if kind == "forbid-guest":
                to_host.append(_Range(numbers[0], numbers[0] + numbers[1] - 1, None, False, rule))
                continue
            source, target, count = numbers
            squashed = kind.startswith("squash")
            if target + (1 if squashed else count) > _IDS:
                raise ValueError(f"{rule} leads beyond the last id, {_IDS - 1}")
            if kind in {"guest", "map", "squash-guest"}:
                to_host.append(_Range(source, source + count - 1, target, squashed, rule))
            if kind == "map":
                source, target = target, source
            if kind in {"host", "map", "squash-host"}:
                to_guest.append(_Range(source, source + count - 1, target, squashed, rule))
        self.to_host: Final = _Direction(to_host)
        self.to_guest: Final = _Direction(to_guest)


def _parsed(rule: str) -> tuple[str, list[int]]:
    kind, *rest = rule.split(":")
    if kind not in _FIELDS:
        raise ValueError(f"{rule!r} should begin with one of {', '.join(_FIELDS)}")
    if len(rest) != _FIELDS[kind] or not all(each.isascii() and each.isdecimal() for each in rest):
        form = "FROM:COUNT" if kind == "forbid-guest" else "FROM:TO:COUNT"
        raise ValueError(f"{rule!r} should be {kind}:{form}, in numbers")
    numbers = [int(each) for each in rest]
    if numbers[-1] < 1 or numbers[0] + numbers[-1] > _IDS:
        raise ValueError(f"{rule} should have a count of 1 or more, and end at {_IDS - 1} or before")
    return kind, numbers


class IdMap[H](Wrapper[H]):
    """Translates the ids of callers, of attributes, and of chown; POSIX ACLs cannot pass it."""

    def __init__(self, inner: Filesystem[H], *, users: IdTable, groups: IdTable) -> None:
        """Translate by these tables; ValueError over a file system with POSIX ACLs, which hold ids."""
        super().__init__(inner)
        if inner.options.posix_acl:
            raise ValueError("POSIX ACLs hold ids, which are not translated: one of them has to go")
        self._users = users
        self._groups = groups
        for operation in OPERATIONS:
            overridden = getattr(type(self), operation) is not getattr(Filesystem, operation)
            if not overridden and implements(inner, operation):
                setattr(self, operation, self._passed_on(getattr(inner, operation)))

    def _passed_on(self, method: Callable[..., Any]) -> Callable[..., Any]:
        translated = self._caller

        def operation(caller: Caller, *arguments: Any) -> Any:
            return method(translated(caller), *arguments)

        return operation

    # ---- To the host ----

    def _caller(self, caller: Caller, *, makes: bool = False) -> Caller:
        """Return the caller as the host knows it; one that is forbidden may look, as nobody, but not make."""
        uid, gid = self._users.to_host.of(caller.uid), self._groups.to_host.of(caller.gid)
        groups: list[int] | None = None
        if caller.groups and self._groups.to_host:
            found = [self._groups.to_host.of(group) for group in caller.groups]
            groups = [group for group in found if group is not None]
        if uid == caller.uid and gid == caller.gid and groups is None:
            return caller
        if makes and (uid is None or gid is None):
            raise refused(errno.EPERM)
        return Caller(
            _NOBODY if uid is None else uid,
            _NOBODY if gid is None else gid,
            caller.pid,
            caller.groups if groups is None else groups,
            caller.umask,
            caller.interrupted,
        )

    def setattr(self, caller: Caller, node: int, handle: H | None, changes: SetAttr) -> MaybeAwaitable[Attr]:
        """Give a file to whom the host knows by another number."""
        uid = None if changes.uid is None else self._owner(self._users, changes.uid)
        gid = None if changes.gid is None else self._owner(self._groups, changes.gid)
        if uid != changes.uid or gid != changes.gid:
            changes = replace(changes, uid=uid, gid=gid)
        return then(self.inner.setattr(self._caller(caller), node, handle, changes), self._attr)

    @staticmethod
    def _owner(table: IdTable, number: int) -> int:
        found = table.to_host.of(number)
        if found is None:
            raise refused(errno.EPERM)
        return found

    # ---- To the guest ----

    def _attr(self, attr: Attr) -> Attr:
        uid, gid = self._users.to_guest.of(attr.uid), self._groups.to_guest.of(attr.gid)
        if uid == attr.uid and gid == attr.gid:
            return attr
        assert uid is not None
        assert gid is not None
        return replace(attr, uid=uid, gid=gid)

    def _entry(self, entry: Entry) -> Entry:
        attr = self._attr(entry.attr)
        if attr is entry.attr:
            return entry
        return replace(entry, attr=attr)

    def _found(self, entry: Entry | None) -> Entry | None:
        return None if entry is None else self._entry(entry)

    def _created(self, answer: tuple[Entry, Opened[H]]) -> tuple[Entry, Opened[H]]:
        entry, opened = answer
        return self._entry(entry), opened

    def lookup(self, caller: Caller, parent: int, name: str) -> MaybeAwaitable[Entry | None]:
        """Tell the owner as the guest knows it."""
        return then(self.inner.lookup(self._caller(caller), parent, name), self._found)

    def getattr(self, caller: Caller, node: int, handle: H | None) -> MaybeAwaitable[Attr]:
        """Tell the owner as the guest knows it."""
        return then(self.inner.getattr(self._caller(caller), node, handle), self._attr)

    def statx(self, caller: Caller, node: int, handle: H | None, mask: int) -> MaybeAwaitable[StatX]:
        """Tell the owner as the guest knows it."""
        return then(
            self.inner.statx(self._caller(caller), node, handle, mask),
            lambda answer: replace(answer, attr=self._attr(answer.attr)),
        )

    def link(self, caller: Caller, node: int, parent: int, name: str) -> MaybeAwaitable[Entry]:
        """Tell the owner as the guest knows it."""
        return then(self.inner.link(self._caller(caller), node, parent, name), self._entry)

    def mknod(self, caller: Caller, parent: int, name: str, mode: int, rdev: int) -> MaybeAwaitable[Entry]:
        """Make as the host's user."""
        maker = self._caller(caller, makes=True)
        return then(self.inner.mknod(maker, parent, name, mode, rdev), self._entry)

    def mkdir(self, caller: Caller, parent: int, name: str, mode: int) -> MaybeAwaitable[Entry]:
        """Make as the host's user."""
        maker = self._caller(caller, makes=True)
        return then(self.inner.mkdir(maker, parent, name, mode), self._entry)

    def symlink(self, caller: Caller, parent: int, name: str, target: str) -> MaybeAwaitable[Entry]:
        """Make as the host's user."""
        maker = self._caller(caller, makes=True)
        return then(self.inner.symlink(maker, parent, name, target), self._entry)

    def create(
        self, caller: Caller, parent: int, name: str, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Entry, Opened[H]]]:
        """Make as the host's user."""
        maker = self._caller(caller, makes=True)
        return then(self.inner.create(maker, parent, name, mode, flags), self._created)

    def tmpfile(
        self, caller: Caller, parent: int, mode: int, flags: int
    ) -> MaybeAwaitable[tuple[Entry, Opened[H]]]:
        """Make as the host's user."""
        maker = self._caller(caller, makes=True)
        return then(self.inner.tmpfile(maker, parent, mode, flags), self._created)

    def readdir(self, caller: Caller, node: int, handle: H | None, offset: int) -> MaybeAwaitable[Entries]:
        """Tell the owners of what a listing brings along."""
        return each_entry(self.inner.readdir(self._caller(caller), node, handle, offset), self._listed_entry)

    def _listed_entry(self, entry: DirEntry) -> DirEntry:
        return entry if entry.entry is None else replace(entry, entry=self._entry(entry.entry))


@dataclass(frozen=True, slots=True)
class IdMapSettings(Layer):
    """Users and groups of the guest are others on the host."""

    uid: tuple[str, ...] = ()
    """Rules, as virtiofsd's --translate-uid has them."""
    gid: tuple[str, ...] = ()
    """Rules for groups."""
    _tables: tuple[IdTable, IdTable] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the rules."""
        object.__setattr__(self, "_tables", (IdTable(self.uid), IdTable(self.gid)))

    def wrap(self, inner: Filesystem[Any]) -> IdMap[Any]:
        """Return the layer; ConfigurationError where ids would hide in POSIX ACLs."""
        users, groups = self._tables
        try:
            return IdMap(inner, users=users, groups=groups)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
