"""The page: judged by the Python Prometheus client's parser, beside aioprometheus' own renderer."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from aioprometheus import collectors
from aioprometheus.renderer import render as stock_render
from prometheus_client.parser import text_string_to_metric_families

from aioinfra.metrics.exposition import CONTENT_TYPE, OVERFLOW_METRIC, render, render_now
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.registry import MetricsRegistry

HOSTILE = [*'"\\\n\r\t {},=#na', "é", "\x00", "\x85", "\u2028", "\ud800", "😀"]

Page = Callable[[MetricsRegistry], str]


def ours(registry: MetricsRegistry) -> str:
    return render_now(registry).decode()


def theirs(registry: MetricsRegistry) -> str:
    content, _ = stock_render(registry, [])
    return content.decode()


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels; a series that comes twice is a mistake."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


def filled(registry: MetricsRegistry) -> MetricsRegistry:
    counter = Counter("app_total", "Things.", registry, ("kind", "status"))
    counter.labels("a", 200).add(3)
    counter.labels("b", 500).add(0.5)
    gauge = Gauge("app_things", "Things.", registry, ("kind",))
    for value in (math.nan, math.inf, -math.inf, 1e300, -2, 0.1 + 0.2):
        gauge.labels(value).set(value)
    histogram = Histogram("app_seconds", "Time.", registry, ("kind",), buckets=(0.1, 1, 2.5))
    for value in (0.05, 0.1, 1.5, 10):
        histogram.labels("x").observe(value)
    Histogram("app_plain_seconds", "Time.", registry).labels().observe(0.2)
    Counter("app_plain_total", "Things.", registry)
    return registry


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def test_the_page_means_what_aioprometheus_renders(registry: MetricsRegistry) -> None:
    mine, stock = samples(ours(filled(registry))), samples(theirs(registry))
    assert mine.keys() == stock.keys()
    assert all(same(mine[key], stock[key]) for key in mine)
    assert mine["app_seconds_bucket", frozenset({("kind", "x"), ("le", "2.5")})] == 3
    assert mine["app_seconds_count", frozenset({("kind", "x")})] == 4
    assert mine["app_plain_total", frozenset()] == 0


async def test_in_chunks_it_is_the_same_page(registry: MetricsRegistry) -> None:
    counter = Counter("many_total", "Things.", registry, ("index",), max_series=2_000)
    for index in range(2_000):
        counter.labels(index).add(index)
    assert await render(filled(registry)) == render_now(registry)
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("page", [ours, theirs])
def test_ten_thousand_hostile_label_values_come_back_as_they_were(
    registry: MetricsRegistry, page: Page
) -> None:
    draw = random.Random(7)
    values: set[str] = set()
    while len(values) < 10_000:
        values.add("".join(draw.choice(HOSTILE) for _ in range(draw.randint(0, 12))))
    counter = Counter("app_total", "Things.", registry, ("a", "b"), max_series=20_000)
    for value in values:
        counter.labels(value, "x\\").inc()
    found = samples(page(registry))
    got = {dict(labels).get("a", "") for _, labels in found}
    assert got == {value.encode("utf-8", "backslashreplace").decode() for value in values}
    assert {dict(labels)["b"] for _, labels in found} == {"x\\"}


@pytest.mark.parametrize("page", [ours, theirs])
def test_hostile_help_texts_come_back_as_they_were(page: Page) -> None:
    draw = random.Random(7)
    registry, texts = MetricsRegistry(), {}
    for index in range(2_000):
        text = "x" + "".join(draw.choice(HOSTILE) for _ in range(12)) + "x"
        texts[f"app_{index}"] = text.encode("utf-8", "backslashreplace").decode()
        Gauge(f"app_{index}", text, registry)
    got = {family.name: family.documentation for family in text_string_to_metric_families(page(registry))}
    assert got == texts


@pytest.mark.parametrize("page", [ours, theirs])
def test_a_label_value_cannot_forge_a_sample(registry: MetricsRegistry, page: Page) -> None:
    Counter("app_total", "Things.", registry, ("path",)).labels('x"} 1\nevil_total{a="b').inc()
    assert {name for name, _ in samples(page(registry))} == {"app_total"}


def test_the_page_says_when_a_cap_was_reached(registry: MetricsRegistry) -> None:
    counter = Counter("app_total", "Things.", registry, ("user",), max_series=3)
    assert OVERFLOW_METRIC not in ours(registry)
    for index in range(10):
        counter.labels(index).inc()
    found = samples(ours(registry))
    assert found[OVERFLOW_METRIC, frozenset({("metric", "app_total")})] == 7
    assert found["app_total", frozenset({("user", "__other__")})] == 7


def test_collectors_of_aioprometheus_stand_beside_ours(registry: MetricsRegistry) -> None:
    stock = collectors.Counter("stock_total", "Theirs.", registry=registry)
    stock.inc({"kind": "a"})
    collectors.Summary("stock_seconds", "Theirs.", registry=registry).observe({}, 0.5)
    found = samples(ours(filled(registry)))
    assert found["stock_total", frozenset({("kind", "a")})] == 1
    assert found["stock_seconds_count", frozenset()] == 1


def test_a_stock_collector_cannot_break_the_page(registry: MetricsRegistry) -> None:
    """aioprometheus checks and escapes nothing by itself."""
    hostile = 'x"} 1\nevil_total{a="\\'
    stock = collectors.Counter("stock_total", "two\nlines", {"zone": hostile}, registry=registry)
    stock.inc({"a-b": hostile, "0c": "x"})
    found = samples(ours(filled(registry)))
    labels = frozenset({("a_b", hostile), ("_0c", "x"), ("zone", hostile)})
    assert found["stock_total", labels] == 1
    assert "evil_total" not in {name for name, _ in found}


def test_a_collector_that_fails_costs_its_own_lines_only(
    registry: MetricsRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(collectors.Gauge):
        def get_all(self) -> Any:
            raise RuntimeError("no figures")

    Failing("failing", "Fails.", registry=registry)
    found = samples(ours(filled(registry)))
    assert found["app_plain_total", frozenset()] == 0
    assert "failing" not in {name for name, _ in found}
    assert "the collector failing cannot be rendered" in caplog.text


async def test_a_scrape_lets_other_tasks_run_and_counts_exactly(registry: MetricsRegistry) -> None:
    """While ten thousand series are rendered, the loop turns at least once a chunk."""
    counter = Counter("many_total", "Things.", registry, ("index",), max_series=10_000)
    for index in range(10_000):
        counter.labels(index).inc()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(turn())
    page = (await render(registry)).decode()
    beside.cancel()
    assert turns >= 20
    assert sum(samples(page).values()) == 10_000
