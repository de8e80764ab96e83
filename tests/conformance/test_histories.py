"""Whatever is done to it, a file system goes the way of a directory of the host."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conformance.bucket_histories import (
    BucketHistories,
    FullHistories,
    PlainHistories,
    StrictHistories,
    WritebackHistories,
)
from tests.conformance.histories import INODES, SIZE, Histories
from tests.conformance.in_process import mounted
from tests.conformance.overlay_histories import KernelHistories, OverlayHistories
from tests.conformance.place import Place
from tests.conformance.requests import RequestPlace
from vhostfs.backends.memory import MemoryFilesystem

EXAMPLES = int(os.environ.get("VHOSTFS_HISTORIES", "0"))
"""How many histories are tried, found anew each time; by default few, and always the same."""


class MemoryHistories(Histories):
    """Of a memory file system."""

    def subject(self) -> Place:
        return RequestPlace(
            self.stack.enter_context(mounted(MemoryFilesystem(size=SIZE, inodes=INODES, mode=0o755)))
        )


@pytest.mark.parametrize(
    ("histories", "examples"),
    [
        pytest.param(MemoryHistories, 25, id="memory"),
        pytest.param(OverlayHistories, 8, id="overlay"),
        pytest.param(KernelHistories, 4, id="overlay beside overlayfs"),
        pytest.param(BucketHistories, 10, id="s3"),
        pytest.param(StrictHistories, 4, id="s3, nothing believed"),
        pytest.param(FullHistories, 4, id="s3 with indices"),
        pytest.param(PlainHistories, 4, id="s3 without metadata"),
        pytest.param(WritebackHistories, 4, id="s3 with a journal"),
    ],
)
@pytest.mark.timeout(3600 if EXAMPLES else 120)
def test_any_history_goes_as_on_the_host(histories: type[Histories], examples: int) -> None:
    run_state_machine_as_test(
        histories,
        settings=settings(
            max_examples=EXAMPLES or examples, stateful_step_count=40, derandomize=not EXAMPLES
        ),
    )
