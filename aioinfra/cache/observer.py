"""Who watches the cache: metrics and tracing satisfy this without knowing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

Totals = Callable[[], Mapping[str, float]]
"""Gives the figures of one open cache by name: those of `CacheManager.get_stats`, and ``l1_state:<state>`` as 1."""


class CacheObserver(Protocol):
    """Called on the event loop, after the fact. Must not block, raise or await."""

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        """One call has ended.

        Args:
            operation: get mget set mset delete exists clear load.
            outcome: hit or miss (of a get), ok, error; fallback counts, beside these, each call that the
                fallback answered instead of the server.
            seconds: its duration, waiting included.
        """
        ...

    def keys(self, operation: str, hits: int, misses: int) -> None:
        """How many keys a read (get or mget) found and did not find."""
        ...


@runtime_checkable
class TotalsObserver(Protocol):
    """An observer that pulls, too: a hit in L1 costs less than telling of it would, so its count is read when
    somebody asks. Between `watch` and `unwatch` the source may be called at any time, on the event loop."""

    def watch(self, source: Totals) -> None:
        """A cache has opened."""
        ...

    def unwatch(self, source: Totals) -> None:
        """It is about to close: its last figures are to be read now."""
        ...
