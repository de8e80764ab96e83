"""Find <linux/fuse.h> of version 7.45 and ask the C compiler what it says.

The header is the machine's own where that is of 7.45, else that of Debian sid's linux-libc-dev, unpacked (not
installed) into .guests/linux-headers, where it stays for the next run.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION

CACHE = Path(__file__).resolve().parents[3] / ".guests" / "linux-headers"


class HeaderUnavailableError(Exception):
    """Raised when no header of the right version can be had; the text says why."""


@dataclass(frozen=True, slots=True)
class KernelHeader:
    """The header's text, and the include directories to compile it with."""

    text: str
    include: tuple[Path, ...]

    def evaluate(self, expressions: list[str], directory: Path) -> dict[str, int]:
        """Return the value of each constant C expression, compiled against the header in that directory."""
        lines = [f'  printf("%s: %llu", "{e}", (unsigned long long)({e})); puts("");' for e in expressions]
        source = directory / "evaluate.c"
        source.write_text(
            "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
            "#include <sys/ioctl.h>\n#define FIELD(s, f) (sizeof(((struct s *)0)->f))\n"
            "int main(void) {\n" + "\n".join(lines) + "\n}\n"
        )
        include = [f"-I{path}" for path in self.include]
        program = directory / "evaluate"
        subprocess.run(["gcc", *include, "-o", program, source], check=True, timeout=60)
        output = subprocess.run([program], check=True, timeout=10, capture_output=True, text=True).stdout
        values = dict(line.rsplit(": ", 1) for line in output.splitlines())
        return {expression: int(value) for expression, value in values.items()}

    def structures(self) -> set[str]:
        """Return the names of all structures that the header declares."""
        return set(re.findall(r"^struct (\w+) \{", self.text, re.MULTILINE))

    def enumerators(self, enumeration: str) -> set[str]:
        """Return the names of an enumeration's members."""
        found = re.search(rf"^enum {enumeration} \{{(.*?)^\}}", self.text, re.MULTILINE | re.DOTALL)
        assert found is not None, f"the header has no enum {enumeration}"
        return set(re.findall(r"^\s*(\w+)\s*=", found[1], re.MULTILINE))

    def macros(self, pattern: str) -> set[str]:
        """Return the names of all macros that match the pattern as a whole."""
        return set(re.findall(rf"^#define ({pattern})\s", self.text, re.MULTILINE))


def find_kernel_header() -> KernelHeader:
    """Return the header of version 7.45; HeaderUnavailableError where there is none to be had."""
    for root in (Path("/usr/include"), CACHE / "usr" / "include"):
        header = _header_below(root)
        if header is not None:
            return header
    _unpack_debian_headers()
    header = _header_below(CACHE / "usr" / "include")
    if header is None:
        raise HeaderUnavailableError(f"Debian sid's <linux/fuse.h> is not of 7.{KERNEL_MINOR_VERSION}")
    return header


def _header_below(root: Path) -> KernelHeader | None:
    path = root / "linux" / "fuse.h"
    if not path.is_file():
        return None
    text = path.read_text()
    if f"#define FUSE_KERNEL_MINOR_VERSION {KERNEL_MINOR_VERSION}\n" not in text:
        return None
    architecture = tuple(sorted(root.glob("*-linux-gnu*")))
    return KernelHeader(text, (root, *architecture))


def _unpack_debian_headers() -> None:
    """Fetch Debian sid's linux-libc-dev by the machine's own apt and mirror, and unpack it into the cache."""
    lists, archives = CACHE / "apt" / "lists", CACHE / "apt" / "archives"
    for directory in (lists, archives):
        (directory / "partial").mkdir(parents=True, exist_ok=True)
    sources = CACHE / "apt" / "sources.list"
    sources.write_text(f"deb [trusted=yes] {_debian_mirror()} sid main\n")
    apt = [
        "apt-get",
        "-qq",
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=/nonexistent",
        f"-oDir::State::Lists={lists}",
        f"-oDir::Cache::archives={archives}",
        "-oAPT::Sandbox::User=root",
        "-oAcquire::Retries=1",
        "-oAcquire::http::Timeout=20",
    ]
    try:
        for command in ([*apt, "update"], [*apt, "download", "linux-libc-dev"]):
            subprocess.run(command, check=True, timeout=90, cwd=archives, capture_output=True, text=True)
        for package in archives.glob("linux-libc-dev_*.deb"):
            subprocess.run(["dpkg", "-x", package, CACHE], check=True, timeout=60)
    except FileNotFoundError as error:
        raise HeaderUnavailableError(f"this machine has no {error.filename} to fetch it with") from error
    except subprocess.SubprocessError as error:
        raise HeaderUnavailableError(f"Debian sid's linux-libc-dev cannot be fetched: {error}") from error


def _debian_mirror() -> str:
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.is_file():
            found = re.search(r"^(?:URIs:|deb)\s+(?:\[[^]]*\]\s+)?(\w+:\S+)", path.read_text(), re.MULTILINE)
            if found is not None:
                return found[1]
    return "http://deb.debian.org/debian"
