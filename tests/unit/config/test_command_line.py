"""Options mean what they mean to virtiofsd; what is not built is refused in a sentence."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from vhostfs.backends.contract import Backend, Layer, Layered
from vhostfs.backends.directory import DirectorySettings
from vhostfs.config.command_line import REFUSED, Served, add_serve_options, served
from vhostfs.config.model import (
    TIMEOUTS,
    ActivatedSocket,
    Configuration,
    DeviceSettings,
    FilesystemSettings,
    IdRange,
    InheritedSocket,
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
)
from vhostfs.errors import ConfigurationError
from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode
from vhostfs.layers.id_map import IdMapSettings
from vhostfs.layers.xattr_map import XattrMapSettings

LEAST = ("--socket-path", "/run/s", "--shared-dir", "/srv")
ROOT = PurePosixPath("/")


def read(*arguments: str, environment: dict[str, str] | None = None) -> Served:
    parser = argparse.ArgumentParser(prog="vhostfsd", allow_abbrev=False)
    add_serve_options(parser)
    return served(parser, parser.parse_args(arguments), environment or {})


def configured(*arguments: str) -> Configuration:
    return read(*arguments).configuration


def device_of(*arguments: str) -> DeviceSettings:
    (device,) = configured(*arguments).devices
    return device


def mount_of(*arguments: str) -> PassthroughSettings:
    mount = device_of(*LEAST, *arguments).mounts[ROOT]
    assert isinstance(mount, PassthroughSettings)
    return mount


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the sentence with which these options are refused, as wrong usage."""
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("vhostfsd: error: ")


def test_the_least_that_can_be_said_is_one_directory_with_all_defaults() -> None:
    mount = PassthroughSettings(shared_dir=PurePosixPath("/srv"))
    device = DeviceSettings(socket=PathSocket(PurePosixPath("/run/s")), mounts={ROOT: mount})
    assert read(*LEAST) == Served(Configuration(devices=(device,)), notices=())


@pytest.mark.parametrize("mode", list(CacheMode))
def test_cache_brings_its_time_outs(mode: CacheMode) -> None:
    assert (mount_of("--cache", mode).cache, mount_of(f"--cache={mode}").timeouts) == (mode, TIMEOUTS[mode])


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        (["--readonly"], "read_only", True),
        (["--writeback"], "writeback", True),
        (["--allow-direct-io"], "direct_io", True),
        (["--allow-mmap"], "allow_mmap", True),
        (["--no-readdirplus"], "readdirplus", ReaddirplusMode.OFF),
        (["--xattr"], "xattr", True),
        (["--posix-acl"], "posix_acl", True),
        (["--posix-acl"], "xattr", True),
        (["--posix-acl=always"], "posix_acl", True),
        (["--posix-acl=auto"], "posix_acl", True),
        (["--posix-acl=never"], "posix_acl", False),
        (["--posix-acl", "--xattr"], "posix_acl", True),
        (["--killpriv-v2"], "killpriv_v2", True),
        (["--killpriv-v2", "--no-killpriv-v2"], "killpriv_v2", False),
        (["--no-killpriv-v2", "--killpriv-v2"], "killpriv_v2", True),
        (["--announce-submounts"], "announce_submounts", True),
        (["--no-announce-submounts"], "announce_submounts", False),
        (["--posix-locks", "host"], "locks", Locks(posix=LockOwner.HOST)),
        (["--flock", "host"], "locks", Locks(flock=LockOwner.HOST)),
    ],
)
def test_options_of_a_mount(arguments: list[str], attribute: str, value: object) -> None:
    assert getattr(mount_of(*arguments), attribute) == value


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        (["--tag", "home"], "tag", "home"),
        (["--num-request-queues", "4"], "request_queues", 4),
        (["--thread-pool-size", "0"], "pool_threads", 64),
        (["--thread-pool-size=1"], "pool_threads", 1),
    ],
)
def test_options_of_a_device(arguments: list[str], attribute: str, value: object) -> None:
    assert getattr(device_of(*LEAST, *arguments), attribute) == value


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        (["--sandbox", "chroot"], "sandbox", SandboxSettings(SandboxMode.CHROOT)),
        (["--sandbox=none"], "sandbox", SandboxSettings(SandboxMode.NONE)),
        (
            ["--uid-map=:0:1000:1:", "--uid-map", ":1:100000:65535:", "--gid-map=/0/100/1/"],
            "sandbox",
            SandboxSettings(
                SandboxMode.NAMESPACE,
                (IdRange(0, 1000, 1), IdRange(1, 100_000, 65_535)),
                (IdRange(0, 100, 1),),
            ),
        ),
        (["--rlimit-nofile", "256"], "rlimit_nofile", 256),
        (["--rlimit-nofile=0"], "rlimit_nofile", 0),
        (["--once"], "once", True),
        (["--log-level", "trace"], "log", LogSettings(LogLevel.TRACE)),
        (["--log-level=off"], "log", LogSettings(LogLevel.OFF)),
        (["-d"], "log", LogSettings(LogLevel.DEBUG)),
        (["--log-format", "json"], "log", LogSettings(format=LogFormat.JSON)),
        (["--syslog"], "log", LogSettings(destination=LogDestination.SYSLOG)),
    ],
)
def test_options_of_the_daemon(arguments: list[str], attribute: str, value: object) -> None:
    assert getattr(configured(*LEAST, *arguments), attribute) == value


