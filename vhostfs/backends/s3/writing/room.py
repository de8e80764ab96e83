"""Room for what the bucket does not have yet: how much may wait, and how much of the disk is left alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vhostfs.backends.s3.naming.nodes import Node
from vhostfs.backends.s3.operating.standing import Standing
from vhostfs.backends.s3.spool import Spool
from vhostfs.backends.s3.writing.journaling import Journaling

PROMISED_MAXIMUM: Final = 1 << 30
"""How many bytes may be promised before who writes has to wait."""

FILES_MAXIMUM: Final = 20_000
FILES_AWAY_MAXIMUM: Final = 100_000
"""How many files may wait for a store that takes none: more than this the journal's log is not made for."""

FREE_MINIMUM: Final = 256 << 20
FREE_PART: Final = 8
"""How much room is left on the disk of the state directory: so much, or such a part of a small one."""

OPEN_MAXIMUM: Final = 64 << 20
"""How many bytes of open files it may be less, as long as nothing waits: others may have filled the disk."""

UNWRITTEN_SIZE: Final = 10 << 30
"""How many bytes may wait for a store that takes none, unless something else is said."""


class Room:
    """What may be taken before the bucket has it. For one event loop."""

    def __init__(
        self, spool: Spool, journaling: Journaling | None, standing: Standing | None, unwritten_size: int
    ) -> None:
        """Room for so many bytes where the store takes none."""
        self._spool, self._journaling, self._standing = spool, journaling, standing
        self._size = unwritten_size

    def is_disk_low(self) -> bool:
        """Tell whether what is to be left of the disk is touched."""
        return self._spool.free() < min(FREE_MINIMUM, self._spool.size() // FREE_PART)

    def are_many(self, waiting: int) -> bool:
        """Tell whether so many files wait that commits should come first."""
        return waiting >= FILES_MAXIMUM

    def is_crowded(self, waiting: int, changed: Iterable[Node]) -> bool:
        """Tell whether so much waits that commits should come first."""
        bound = min(PROMISED_MAXIMUM, self._size)
        return self.are_many(waiting) or self._unwritten(changed) >= bound or self.is_disk_low()

    def is_full(self, waiting: int, changed: Iterable[Node]) -> bool:
        """Tell whether nothing more can be taken, where no commit makes room."""
        return (
            waiting >= FILES_AWAY_MAXIMUM
            or (self.is_disk_low() and (waiting > 0 or _of_open_files(changed) >= OPEN_MAXIMUM))
            or self._unwritten(changed) > self._size
        )

    def _unwritten(self, changed: Iterable[Node]) -> int:
        """Return how many bytes wait; those of open files, too, where the store would not take them."""
        promised = 0 if self._journaling is None else self._journaling.size
        if self._standing is None or self._standing.trouble is None:
            return promised
        return promised + _of_open_files(changed)


def _of_open_files(changed: Iterable[Node]) -> int:
    """Return how many bytes were written to open files, and are not promised yet."""
    return sum(
        node.contents.unjournaled.count(0, node.contents.size)
        for node in changed
        if node.opens and node.contents is not None
    )
