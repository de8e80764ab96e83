"""How a promise says that a call is refused."""

from __future__ import annotations

import errno
from collections.abc import Callable

from tests.operations.twins import errno_of


def refused(number: int, call: Callable[[], object]) -> None:
    """Check that a call is refused with this errno."""
    given = errno_of(call)
    assert given is not None, f"{errno.errorcode[number]} was expected, and the call succeeded"
    told = errno.errorcode.get(given, str(given))
    assert told == errno.errorcode[number], f"{told} came where {errno.errorcode[number]} was expected"
