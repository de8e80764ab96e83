"""Find <linux/fuse.h> of version 7.45 and ask the C compiler what it says.

The header is the machine's own where that is of 7.45, else that of Debian sid's kernel, which
``scripts/guest-images headers-sid`` has fetched.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guests.images import GuestImages, MissingImageError
from vhostfs.fuse_abi.opcodes import KERNEL_MINOR_VERSION


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
    header = _header_below(Path("/usr/include"))
    if header is not None:
        return header
    try:
        header = _header_below(GuestImages().kernel_headers())
    except MissingImageError as missing:
        raise HeaderUnavailableError(str(missing)) from missing
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
