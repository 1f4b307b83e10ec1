"""A task that forks: the child is no worker.

A child of ``os.fork`` inside a job shares the worker's sockets and its selector. If it went on in the event loop it
would answer for the parent's other jobs, take their replies, and claim. So it ends as soon as the task's code has
left it: where the job returns or raises, or at the loop's next turn.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from typing import NoReturn

_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_hooked = threading.Lock()


class _Place:
    """Where this process stands: set once, in a child, by the fork itself."""

    in_child = False


def watch_forks(loop: asyncio.AbstractEventLoop) -> None:
    """Let no child of this process go on in a worker's loop."""
    if _hooked.acquire(blocking=False):  # held for ever: a hook cannot be taken back
        os.register_at_fork(after_in_child=_in_child)
    _loops.add(loop)


def end_if_forked(status: int = 0) -> None:
    """End the process when it is a child that was forked inside a worker."""
    if _Place.in_child:
        _leave(status)


def _in_child() -> None:
    loops = [loop for loop in _loops if loop.is_running()]
    _Place.in_child = bool(loops)
    for loop in loops:
        loop.call_soon(_leave, 1)
        ready = getattr(loop, "_ready", None)  # of asyncio's own loops; elsewhere it has to wait for its turn
        if ready is not None:
            ready.rotate(1)


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue
    os._exit(status)  # no exit handlers: they are the parent's
