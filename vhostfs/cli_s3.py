"""`vhostfs s3`: what the mount of a bucket has to tell, and what it can be told, while guests work."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from vhostfs.errors import StartError
from vhostfs.logs import escaped

if TYPE_CHECKING:
    from vhostfs.control.messages import ProgressLine

TEXT: Final = (
    "Ask the mount of a bucket how it does, and tell it what to do: by the control socket of `vhostfs serve`"
    " or `vhostfs mount`."
)

BAR: Final = 30
"""Characters of a progress bar."""

STEPS: Final = 10
"""How many lines say how far a command is, where there is no terminal."""

_BYTES: Final = frozenset(
    (
        "received",
        "sent",
        "memory",
        "unwritten bytes",
        "cache: served",
        "cache: fetched",
        "disk cache: size",
        "disk cache: used",
    )
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options and actions of `vhostfs s3`."""
    parser.description = TEXT
    parser.add_argument(
        "--control", type=Path, required=True, metavar="PATH", help="`control` of the daemon's configuration"
    )
    parser.add_argument("--device", metavar="NAME", help="the device's tag; not needed where there is one")
    parser.add_argument("--place", metavar="PLACE", help="where the bucket is; not needed where there is one")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="say how it does", allow_abbrev=False)
    status.add_argument("--json", action="store_true", help="for programs")
    actions.add_parser(
        "sync", help="bring all that was written to the bucket, and wait for it", allow_abbrev=False
    )
    conflicts = actions.add_parser(
        "conflicts", help="list what lost a race and is kept; export, discard or retry it", allow_abbrev=False
    )
    conflicts.add_argument("--json", action="store_true", help="for programs")
    which = conflicts.add_mutually_exclusive_group()
    which.add_argument(
        "--export", nargs=2, metavar=("NUMBER", "FILE"), help="write it to a new file of this host"
    )
    which.add_argument("--discard", metavar="NUMBER", help="give it up")
    which.add_argument("--retry", metavar="NUMBER", help="write it over what is there now")
    cache = actions.add_parser("cache", help="say what is cached, or clear it", allow_abbrev=False)
    cache.add_argument("what", nargs="?", choices=["clear"], help="forget what can be asked for again")


def run(parsed: argparse.Namespace) -> int:
    """Do what the command line says; return the exit status, 1 where something is not in the bucket."""
    from vhostfs.control import client  # noqa: PLC0415 - other commands start sooner without

    def tell(name: str, **how: Any) -> Any:
        return client.tell(parsed.control, name, device=parsed.device, place=parsed.place, **how)

    match parsed.action:
        case "status":
            status = tell("s3-status")
            _print(json.dumps(status, indent=2) if parsed.json else _table(status))
        case "sync":
            return _sync(tell)
        case "conflicts" if parsed.export is not None:
            number, path = parsed.export
            _export(tell, number, Path(path))
        case "conflicts" if parsed.discard is not None:
            tell("s3-conflict-discard", arguments={"number": parsed.discard})
        case "conflicts" if parsed.retry is not None:
            shown = ProgressDisplay(sys.stderr)
            try:
                tell("s3-conflict-retry", arguments={"number": parsed.retry}, progress=shown.show)
            finally:
                shown.end()
        case "conflicts":
            conflicts = tell("s3-conflicts")
            _print(json.dumps(conflicts, indent=2) if parsed.json else _conflict_lines(conflicts))
        case "cache":
            status = tell("s3-cache-clear" if parsed.what == "clear" else "s3-status")
            _print(
                _table(
                    {
                        name: status[name]
                        for name in ("known names", "memory", "cache", "disk cache")
                        if name in status
                    }
                )
            )
    return 0


def _sync(tell: Callable[..., Any]) -> int:
    shown = ProgressDisplay(sys.stderr)
    try:
        answer = tell("s3-sync", progress=shown.show)
    finally:
        shown.end()
    failed = answer["failed"]
    for each in failed:
        _print(escaped(f"{each['key']}: {each['reason']}"))
    if answer["files"]:
        _print(f"{answer['files'] - len(failed)} files are in the bucket now, {len(failed)} are not")
    else:
        _print("everything was in the bucket already")
    return 1 if failed else 0


def _export(tell: Callable[..., Any], number: str, path: Path) -> None:
    """Write what was kept to a file that the daemon, which may see no files, is given opened."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    try:
        tell("s3-conflict-export", arguments={"number": number}, descriptors=[descriptor])
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _conflict_lines(conflicts: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for each in conflicts:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each["since"]))
        holes = "" if each["is_whole"] else ", without what it had from the object"
        line = f"{each['number']}  {each['path']}  {_size(each['size'])}{holes}  {since}  {each['reason']}"
        lines.append(escaped(line))
    return "\n".join(lines or ["there are none"])


class ProgressDisplay:
    """How far a command is: a bar on a terminal, lines elsewhere."""

    def __init__(self, stream: TextIO | None) -> None:
        """Show it on a stream; on None, nowhere."""
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()
        self._step = 0
        self._drawn = False

    def show(self, progress: ProgressLine) -> None:
        """Show how far it is."""
        if self._stream is None or not progress.total:
            return
        step = progress.done * STEPS // progress.total
        count = f"{progress.done}/{progress.total}"
        what = escaped(progress.what)
        if self._is_terminal:
            bar = "#" * min(progress.done * BAR // progress.total, BAR)
            self._stream.write(f"\r\x1b[K[{bar:.<{BAR}}] {count} {what[-40:]}")
            self._stream.flush()
            self._drawn = True
        elif step > self._step:
            self._step = step
            self._stream.write(f"{count} {what}\n")

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._drawn and self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _table(status: Mapping[str, Any]) -> str:
    """Return what a status says, a line each."""
    rows: list[tuple[str, str]] = []
    for name, value in status.items():
        if isinstance(value, Mapping):
            for each, count in value.items():
                whole = f"{name}: {each}"
                rows.append((escaped(whole.replace("_", " ")), _shown(whole, count)))
        elif isinstance(value, list):
            rows += [(name, _shown(name, each)) for each in value]
        elif value is not None:
            rows.append((name, _shown(name, value)))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _shown(name: str, value: object) -> str:
    if name in _BYTES and isinstance(value, int):
        return _size(value)
    if isinstance(value, float):
        return f"{value:.1f}"
    return escaped(str(value))  # what a bucket's keys and a server hold is not to command the terminal


def _size(count: int) -> str:
    """Return a number of bytes as people read it."""
    size, units = float(count), iter(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while size >= 1024 and unit != "PiB":
        size, unit = size / 1024, next(units)
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