def test_the_last_of_contrary_options_counts() -> None:
    assert mount_of("--cache", "never", "--cache", "always").cache is CacheMode.ALWAYS


def test_relative_paths_belong_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    device = device_of("--socket-path", "s", "--shared-dir", ".")
    assert device.socket == PathSocket(PurePosixPath(tmp_path / "s"))
    assert device.mounts[ROOT] == PassthroughSettings(PurePosixPath(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "environment", "socket"),
    [
        (["--socket-path", "/s"], {}, PathSocket(PurePosixPath("/s"))),
        (["--socket-path", "/s", "--socket-group", "kvm"], {}, PathSocket(PurePosixPath("/s"), "kvm")),
        (["--socket", "/s"], {}, PathSocket(PurePosixPath("/s"))),
        (["--fd", "3"], {}, InheritedSocket(3)),
        (["--fd=3"], {"LISTEN_FDS": "1"}, InheritedSocket(3)),
        ([], {"LISTEN_FDS": "1"}, ActivatedSocket("0")),
    ],
)
def test_where_front_ends_connect(arguments: list[str], environment: dict[str, str], socket: object) -> None:
    (device,) = read("--shared-dir", "/srv", *arguments, environment=environment).configuration.devices
    assert device.socket == socket


def test_kata_is_understood() -> None:
    result = read(
        "--syslog",
        "--cache=auto",
        "--shared-dir=/p",
        "--fd=3",
        "--thread-pool-size=1",
        "--announce-submounts",
    )
    (device,) = result.configuration.devices
    assert (device.socket, device.pool_threads, result.notices) == (InheritedSocket(3), 1, ())


def test_libvirt_with_separate_options_is_understood() -> None:
    device = device_of(
        "--fd=21", "--shared-dir", "/p", "--cache", "always", "--sandbox", "namespace", "--xattr",
        "--thread-pool-size=16", "--rlimit-nofile=4096", "--log-level", "debug",
        "--uid-map=:0:1000:1:", "--gid-map=:0:1000:1:", "--readonly",
    )  # fmt: skip
    assert device.socket == InheritedSocket(21)
    assert device.mounts[ROOT] == replace(
        PassthroughSettings(PurePosixPath("/p"), CacheMode.ALWAYS, TIMEOUTS[CacheMode.ALWAYS]),
        xattr=True,
        read_only=True,
    )


def test_libvirt_with_legacy_options_is_understood() -> None:
    legacy = "source=/a,,b,cache=none,sandbox=chroot,xattr,no_flock,posix_lock"
    configuration = configured("--fd=21", "-o", legacy, "--thread-pool-size=16", "-d")
    (device,) = configuration.devices
    assert configuration.sandbox.mode is SandboxMode.CHROOT
    assert configuration.log.level is LogLevel.DEBUG
    assert device.mounts[ROOT] == replace(
        PassthroughSettings(PurePosixPath("/a,b"), CacheMode.NEVER, TIMEOUTS[CacheMode.NEVER]),
        xattr=True,
        locks=Locks(posix=LockOwner.HOST, flock=LockOwner.GUEST),
    )


