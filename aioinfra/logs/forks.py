"""What a sink does about forks: the child starts afresh, and leaves its own lines when it ends."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Protocol


class Forked(Protocol):
    """What is told of a fork."""

    __weakref__: object

    def close(self) -> None:
        """Write what waits."""
        ...

    def after_fork(self) -> None:
        """In the child: the parent's thread writes the parent's lines."""
        ...


# A fork hook cannot be taken back, so there is one for all sinks, and it must not keep them alive.
_sinks: weakref.WeakSet[Forked] = weakref.WeakSet()
_known_to_multiprocessing: weakref.WeakSet[Forked] = weakref.WeakSet()
_hooked = threading.Lock()


def watch_forks(sink: Forked) -> None:
    if _hooked.acquire(blocking=False):  # held for ever: registered
        os.register_at_fork(before=_before_fork, after_in_child=_in_child)
    _sinks.add(sink)


def _before_fork() -> None:
    """Forked children of multiprocessing leave without atexit, but run its own finalizers.

    Those are forgotten at the fork, so each child has to register its own: hence an after-fork callback.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    for sink in list(_sinks):
        if sink not in _known_to_multiprocessing:
            _known_to_multiprocessing.add(sink)
            util.register_after_fork(sink, lambda alive: util.Finalize(None, alive.close, exitpriority=0))


def _in_child() -> None:
    for sink in list(_sinks):
        sink.after_fork()
