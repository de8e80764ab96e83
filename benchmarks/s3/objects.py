"""What lies in the bucket: contents that both the store and who reads from it can tell from an offset.

All contents are the beginning of one that repeats itself, with a period that is no multiple of a block. So an
object may be larger than memory, and a byte at the wrong place is seen.
"""

from __future__ import annotations

import random
from typing import Final

PERIOD: Final = (1 << 20) + 4099
REPEATED: Final = 144
"""How many periods lie in memory, so that a stretch of up to 128 MiB is there at any offset."""

LARGE: Final = "large/object"
LARGE_SIZE: Final = 16 << 30
STREAM_SIZE: Final = 256 << 20
STREAMS: Final = 4
SMALL_SIZE: Final = 4096
SMALL: Final = 1000
LISTED: Final = 10_000
LISTED_SIZE: Final = 100
MODES: Final = (0o644, 0o600, 0o755, 0o640)
LISTED_MTIME: Final = 1_700_000_000


def stream(number: int) -> str:
    """Return the key of an object that is read from its beginning to its end."""
    return f"streams/{number}"


def small(number: int) -> str:
    """Return the key of a small object."""
    return f"small/{number:04}"


def listed(number: int) -> str:
    """Return the key of an object of the large directory."""
    return f"listed/{number:05}"


def listed_metadata(number: int) -> dict[str, str]:
    """Return the headers that say what POSIX knows of such an object, as s3fs writes them."""
    mode = 0o100000 | MODES[number % len(MODES)]
    moment = f"{LISTED_MTIME + number}.000000000"
    return {
        "x-amz-meta-mode": str(mode),
        "x-amz-meta-uid": str(number % 7),
        "x-amz-meta-gid": str(number % 5),
        "x-amz-meta-mtime": moment,
        "x-amz-meta-ctime": moment,
        "x-amz-meta-atime": moment,
    }


class Contents:
    """The content that all objects have, as far as they reach."""

    def __init__(self, size: int) -> None:
        """Contents of a size."""
        self._size = size
        self._memory = _memory()

    def __len__(self) -> int:
        """Return the size."""
        return self._size

    def __getitem__(self, wanted: slice) -> memoryview:
        """Return a stretch, of up to 128 MiB."""
        begin, end, _ = wanted.indices(self._size)
        at = begin % PERIOD
        if at + end - begin > len(self._memory):
            raise ValueError("this much is not in memory")
        return self._memory[at : at + end - begin]


_made: list[memoryview] = []


def _memory() -> memoryview:
    if not _made:
        _made.append(memoryview(random.Random(4099).randbytes(PERIOD) * REPEATED))
    return _made[0]
