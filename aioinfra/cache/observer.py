"""Who watches the cache: metrics and tracing satisfy this without knowing it."""

from __future__ import annotations

from typing import Protocol


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
