"""Types of mounts and layers are found by name among what is installed, and imported when used."""

from __future__ import annotations

import sys

import pytest

from tests.unit.backends.installed import Install, horology, install
from vhostfs.backends import catalogue
from vhostfs.backends.contract import Backend, Layer
from vhostfs.errors import ConfigurationError

__all__ = ["horology", "install"]


@pytest.mark.usefixtures("horology")
def test_a_package_adds_types_by_entry_points() -> None:
    assert issubclass(catalogue.backend("clock"), Backend)
    assert issubclass(catalogue.layer("tint"), Layer)


@pytest.mark.usefixtures("horology")
def test_what_no_configuration_names_is_not_imported() -> None:
    with pytest.raises(ConfigurationError):
        catalogue.backend("sundial")
    assert "horology" not in sys.modules


@pytest.mark.usefixtures("horology")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clocks", "unknown type; did you mean clock?"),
        ("passthru", "unknown type; did you mean passthrough?"),
        (
            "broken",
            "broken cannot be loaded: No module named 'horology.missing'; 'horology' is not a package",
        ),
        ("lost", "lost cannot be loaded: module 'horology' has no attribute 'Missing'"),
        ("string", "string cannot be used: horology:MODULE is no Backend"),
    ],
)
def test_a_type_that_cannot_be_had_is_told_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        catalogue.backend(name)
    assert str(raised.value) == reason


@pytest.mark.usefixtures("horology")
def test_who_resembles_nothing_hears_what_is_known() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^unknown type; known here: .*clock, .*passthrough, .*python"
    ):
        catalogue.backend("zfs")


@pytest.mark.usefixtures("horology")
def test_a_type_that_two_packages_declare_is_neither_ones(install: Install) -> None:
    install("watches", "[vhostfs.backends]\nclock = watches:Watch\n")
    with pytest.raises(
        ConfigurationError, match=r"^clock is declared by several packages: horology and watches$"
    ):
        catalogue.backend("clock")