@pytest.mark.parametrize(
    ("legacy", "option"),
    [
        ("xattr", "--xattr"),
        ("readdirplus", "--cache=auto"),
        ("no_readdirplus", "--no-readdirplus"),
        ("writeback", "--writeback"),
        ("allow_direct_io", "--allow-direct-io"),
        ("announce_submounts", "--announce-submounts"),
        ("killpriv_v2", "--killpriv-v2"),
        ("no_killpriv_v2", "--no-killpriv-v2"),
        ("posix_acl", "--posix-acl"),
        ("no_posix_acl", "--posix-acl=never"),
        ("posix_lock", "--posix-locks=host"),
        ("no_posix_lock", "--posix-locks=guest"),
        ("flock", "--flock=host"),
        ("no_flock", "--flock=guest"),
        ("cache=none", "--cache=never"),
        ("cache=metadata", "--cache=metadata"),
        ("sandbox=namespace", "--sandbox=namespace"),
        ("loglevel=err", "--log-level=error"),
        ("log_level=warn", "--log-level=warn"),
        ("debug", "-d"),
    ],
)
def test_a_legacy_option_is_its_successor_by_another_name(legacy: str, option: str) -> None:
    assert configured(*LEAST, "-o", legacy) == configured(*LEAST, option)


@pytest.mark.parametrize(
    ("arguments", "notice"),
    [
        (["--inode-file-handles=mandatory"], "--inode-file-handles does nothing"),
        (["--seccomp", "kill"], "--seccomp does nothing"),
        (["--preserve-noatime"], "--preserve-noatime does nothing"),
        (["--seccomp=none"], None),
        (["-f"], None),
    ],
)
def test_an_option_without_effect_is_taken_and_told_where_it_matters(
    arguments: list[str], notice: str | None
) -> None:
    result = read(*LEAST, *arguments)
    assert result.configuration == configured(*LEAST)
    assert [each.split(":")[0] for each in result.notices] == ([] if notice is None else [notice])


def layered(*arguments: str) -> tuple[Backend, tuple[Layer, ...]]:
    mount = device_of(*LEAST, *arguments).mounts[ROOT]
    assert isinstance(mount, FilesystemSettings)
    assert isinstance(mount.backend, Layered)
    return mount.backend.backend, mount.backend.layers


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        (["--xattrmap", ":map::user.v.:"], (XattrMapSettings(":map::user.v.:"),)),
        (["-o", "xattrmap=:map::user.v.:"], (XattrMapSettings(":map::user.v.:"),)),
        (
            ["--translate-uid", "map:0:1:2", "--translate-gid=host:1:2:3", "--translate-uid=guest:7:8:9"],
            (IdMapSettings(("map:0:1:2", "guest:7:8:9"), ("host:1:2:3",)),),
        ),
        (
            ["--translate-uid", "map:0:1:2", "--xattrmap", ":map::user.v.:", "--cache", "never"],
            (XattrMapSettings(":map::user.v.:"), IdMapSettings(("map:0:1:2",))),
        ),
    ],
)
def test_what_is_translated_is_a_layer_over_a_directory_that_python_serves(
    arguments: list[str], layers: tuple[Layer, ...]
) -> None:
    directory, found = layered(*arguments)
    assert isinstance(directory, DirectorySettings)
    assert found == layers
    assert directory.xattr is any("xattrmap" in argument for argument in arguments)
    assert directory.direct_io is ("never" in arguments)
    (notice,) = read(*LEAST, *arguments).notices
    assert notice.endswith("the directory is served by Python, which takes more of the processor")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--translate-uid", "map:1"], "--translate-uid: 'map:1' should be map:FROM:TO:COUNT, in numbers"),
        (["--xattrmap", ":ok:all"], "--xattrmap: a rule ends before its scope; each field is closed by ':'"),
        (
            ["--translate-gid", "map:0:1:2", "--posix-acl"],
            "--translate-gid: POSIX ACLs hold ids, which are not translated",
        ),
        (
            ["--xattrmap", ":map::user.v.:", "-o", "flock,posix_lock"],
            "--xattrmap: locks.flock, locks.posix is not to be had beside it",
        ),
    ],
)
def test_a_translation_that_cannot_be_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *LEAST, *arguments) == sentence


