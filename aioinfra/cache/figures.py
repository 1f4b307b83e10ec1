"""What the cache counts about itself, and tells its observer."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from aioinfra.cache.observer import CacheObserver
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.errors import StoreError

T = TypeVar("T")


@dataclass(slots=True)
class Figures:
    """Totals since the cache was made.

    Attributes:
        hits, misses: keys that reads found and did not find; a value that cannot be read is a miss. Hits in L1 are
            counted by L1.
        l1_hits: those of earlier openings.
        sets, deletes: keys written; keys that deletes found.
        loads, load_errors: loaders that ran; those that raised.
        undecodable: stored values that could not be read (junk, another version, a changed model).
        wrong_type: keys that held something else than bytes.
        store_errors: calls that raised because the store did.
        not_stored: loaded values that the store did not take.
        late: loaded values that were not stored since their key was changed meanwhile.
        outdated: stored values that did not count any more: one of their tags was invalidated.
        stale: old values that were answered while, or since, a new one could not be had at once.
        refreshes: loads behind readers, ahead of the end or after it.
        lease_waits: times that a load waited for another process to make the value.
    """

    hits: int = 0
    l1_hits: int = 0
    misses: int = 0
    sets: int = 0
    deletes: int = 0
    loads: int = 0
    load_errors: int = 0
    undecodable: int = 0
    wrong_type: int = 0
    store_errors: int = 0
    not_stored: int = 0
    late: int = 0
    outdated: int = 0
    stale: int = 0
    refreshes: int = 0
    lease_waits: int = 0
    observer: CacheObserver | None = None
    clock: Clock = field(default=SYSTEM_CLOCK)

    def read_one(self, *, hit: bool, started: float) -> None:
        """A get has ended, and was counted by its caller, which is the hot path."""
        if self.observer is not None:
            self.observer.operation("get", "hit" if hit else "miss", self.clock.monotonic() - started)
            self.observer.keys("get", hit, not hit)

    def read_many(self, hits: int, misses: int, started: float, *, near: int = 0) -> None:
        """An mget has ended; ``started`` is what ``clock.monotonic`` said at its start, ``near`` hits are L1's."""
        self.hits += hits - near
        self.misses += misses
        if self.observer is not None:
            self.observer.operation("mget", "ok", self.clock.monotonic() - started)
            self.observer.keys("mget", hits, misses)

    def done(self, operation: str, outcome: str, started: float) -> None:
        """Anything else than a read has ended, or a read with an error."""
        if outcome == "error" and operation != "load":
            self.store_errors += 1
        if self.observer is not None:
            self.observer.operation(operation, outcome, self.clock.monotonic() - started)

    async def timed(self, operation: str, call: Awaitable[T], *, quiet: bool = False) -> T:
        """Await a call of the store and report it; with ``quiet`` only when it fails."""
        started = self.clock.monotonic()
        try:
            result = await call
        except StoreError:
            self.done(operation, "error", started)
            raise
        if not quiet:
            self.done(operation, "ok", started)
        return result

    def as_dict(self, l1_hits: int = 0) -> dict[str, int | float]:
        """The totals by name with those of an L1 that is open.

        ``hit_rate`` is hits of all keys read, ``l1_hit_rate`` those of L1, ``server_hit_rate`` those of the server
        (or the memory that stands for it) of the keys that it was asked for; 0.0 before the first read.
        """
        l1_hits += self.l1_hits
        hits = self.hits + l1_hits
        reads = hits + self.misses
        return {
            "hits": hits,
            "misses": self.misses,
            "hit_rate": hits / reads if reads else 0.0,
            "l1_hits": l1_hits,
            "l1_hit_rate": l1_hits / reads if reads else 0.0,
            "server_hits": self.hits,
            "server_hit_rate": self.hits / (reads - l1_hits) if reads > l1_hits else 0.0,
            "sets": self.sets,
            "deletes": self.deletes,
            "loads": self.loads,
            "load_errors": self.load_errors,
            "undecodable": self.undecodable,
            "wrong_type": self.wrong_type,
            "store_errors": self.store_errors,
            "not_stored": self.not_stored,
            "late": self.late,
            "outdated": self.outdated,
            "stale": self.stale,
            "refreshes": self.refreshes,
            "lease_waits": self.lease_waits,
        }
