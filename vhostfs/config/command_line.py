"""The options of `vhostfs serve` and `vhostfsd`: virtiofsd's names for all that is built here.

An option of virtiofsd that is not built is refused in one sentence, unless launchers pass it as a matter of
course and nothing depends on it: then it is taken, and a notice says that it does nothing. The legacy form
`-o source=PATH,cache=none,...` of older launchers says the same in other words.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from vhostfs.config.model import (
    POOL_THREADS,
    REQUEST_QUEUE_LIMIT,
    SOCKET_PATH_LIMIT,
    TAG_LIMIT,
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
    MountSettings,
    PassthroughSettings,
    PathSocket,
    SandboxMode,
    SandboxSettings,
    SocketSettings,
    contradictions,
)
from vhostfs.fuse_abi.negotiation import CacheMode, ReaddirplusMode

if TYPE_CHECKING:
    from vhostfs.backends.contract import Layer

ROOT: Final = PurePosixPath("/")

SHARE_OPTIONS: Final = frozenset(
    {
        *("cache", "readonly", "writeback", "allow_direct_io", "allow_mmap", "no_readdirplus", "xattr"),
        *("posix_acl", "killpriv_v2", "announce_submounts", "posix_locks", "flock"),
        *("xattrmap", "translate_uid", "translate_gid"),
    }
)
"""What is said of a shared directory; a file system in Python has options of its own."""

LAYER_OPTIONS: Final = frozenset({"xattrmap", "translate_uid", "translate_gid"})
"""What is done by layers in Python."""

DAEMON_OPTIONS: Final = frozenset(
    {"config", "sandbox", "uid_map", "gid_map", "rlimit_nofile", "log_level", "log_format", "syslog", "once"}
)
"""What may stand beside --config: it concerns the daemon, and prevails over the file."""

IDLE_OPTIONS: Final = frozenset({"inode_file_handles", "preserve_noatime", "seccomp", "foreground", "debug"})
"""Options that say nothing about what is served."""

REFUSED: Final = {
    "--security-label": "the host's policy labels new files, not the guest",
    "--modcaps": "the set of capabilities is fixed",
    "--migration-mode": "migration of a running guest is not built",
    "--migration-on-error": "migration of a running guest is not built",
    "--migration-verify-handles": "migration of a running guest is not built",
    "--migration-confirm-paths": "migration of a running guest is not built",
}
"""Options of virtiofsd that change what a guest gets, and are not built: they must not seem to work."""

LEGACY_SWITCHES: Final[Mapping[str, tuple[str, object]]] = {
    "xattr": ("xattr", True),
    "no_xattr": ("xattr", False),
    "readdirplus": ("no_readdirplus", False),
    "no_readdirplus": ("no_readdirplus", True),
    "writeback": ("writeback", True),
    "no_writeback": ("writeback", False),
    "allow_direct_io": ("allow_direct_io", True),
    "no_allow_direct_io": ("allow_direct_io", False),
    "announce_submounts": ("announce_submounts", True),
    "killpriv_v2": ("killpriv_v2", True),
    "no_killpriv_v2": ("killpriv_v2", False),
    "posix_acl": ("posix_acl", True),
    "no_posix_acl": ("posix_acl", False),
    "posix_lock": ("posix_locks", "host"),
    "no_posix_lock": ("posix_locks", "guest"),
    "flock": ("flock", "host"),
    "no_flock": ("flock", "guest"),
    "debug": ("log_level", "debug"),
}
"""`-o NAME`: the option that it stands for, and its value."""

LEGACY_VALUES: Final[Mapping[str, tuple[str, Mapping[str, str] | None]]] = {
    "source": ("shared_dir", None),
    "xattrmap": ("xattrmap", None),
    "cache": ("cache", {"none": "never", "auto": "auto", "always": "always", "metadata": "metadata"}),
    "sandbox": ("sandbox", {"namespace": "namespace", "chroot": "chroot"}),
    "loglevel": ("log_level", {"err": "error", "warn": "warn", "info": "info", "debug": "debug"}),
    "log_level": ("log_level", {"err": "error", "warn": "warn", "info": "info", "debug": "debug"}),
}
"""`-o NAME=VALUE`: the option that it stands for, and what its values mean; None: any, as it is."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a command line asks for, and what its user should hear about it."""

    configuration: Configuration
    notices: tuple[str, ...] = ()


