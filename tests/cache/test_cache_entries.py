"""The bounded table of entries: its bounds, what stays, and what a dropped entry knows."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections import OrderedDict
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioinfra.cache.entries import ENTRY_BYTES, MOST_SPARED, Entries, Entry

ROOM = 1 << 30  # bytes; more than any test needs


def entry(key: str, size: int = 1) -> Entry:
    return Entry(key, key, size, quiet=math.inf)


def hits(table: Entries, keys: Iterable[str]) -> int:
    """Ask for the keys one after the other, and keep what was missing."""
    count = 0
    for key in keys:
        held = table.get(key)
        if held is None:
            table.put(entry(key))
        else:
            held.hits += 1
            count += 1
    return count


def lru_hits(capacity: int, keys: Iterable[str]) -> int:
    held: OrderedDict[str, None] = OrderedDict()
    count = 0
    for key in keys:
        if key in held:
            held.move_to_end(key)
            count += 1
        else:
            held[key] = None
            if len(held) > capacity:
                held.popitem(last=False)
    return count


def test_a_kept_entry_is_found_until_it_is_popped() -> None:
    table = Entries(10, ROOM)
    kept = entry("a")
    assert table.put(kept)
    assert table.get("a") is kept
    assert list(table.keys()) == ["a"]
    assert table.bytes == 1 + ENTRY_BYTES
    assert table.pop("a") is kept
    assert table.get("a") is None
    assert table.pop("a") is None
    assert (len(table), table.bytes, table.evictions) == (0, 0, 0)


def test_whoever_holds_an_entry_sees_that_it_left() -> None:
    table = Entries(3, ROOM)
    popped, replaced, cleared = entry("popped"), entry("replaced"), entry("cleared")
    for one in (popped, replaced, cleared):
        table.put(one)
    table.pop("popped")
    table.put(entry("replaced"))
    assert (popped.quiet, replaced.quiet, cleared.quiet) == (-math.inf, -math.inf, math.inf)
    table.clear()
    assert cleared.quiet == -math.inf
    evicted = entry("evicted")
    table.put(evicted)
    for number in range(3):
        table.put(entry(str(number)))
    assert table.get("evicted") is None
    assert evicted.quiet == -math.inf
    assert table.evictions == 1


def test_an_entry_larger_than_the_table_is_not_kept_and_the_old_one_is_gone() -> None:
    table = Entries(10, 3 * ENTRY_BYTES)
    small, large = entry("a", 10), entry("a", 3 * ENTRY_BYTES)
    assert table.put(small)
    assert not table.put(large)
    assert table.get("a") is None
    assert (small.quiet, large.quiet) == (-math.inf, -math.inf)
    assert table.bytes == 0


def test_a_table_of_no_entries_keeps_nothing() -> None:
    table = Entries(0, ROOM)
    assert not table.put(entry("a"))
    assert len(table) == 0


def test_a_large_newcomer_is_kept_and_many_small_ones_leave() -> None:
    table = Entries(1000, 100 * (ENTRY_BYTES + 100))
    for number in range(100):
        table.put(entry(str(number), 100))
    assert len(table) == 100
    assert table.put(entry("large", 40 * (ENTRY_BYTES + 100)))
    assert table.get("large") is not None
    assert 50 < len(table) < 65


def test_one_scan_does_not_flush_what_is_asked_for_again_and_again() -> None:
    table = Entries(100, ROOM)
    favourites = [f"favourite:{number}" for number in range(50)]
    for _ in range(3):
        hits(table, favourites)
    hits(table, (f"scan:{number}" for number in range(10_000)))
    assert hits(table, favourites) == 50


def test_a_loop_slightly_larger_than_the_table_mostly_hits() -> None:
    table = Entries(1000, ROOM)
    loop = [str(number) for number in range(1100)]
    for _ in range(3):
        hits(table, loop)
    assert lru_hits(1000, loop * 3) == 0
    assert hits(table, loop) > 700


def test_what_was_written_keeps_the_place_it_had_earned() -> None:
    table = Entries(100, ROOM)
    favourites = [f"favourite:{number}" for number in range(50)]
    for _ in range(3):
        hits(table, favourites)
    hits(table, (f"scan:{number}" for number in range(1000)))
    for key in favourites:  # an invalidation, and the next reader fills it again
        table.pop(key)
        table.put(entry(key))
    hits(table, (f"later:{number}" for number in range(60)))
    assert hits(table, favourites) == 50


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_more_hits_than_least_recently_used(exponent: float) -> None:
    chance = random.Random(7)
    universe = range(10_000)
    weights = [1 / (rank + 1) ** exponent for rank in universe]
    keys = [str(number) for number in chance.choices(universe, weights, k=60_000)]
    assert hits(Entries(300, ROOM), keys) > 1.02 * lru_hits(300, keys)


def test_a_change_of_favourites_is_followed() -> None:
    table = Entries(100, ROOM)
    for epoch in range(3):
        favourites = [f"{epoch}:{number}" for number in range(80)]
        for _ in range(10):
            hits(table, favourites)
        assert hits(table, favourites) == 80


def test_a_dropped_value_is_freed_at_once() -> None:
    class Value:
        pass

    table = Entries(2, ROOM)
    value = Value()
    seen = weakref.ref(value)
    gc.disable()
    try:
        table.put(Entry("a", value, 1))
        del value
        for number in range(3):
            table.put(entry(str(number)))
        assert seen() is None
    finally:
        gc.enable()


def test_room_is_soon_made_where_everything_was_asked_for() -> None:
    """A put must not look at the whole table, which would keep the event loop."""
    table = Entries(10_000, ROOM)
    keys = [str(number) for number in range(10_000)]
    hits(table, keys * 2)
    table.put(entry("new"))
    assert table.evictions == 1
    looked_at = sum(held.hits == held.seen for key in keys if (held := table.get(key)) is not None)
    assert looked_at <= MOST_SPARED


def test_no_more_keys_are_remembered_than_kept() -> None:
    table = Entries(100, ROOM)
    hits(table, (str(number) for number in range(5000)))
    assert len(table._ghost) <= 100
    table.clear()
    assert not table._ghost


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "hit", "pop", "clear"]),
            st.sampled_from("abcdefghijkl"),
            st.integers(0, 3 * ENTRY_BYTES),
        ),
        max_size=80,
    ),
    st.integers(1, 8),
)
def test_bounds_and_sums_hold_after_every_step(steps: list[tuple[str, str, int]], most: int) -> None:
    limit = 4 * ENTRY_BYTES
    table = Entries(most, limit)
    model: dict[str, Entry] = {}
    for verb, key, size in steps:
        if verb == "put":
            new = entry(key, size)
            kept = table.put(new)
            assert kept == (size + ENTRY_BYTES <= limit)
            assert (table.get(key) is new) == kept
            model[key] = new
        elif verb == "hit":
            held = table.get(key)
            if held is not None:
                assert held is model[key]
                held.hits += 1
        elif verb == "pop":
            table.pop(key)
            assert table.get(key) is None
        elif size < 50:
            table.clear()
        assert len(table) <= most
        assert table.bytes <= limit
        assert table.bytes == sum(model[key].size + ENTRY_BYTES for key in list(table.keys()))
        assert {key for key, one in model.items() if one.quiet > -math.inf} == set(table.keys())
    table.clear()
    assert (len(table), table.bytes) == (0, 0)
