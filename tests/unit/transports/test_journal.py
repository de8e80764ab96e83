"""Neither a guest nor a front-end can fill the log."""

from __future__ import annotations

import logging

import pytest

from vhostfs.transports.journal import LINES_A_MINUTE, Journal


def test_lines_beyond_the_bound_are_counted_and_told_a_minute_later(caplog: pytest.LogCaptureFixture) -> None:
    times = [0.0]
    journal = Journal(logging.getLogger("test"), "share", lambda: times[0])
    with caplog.at_level(logging.INFO, "test"):
        for number in range(LINES_A_MINUTE + 50):
            journal.write(logging.INFO, f"line {number}")
        journal.write(logging.ERROR, "an error still finds room")
        assert len(caplog.messages) == LINES_A_MINUTE + 1
        assert caplog.messages[-1] == "share: an error still finds room"
        times[0] = 60.0
        journal.write(logging.INFO, "the next minute")
    assert caplog.messages[-2:] == [
        "share: 50 lines were left out: too many in a minute",
        "share: the next minute",
    ]
