"""How long the cache's operations take: count, mean and quantiles in little, constant memory.

Each operation has a histogram of exponential buckets, eight to a doubling, from 1 us to 100 s: a quantile is off by
at most 4.5 %. To record costs a logarithm and three additions. What L1 answers is not timed: it would double its
cost, and say nothing.
"""

from __future__ import annotations

import math
from typing import Final

from aioinfra.cache.observer import CacheObserver

_LEAST: Final = 1e-6  # seconds; what is shorter is in the first bucket
_PER_DOUBLING: Final = 8
_BUCKETS: Final = 27 * _PER_DOUBLING  # 2**27 us: two minutes
_MOST_OPERATIONS: Final = 32


class Latency:
    """The times of one operation. One thread."""

    __slots__ = ("_buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        """All of them together."""
        self._buckets = [0] * _BUCKETS

    def record(self, seconds: float) -> None:
        """One more took so many seconds."""
        self.count += 1
        self.seconds += seconds
        at = int(math.log2(seconds / _LEAST) * _PER_DOUBLING) if seconds > _LEAST else 0
        self._buckets[at if at < _BUCKETS else _BUCKETS - 1] += 1

    @property
    def mean(self) -> float:
        """Seconds; 0.0 before the first."""
        return self.seconds / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` of them did not exceed; 0.0 before the first. O(buckets)."""
        wanted, seen = share * self.count, 0
        for at, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return float(_LEAST * 2 ** ((at + 0.5) / _PER_DOUBLING))
        return 0.0


class Latencies:
    """A `CacheObserver` that keeps the times, and hands on what it is told.

    Args:
        observer: is told everything, too.
    """

    __slots__ = ("_by_operation", "_observer")

    def __init__(self, observer: CacheObserver | None = None) -> None:
        self._observer = observer
        self._by_operation: dict[str, Latency] = {}

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        latency = self._by_operation.get(operation)
        if latency is None and len(self._by_operation) < _MOST_OPERATIONS:
            latency = self._by_operation[operation] = Latency()
        if latency is not None and outcome != "fallback":  # beside the call's own outcome, without a duration
            latency.record(seconds)
        if self._observer is not None:
            self._observer.operation(operation, outcome, seconds)

    def keys(self, operation: str, hits: int, misses: int) -> None:
        if self._observer is not None:
            self._observer.keys(operation, hits, misses)

    def as_dict(self) -> dict[str, int | float]:
        """Of every operation so far ``<operation>_count``, and in seconds ``_mean``, ``_p50`` and ``_p99``."""
        found: dict[str, int | float] = {}
        for operation, latency in self._by_operation.items():
            if latency.count:
                found[f"{operation}_count"] = latency.count
                found[f"{operation}_mean"] = latency.mean
                found[f"{operation}_p50"] = latency.quantile(0.5)
                found[f"{operation}_p99"] = latency.quantile(0.99)
        return found
