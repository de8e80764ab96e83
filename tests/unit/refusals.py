"""How tests say that an operation is refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refused(number: int) -> Iterator[None]:
    """Expect an OSError with this errno of what is done inside."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise AssertionError(f"refused otherwise than with {errno.errorcode[number]}") from error
    else:
        raise AssertionError(f"not refused with {errno.errorcode[number]}")
