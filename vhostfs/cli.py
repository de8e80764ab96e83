"""The commands: `vhostfs serve`, `check`, `mount`, `mounts`, `s3`; and `vhostfsd`, with serve's options."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from vhostfs import cli_s3
from vhostfs.config.command_line import add_serve_options, served
from vhostfs.errors import ConfigurationError, StartError

CAPABILITIES: Final = {"type": "fs", "features": ["separate-options"]}
"""What --print-capabilities prints: docs/interop/vhost-user.json of QEMU, read by libvirt."""

DAEMON_USAGE: Final = "%(prog)s [OPTION...] --shared-dir PATH --socket-path PATH | --config FILE"
SERVE_USAGE: Final = (
    "%(prog)s [OPTION...] {--shared-dir PATH | MODULE:NAME} --socket-path PATH | --config FILE"
)

SERVE_TEXT: Final = (
    "Serve directories of this host, and file systems written in Python, to virtual machines over vhost-user."
    " The options are virtiofsd's; a"
    " configuration file says more, for any number of devices."
)


MOUNT_TEXT: Final = (
    "Mount a directory, the device of a configuration file, or a file system written in Python on this host,"
    " by /dev/fuse: root by mount(2), users by fusermount3. It ends when it is unmounted (umount,"
    " fusermount3 -u) or by SIGTERM."
)

MOUNTS_TEXT: Final = (
    "List, add and remove mounts of a daemon whose configuration has a control socket, while guests work."
)


class _Version(argparse.Action):
    """--version, which looks the number up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"{parser.prog} {version('vhostfs')}\n")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vhostfs`; return the exit status: 0, 1 for what cannot be served, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="vhostfs",
        description="Host directories as file systems in virtual machines.",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve", help="serve devices", usage=SERVE_USAGE, description=SERVE_TEXT, allow_abbrev=False
    )
    serve.add_argument(
        "filesystem",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="MODULE:NAME",
        help="a file system in Python: a Filesystem, or a class or function that returns one. Modules are"
        " looked for in the working directory, too",
    )
    add_serve_options(serve)
    check = commands.add_parser(
        "check",
        help="say what is wrong with a configuration file",
        description="Read a configuration file and print each fault with its place; nothing is served.",
        allow_abbrev=False,
    )
    check.add_argument("file", type=Path, metavar="FILE")
    mount = commands.add_parser(
        "mount", help="mount a file system on this host", description=MOUNT_TEXT, allow_abbrev=False
    )
    _add_mount_options(mount)
    mounts = commands.add_parser(
        "mounts",
        help="list, add and remove mounts of a running daemon",
        description=MOUNTS_TEXT,
        allow_abbrev=False,
    )
    _add_mounts_options(mounts)
    s3 = commands.add_parser("s3", help="ask the mount of a bucket how it does", allow_abbrev=False)
    cli_s3.add_options(s3)
    parsed = parser.parse_args(arguments)
    if parsed.command == "mount":
        return _reported(lambda: _mount(mount, parsed))
    if parsed.command == "check":
        return _reported(lambda: _check(parsed.file))
    if parsed.command == "mounts":
        return _reported(lambda: _mounts(parsed))
    if parsed.command == "s3":
        return _reported(lambda: cli_s3.run(parsed))
    return _reported(lambda: _serve(serve, parsed))


def daemon_main(arguments: Sequence[str] | None = None) -> int:
    """Run `vhostfsd`; return the exit status as main does."""
    parser = argparse.ArgumentParser(
        prog="vhostfsd", usage=DAEMON_USAGE, description=SERVE_TEXT, allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action=_Version)
    add_serve_options(parser)
    parsed = parser.parse_args(arguments)
    return _reported(lambda: _serve(parser, parsed))


def _serve(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    if "print_capabilities" in parsed:
        sys.stdout.write(json.dumps(CAPABILITIES) + "\n")
        return 0
    request = served(parser, parsed, os.environ)
    if "filesystem" in parsed:
        # As `python -m` does; the installed command begins with its own directory instead.
        sys.path.insert(0, str(Path.cwd()))
    # Everything that serves, the data plane above all, is loaded only now: --help and check do without.
    from vhostfs.daemon import run  # noqa: PLC0415

    return run(request.configuration, request.notices, os.environ)


def _add_mount_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="DIRECTORY, CONFIG.yaml, or MODULE:ATTRIBUTE")
    parser.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    parser.add_argument(
        "-o",
        action="append",
        default=[],
        dest="options",
        metavar="OPTION[,...]",
        help="ro, allow_other, fsname=NAME, subtype=NAME, and flags of mount(8): noexec, noatime, suid, dev",
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay, and log to stderr")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that read requests, 1 to 64")


def _mount(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    from vhostfs.mounting import run  # noqa: PLC0415
    from vhostfs.transports.fuse_device import MountOptions  # noqa: PLC0415

    options = MountOptions()
    try:
        for option in ",".join(parsed.options).split(","):
            options = options.with_option(option) if option else options
    except ValueError as error:
        parser.error(f"-o {error}: there is no such option")
    if parsed.threads is not None and not 1 <= parsed.threads <= 64:
        parser.error("--threads: 1 to 64")
    return run(
        parsed.source, parsed.mountpoint, options, threads=parsed.threads, foreground=parsed.foreground
    )


def _add_mounts_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--control", type=Path, required=True, metavar="PATH", help="`control` of the daemon's configuration"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="say what is mounted: device, place, type", allow_abbrev=False)
    add = actions.add_parser("add", help="mount something", allow_abbrev=False)
    remove = actions.add_parser(
        "remove", help="take a mount away, also while it is in use", allow_abbrev=False
    )
    for action in (add, remove):
        action.add_argument(
            "--device", metavar="NAME", help="the device's tag; not needed where there is one"
        )
        action.add_argument("place", metavar="PLACE", help="where it is in the guest's mount, such as /data")
    add.add_argument("mount", metavar="MOUNT", help="YAML as in a configuration: '{type: memory, size: 64M}'")


def _mounts(parsed: argparse.Namespace) -> int:
    from vhostfs.control import client  # noqa: PLC0415

    if parsed.action == "list":
        for mount in client.list_mounts(parsed.control):
            faults = f"\t{mount.faults} faults" if mount.faults else ""
            sys.stdout.write(f"{mount.device}\t{mount.place}\t{mount.type}{faults}\n")
    elif parsed.action == "add":
        client.add_mount(parsed.control, parsed.device, parsed.place, parsed.mount)
    else:
        client.remove_mount(parsed.control, parsed.device, parsed.place)
    return 0


def _check(path: Path) -> int:
    from vhostfs.config import schema  # noqa: PLC0415
    from vhostfs.config.model import idle_settings  # noqa: PLC0415

    configuration = schema.load(path)
    for sentence in idle_settings(configuration):
        sys.stdout.write(f"{path}: warning: {sentence}\n")
    sys.stdout.write(f"{path}: no faults; devices: {', '.join(configuration.device_names())}\n")
    return 0


def _reported(command: Callable[[], int]) -> int:
    """Run a command; what keeps it from its work becomes a sentence on stderr, and status 1."""
    try:
        return command()
    except ConfigurationError as error:
        _complain(str(error))
    except StartError as error:
        _complain(f"vhostfs: {error}")
    return 1


def _complain(text: str) -> None:
    """Write to stderr, which is None for a process that was started without."""
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
