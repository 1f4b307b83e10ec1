"""L1: decoded values in this process, in front of the server, and why they are not stale.

The server tells of every write (`connection.tracking`), and a hit is only answered while that is proven to work:
everything acknowledged up to ``confirmed_at`` has been heard, and no hit is answered when that is ``max_staleness``
ago. Otherwise the reader goes to the server.

A reply may be slower than the invalidation of what it carries. So a reader takes a `Fill` before it asks; an
invalidation of its key takes the fill away, and without it nothing is put here. What memory answered during an
outage never comes here (`Store.era`), and own writes drop their keys twice, before and after: what was read in
between may be older than the write.

Everything that is kept shares one object with its readers: treat it as read-only, or ask for copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from aioinfra.cache.entries import Entries, Entry
from aioinfra.cache.glob import compile_glob
from aioinfra.cache.store import Store
from aioinfra.clock import Clock
from aioinfra.codec.layout import Tags


class Fill:
    """The right to put one value, until its key changes."""

    __slots__ = ("era",)

    def __init__(self, era: int) -> None:
        self.era = era


class Near:
    """See the module. One event loop.

    Nothing vouches for it until `confirm` is called.

    Args:
        entries: where the values are.
        store: whose answers they are.
        max_staleness: seconds.
        ttl: longest life of an entry, seconds.
    """

    def __init__(
        self,
        entries: Entries,
        store: Store,
        clock: Clock,
        *,
        max_staleness: float,
        ttl: float,
    ) -> None:
        self.entries = entries
        self.until = -math.inf
        """Monotonic seconds until which hits are answered; `confirm` moves it. Hits read it without a call."""
        self.max_staleness = max_staleness
        self.bypassed = 0
        """Readers sent to the server since nothing vouched."""
        self.late = 0
        """Values not put since their key had changed meanwhile."""
        self.invalidations = 0
        """Keys that were heard to have changed."""
        self._store = store
        self.now = clock.monotonic
        self._ttl = ttl
        self._fills: dict[str, Fill] = {}
        self._tokens: dict[str, bytes] = {}
        self._tagged: dict[str, dict[str, Entry]] = {}
        self._taggings = 0

    @property
    def hits(self) -> int:
        """Answered here. O(entries)."""
        return self.entries.hits

    @property
    def vouched(self) -> bool:
        """Whether hits are answered now."""
        return self.now() < self.until

    def confirm(self, at: float) -> None:
        """Every change up to ``at`` (monotonic seconds) has been heard; infinite when nobody else writes."""
        self.until = at + self.max_staleness

    def get(self, key: str, owner: object) -> Entry | None:
        """The entry that ``owner`` (the envelope that decoded it) has under a key, if it may be used.

        Whoever answers from it adds one to its ``hits``.
        """
        entry = self.entries.get(key)
        if entry is None or entry.owner is not owner:
            return None
        now = self.now()
        if now >= self.until:
            self.bypassed += 1
            return None
        if now >= entry.deadline:
            self.entries.pop(key)
            return None
        return entry

    # Filling

    def begin(self, key: str) -> Fill | None:
        """The right to put what the server will answer; None when nothing may be put now."""
        era = self._store.era
        if era is None or not self.vouched:
            return None
        fill = self._fills.get(key)
        if fill is None or fill.era != era:
            self._fills[key] = fill = Fill(era)
        return fill

    def drop(self, key: str, fill: Fill) -> None:
        """Give the right back."""
        if self._fills.get(key) is fill:
            del self._fills[key]

    def put(self, key: str, fill: Fill, entry: Entry, tags: Tags = ()) -> None:
        """Keep a value, unless its key or one of its tags has changed since `begin`."""
        if self._fills.get(key) is not fill or self._store.era != fill.era:
            self.late += self.entries.get(key) is None
            return
        del self._fills[key]
        if any(self._tokens.get(name) != token for name, token in tags):
            self.late += 1
            return
        entry.deadline = min(entry.deadline, self.now() + self._ttl)
        entry.quiet = min(entry.quiet, entry.deadline)
        if self.entries.put(entry):
            for name, _ in tags:
                self._tag(name, entry)

    def _tag(self, name: str, entry: Entry) -> None:
        self._tagged.setdefault(name, {})[entry.key] = entry
        self._taggings += 1
        if self._taggings > 1000 + 4 * len(self.entries):  # most of them have left the table: sweep
            live = {
                tag: {key: kept for key, kept in entries.items() if self.entries.get(key) is kept}
                for tag, entries in self._tagged.items()
            }
            self._tagged = {tag: entries for tag, entries in live.items() if entries}
            self._taggings = sum(map(len, self._tagged.values()))

    # Tags

    def token(self, tag: str) -> bytes | None:
        """What stands for a tag, if that is known for certain."""
        return self._tokens.get(tag) if self.vouched else None

    def put_token(self, key: str, tag: str, fill: Fill, token: bytes) -> None:
        """Remember what stands for a tag; ``key`` is where that is on the server."""
        if self._fills.get(key) is fill and self._store.era == fill.era:
            del self._fills[key]
            if len(self._tokens) > 100_000:
                self._tokens.clear()
            self._tokens[tag] = token

    def tag_changed(self, key: str, tag: str) -> None:
        """Everything with this tag is over."""
        self._fills.pop(key, None)
        self._tokens.pop(tag, None)
        for entry in self._tagged.pop(tag, {}).values():
            if self.entries.get(entry.key) is entry:
                self.entries.pop(entry.key)

    # Changes

    def changed(self, keys: Iterable[str]) -> None:
        """These keys are being written, or have been."""
        pop_entry, pop_fill = self.entries.pop, self._fills.pop
        for key in keys:
            pop_entry(key)
            pop_fill(key, None)

    def cleared(self, pattern: str) -> None:
        """Every key that matches a glob may have changed."""
        matches = compile_glob(pattern).fullmatch
        self._fills.clear()
        for key in self.entries.keys():  # noqa: SIM118 - a copy
            if matches(key.encode()):
                self.entries.pop(key)

    def flush(self) -> None:
        """Everything may have changed."""
        self.entries.clear()
        self._fills.clear()
        self._tokens.clear()
        self._tagged.clear()
        self._taggings = 0


def sized(key: str, value: Any, stored: int) -> int:
    """Bytes that a key and a decoded value hold, estimated: containers hold several times their stored bytes."""
    size = len(key) + 49
    if isinstance(value, str | bytes | int | float | bool | None):
        return size + stored + 60
    return size + stored * 6 + 200