@pytest.mark.parametrize("option", sorted(REFUSED))
def test_an_option_that_is_not_built_is_refused_with_a_reason(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *LEAST, option, "x") == f"{option} is not served: {REFUSED[option]}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is nothing to serve: give --shared-dir or --config"),
        (["--shared-dir", "/p"], "there is no socket: give --socket-path or --fd"),
        ([*LEAST, "--fd", "3"], "--socket-path and --fd exclude each other"),
        (
            ["--shared-dir", "/p", "--fd", "3", "--socket-group", "g"],
            "--socket-group belongs to --socket-path",
        ),
        ([*LEAST, "--fd", "x"], "argument --fd: 'x' should be a whole number, 0 or more"),
        ([*LEAST, "--tag", ""], "--tag: should be 1 to 36 bytes of printable text"),
        ([*LEAST, "--tag", "x" * 37], "--tag: should be 1 to 36 bytes of printable text"),
        ([*LEAST, "--num-request-queues", "0"], "argument --num-request-queues: 0 should be 1 to 255"),
        ([*LEAST, "--thread-pool-size", "9999"], "argument --thread-pool-size: 9999 should be at most 1024"),
        ([*LEAST, "--posix-acl=yes"], "argument --posix-acl: 'yes' should be always, auto or never"),
        ([*LEAST, "--uid-map", "0:1:1"], "argument --uid-map: '0:1:1' should be :INSIDE:OUTSIDE:COUNT:"),
        (
            [*LEAST, "--uid-map", ":0:1:0:"],
            "argument --uid-map: ':0:1:0:' is no range of user or group numbers",
        ),
        ([*LEAST, "-o", "nonsense"], "-o nonsense: no such option"),
        ([*LEAST, "-o", "xattr=1"], "-o xattr=1: no such option"),
        ([*LEAST, "-o", "sandbox=none"], "-o sandbox=none: should be one of namespace, chroot"),
        ([*LEAST, "--unknown"], "unrecognized arguments: --unknown"),
        (
            [*LEAST, "--tag=x", "--config", "/f"],
            "--config says what is served; --shared-dir, --socket-path, --tag",
        ),
        (
            [*LEAST, "--sandbox=none", "--uid-map=:0:1:1:"],
            "sandbox.uid_map: needs the sandbox mode namespace",
        ),
        (
            ["--shared-dir", "/p", "--socket-path", "/" + "x" * 107],
            f"--socket-path: /{'x' * 107} has more than 107 bytes",
        ),
    ],
)
def test_what_cannot_be_served_is_wrong_usage(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *arguments).startswith(sentence)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file that sets everything an option may overrule."""
    path = tmp_path / "vhostfs.yaml"
    path.write_text(
        "devices: [{socket: {fd: 3}, mounts: {/: {type: passthrough, shared_dir: /srv}}}]\n"
        "sandbox: {mode: none}\nlog: {level: error, format: json}\nrlimit_nofile: 512\n"
    )
    return path


def test_a_file_says_what_is_served(file: Path) -> None:
    configuration = configured("--config", str(file))
    assert configuration.devices[0].socket == InheritedSocket(3)
    assert configuration.sandbox.mode is SandboxMode.NONE
    assert configuration.log == LogSettings(LogLevel.ERROR, LogFormat.JSON)
    assert (configuration.rlimit_nofile, configuration.once) == (512, False)


def test_options_that_concern_the_daemon_prevail_over_a_file(file: Path) -> None:
    configuration = configured(
        "--config", str(file), "--sandbox=namespace", "--log-level=debug", "--rlimit-nofile=256", "--once"
    )
    assert configuration.sandbox.mode is SandboxMode.NAMESPACE
    assert configuration.log == LogSettings(LogLevel.DEBUG, LogFormat.JSON)
    assert (configuration.rlimit_nofile, configuration.once) == (256, True)


def test_what_is_wrong_with_a_file_is_told_as_by_check(file: Path) -> None:
    file.write_text("devices: 1\n")
    with pytest.raises(ConfigurationError, match=r":1:10: devices: should be a list$"):
        configured("--config", str(file))


def test_the_reference_names_every_option() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_serve_options(parser)
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    hidden = {"--socket", *(option for option in REFUSED if option.startswith("--migration-"))}
    for option in parser._option_string_actions:
        assert option in hidden or f"`{option}" in text, option
