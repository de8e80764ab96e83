"""Extended attributes of a guest have other names on the host, as virtiofsd's --xattrmap says it."""

from __future__ import annotations

import errno
from collections.abc import Awaitable

import pytest

from tests.unit.refusals import refused
from vhostfs.backends.memory import MemoryFilesystem
from vhostfs.errors import ConfigurationError
from vhostfs.filesystem import Caller, Filesystem, Options
from vhostfs.layers.xattr_map import XattrMapSettings, parse_rules

pytestmark = pytest.mark.vhostfs_quiet

EVERYTHING = ":prefix:all::user.virtiofs.::bad:all:::"
TRUSTED = """/prefix/all/trusted./user.virtiofs./
    /bad/server//trusted./
    /bad/client/user.virtiofs.//
    /ok/all///"""
NO_SECURITY = "/unsupported/all/security./security./ /ok/all///"


class Host(Filesystem[None]):
    """Keeps the attributes of one file, whatever they are called."""

    def __init__(self) -> None:
        self.attributes: dict[str, bytes] = {}

    def getxattr(self, caller: Caller, node: int, name: str) -> bytes:
        if name not in self.attributes:
            raise OSError(errno.ENODATA, "no such attribute")
        return self.attributes[name]

    def listxattr(self, caller: Caller, node: int) -> list[str]:
        return list(self.attributes)

    def setxattr(
        self, caller: Caller, node: int, name: str, value: bytes, flags: int, kill_sgid: bool
    ) -> None:
        self.attributes[name] = value

    def removexattr(self, caller: Caller, node: int, name: str) -> None:
        del self.attributes[name]


class Guest:
    """Asks through a layer with some rules."""

    def __init__(self, rules: str, *on_host: str) -> None:
        self.host = Host()
        self.host.attributes = {name: name.encode() for name in on_host}
        self.layer = XattrMapSettings(rules).wrap(self.host)

    def get(self, name: str) -> bytes:
        value = self.layer.getxattr(Caller(), 1, name)
        assert isinstance(value, bytes)
        return value

    def set(self, name: str) -> None:
        self.layer.setxattr(Caller(), 1, name, b"value", 0, False)

    def names(self) -> list[str]:
        names = self.layer.listxattr(Caller(), 1)
        assert not isinstance(names, Awaitable)
        return list(names)


def test_a_prefix_is_put_before_names_of_the_guest_and_taken_from_those_of_the_host() -> None:
    guest = Guest(EVERYTHING, "user.virtiofs.security.selinux", "user.own")
    assert guest.names() == ["security.selinux"]
    assert guest.get("security.selinux") == b"user.virtiofs.security.selinux"
    guest.set("user.a")
    assert guest.host.attributes["user.virtiofs.user.a"] == b"value"
    guest.layer.removexattr(Caller(), 1, "user.a")
    assert "user.virtiofs.user.a" not in guest.host.attributes
    with refused(errno.ENODATA):
        guest.get("user.own")


@pytest.mark.parametrize(
    ("rules", "same"), [(EVERYTHING, ":map::user.virtiofs.:"), (TRUSTED, "/map/trusted./user.virtiofs./")]
)
def test_map_stands_for_the_rules_that_it_shortens(rules: str, same: str) -> None:
    names = ["trusted.a", "user.a", "user.virtiofs.a", "user.virtiofs.trusted.a", "security.selinux"]
    for text in (rules, same):
        guest = Guest(text, *names)
        told = [guest.names()]
        for name in names:
            try:
                guest.set(name)
                told.append(sorted(guest.host.attributes))
            except OSError as error:
                told.append([str(error.errno)])
        if text == rules:
            expected = told
    assert told == expected


def test_a_chosen_prefix_is_out_of_reach_by_its_own_name() -> None:
    guest = Guest(TRUSTED, "trusted.overlay", "user.virtiofs.trusted.mine", "user.virtiofs.stray", "user.b")
    assert guest.names() == ["trusted.mine", "user.b"]
    with refused(errno.EPERM):
        guest.set("user.virtiofs.trusted.mine")
    with refused(errno.ENODATA):
        guest.get("user.virtiofs.trusted.mine")
    guest.set("trusted.overlay")
    assert guest.host.attributes["trusted.overlay"] == b"trusted.overlay"
    assert guest.host.attributes["user.virtiofs.trusted.overlay"] == b"value"
    guest.set("user.b")
    assert guest.host.attributes["user.b"] == b"value"


def test_what_is_not_supported_looks_as_if_the_file_system_had_none() -> None:
    guest = Guest(NO_SECURITY, "security.selinux", "user.a")
    assert guest.names() == ["user.a"]
    for ask in (guest.get, guest.set):
        with refused(errno.EOPNOTSUPP):
            ask("security.selinux")


def test_the_first_rule_that_matches_decides() -> None:
    guest = Guest(":ok:all:user.plain:user.plain::map:user.:user.x.:", "user.plain", "user.x.user.a")
    assert guest.names() == ["user.plain", "user.a"]
    assert guest.get("user.plain") == b"user.plain"


def test_a_name_that_becomes_too_long_is_refused() -> None:
    with refused(errno.ERANGE):
        Guest(EVERYTHING).set("user." + "x" * 245)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("", "there is no rule"),
        ("  \n", "there is no rule"),
        (":prefix:all", "ends before its scope"),
        (":prefix:all:key", "ends before its key"),
        (":good:all:::", "'good' is no type of rule"),
        (":ok:everybody:::", "'everybody' is no scope"),
        (":ok:client:::", "names of the host undecided"),
        (":ok:server:::", "names of the guest undecided"),
        (":ok:all:user.:user.:", "undecided"),
        (":map::user.v.::ok:all:::", "a map rule is the last one"),
        (":map:::", "needs a prefix"),
    ],
)
def test_rules_that_are_none_are_told(rules: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_rules(rules)


def test_posix_acls_keep_their_names() -> None:
    inner = MemoryFilesystem(size=1 << 20, inodes=10, mode=0o755, uid=0, gid=0)
    inner.options = Options(posix_acl=True)
    with pytest.raises(ConfigurationError, match="POSIX ACLs need their own names"):
        XattrMapSettings(EVERYTHING).wrap(inner)
    XattrMapSettings(":ok:all:system.posix_acl_:system.posix_acl_:" + EVERYTHING).wrap(inner)
