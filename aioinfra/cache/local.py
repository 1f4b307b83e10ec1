"""A bounded map in memory: least recently used out first, every entry with its own time to live.

The order is cachetools' LRUCache, bounded in bytes; here are the bound in entries, the times and the figures.

One thread at a time; nothing here awaits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from cachetools import Cache, LRUCache

from aioinfra.clock import SYSTEM_CLOCK, Clock

Value = TypeVar("Value")

# of the tables, key object and tuple around one value, as tracemalloc counted (365 to 430, by the load of the hash
# tables); an estimate for the byte bound
ENTRY_BYTES: Final = 400


class _Held(NamedTuple, Generic[Value]):
    expiry: float  # monotonic seconds
    value: Value
    size: int  # bytes, overhead included


class _Table(LRUCache[str, _Held[Value]]):
    """Counts what was evicted; cachetools' way to see it is to override `popitem`."""

    def __init__(self, max_bytes: int, evictions: int = 0) -> None:
        super().__init__(max_bytes, getsizeof=_size)
        self.evictions = evictions

    def popitem(self) -> tuple[str, _Held[Value]]:
        self.evictions += 1
        return super().popitem()

    def peek(self, key: str) -> _Held[Value]:
        """As ``self[key]``, but the key is not the one used last.

        Raises:
            KeyError: there is none.
        """
        return Cache.__getitem__(self, key)


def _size(held: _Held[Value]) -> int:
    return held.size


class LocalCache(Generic[Value]):
    """Keys to values, bounded.

    Args:
        max_entries: most entries; with 0 nothing is kept.
        max_bytes: most bytes, by the sizes given to `put` plus an estimate of the overhead.
        clock: its ``monotonic`` ends entries.
    """

    __slots__ = ("_max_entries", "_now", "_table")

    def __init__(self, max_entries: int, max_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_entries = max_entries
        self._now = clock.monotonic
        self._table = _Table[Value](max_bytes)

    def __len__(self) -> int:
        """Entries held, those included that have expired and were not met since."""
        return len(self._table)

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return int(self._table.currsize)

    @property
    def evictions(self) -> int:
        """Entries that left, or were not kept, for want of room."""
        return self._table.evictions

    def get(self, key: str) -> Value | None:
        """The value, None when there is none. O(1)."""
        try:
            held = self._table[key]
        except KeyError:
            return None
        if held.expiry <= self._now():
            del self._table[key]
            return None
        return held.value

    def put(self, key: str, value: Value, size: int, ttl: float | None) -> None:
        """Keep a value of ``size`` bytes for ``ttl`` seconds (None: until it is evicted). Amortised O(1).

        A value larger than the whole bound is not kept, and what was under the key is gone.
        """
        table = self._table
        size += ENTRY_BYTES + len(key)
        table.pop(key, None)  # first: it must not be counted, nor push others out, with both sizes
        if size > table.maxsize or self._max_entries < 1:
            table.evictions += 1
            return
        if len(table) >= self._max_entries:
            table.popitem()
        table[key] = _Held(math.inf if ttl is None else self._now() + ttl, value, size)

    def pop(self, key: str) -> bool:
        """Forget a key; whether it was there and had not expired."""
        held = self._table.pop(key, None)
        return held is not None and held.expiry > self._now()

    def ttl(self, key: str) -> float | None:
        """Seconds left: infinite without expiry, None for no entry."""
        if key not in self._table:
            return None
        left = self._table.peek(key).expiry - self._now()
        return left if left > 0 else None

    def keys(self) -> Iterator[str]:
        """The keys that have not expired, as of now; entries may come and go while it runs."""
        now, table = self._now(), self._table
        return iter([key for key in table if table.peek(key).expiry > now])

    def clear(self) -> None:
        """Forget everything. That is no eviction."""
        self._table = _Table[Value](int(self._table.maxsize), self._table.evictions)
