"""The bounded table of decoded values in this process: which ones stay when there is no room for all.

S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023) with one bit an entry, so that
a hit costs one attribute store: newcomers pass a small queue first, and only what is asked for again reaches the
main one. A ghost queue remembers keys, not values, that left lately; one that returns belongs in the main queue.

Ours is the duel: when the main queue is full, a returning key must beat its oldest entry, which wins if it was
asked for since it was looked at last. That helps loops larger than the table, and costs a little where favourites
change.

Hits in percent with 1,000 entries, LRU / SIEVE / S3-FIFO / this (benchmarks/cache_eviction.py; variants were chosen
on requests of the same shapes): Zipf 1.0 61 / 68 / 68 / 69; the same with scans 41 / 48 / 49 / 49; a loop of 1,100
keys 0 / 0 / 76 / 81, of 1,500 0 / 0 / 47 / 59. LRU leads where the popular keys change all at once: 66 / 56 / 64 /
62; where a loop that fits is replaced by another every ten rounds: 90 / 4 / 71 / 72. A larger small queue, or one
that adapts as ARC's does, won some of that back and lost more elsewhere.

One thread at a time; nothing here awaits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

# of the entry, its numbers, its slot of the table and its ghost, as tracemalloc counted (520 to 620, by the load of
# the hash tables); an estimate for the byte bound
ENTRY_BYTES: Final = 600
SMALL_SHARE: Final = 0.1  # of either bound is for newcomers
LEAST_GHOSTS: Final = 16  # of a table that is nearly empty; else as many as entries
MOST_SPARED: Final = 64  # entries passed over for one that leaves: where all were asked for, any may go

SMALL: Final = 1
MAIN: Final = 2


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """One decoded value.

    ``key`` and ``size`` must not change while the entry is in a table. A table changes ``quiet`` once: others may
    hold the entry when it leaves.
    """

    key: str
    value: Any
    size: int  # bytes of key and value as far as known; the table adds its own
    # monotonic seconds until which a hit is answered at once; -inf: not in the table
    quiet: float = -math.inf
    hits: int = 0  # a hit adds one; nothing else is needed
    seen: int = 0  # of them, when the table looked last
    deadline: float = math.inf
    created: float = 0.0
    fresh_until: float = math.inf
    compute_time: float = 0.0
    tags: Any = None
    payload: bytes | None = None
    owner: object = None  # what decoded the value: another one would have made another object of it
    kind: type | tuple[type, ...] | None = None  # of the arguments by which a decorated function remembers it
    mark: bytes = b""  # generation and time of creation, as stored
    queue: int = field(default=SMALL, init=False)
    older: Entry = field(init=False)
    newer: Entry = field(init=False)


class Queue:
    """A ring of entries, oldest first. Every step is O(1).

    Args:
        most_entries: more are over its share of the table.
        most_bytes: likewise, overhead included.
    """

    __slots__ = ("bytes", "count", "end", "most_bytes", "most_entries", "name")

    def __init__(self, name: int, most_entries: float, most_bytes: float) -> None:
        self.name = name
        self.most_entries = most_entries
        self.most_bytes = most_bytes
        self.count = 0
        self.bytes = 0
        self.end = Entry("", None, 0)
        self.end.older = self.end.newer = self.end

    def append(self, entry: Entry) -> None:
        """As the newest."""
        end = self.end
        last = end.older
        entry.older, entry.newer = last, end
        last.newer = end.older = entry
        entry.queue = self.name
        self.count += 1
        self.bytes += entry.size + ENTRY_BYTES

    def remove(self, entry: Entry) -> None:
        """It must be in this queue. Its links end, or chains of dropped entries would keep each other alive."""
        older, newer = entry.older, entry.newer
        older.newer, newer.older = newer, older
        del entry.older, entry.newer
        self.count -= 1
        self.bytes -= entry.size + ENTRY_BYTES

    def turn(self) -> None:
        """The oldest becomes the newest."""
        end = self.end
        first = end.newer
        second, last = first.newer, end.older
        if second is end:
            return
        end.newer, second.older = second, end
        first.older, first.newer = last, end
        last.newer = end.older = first


class Entries:
    """Keys to entries, bounded in number and in bytes.

    Whoever answers from an entry adds one to ``entry.hits``: all that a hit costs.

    Args:
        max_entries: most entries; with 0 nothing is kept.
        max_bytes: most bytes, by the entries' sizes plus ENTRY_BYTES each.
    """

    __slots__ = (
        "_ghost",
        "_hits_of_gone",
        "_main",
        "_max_bytes",
        "_max_entries",
        "_small",
        "_table",
        "evictions",
        "get",
    )

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._table: dict[str, Entry] = {}
        self._small = Queue(SMALL, max_entries * SMALL_SHARE, max_bytes * SMALL_SHARE)
        self._main = Queue(MAIN, max_entries * (1 - SMALL_SHARE), max_bytes * (1 - SMALL_SHARE))
        # hashes of keys, oldest first: a collision only lets a stranger into the main queue
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self.evictions = 0
        self._hits_of_gone = 0
        #: The entry under a key, None when there is none. O(1); the dictionary's own method, for speed.
        self.get: Final[Callable[[str], Entry | None]] = self._table.get

    def __len__(self) -> int:
        """Entries held, those included whose time is over and that nobody has removed."""
        return len(self._table)

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return self._small.bytes + self._main.bytes

    @property
    def hits(self) -> int:
        """Hits of all entries so far, those included that have left. O(n)."""
        return self._hits_of_gone + sum([entry.hits for entry in self._table.values()])

    def keys(self) -> Iterator[str]:
        """The keys as of now; entries may come and go while it runs. O(n)."""
        return iter(list(self._table))

    def put(self, entry: Entry) -> bool:
        """Keep an entry that is in no table; whether it was kept. O(1) for every entry that leaves.

        What was under its key leaves; the new entry takes its place. One that is larger than the bound is not
        kept.
        """
        if entry.size + ENTRY_BYTES > self._max_bytes or self._max_entries < 1:
            self.pop(entry.key)
            entry.quiet = -math.inf
            self.evictions += 1
            return False
        table, small, main = self._table, self._small, self._main
        before = table.get(entry.key)
        if before is not None:
            queue = self._queue_of(before)
            entry.seen = entry.hits - (before.hits != before.seen)
            self._drop(before)
        else:
            queue = main if hash(entry.key) in self._ghost and self._returns(entry) else small
        queue.append(entry)
        table[entry.key] = entry
        spared = 0
        while len(table) > self._max_entries or small.bytes + main.bytes > self._max_bytes:
            spared = 0 if self._make_room(entry, spared < MOST_SPARED) else spared + 1
        return True

    def pop(self, key: str) -> Entry | None:
        """Take an entry out; None when there is none. O(1).

        The next one under this key returns to the place that was earned: what was written is not less popular.
        """
        entry = self._table.get(key)
        if entry is not None:
            if entry.hits != entry.seen or entry.queue == MAIN:
                self._remember(key)
            self._drop(entry)
        return entry

    def clear(self) -> None:
        """Take all entries out and forget what there was. O(n)."""
        for entry in list(self._table.values()):
            self._drop(entry)
        self._ghost.clear()

    def _queue_of(self, entry: Entry) -> Queue:
        return self._main if entry.queue == MAIN else self._small

    def _drop(self, entry: Entry) -> None:
        self._queue_of(entry).remove(entry)
        del self._table[entry.key]
        entry.quiet = -math.inf
        self._hits_of_gone += entry.hits

    def _remember(self, key: str) -> None:
        """Fewer than the table holds, which is then about to lose one: memory stays in proportion."""
        ghost = self._ghost
        ghost[hash(key)] = None
        if len(ghost) >= len(self._table) and len(ghost) > LEAST_GHOSTS:
            ghost.popitem(last=False)

    def _returns(self, entry: Entry) -> bool:
        """Whether one that left lately goes to the main queue: there is room, or it wins."""
        del self._ghost[hash(entry.key)]
        main = self._main
        if not main.count or (main.count < main.most_entries and main.bytes < main.most_bytes):
            return True
        rival = main.end.newer
        if self._gets_another_chance(rival):
            return False
        self._drop(rival)
        self.evictions += 1
        return True

    def _gets_another_chance(self, entry: Entry) -> bool:
        """The oldest of the main queue, looked at: becomes the newest, or is to go."""
        if entry.hits == entry.seen:
            return False
        entry.seen = entry.hits
        self._main.turn()
        return True

    def _make_room(self, newcomer: Entry, sparing: bool) -> bool:
        """One step: an entry leaves, or moves on if it was asked for; whether one left. Never the newcomer."""
        small, main = self._small, self._main
        oldest = small.end.newer
        over = small.count > small.most_entries or small.bytes > small.most_bytes
        if small.count and oldest is not newcomer and (over or main.count <= (newcomer.queue == MAIN)):
            small.remove(oldest)
            if oldest.hits != oldest.seen and sparing:
                oldest.seen = oldest.hits
                main.append(oldest)
                return False
            self._remember(oldest.key)
        else:
            oldest = main.end.newer
            if oldest is newcomer:
                main.turn()
                return False
            if sparing and self._gets_another_chance(oldest):
                return False
            main.remove(oldest)
        del self._table[oldest.key]
        oldest.quiet = -math.inf
        self._hits_of_gone += oldest.hits
        self.evictions += 1
        return True
