"""A configuration file says what is served; what is wrong with it is told by file, line, column and key."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from vhostfs.config.model import (
    TIMEOUTS,
    ActivatedSocket,
    Configuration,
    DeviceSettings,
    IdRange,
    InheritedSocket,
    IoUring,
    LockOwner,
    Locks,
    LogDestination,
    LogFormat,
    LogLevel,
    LogSettings,
    PassthroughSettings,
    PathSocket,
    SandboxMode,
    SandboxSettings,
    Timeouts,
    idle_settings,
)
from vhostfs.config.schema import load, parse
from vhostfs.errors import ConfigurationError
from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode

CONFIGS = Path(__file__).parents[3] / "configs"

SMALLEST = """\
devices:
  - socket: {path: /run/s}
    mounts: {/: {type: passthrough, shared_dir: /srv}}
"""


def device_with(device_lines: str = "", mount_lines: str = "", socket: str = "{path: /run/s}") -> str:
    """Return a file with one device: its own lines, those of its mount, and what there must be."""
    lines = ["devices:", f"  - socket: {socket}"]
    lines += [f"    {line}" for line in device_lines.splitlines()]
    lines += ["    mounts:", "      /:", "        type: passthrough", "        shared_dir: /srv"]
    lines += [f"        {line}" for line in mount_lines.splitlines()]
    return "\n".join(lines)


def only_device(text: str) -> DeviceSettings:
    (device,) = parse(text, "f").devices
    return device


def only_mount(text: str) -> PassthroughSettings:
    mount = only_device(text).mounts[PurePosixPath("/")]
    assert isinstance(mount, PassthroughSettings)
    return mount


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        parse(text, "f")
    return str(raised.value).splitlines()


def test_what_is_not_said_is_as_virtiofsd_has_it() -> None:
    assert parse(SMALLEST, "f") == Configuration(
        devices=(
            DeviceSettings(
                socket=PathSocket(PurePosixPath("/run/s"), group=None, mode=None),
                mounts={
                    PurePosixPath("/"): PassthroughSettings(
                        shared_dir=PurePosixPath("/srv"),
                        cache=CacheMode.AUTO,
                        timeouts=Timeouts(entry=1.0, attribute=1.0, negative=1.0),
                        readdirplus=ReaddirplusMode.AUTO,
                        writeback=False,
                        xattr=False,
                        posix_acl=False,
                        killpriv_v2=False,
                        announce_submounts=True,
                        locks=Locks(LockOwner.GUEST, LockOwner.GUEST),
                        direct_io=False,
                        allow_mmap=False,
                        read_only=False,
                        descriptors=None,
                    )
                },
                tag=None,
                request_queues=1,
                packed=False,
                poll_microseconds=60,
                pool_threads=64,
                io_uring=IoUring.AUTO,
            ),
        ),
        sandbox=SandboxSettings(SandboxMode.NAMESPACE, (), ()),
        log=LogSettings(LogLevel.INFO, LogFormat.TEXT, LogDestination.STDERR),
        rlimit_nofile=None,
        once=False,
    )


@pytest.mark.parametrize(
    ("lines", "attribute", "value"),
    [
        ("tag: home", "tag", "home"),
        ('tag: "36 bytes of printable text, no more"', "tag", "36 bytes of printable text, no more"),
        ("request_queues: 255", "request_queues", 255),
        ("packed: true", "packed", True),
        ("poll_microseconds: 50", "poll_microseconds", 50),
        ("pool_threads: 1", "pool_threads", 1),
        ("io_uring: never", "io_uring", IoUring.NEVER),
    ],
)
def test_keys_of_a_device(lines: str, attribute: str, value: object) -> None:
    assert getattr(only_device(device_with(lines)), attribute) == value


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("{path: /run/s}", PathSocket(PurePosixPath("/run/s"))),
        ("{path: /run/s, group: kvm}", PathSocket(PurePosixPath("/run/s"), "kvm")),
        ("{path: /run/s, group: 36}", PathSocket(PurePosixPath("/run/s"), "36")),
        ("{path: /run/s, mode: 0660}", PathSocket(PurePosixPath("/run/s"), mode=0o660)),
        ("{path: /run/s, mode: 660}", PathSocket(PurePosixPath("/run/s"), mode=0o660)),
        ('{path: /run/s, mode: "0600"}', PathSocket(PurePosixPath("/run/s"), mode=0o600)),
        ("{path: /run/s, mode: 0o777}", PathSocket(PurePosixPath("/run/s"), mode=0o777)),
        ("{fd: 3}", InheritedSocket(3)),
        ("{systemd: home}", ActivatedSocket("home")),
    ],
)
def test_a_socket_has_one_origin(text: str, settings: object) -> None:
    assert only_device(device_with(socket=text)).socket == settings


@pytest.mark.parametrize(
    ("lines", "attribute", "value"),
    [
        ("cache: never", "cache", CacheMode.NEVER),
        ("cache: metadata", "cache", CacheMode.METADATA),
        ("cache: always", "cache", CacheMode.ALWAYS),
        ("readdirplus: always", "readdirplus", ReaddirplusMode.ON),
        ("readdirplus: never", "readdirplus", ReaddirplusMode.OFF),
        ("writeback: true", "writeback", True),
        ("xattr: true", "xattr", True),
        ("posix_acl: true", "posix_acl", True),
        ("posix_acl: true", "xattr", True),
        ("killpriv_v2: true", "killpriv_v2", True),
        ("announce_submounts: false", "announce_submounts", False),
        ("locks: {posix: host}", "locks", Locks(LockOwner.HOST, LockOwner.GUEST)),
        ("locks: {flock: host}", "locks", Locks(LockOwner.GUEST, LockOwner.HOST)),
        ("direct_io: true", "direct_io", True),
        ("allow_mmap: true", "allow_mmap", True),
        ("read_only: true", "read_only", True),
        ("descriptors: 16", "descriptors", 16),
    ],
)
def test_keys_of_a_mount(lines: str, attribute: str, value: object) -> None:
    assert getattr(only_mount(device_with(mount_lines=lines)), attribute) == value


@pytest.mark.parametrize("cache", list(CacheMode))
def test_a_cache_mode_brings_its_time_outs(cache: CacheMode) -> None:
    assert only_mount(device_with(mount_lines=f"cache: {cache}")).timeouts == TIMEOUTS[cache]


def test_a_time_out_given_replaces_that_one_alone() -> None:
    mount = only_mount(device_with(mount_lines="cache: always\ntimeouts: {negative: 0, attribute: 2.5}"))
    assert mount.timeouts == Timeouts(entry=86_400.0, attribute=2.5, negative=0.0)


@pytest.mark.parametrize(
    ("lines", "attribute", "value"),
    [
        ("sandbox: {mode: chroot}", "sandbox", SandboxSettings(SandboxMode.CHROOT)),
        ("sandbox: {mode: none}", "sandbox", SandboxSettings(SandboxMode.NONE)),
        (
            "sandbox: {uid_map: [{inside: 0, outside: 1000, count: 1}]}",
            "sandbox",
            SandboxSettings(SandboxMode.NAMESPACE, (IdRange(0, 1000, 1),), ()),
        ),
        (
            "sandbox: {gid_map: [{inside: 1, outside: 100000, count: 65535}]}",
            "sandbox",
            SandboxSettings(SandboxMode.NAMESPACE, (), (IdRange(1, 100_000, 65_535),)),
        ),
        ("log: {level: trace}", "log", LogSettings(LogLevel.TRACE)),
        ("log: {level: 'off'}", "log", LogSettings(LogLevel.OFF)),
        ("log: {level: off}", "log", LogSettings(LogLevel.OFF)),
        ("log: {format: json}", "log", LogSettings(format=LogFormat.JSON)),
        ("log: {destination: syslog}", "log", LogSettings(destination=LogDestination.SYSLOG)),
        ("rlimit_nofile: 256", "rlimit_nofile", 256),
        ("rlimit_nofile: 0", "rlimit_nofile", 0),
        ("once: true", "once", True),
    ],
)
def test_keys_of_the_daemon(lines: str, attribute: str, value: object) -> None:
    assert getattr(parse(f"{SMALLEST}{lines}\n", "f"), attribute) == value


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("tag: ''", "f:3:10: devices[0].tag: should not be empty"),
        (f"tag: {'x' * 37}", "f:3:10: devices[0].tag: a tag has at most 36 bytes"),
        (f"tag: {'ä' * 19}", "f:3:10: devices[0].tag: a tag has at most 36 bytes"),
        ('tag: "a\\nb"', "f:3:10: devices[0].tag: a tag has printable characters only"),
        ("tag: 12", "f:3:10: devices[0].tag: should be text; put it in quotes"),
        ("request_queues: 0", "f:3:21: devices[0].request_queues: should be greater than or equal to 1"),
        ("request_queues: 256", "f:3:21: devices[0].request_queues: should be less than or equal to 255"),
        ("request_queues: two", "f:3:21: devices[0].request_queues: should be a whole number"),
        ("request_queues: 1.5", "f:3:21: devices[0].request_queues: should be a whole number"),
        ("packed: yes", "f:3:13: devices[0].packed: should be true or false"),
        ("packed: 1", "f:3:13: devices[0].packed: should be true or false"),
        ("pool_threads: 0", "f:3:19: devices[0].pool_threads: should be greater than or equal to 1"),
        (
            "poll_microseconds: -1",
            "f:3:24: devices[0].poll_microseconds: should be greater than or equal to 0",
        ),
        ("io_uring: always", "f:3:15: devices[0].io_uring: should be 'auto' or 'never'"),
        ("queues: 2", "f:3:5: devices[0].queues: unknown key; did you mean request_queues?"),
        (
            "colour: red",
            "f:3:5: devices[0].colour: unknown key; known here: socket, mounts, tag, request_queues, packed,"
            " poll_microseconds, pool_threads, io_uring",
        ),
    ],
)
def test_faults_of_a_device(lines: str, fault: str) -> None:
    assert faults(device_with(lines)) == [fault]


@pytest.mark.parametrize(
    ("socket", "fault"),
    [
        ("{}", "f:2:13: devices[0].socket: needs one of path, fd and systemd"),
        ("{path: /s, fd: 3}", "f:2:13: devices[0].socket: needs one of path, fd and systemd"),
        (
            "{fd: 3, mode: 0600}",
            "f:2:13: devices[0].socket: group and mode belong to path; another's socket is",
        ),
        ("{path: s}", "f:2:20: devices[0].socket.path: should be an absolute path"),
        (f"{{path: /{'x' * 107}}}", "f:2:20: devices[0].socket.path: a socket's path has at most 107 bytes"),
        (
            "{path: /s, mode: 8}",
            "f:2:30: devices[0].socket.mode: should be permission bits in octal, such as",
        ),
        (
            "{path: /s, mode: 1777}",
            "f:2:30: devices[0].socket.mode: should be permission bits in octal, 0777",
        ),
        (
            "{path: /s, mode: true}",
            "f:2:30: devices[0].socket.mode: should be permission bits in octal, such",
        ),
        ("{path: /s, group: true}", "f:2:31: devices[0].socket.group: should be text; put it in quotes"),
        ("{fd: -1}", "f:2:18: devices[0].socket.fd: should be greater than or equal to 0"),
        ("/run/s", "f:2:13: devices[0].socket: should be a mapping"),
    ],
)
def test_faults_of_a_socket(socket: str, fault: str) -> None:
    (found,) = faults(device_with(socket=socket))
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("cache: none", "16: devices[0].mounts./.cache: should be 'never', 'metadata', 'auto' or 'always'"),
        ("readdirplus: true", "22: devices[0].mounts./.readdirplus: should be 'auto', 'always' or 'never'"),
        (
            "timeouts: {entry: -1}",
            "27: devices[0].mounts./.timeouts.entry: should be greater than or equal to 0",
        ),
        ("timeouts: {entry: soon}", "27: devices[0].mounts./.timeouts.entry: should be a number"),
        (
            "timeouts: {entry: 1e300}",
            "27: devices[0].mounts./.timeouts.entry: should be less than or equal to",
        ),
        (
            "timeouts: {attr: 1}",
            "20: devices[0].mounts./.timeouts.attr: unknown key; did you mean attribute?",
        ),
        ("timeouts: 1", "19: devices[0].mounts./.timeouts: should be a mapping"),
        ("locks: {posix: both}", "24: devices[0].mounts./.locks.posix: should be 'guest' or 'host'"),
        ("xattr: on", "16: devices[0].mounts./.xattr: should be true or false"),
        ("descriptors: 15", "22: devices[0].mounts./.descriptors: should be greater than or equal to 16"),
        ("readonly: true", "9: devices[0].mounts./.readonly: unknown key; did you mean read_only?"),
    ],
)
def test_faults_of_a_mount(lines: str, fault: str) -> None:
    (found,) = faults(device_with(mount_lines=lines))
    assert found.startswith(f"f:7:{fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f:1:1: devices: missing"),
        ("[]", "f:1:1: should be a mapping"),
        ("devices: []", "f:1:10: devices: should not be empty"),
        ("devices: {}", "f:1:10: devices: should be a list"),
        (
            "devices: [{mounts: {/: {type: passthrough, shared_dir: /s}}}]",
            "f:1:11: devices[0].socket: missing",
        ),
        ("devices: [{socket: {fd: 3}}]", "f:1:11: devices[0].mounts: missing"),
        (
            "devices: [{socket: {fd: 3}, mounts: {}}]",
            "f:1:37: devices[0].mounts: needs a mount",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {a: {type: passthrough, shared_dir: /s}}}]",
            "f:1:38: devices[0].mounts.a: should be an absolute path",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/a/: {type: passthrough, shared_dir: /s}}}]",
            "f:1:38: devices[0].mounts./a/: should be a path without empty names, '.' and '..'",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/a/../b: {type: passthrough, shared_dir: /s}}}]",
            "f:1:38: devices[0].mounts./a/../b: should be a path without empty names, '.' and '..'",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/%s: {type: passthrough, shared_dir: /s}}}]" % ("a" * 256),
            f"f:1:38: devices[0].mounts./{'a' * 256}: a name has at most 255 bytes",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/: {shared_dir: /s}}}]",
            "f:1:38: devices[0].mounts./.type: missing",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/: {type: zfs, shared_dir: /s}}}]",
            "f:1:48: devices[0].mounts./.type: unknown type; known here: ",
        ),
        (
            "devices: [{socket: {fd: 3}, mounts: {/: {type: passthrough, shared_dir: s}}}]",
            "f:1:73: devices[0].mounts./.shared_dir: should be an absolute path",
        ),
        (f"{SMALLEST}sandbox: none", "f:4:10: sandbox: should be a mapping"),
        (
            f"{SMALLEST}sandbox: {{mode: jail}}",
            "f:4:17: sandbox.mode: should be 'namespace', 'chroot' or 'none'",
        ),
        (
            f"{SMALLEST}sandbox: {{uid_map: [{{inside: 0, outside: 0}}]}}",
            "f:4:21: sandbox.uid_map[0].count: missing",
        ),
        (
            f"{SMALLEST}sandbox: {{uid_map: [{{inside: 0, outside: 0, count: 1, to: 1}}]}}",
            "f:4:55: sandbox.uid_map[0].to: unknown key; known here: inside, outside, count",
        ),
        (f"{SMALLEST}log: {{level: loud}}", "f:4:14: log.level: should be 'trace', 'debug', 'info', 'warn',"),
        (
            f"{SMALLEST}log: {{file: /x}}",
            "f:4:7: log.file: unknown key; known here: level, format, destination",
        ),
        (f"{SMALLEST}rlimit_nofile: -1", "f:4:16: rlimit_nofile: should be greater than or equal to 0"),
        (f"{SMALLEST}sandbx: {{}}", "f:4:1: sandbx: unknown key; did you mean sandbox?"),
        (
            "devices: [",
            "f:1:11: while parsing a flow node expected the node content, but found '<stream end>'",
        ),
    ],
)
def test_faults_of_a_file(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert found.startswith(fault)


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = device_with("queues: 1\ntag: 5\ntag: a", "cache: none\nxattr: on") + "\nlog: {level: loud}\n"
    assert [fault.split(": ")[:2] for fault in faults(text)] == [
        ["f:3:5", "devices[0].queues"],
        ["f:4:10", "devices[0].tag"],
        ["f:5:5", "devices[0].tag"],
        ["f:10:16", "devices[0].mounts./.cache"],
        ["f:11:16", "devices[0].mounts./.xattr"],
        ["f:12:14", "log.level"],
    ]


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (
            "  - socket: {path: /run/s, mode: 660}\n    mounts: {/: {type: passthrough, shared_dir: /a}}\n",
            "f:4:5: devices[1].socket: the same socket as devices[0]",
        ),
        (
            "  - socket: {path: /run/t}\n    mounts: {/: {type: passthrough, shared_dir: /other}}\n"
            "sandbox: {mode: chroot}\n",
            "f:6:11: sandbox.mode: chroot holds one shared directory; several need namespace or none",
        ),
        (
            "sandbox: {mode: none, gid_map: [{inside: 0, outside: 0, count: 1}]}\n",
            "f:4:23: sandbox.gid_map: needs the sandbox mode namespace",
        ),
    ],
)
def test_what_is_right_alone_and_wrong_together_is_a_fault(extra: str, fault: str) -> None:
    assert faults(SMALLEST + extra) == [fault]


def test_two_devices_may_share_a_directory_and_a_tag() -> None:
    text = SMALLEST.replace("socket", "tag: a\n    socket") + SMALLEST.removeprefix("devices:\n").replace(
        "socket: {path: /run/s}", "tag: a\n    socket: {path: /run/t}"
    )
    configuration = parse(text, "f")
    assert configuration.shared_directories() == (PurePosixPath("/srv"),)
    assert configuration.device_names() == ("a (/run/s)", "a (/run/t)")


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("cache: never\nwriteback: true", "/run/s: writeback does nothing with cache never"),
        ("allow_mmap: true", "/run/s: allow_mmap does nothing with cache auto: files map anyway"),
    ],
)
def test_a_setting_that_another_makes_idle_is_told(lines: str, sentence: str) -> None:
    assert list(idle_settings(parse(device_with(mount_lines=lines), "f"))) == [sentence]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"/no-such-file: No such file or directory$"):
        load(tmp_path / "no-such-file")
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe4\n")
    with pytest.raises(ConfigurationError, match=r"/latin:2: not UTF-8$"):
        load(tmp_path / "latin")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_right(path: Path) -> None:
    assert load(path).devices


def keys_of(schema: dict[str, Any]) -> set[str]:
    """Return every key that a schema and its parts declare."""
    parts = [schema, *schema.get("$defs", {}).values()]
    return {key for part in parts for key in part.get("properties", {})}


def test_the_example_of_all_keys_explains_every_one() -> None:
    from vhostfs.config.schema import ConfigurationPart  # noqa: PLC0415 - what this test alone looks into

    text = (CONFIGS / "vhostfs.yaml").read_text()
    for key in keys_of(ConfigurationPart.model_json_schema()):
        assert f"{key}:" in text, key


@pytest.mark.parametrize("group", ["vhostfs.backends", "vhostfs.layers"])
def test_the_examples_and_the_guide_explain_every_key_of_every_type(group: str) -> None:
    examples = "".join(path.read_text() for path in CONFIGS.glob("*.yaml"))
    guide = (CONFIGS.parent / "docs/filesystems.md").read_text()
    for point in entry_points(group=group):
        if not point.value.startswith("vhostfs."):
            continue
        assert f"`{point.name}`" in guide, point.name
        keys = [field.name for field in fields(point.load()) if field.init]
        for key in keys:
            assert f"{key}`" in guide or f"{key}:" in guide, f"{point.name}: {key}"
        if point.name == "directory":  # It stands for passthrough under other mounts, and has fewer keys.
            continue
        assert f"type: {point.name}" in examples, point.name
        for key in keys:
            assert f"{key}:" in examples, f"{point.name}: {key}"


def test_the_reference_names_every_key() -> None:
    from vhostfs.config.schema import ConfigurationPart  # noqa: PLC0415 - what this test alone looks into

    text = (CONFIGS.parent / "docs" / "configuration.md").read_text()
    for key in keys_of(ConfigurationPart.model_json_schema()):
        assert re.search(rf"[`.{{ ]{key}[`.:, }}]", text), key
