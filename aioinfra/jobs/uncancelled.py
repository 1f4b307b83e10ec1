"""Ends that are come to although whoever waits for them is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def uncancelled(task: asyncio.Task[None], on_cancel: Callable[[], None] = lambda: None) -> None:
    """Await a task to its end although the caller is being cancelled; a cancellation is raised afterwards.

    Args:
        task: bounded by itself; nobody else awaits it.
        on_cancel: told of each cancellation at once.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            on_cancel()
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
