"""Builds the C half of the load generator with the system's compiler and loads it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

from cffi import FFI

SOURCES: Final = Path(__file__).parent
LIBRARY: Final = SOURCES.parents[1] / "build" / "benchmarks" / "load.so"
FLAGS: Final = (
    *("-std=gnu17", "-O2", "-g", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread"),
    *("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror"),
)


def _build() -> None:
    """Compile what is newer than the library; a run beside this one sees the old library or the new."""
    sources = [*SOURCES.glob("*.[ch]"), Path(__file__)]
    if LIBRARY.exists() and all(path.stat().st_mtime <= LIBRARY.stat().st_mtime for path in sources):
        return
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    part = LIBRARY.with_suffix(f".{os.getpid()}")
    compiler = os.environ.get("CC", "cc")
    files = sorted(str(path) for path in SOURCES.glob("*.c"))
    subprocess.run([compiler, *FLAGS, *files, "-o", str(part)], check=True)
    part.replace(LIBRARY)


@cache
def load() -> tuple[Any, Any]:
    """Return cffi's view of load.h, and the library behind it. Their structures have no static types."""
    _build()
    lines = (SOURCES / "load.h").read_text().splitlines()
    ffi = FFI()
    ffi.cdef("\n".join(line for line in lines if not line.startswith("#")))
    return ffi, ffi.dlopen(str(LIBRARY))
