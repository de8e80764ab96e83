"""A layer under which extended attributes have other names than on the host.

The rules are those of virtiofsd's --xattrmap. A rule begins with the character that separates its fields;
white space between rules does not count. The first rule that matches a name decides:

    :prefix:SCOPE:KEY:PREPEND:   the guest's KEY... is the host's PREPENDKEY..., and the other way round
    :ok:SCOPE:KEY:PREPEND:       the name stays as it is
    :bad:SCOPE:KEY:PREPEND:      the guest gets EPERM (ENODATA where it reads); the host's is not listed
    :unsupported:SCOPE:KEY:PREPEND:   the guest gets EOPNOTSUPP; the host's is not listed
    :map:KEY:PREPEND:            the last rule: KEY (empty: all) gets the prefix, and nothing gets past that

SCOPE is `client` (names from the guest, which begin with KEY), `server` (names from the host, which begin
with PREPEND) or `all`. A rule set must decide on every name, in both directions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from vhostfs.backends.contract import Layer
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Caller, Filesystem, MaybeAwaitable, Wrapper, then
from vhostfs.filesystem.refusals import refused

_NAME_MAX: Final = 255
_ACL_NAMES: Final = frozenset({"system.posix_acl_access", "system.posix_acl_default"})


class RuleType(StrEnum):
    """What a rule does with a name."""

    PREFIX = "prefix"
    OK = "ok"
    BAD = "bad"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, for names from the guest (`client`), from the host (`server`), or both."""

    type: RuleType
    client: bool
    server: bool
    key: str
    prepend: str


_SCOPES: Final = {"client": (True, False), "server": (False, True), "all": (True, True)}


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read a mapping; ValueError where it is none, or leaves names undecided."""
    rules: list[Rule] = []
    rest = text.lstrip()
    if not rest:
        raise ValueError("there is no rule")
    while rest:
        separator = rest[0]
        kind, rest = _field(rest[1:], separator, "type")
        if kind == "map":
            key, rest = _field(rest, separator, "key")
            prepend, rest = _field(rest, separator, "prepend")
            rules += _mapped(key, prepend)
            if rest.strip():
                raise ValueError("a map rule is the last one, and the only one of its kind")
            break
        if kind not in {each.value for each in RuleType}:
            known = ", ".join((*RuleType, "map"))
            raise ValueError(f"{kind!r} is no type of rule; known are {known}")
        scope, rest = _field(rest, separator, "scope")
        if scope not in _SCOPES:
            raise ValueError(f"{scope!r} is no scope; known are {', '.join(_SCOPES)}")
        key, rest = _field(rest, separator, "key")
        prepend, rest = _field(rest, separator, "prepend")
        rules.append(Rule(RuleType(kind), *_SCOPES[scope], key, prepend))
        rest = rest.lstrip()
    if not any(rule.client and not rule.key for rule in rules):
        raise ValueError(
            "the rules leave names of the guest undecided; end them with one such as :bad:all:::"
        )
    if not any(rule.server and not rule.prepend for rule in rules):
        raise ValueError("the rules leave names of the host undecided; end them with one such as :bad:all:::")
    return tuple(rules)


def _field(text: str, separator: str, what: str) -> tuple[str, str]:
    value, found, rest = text.partition(separator)
    if not found:
        raise ValueError(f"a rule ends before its {what}; each field is closed by {separator!r}")
    return value, rest


def _mapped(key: str, prepend: str) -> Iterator[Rule]:
    """Yield what `map` stands for."""
    if not prepend:
        raise ValueError("a map rule needs a prefix")
    yield Rule(RuleType.PREFIX, True, True, key, prepend)
    if key:
        yield Rule(RuleType.BAD, False, True, "", key)
        yield Rule(RuleType.BAD, True, False, prepend, "")
        yield Rule(RuleType.OK, True, True, "", "")
    else:
        yield Rule(RuleType.BAD, True, True, "", "")


class XattrMap[H](Wrapper[H]):
    """Translates the names of extended attributes."""

    def __init__(self, inner: Filesystem[H], rules: Iterable[Rule]) -> None:
        """Translate by rules; ValueError where POSIX ACLs, which the kernel must find, would be renamed."""
        super().__init__(inner)
        self._rules = tuple(rules)
        if inner.options.posix_acl and any(self._renames(name) for name in _ACL_NAMES):
            raise ValueError(
                "POSIX ACLs need their own names; add :ok:all:system.posix_acl_:system.posix_acl_:"
            )

    def _renames(self, name: str) -> bool:
        try:
            return self._to_host(name) != name
        except OSError:
            return True

    def _to_host(self, name: str) -> str:
        for rule in self._rules:
            if rule.client and name.startswith(rule.key):
                if rule.type is RuleType.PREFIX:
                    changed = rule.prepend + name
                    if len(os.fsencode(changed)) > _NAME_MAX:
                        raise refused(errno.ERANGE)
                    return changed
                if rule.type is RuleType.OK:
                    return name
                raise refused(errno.EPERM if rule.type is RuleType.BAD else errno.EOPNOTSUPP)
        raise refused(errno.EPERM)

    def _to_guest(self, name: str) -> str | None:
        """Return what a guest calls one of the host's; None: it must not know of it."""
        for rule in self._rules:
            if not rule.server or not name.startswith(rule.prepend):
                continue
            if rule.type is RuleType.OK:
                return name
            if rule.type is not RuleType.PREFIX:
                return None
            stripped = name.removeprefix(rule.prepend)
            # What the guest could not ask for by that name is not its attribute.
            return stripped if stripped and (not rule.client or stripped.startswith(rule.key)) else None
        return None

    def getxattr(self, caller: Caller, node: int, name: str) -> MaybeAwaitable[bytes]:
        """Return the value of what the host calls otherwise; ENODATA where it is not the guest's to know."""
        try:
            name = self._to_host(name)
        except PermissionError:
            raise refused(errno.ENODATA) from None
        return self.inner.getxattr(caller, node, name)

    def listxattr(self, caller: Caller, node: int) -> MaybeAwaitable[Iterable[str]]:
        """Return the names that the guest may know."""
        return then(self.inner.listxattr(caller, node), self._listed)

    def _listed(self, names: Iterable[str]) -> list[str]:
        translate: Callable[[str], str | None] = self._to_guest
        return [found for name in names if (found := translate(name)) is not None]

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> MaybeAwaitable[None]:
        """Set what the host calls otherwise."""
        return self.inner.setxattr(caller, node, self._to_host(name), value, flags, kill_sgid)

    def removexattr(self, caller: Caller, node: int, name: str) -> MaybeAwaitable[None]:
        """Remove what the host calls otherwise."""
        return self.inner.removexattr(caller, node, self._to_host(name))


@dataclass(frozen=True, slots=True)
class XattrMapSettings(Layer):
    """Extended attributes have other names on the host."""

    rules: str
    """A mapping, as virtiofsd's --xattrmap has it."""
    _parsed: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the rules."""
        object.__setattr__(self, "_parsed", parse_rules(self.rules))

    def wrap(self, inner: Filesystem[Any]) -> XattrMap[Any]:
        """Return the layer; ConfigurationError where POSIX ACLs would be renamed."""
        try:
            return XattrMap(inner, self._parsed)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
