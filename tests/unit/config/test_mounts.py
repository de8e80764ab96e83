"""A mount is checked against the type that it names, as are the mounts inside it and its layers."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.unit.backends.installed import horology, install
from vhostfs.backends.contract import Layered
from vhostfs.backends.directory import DirectorySettings
from vhostfs.config.model import FilesystemSettings, MountSettings, PassthroughSettings
from vhostfs.config.schema import parse
from vhostfs.errors import ConfigurationError
from vhostfs.layers.read_only import ReadOnlySettings
from vhostfs.virtqueue.rate_limit import Rates

__all__ = ["horology", "install"]

pytestmark = pytest.mark.usefixtures("horology")

ROOT = PurePosixPath("/")


def document(*lines: str) -> str:
    """Return a file whose one mount has these lines, the first of which is line 5."""
    return "\n".join(
        [
            "devices:",
            "  - socket: {path: /run/s}",
            "    mounts:",
            "      /:",
            *(f"        {line}" for line in lines),
        ]
    )


def mount(*lines: str) -> MountSettings:
    (device,) = parse(document(*lines), "f").devices
    return device.mounts[ROOT]


def opened(*lines: str) -> Any:
    settings = mount(*lines)
    assert isinstance(settings, FilesystemSettings)
    return settings.backend.open()


def faults(*lines: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        parse(document(*lines), "f")
    return str(raised.value).splitlines()


def test_keys_become_fields_as_they_are_annotated() -> None:
    import horology  # type: ignore[import-not-found]  # noqa: PLC0415

    settings = opened(
        "type: clock",
        "path: /srv",
        "unit: hours",
        "speed: 2",
        "zones: [{name: here, hours: -1}]",
        "names: {a: b}",
    ).settings
    assert settings == horology.ClockSettings(
        path=PurePosixPath("/srv"),
        unit=horology.Unit.HOURS,
        speed=2.0,
        zones=(horology.Zone("here", -1),),
        names={"a": "b"},
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("unit: days", "f:6:15: devices[0].mounts./.unit: should be 'seconds' or 'hours'"),
        ("path: srv", "f:6:15: devices[0].mounts./.path: should be an absolute path"),
        ('path: "/srv\\0"', "f:6:15: devices[0].mounts./.path: should not contain NUL"),
        ("digits: 12", "f:6:17: devices[0].mounts./.digits: should be less than or equal to 9"),
        ("digits: two", "f:6:17: devices[0].mounts./.digits: should be a whole number"),
        ("digits: '2'", "f:6:17: devices[0].mounts./.digits: should be a whole number"),
        ("zones: x", "f:6:16: devices[0].mounts./.zones: should be a list"),
        ("zones: [x]", "f:6:17: devices[0].mounts./.zones[0]: should be a mapping"),
        ("zones: [{hours: 1}]", "f:6:17: devices[0].mounts./.zones[0].name: missing"),
        (
            "zones: [{name: a, hour: 1}]",
            "f:6:27: devices[0].mounts./.zones[0].hour: unknown key; did you mean hours?",
        ),
        ("speeed: 1", "f:6:9: devices[0].mounts./.speeed: unknown key; did you mean speed?"),
        ("layer: []", "f:6:9: devices[0].mounts./.layer: unknown key; did you mean layers?"),
        (
            "colour: red",
            "f:6:9: devices[0].mounts./.colour: unknown key; known here: path, unit, speed, digits, zones,"
            " names, type, layers",
        ),
        ("speed: -1", "f:5:9: devices[0].mounts./: a clock does not run backwards"),
        ("layers: tint", "f:6:17: devices[0].mounts./.layers: should be a list"),
        ("layers: [tint]", "f:6:18: devices[0].mounts./.layers[0]: should be a mapping"),
        ("layers: [{type: tint}]", "f:6:18: devices[0].mounts./.layers[0].colour: missing"),
        (
            "layers: [{type: tnt, colour: red}]",
            "f:6:25: devices[0].mounts./.layers[0].type: unknown type; did you mean tint?",
        ),
        (
            "layers: [{type: tint, colour: red, layers: []}]",
            "f:6:44: devices[0].mounts./.layers[0].layers: unknown key; known here: colour, type",
        ),
    ],
)
def test_faults_of_a_mount_are_told_with_their_place(line: str, fault: str) -> None:
    (found,) = faults("type: clock", line)
    assert found.startswith(fault)


def test_mounts_inside_a_mount_are_read_as_mounts_are() -> None:
    inner = opened(
        "type: pile",
        "lower:",
        "  - {type: clock, digits: 1}",
        "  - {type: clock, layers: [{type: tint, colour: red}]}",
        "upper: {type: pile, lower: []}",
    ).settings
    assert [type(each).__name__ for each in inner] == ["Clock", "Tinted"]
    assert inner[0].settings.digits == 1


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("lower: {}", "f:6:16: devices[0].mounts./.lower: should be a list"),
        ("lower: [a]", "f:6:17: devices[0].mounts./.lower[0]: should be a mapping"),
        (
            "lower: [{type: clock}, {type: clack}]",
            "f:6:39: devices[0].mounts./.lower[1].type: unknown type; did you mean clock?",
        ),
        (
            "lower: [{type: pile, lower: [{type: clock, digit: 1}]}]",
            "f:6:52: devices[0].mounts./.lower[0].lower[0].digit: unknown key; did you mean digits?",
        ),
        (
            "lower: [{type: passthrough, shared_dir: srv}]",
            "f:6:49: devices[0].mounts./.lower[0].shared_dir: should be an absolute path",
        ),
    ],
)
def test_faults_inside_a_mount_are_told_with_their_place(line: str, fault: str) -> None:
    assert faults("type: pile", line) == [fault]


def test_all_faults_of_all_mounts_are_told() -> None:
    assert (
        len(faults("type: pile", "lower: [{type: a}, {type: clock, b: 1, digits: 0}]", "upper: 1", "c: 2"))
        == 5
    )


def test_a_request_meets_the_first_layer_first() -> None:
    outermost = opened("type: clock", "layers: [{type: tint, colour: red}, {type: tint, colour: blue}]")
    assert (outermost.colour, outermost.inner.colour) == ("red", "blue")
    assert type(outermost.inner.inner).__name__ == "Clock"


@pytest.mark.parametrize(
    ("lines", "network"),
    [
        (["type: clock"], False),
        (["type: remote"], True),
        (["type: remote", "layers: [{type: tint, colour: red}]"], True),
        (["type: pile", "lower: [{type: clock}, {type: remote}]"], True),
    ],
)
def test_the_network_is_kept_where_any_part_of_a_mount_needs_it(lines: list[str], network: bool) -> None:
    assert parse(document(*lines), "f").network is network


def test_a_native_mount_is_made_read_only_natively() -> None:
    settings = mount("type: passthrough", "shared_dir: /srv", "layers: [{type: read_only}]")
    assert settings == PassthroughSettings(PurePosixPath("/srv"), read_only=True)


def test_limits_of_a_native_mount_are_told_to_the_data_plane() -> None:
    settings = mount(
        "type: passthrough",
        "shared_dir: /srv",
        "layers:",
        "  - {type: rate_limit, bytes: 64MiB, requests: 1000}",
        "  - {type: read_only}",
        "  - {type: rate_limit, requests: 5000, requests_burst: 10, group: tenant}",
    )
    assert isinstance(settings, PassthroughSettings)
    assert settings.read_only
    assert [limit.rates for limit in settings.rate_limits] == [
        Rates(1000, 1000, 64 << 20, 64 << 20),
        Rates(5000, 10),
    ]


def test_the_members_of_a_group_agree_on_its_limit() -> None:
    found = faults(
        "type: clock",
        "layers:",
        "  - {type: rate_limit, requests: 1, group: a}",
        "  - {type: rate_limit, requests: 2, group: a}",
        "  - {type: rate_limit, requests: 2, group: b}",
    )
    assert found == [
        "f:8:52: devices[0].mounts./.layers[1].group: has another limit than at devices[0].mounts./.layers[0]"
    ]


def test_a_directory_under_layers_that_need_python_is_served_by_python_with_the_same_keys() -> None:
    settings = mount(
        "type: passthrough",
        "shared_dir: /srv",
        "cache: metadata",
        "timeouts: {entry: 3, attribute: 4, negative: 5}",
        "xattr: true",
        "writeback: true",
        "descriptors: 100",
        "layers: [{type: read_only}, {type: tint, colour: red}]",
    )
    assert isinstance(settings, FilesystemSettings)
    layered = settings.backend
    assert isinstance(layered, Layered)
    assert [type(layer).__name__ for layer in layered.layers] == ["ReadOnlySettings", "TintSettings"]
    assert layered.backend == DirectorySettings(
        PurePosixPath("/srv"),
        xattr=True,
        writeback=True,
        direct_io=True,
        entry_seconds=3,
        attr_seconds=4,
        negative_seconds=5,
        descriptors=100,
    )


def test_a_directory_that_python_serves_stays_read_only() -> None:
    settings = mount(
        "type: passthrough", "shared_dir: /srv", "read_only: true", "layers: [{type: tint, colour: red}]"
    )
    assert isinstance(settings, FilesystemSettings)
    assert isinstance(settings.backend, Layered)
    assert settings.backend.backend == Layered(
        DirectorySettings(PurePosixPath("/srv")), (ReadOnlySettings(),)
    )


def test_what_only_the_data_plane_does_is_a_fault_under_a_layer() -> None:
    found = faults(
        "type: passthrough",
        "shared_dir: /srv",
        "locks: {posix: host}",
        "direct_io: true",
        "layers: [{type: tint, colour: red}]",
    )
    reason = "not to be had where Python serves the directory, as it does here"
    assert found == [
        f"f:7:24: devices[0].mounts./.locks.posix: {reason}",
        f"f:8:20: devices[0].mounts./.direct_io: {reason}",
    ]


def test_a_directory_inside_another_mount_is_served_by_python() -> None:
    settings = mount("type: pile", "lower: [{type: passthrough, shared_dir: /srv}]")
    assert isinstance(settings, FilesystemSettings)
    assert settings.backend.lower == (DirectorySettings(PurePosixPath("/srv")),)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (
            "{type: id_map, uid: ['map:1']}",
            ".layers[0]: 'map:1' should be map:FROM:TO:COUNT, in numbers",
        ),
        ("{type: xattr_map}", ".layers[0].rules: missing"),
        ("{type: rate_limit, group: a}", ".layers[0]: a limit needs requests, bytes, or both"),
        (
            "{type: rate_limit, bytes: 1M, requests_burst: 2}",
            ".layers[0]: requests_burst without requests bounds nothing",
        ),
        (
            "{type: rate_limit, bytes: 0}",
            ".layers[0]: bytes should be 1 to 1000000000000",
        ),
        (
            "{type: xattr_map, rules: ':ok:all:a:a:'}",
            ".layers[0]: the rules leave names of the guest undecided; end them with one such as :bad:all:::",
        ),
    ],
)
def test_faults_of_layers_are_told_with_their_place(layer: str, fault: str) -> None:
    (found,) = faults("type: passthrough", "shared_dir: /srv", f"layers: [{layer}]")
    assert found.endswith(fault)
    assert found.startswith("f:7:")


@pytest.mark.parametrize("mode", ["chroot"])
def test_chroot_needs_a_directory_to_become_the_root(mode: str) -> None:
    with pytest.raises(ConfigurationError, match="chroot holds one shared directory; with none it needs"):
        parse(f"{document('type: clock')}\nsandbox: {{mode: {mode}}}\n", "f")
