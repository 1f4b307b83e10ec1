"""Instruments: exact, bounded, cheap, and still collectors of aioprometheus."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
from aioprometheus import collectors

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.family import OVERFLOW
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.registry import MetricsRegistry


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


def test_a_slot_is_the_same_for_the_same_values(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("kind", "status"))
    slot = counter.labels("a", "200")
    assert counter.labels("a", "200") is slot
    assert counter.labels("a", 200) is slot, "a value is its text"
    assert counter.labels("200", "a") is not slot


def test_equal_keys_that_are_other_texts_stay_apart(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("value",))
    texts = {counter.labels(value).values[0] for value in (1, True, 1.0)}
    assert texts == {"1", "True", "1.0"}


def test_threads_lose_no_update(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry).labels()
    histogram = Histogram("app_seconds", "Time.", registry).labels()
    family = Counter("app_by_kind_total", "Things.", registry, ("kind",))

    def work() -> None:
        for _ in range(300_000):
            counter.inc()
            histogram.observe(0.5)
        for index in range(10_000):
            family.labels(str(index % 500)).inc()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.value == 1_200_000
    assert histogram.cumulative()[-1] == 1_200_000
    assert histogram.total == 600_000.0
    assert [slot.value for slot in family.slots()] == [80] * 500


def test_a_histogram_counts_by_inclusive_bounds(registry: MetricsRegistry) -> None:
    slot = Histogram("app_seconds", "Time.", registry, buckets=(1, 2.5)).labels()
    for value in (-1, 0.5, 1, 1.01, 2.5, 3, math.inf, math.nan):
        slot.observe(value)
    assert slot.cumulative() == [3, 5, 7]


def test_one_nan_does_not_spoil_the_sum(registry: MetricsRegistry) -> None:
    slot = Histogram("app_seconds", "Time.", registry).labels()
    slot.observe(1.5)
    slot.observe(math.nan)
    assert slot.total == 1.5


def test_a_metric_is_bounded_and_says_what_it_left_out(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("user", "kind"), max_series=10)
    for index in range(10_000):
        counter.labels(f"user{index}", "x").inc()
    slots = counter.slots()
    assert len(slots) == 11
    assert sum(slot.value for slot in slots) == 10_000
    (other,) = [slot for slot in slots if slot.values == (OVERFLOW, OVERFLOW)]
    assert other.value == 9_990
    assert counter.overflowed > 0
    assert counter.labels("user3", "x").value == 1, "what was there before is still told apart"


def test_counters_do_not_go_down(registry: MetricsRegistry) -> None:
    slot = Counter("app_total", "Things.", registry).labels()
    slot.add(2.5)
    for amount in (-1, math.nan):
        with pytest.raises(InvalidArgument, match="amount"):
            slot.add(amount)
    assert slot.value == 2.5


def test_gauges_go_both_ways(registry: MetricsRegistry) -> None:
    slot = Gauge("app_things", "Things.", registry).labels()
    slot.set(5)
    slot.inc()
    slot.dec()
    slot.dec()
    assert slot.value == 4


@pytest.mark.parametrize("label", ["a-b", "", "__x", "le", "job", "a\n", "é", "0a", "a b"])
def test_label_names_are_checked(registry: MetricsRegistry, label: str) -> None:
    with pytest.raises(InvalidArgument, match="label_names"):
        Histogram("app_seconds", "Time.", registry, (label,))
    assert not registry.collectors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "app_total\n"}, "name"),
        ({"name": ""}, "name"),
        ({"label_names": "text"}, "label_names"),
        ({"label_names": ("a", "a")}, "label_names"),
        ({"max_series": 0}, "max_series"),
        ({"max_series": True}, "max_series"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": (2, 1)}, "buckets"),
        ({"buckets": (1, 1)}, "buckets"),
        ({"buckets": (1, math.nan)}, "buckets"),
    ],
)
def test_bad_declarations_name_their_argument(
    registry: MetricsRegistry, arguments: dict[str, Any], named: str
) -> None:
    given: dict[str, Any] = {"name": "app_seconds", "doc": "Time.", "registry": registry} | arguments
    with pytest.raises(InvalidArgument) as raised:
        Histogram(**given)
    assert raised.value.argument == named
    assert not registry.collectors


def test_a_wrong_number_of_values_is_refused(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("a", "b"))
    for values in ((), ("x",), ("x", "y", "z")):
        with pytest.raises(InvalidArgument, match="labels"):
            counter.labels(*values)


def test_a_name_is_taken_once(registry: MetricsRegistry) -> None:
    Counter("app_total", "Things.", registry)
    with pytest.raises(InvalidArgument, match="name"):
        Gauge("app_total", "Things.", registry)


def test_they_are_collectors_of_aioprometheus(registry: MetricsRegistry) -> None:
    """Its decorators and interface work on ours."""
    counter = Counter("app_total", "Things.", registry, ("kind",))
    gauge = Gauge("app_things", "Things.", registry, ("kind",))
    histogram = Histogram("app_seconds", "Time.", registry, ("kind",), buckets=(1.0,))
    assert isinstance(counter, collectors.Counter)
    counter.inc({"kind": "a"})
    counter.add({"kind": "a"}, 2)
    gauge.set({"kind": "a"}, 5)
    gauge.add({"kind": "a"}, 2)
    gauge.sub({"kind": "a"}, 1)
    histogram.observe({"kind": "a"}, 0.5)
    histogram.add({"kind": "a"}, 2)
    assert counter.get({"kind": "a"}) == counter.labels("a").value == 3
    assert gauge.get({"kind": "a"}) == 6
    assert histogram.get({"kind": "a"}) == {1.0: 1, math.inf: 2, "count": 2, "sum": 2.5}
    assert counter.get_all() == [({"kind": "a"}, 3)]
    counter.set({"kind": "a"}, 9)
    assert counter.labels("a").value == 9
    with pytest.raises(InvalidArgument, match="labels"):
        counter.inc({"kind": "a", "other": "b"})


def test_reading_makes_no_series(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("kind",))
    with pytest.raises(KeyError):
        counter.get({"kind": "never counted"})
    assert counter.slots() == []


def test_nothing_lands_in_aioprometheus_own_registry(registry: MetricsRegistry) -> None:
    before = dict(collectors.REGISTRY.collectors)
    Counter("app_total", "Things.", registry).labels().inc()
    assert collectors.REGISTRY.collectors == before