class _Refuse(argparse.Action):
    """An option that is not built; its help text is the reason."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is not served: {REFUSED[self.option_strings[0]]}")


class _Legacy(argparse.Action):
    """-o: a list, of which a doubled comma is part of a value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for part in str(values).replace(",,", "\0").split(","):
            name, equals, value = part.replace("\0", ",").partition("=")
            if not equals and name in LEGACY_SWITCHES:
                option, meaning = LEGACY_SWITCHES[name]
                setattr(namespace, option, meaning)
            elif equals and name in LEGACY_VALUES:
                option, meanings = LEGACY_VALUES[name]
                if meanings is not None and value not in meanings:
                    parser.error(f"-o {name}={value}: should be one of {', '.join(meanings)}")
                setattr(namespace, option, value if meanings is None else meanings[value])
            else:
                parser.error(f"-o {part}: no such option")


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Declare all options of serving; what is not given does not appear in the parsed namespace."""
    where = parser.add_argument_group("where front-ends connect (one of these, or a socket from systemd)")
    where.add_argument(
        "--socket-path",
        metavar="PATH",
        help="make a socket here. What an ended daemon left is replaced; one that somebody answers is not",
    )
    where.add_argument("--socket", dest="old_socket_path", metavar="PATH", help=argparse.SUPPRESS)
    where.add_argument(
        "--socket-group",
        metavar="GROUP",
        help="give the socket to this group, whose members may then connect",
    )
    where.add_argument("--fd", type=_natural, metavar="N", help="take the listening socket that is open as N")

    what = parser.add_argument_group("what a guest gets")
    what.add_argument("--shared-dir", metavar="PATH", help="the directory to share")
    what.add_argument(
        "--tag",
        help=f"the name to mount by, at most {TAG_LIMIT} bytes. QEMU has its own tag= and, from 7.1 to 8.0,"
        " must not be told one here; User-Mode Linux, crosvm and generic devices need it",
    )
    what.add_argument(
        "--cache",
        choices=[mode.value for mode in CacheMode],
        help="how far the guest trusts what it remembers. never: it asks each time, always right and slow;"
        " metadata: names and attributes for a day, no data; auto (default): names for a second, data until"
        " a file that is opened again has changed; always: everything for a day, fastest and only for"
        " directories that nobody else changes",
    )
    what.add_argument(
        "--readonly", action="store_true", help="refuse every change; the host may still change things"
    )
    what.add_argument(
        "--writeback",
        action="store_true",
        help="let the guest collect writes: small writes get fast, the host sees them late, and what"
        " others write may be lost",
    )
    what.add_argument(
        "--allow-direct-io",
        action="store_true",
        help="pass the guest's O_DIRECT on, past the host's page cache, for guests that cache by themselves",
    )
    what.add_argument(
        "--allow-mmap",
        action="store_true",
        help="with --cache never or metadata, let programs map files shared; right only where nobody else"
        " changes them",
    )
    what.add_argument(
        "--no-readdirplus",
        action="store_true",
        help="list directories by names alone. Otherwise attributes come along where the guest wants them",
    )
    what.add_argument(
        "--xattr",
        action="store_true",
        help="serve extended attributes; costs a request on many writes unless --killpriv-v2 is given, too",
    )
    what.add_argument(
        "--posix-acl",
        type=_negotiated,
        nargs="?",
        const=True,
        metavar="always|auto|never",
        help="let the guest see and obey access control lists (with --xattr); always and auto mean the same",
    )
    _switch(
        what,
        "killpriv_v2",
        "clear setuid, setgid and capabilities of written files here, not in the guest. Not for NFS",
    )
    _switch(
        what,
        "announce_submounts",
        "show the host's mounts below the directory as mounts in the guest (default): files of different file"
        " systems keep different identities, and sync reaches each",
    )
    for option, kind in (("--posix-locks", "fcntl"), ("--flock", "flock")):
        what.add_argument(
            option,
            choices=[owner.value for owner in LockOwner],
            help=f"who keeps {kind} locks: the guest alone (default), or the host, where others see them",
        )
    what.add_argument(
        "--num-request-queues",
        type=_request_queues,
        metavar="N",
        help="how many queues to tell the front-end of (default 1); each has a thread of its own",
    )
    what.add_argument(
        "--thread-pool-size",
        type=_pool_threads,
        metavar="N",
        help="most threads for requests that wait for a disk; 0 (default): 64. They come and go as needed",
    )

    how = parser.add_argument_group("how the daemon runs")
    how.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="serve what this file says, instead of one shared directory",
    )
    how.add_argument(
        "--sandbox",
        choices=[mode.value for mode in SandboxMode],
        help="what the daemon can see of the host. namespace (default): the shared directories, in a mount"
        " namespace, for a user in a user namespace, too; chroot: likewise by chroot, for containers; none:"
        " everything, so that only the daemon's own care keeps a guest inside",
    )
    for name, kind in (("--translate-uid", "users"), ("--translate-gid", "groups")):
        how.add_argument(
            name,
            action="append",
            metavar="TYPE:FROM:TO:COUNT",
            help=f"translate {kind} of the guest and of the host; TYPE is map, guest, host, squash-guest,"
            " squash-host or forbid-guest (which has no TO). Served by Python; repeatable",
        )
    for name, kind in (("--uid-map", "users"), ("--gid-map", "groups")):
        how.add_argument(
            name,
            action="append",
            type=_id_range,
            metavar=":INSIDE:OUTSIDE:COUNT:",
            help=f"with the sandbox namespace, take these {kind} of the host for the guest's; repeatable",
        )
    how.add_argument(
        "--rlimit-nofile",
        type=_natural,
        metavar="N",
        help="most open descriptors (default: what is allowed, up to 1,000,000; 0: leave the limit). A small"
        " number works and is slower: files are then closed and opened again",
    )
    how.add_argument(
        "--once", action="store_true", help="end when the front-end goes, instead of listening again"
    )
    how.add_argument(
        "--log-level",
        choices=[level.name.lower() for level in LogLevel],
        help="least severity (default info)",
    )
    how.add_argument(
        "--log-format", choices=[form.value for form in LogFormat], help="text (default) or json"
    )
    how.add_argument("--syslog", action="store_true", help="log to syslog instead of stderr")
    how.add_argument(
        "--print-capabilities", action="store_true", help="say in JSON what this program can do, and exit"
    )
    how.add_argument(
        "--inode-file-handles",
        choices=["never", "prefer", "fallback", "mandatory"],
        help="taken and without effect: files stay open within a budget, beyond it they are reopened by file"
        " handle, or by name where there are no handles",
    )
    how.add_argument(
        "--preserve-noatime",
        action="store_true",
        help="taken and without effect: O_NOATIME of a guest does not reach the host",
    )
    how.add_argument(
        "--seccomp",
        choices=["none", "kill", "log", "trap"],
        help="none, or taken and without effect: there is no filter; systemd's SystemCallFilter= can add one",
    )
    how.add_argument("-d", dest="debug", action="store_true", help="the same as --log-level debug")
    how.add_argument("-f", dest="foreground", action="store_true", help=argparse.SUPPRESS)
    how.add_argument(
        "-o", dest="legacy", action=_Legacy, metavar="LIST", help="options as older launchers write them"
    )
    how.add_argument(
        "--xattrmap",
        metavar="RULES",
        help="give extended attributes other names on the host, such as :map::user.virtiofs.: for a prefix;"
        " turns --xattr on. Served by Python",
    )
    for name in REFUSED:
        parser.add_argument(name, action=_Refuse, nargs="?", help=argparse.SUPPRESS)
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            action.default = argparse.SUPPRESS


def _switch(group: argparse._ArgumentGroup, dest: str, explanation: str) -> None:
    name = dest.replace("_", "-")
    group.add_argument(f"--{name}", dest=dest, action="store_true", help=explanation)
    group.add_argument(f"--no-{name}", dest=dest, action="store_false", help=f"the opposite of --{name}")


def served(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace, environment: Mapping[str, str]
) -> Served:
    """Turn parsed options into what is to be served.

    Ends the process with status 2 (parser.error) where options do not go together; raises ConfigurationError
    where a configuration file is wrong. `environment` tells whether systemd passes a socket.
    """
    options = {name: value for name, value in vars(parsed).items() if name != "command"}
    if options.get("debug"):
        options["log_level"] = "debug"
    configuration = (
        _from_file(parser, options) if "config" in options else _from_options(parser, options, environment)
    )
    configuration = _overridden(configuration, options)
    for path, reason in contradictions(configuration):
        parser.error(f"{'.'.join(map(str, path))}: {reason}")
    return Served(configuration, tuple(_notices(options)))


def _from_file(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> Configuration:
    foreign = sorted(set(options) - DAEMON_OPTIONS - IDLE_OPTIONS)
    if foreign:
        parser.error(f"--config says what is served; {_spelled(foreign)} cannot stand beside it")
    # Reading YAML costs a good part of the start; whoever gives options does without.
    from vhostfs.config import schema  # noqa: PLC0415

    return schema.load(options["config"])


def _from_options(
    parser: argparse.ArgumentParser, options: Mapping[str, Any], environment: Mapping[str, str]
) -> Configuration:
    if "shared_dir" not in options and "filesystem" not in options:
        parser.error("there is nothing to serve: give --shared-dir or --config")
    tag = options.get("tag")
    if tag is not None and not (tag.isprintable() and 1 <= len(os.fsencode(tag)) <= TAG_LIMIT):
        parser.error(f"--tag: should be 1 to {TAG_LIMIT} bytes of printable text")
    device = DeviceSettings(
        socket=_socket(parser, options, environment),
        mounts={ROOT: _filesystem(parser, options) if "filesystem" in options else _share(parser, options)},
        tag=tag,
        request_queues=options.get("num_request_queues", 1),
        pool_threads=options.get("thread_pool_size") or POOL_THREADS,
    )
    return Configuration(devices=(device,))


def _socket(
    parser: argparse.ArgumentParser, options: Mapping[str, Any], environment: Mapping[str, str]
) -> SocketSettings:
    path = options.get("socket_path", options.get("old_socket_path"))
    if path is not None and "fd" in options:
        parser.error("--socket-path and --fd exclude each other")
    if path is None and "socket_group" in options:
        parser.error("--socket-group belongs to --socket-path")
    if path is not None:
        absolute = Path.cwd() / path
        if len(os.fsencode(absolute)) > SOCKET_PATH_LIMIT:
            parser.error(f"--socket-path: {absolute} has more than {SOCKET_PATH_LIMIT} bytes")
        return PathSocket(PurePosixPath(absolute), options.get("socket_group"))
    if "fd" in options:
        return InheritedSocket(options["fd"])
    if "LISTEN_FDS" in environment:
        return ActivatedSocket("0")
    return parser.error("there is no socket: give --socket-path or --fd")


def _filesystem(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> MountSettings:
    """Return the mount that MODULE:NAME means."""
    foreign = sorted(set(options) & {"shared_dir", *SHARE_OPTIONS})
    if foreign:
        parser.error(f"{_spelled(foreign)} cannot stand beside a file system in Python")
    from vhostfs.backends.named import NamedSettings  # noqa: PLC0415 - for other mounts it is not needed

    try:
        return FilesystemSettings("python", NamedSettings(options["filesystem"]))
    except ValueError as error:
        return parser.error(str(error))


def _share(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> MountSettings:
    """Return the mount of a directory, under the layers that options stand for."""
    settings = _mount(options)
    if not set(options) & LAYER_OPTIONS:
        return settings
    # Python then serves the directory; what that takes costs the others time.
    from vhostfs.config.layered import not_served_by_python, served_by_python, under_layers  # noqa: PLC0415
    from vhostfs.layers.id_map import IdMapSettings  # noqa: PLC0415
    from vhostfs.layers.xattr_map import XattrMapSettings  # noqa: PLC0415

    given = _spelled(sorted(set(options) & LAYER_OPTIONS))
    missed = {".".join(keys) for keys in not_served_by_python(settings)}
    if missed:
        parser.error(f"{given}: {', '.join(sorted(missed))} is not to be had beside it")
    layers: list[Layer] = []
    try:
        if "xattrmap" in options:
            layers.append(XattrMapSettings(options["xattrmap"]))
        users, groups = options.get("translate_uid", ()), options.get("translate_gid", ())
        if users or groups:
            layers.append(IdMapSettings(tuple(users), tuple(groups)))
    except ValueError as error:
        parser.error(f"{given}: {error}")
    if settings.posix_acl and (users or groups):
        parser.error(f"{given}: POSIX ACLs hold ids, which are not translated")
    return under_layers("passthrough", served_by_python(settings), tuple(layers))


def _mount(options: Mapping[str, Any]) -> PassthroughSettings:
    cache = CacheMode(options.get("cache", CacheMode.AUTO))
    posix_acl = options.get("posix_acl", False)
    return PassthroughSettings(
        shared_dir=PurePosixPath(Path.cwd() / options["shared_dir"]),
        cache=cache,
        timeouts=TIMEOUTS[cache],
        readdirplus=ReaddirplusMode.OFF if options.get("no_readdirplus") else ReaddirplusMode.AUTO,
        writeback=options.get("writeback", False),
        xattr=options.get("xattr", False) or posix_acl or "xattrmap" in options,
        posix_acl=posix_acl,
        killpriv_v2=options.get("killpriv_v2", False),
        announce_submounts=options.get("announce_submounts", True),
        locks=Locks(
            LockOwner(options.get("posix_locks", LockOwner.GUEST)),
            LockOwner(options.get("flock", LockOwner.GUEST)),
        ),
        direct_io=options.get("allow_direct_io", False),
        allow_mmap=options.get("allow_mmap", False),
        read_only=options.get("readonly", False),
    )


def _overridden(configuration: Configuration, options: Mapping[str, Any]) -> Configuration:
    """Let the options that concern the daemon prevail."""
    sandbox, log = configuration.sandbox, configuration.log
    return replace(
        configuration,
        sandbox=SandboxSettings(
            SandboxMode(options.get("sandbox", sandbox.mode)),
            tuple(options.get("uid_map", sandbox.uid_map)),
            tuple(options.get("gid_map", sandbox.gid_map)),
        ),
        log=LogSettings(
            LogLevel[options["log_level"].upper()] if "log_level" in options else log.level,
            LogFormat(options.get("log_format", log.format)),
            LogDestination.SYSLOG if options.get("syslog") else log.destination,
        ),
        rlimit_nofile=options.get("rlimit_nofile", configuration.rlimit_nofile),
        once=options.get("once", configuration.once),
    )


def _notices(options: Mapping[str, Any]) -> list[str]:
    found = []
    if "inode_file_handles" in options:
        found.append("--inode-file-handles does nothing: handles are used where descriptors run short")
    if options.get("seccomp", "none") != "none":
        found.append("--seccomp does nothing: no filter of system calls is set")
    if "preserve_noatime" in options:
        found.append("--preserve-noatime does nothing: O_NOATIME of a guest does not reach the host")
    if set(options) & LAYER_OPTIONS:
        given = _spelled(sorted(set(options) & LAYER_OPTIONS))
        found.append(f"{given}: the directory is served by Python, which takes more of the processor")
    if "old_socket_path" in options:
        found.append("--socket is an old name of --socket-path")
    return found


def _spelled(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, 0 or more")
    return int(text)


def _request_queues(text: str) -> int:
    number = _natural(text)
    if not 1 <= number <= REQUEST_QUEUE_LIMIT:
        raise argparse.ArgumentTypeError(f"{number} should be 1 to {REQUEST_QUEUE_LIMIT}")
    return number


def _pool_threads(text: str) -> int:
    number = _natural(text)
    if number > 1024:
        raise argparse.ArgumentTypeError(f"{number} should be at most 1024")
    return number


def _negotiated(text: str) -> bool:
    if text not in {"always", "auto", "never"}:
        raise argparse.ArgumentTypeError(f"{text!r} should be always, auto or never")
    return text != "never"


def _id_range(text: str) -> IdRange:
    """Read ":INSIDE:OUTSIDE:COUNT:"; whatever stands first separates."""
    separator = text[:1]
    parts = text.split(separator) if separator else []
    if len(parts) != 5 or parts[4] or separator.isalnum():
        raise argparse.ArgumentTypeError(f"{text!r} should be :INSIDE:OUTSIDE:COUNT:")
    inside, outside, count = (_natural(part) for part in parts[1:4])
    if not 1 <= count <= 2**32 - 1 or max(inside, outside) + count > 2**32 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of user or group numbers")
    return IdRange(inside, outside, count)
