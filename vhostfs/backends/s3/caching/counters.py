"""What the caches of a mount have done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CacheCounters:
    """Counts since the mount began; bytes where nothing else is said."""

    hits: int = 0
    """Reads that found all they asked for in memory."""
    misses: int = 0
    """Reads that had to wait, for the store or the disk."""
    served: int = 0
    fetched: int = 0
    """From the store, in vain too."""
    prefetched: int = 0
    """Files that were fetched because their neighbours had been read."""
    disk_hits: int = 0
    """Blocks that were read back from disk."""
    disk_written: int = 0
    """Blocks that were written to disk."""
    disk_skipped: int = 0
    """Blocks that were not written: the disk had too much to do, or no room."""
    damaged: int = 0
    """Blocks and files of the disk that were not what was written."""
