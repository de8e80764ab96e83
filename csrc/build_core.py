"""Build the data plane: every C file of this folder becomes the extension vhostfs._core.

cffi reads core.h, the border between Python and C, as its declarations; the C files include the same header,
so nothing is declared twice. setuptools runs this file through `cffi-modules` in pyproject.toml; run by hand
it builds the extension in place, for the edit-compile-test loop.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"


def border_declarations() -> str:
    """Return core.h as cffi takes it: the same text without preprocessor directives."""
    lines = (CSRC / "core.h").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("#include", "#pragma")))


def make_builder() -> FFI:
    """Return the configured cffi builder for vhostfs._core."""
    builder = FFI()
    builder.cdef(border_declarations())
    # The generated wrapper is not ours to keep warning-free under -Wconversion; csrc/Makefile builds our own
    # files with the strict warnings.
    sources = sorted(str(path.relative_to(ROOT)) for path in CSRC.glob("*.c"))
    builder.set_source(
        "vhostfs._core",
        '#include "core.h"\n',
        sources=sources,
        include_dirs=[str(CSRC.relative_to(ROOT))],
        depends=sorted(str(path.relative_to(ROOT)) for path in CSRC.glob("*.h")),
        extra_compile_args=[
            "-std=gnu17",
            "-O2",
            "-fno-strict-aliasing",
            "-fvisibility=hidden",
            "-pthread",
            "-Wall",
            "-Wextra",
            "-Wno-missing-field-initializers",
            *os.environ.get("VHOSTFS_CFLAGS", "").split(),
        ],
        extra_link_args=["-pthread", *os.environ.get("VHOSTFS_LDFLAGS", "").split()],
    )
    return builder


ffibuilder = make_builder()

if __name__ == "__main__":
    os.chdir(ROOT)
    built = Path(ffibuilder.compile(tmpdir=str(ROOT), verbose="-v" in sys.argv))
    # Under the name that pip gives it: of two, Python would import this one, however old it is.
    built.rename(built.with_name("_core.abi3.so"))
