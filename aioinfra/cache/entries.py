"""The bounded table of decoded values in this process: which ones stay when there is no room for all.

S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): newcomers pass a small queue
first, and only what is asked for again reaches the main one, so that a scan cannot flush the table. A ghost queue
remembers keys, not values, that left lately; one of these that returns goes to the main queue.

Ours is the duel: when the main queue is full, a returning key must beat its oldest entry, which wins if it was
asked for since it was looked at last. A loop slightly larger than the table thus hits most of the time, where
plain S3-FIFO, like LRU, never does.

One thread at a time; nothing here awaits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

ENTRY_BYTES: Final = 400  # of the entry, its slot of the table and its ghost; an estimate for the byte bound
SMALL_SHARE: Final = 0.1  # of either bound is for newcomers
LEAST_GHOSTS: Final = 16
LOOKS: Final = 2  # at the main queue's oldest entries, for one that returns
MOST_CHANCES: Final = 1  # turns of the main queue that an entry survives unasked

NOWHERE: Final = 0
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
    quiet: float = (
        -math.inf
    )  # monotonic seconds until which a hit may be answered at once; -inf: left the table
    visited: bool = False  # a hit sets it; nothing else is needed
    deadline: float = math.inf
    created: float = 0.0
    fresh_until: float = math.inf
    compute_time: float = 0.0
    tags: Any = None
    payload: bytes | None = None
    queue: int = field(default=NOWHERE, init=False)
    chances: int = field(default=0, init=False)
    older: Entry = field(init=False)
    newer: Entry = field(init=False)


class Queue:
    """A ring of entries, oldest first. Every step is O(1)."""

    __slots__ = ("bytes", "count", "end", "name")

    def __init__(self, name: int) -> None:
        self.name = name
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
        self.bytes += entry.size

    def remove(self, entry: Entry) -> None:
        """It must be in this queue. Its links end, or chains of dropped entries would keep each other alive."""
        older, newer = entry.older, entry.newer
        older.newer, newer.older = newer, older
        del entry.older, entry.newer
        entry.queue = NOWHERE
        self.count -= 1
        self.bytes -= entry.size

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

    Whoever answers from an entry stores ``entry.visited = True``: all that a hit costs.

    Args:
        max_entries: most entries; with 0 nothing is kept.
        max_bytes: most bytes, by the entries' sizes plus ENTRY_BYTES each.
    """

    __slots__ = (
        "_ghost",
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
        self._small = Queue(SMALL)
        self._main = Queue(MAIN)
        # hashes of keys, oldest first: a collision only lets a stranger into the main queue
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self.evictions = 0
        #: The entry under a key, None when there is none. O(1); the dictionary's own method, for speed.
        self.get: Final[Callable[[str], Entry | None]] = self._table.get

    def __len__(self) -> int:
        """Entries held, those included whose time is over and that nobody has removed."""
        return len(self._table)

    @property
    def bytes(self) -> int:
        """Bytes held, overhead included."""
        return self._small.bytes + self._main.bytes + len(self._table) * ENTRY_BYTES

    def keys(self) -> Iterator[str]:
        """The keys as of now; entries may come and go while it runs. O(n)."""
        return iter(list(self._table))

    def put(self, entry: Entry) -> bool:
        """Keep an entry that is in no table; whether it was kept. Amortised O(1).

        What was under its key leaves; the new entry takes its place. One that is larger than the bound is not
        kept.
        """
        before = self._table.get(entry.key)
        if entry.size + ENTRY_BYTES > self._max_bytes or self._max_entries < 1:
            if before is not None:
                self._drop(before)
            entry.quiet = -math.inf
            self.evictions += 1
            return False
        if before is not None:
            queue = self._queue_of(before)
            entry.visited = before.visited
            entry.chances = before.chances
            self._drop(before)
        else:
            queue = self._main if self._returns(entry) else self._small
        queue.append(entry)
        self._table[entry.key] = entry
        while len(self._table) > self._max_entries or self.bytes > self._max_bytes:
            self._make_room(entry)
        return True

    def pop(self, key: str) -> Entry | None:
        """Take an entry out; None when there is none. O(1).

        The next one under this key returns to the place that was earned: what was written is not less popular.
        """
        entry = self._table.get(key)
        if entry is not None:
            if entry.visited or entry.queue == MAIN:
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

    def _remember(self, key: str) -> None:
        """Bounded by what the table holds, so that its memory stays in proportion."""
        ghost = self._ghost
        ghost[hash(key)] = None
        while len(ghost) > max(len(self._table), LEAST_GHOSTS):
            ghost.popitem(last=False)

    def _returns(self, entry: Entry) -> bool:
        """Whether a newcomer's place is in the main queue: it left lately, and there is room or it wins."""
        mark = hash(entry.key)
        if mark not in self._ghost:
            return False
        del self._ghost[mark]
        entry.chances = MOST_CHANCES
        if self._main_has_room():
            return True
        for _ in range(LOOKS):
            rival = self._main.end.newer
            if not self._gets_another_chance(rival):
                self._drop(rival)
                self.evictions += 1
                return True
        return False

    def _main_has_room(self) -> bool:
        main, table = self._main, self._table
        share = 1 - SMALL_SHARE
        return (
            main.count < self._max_entries * share
            and main.bytes + main.count * ENTRY_BYTES < self._max_bytes * share
        ) or not table

    def _small_is_over(self) -> bool:
        small = self._small
        return (
            small.count > self._max_entries * SMALL_SHARE
            or small.bytes + small.count * ENTRY_BYTES > self._max_bytes * SMALL_SHARE
        )

    def _gets_another_chance(self, entry: Entry) -> bool:
        """The oldest of the main queue, looked at: becomes the newest, or is to go."""
        if entry.visited:
            entry.visited = False
            entry.chances = MOST_CHANCES
        elif entry.chances:
            entry.chances -= 1
        else:
            return False
        self._main.turn()
        return True

    def _make_room(self, newcomer: Entry) -> None:
        """One step: an entry leaves, or moves on. The newcomer itself is not what leaves."""
        small, main = self._small, self._main
        entry = small.end.newer
        others = main.count - (newcomer.queue == MAIN)
        if small.count and entry is not newcomer and (not others or self._small_is_over()):
            if entry.visited:
                entry.visited = False
                small.remove(entry)
                main.append(entry)
                return
            self._remember(entry.key)
        else:
            entry = main.end.newer
            if entry is newcomer:
                main.turn()
                return
            if self._gets_another_chance(entry):
                return
        self._drop(entry)
        self.evictions += 1
