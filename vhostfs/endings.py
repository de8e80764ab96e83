"""What is done to its end though whoever waits for it is cancelled meanwhile: by asyncio, or by anyio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended, also where the one that waits is cancelled meanwhile, and then is."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def carried_out[Result](steps: Coroutine[Any, Any, Result]) -> Result:
    """Take steps to their end, also where this task is cancelled meanwhile, and then is."""
    task = asyncio.get_running_loop().create_task(steps)
    await ended(task)
    return task.result()
