"""OpenMetrics: negotiated, judged by the Python client's strict parser, with exemplars."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aioprometheus import collectors
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families

from aioinfra.metrics.exposition import answer, render_now
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.negotiation import OPENMETRICS, TEXT, negotiate
from aioinfra.metrics.registry import MetricsRegistry

HOSTILE = [*'"\\\n\r\t {},=#na', "é", "\x00", "\x85", "\u2028", "\ud800", "😀"]
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


def parsed(text: str) -> list[Any]:
    strict: Any = parser.text_string_to_metric_families
    return list(strict(text))


def page(registry: MetricsRegistry) -> str:
    return render_now(registry, OPENMETRICS).decode()


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0, */*;q=0.1", TEXT),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.7", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.2, */*", OPENMETRICS),
        ("," * 100_000 + "application/openmetrics-text", TEXT),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
    ],
    ids=range(14),
)
async def test_the_accept_header_decides(registry: MetricsRegistry, accept: str | None, wanted: str) -> None:
    assert negotiate(accept) == wanted
    content, content_type = await answer(registry, accept)
    assert content_type == wanted
    assert content.endswith(b"# EOF\n") == (wanted == OPENMETRICS)


def test_both_formats_say_the_same(registry: MetricsRegistry) -> None:
    Counter("app_total", "Things.", registry, ("kind",)).labels("a").add(3)
    Counter("app_requests", "No suffix.", registry).labels().inc()
    Counter("clash_total", "Its family is taken.", registry).labels().inc()
    Gauge("clash", "A gauge.", registry).labels().set(-2)
    histogram = Histogram("app_seconds", "Time.", registry, ("kind",), buckets=(0.1, 1, 2.5))
    for value in (0.05, 0.1, 1.5, 10):
        histogram.labels("x").observe(value)
    collectors.Counter("stock_total", "Theirs.", registry=registry).inc({"a-b": 'x"'})
    collectors.Summary("stock_seconds", "Theirs.", registry=registry).observe({}, 0.5)
    collectors.Gauge("stock_gauge", "Theirs.", registry=registry).set({}, float("inf"))

    def samples(families: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    strict = samples(parsed(page(registry)))
    plain = samples(text_string_to_metric_families(render_now(registry).decode()))
    plain["app_requests", frozenset()] = plain.pop(
        ("app_requests_total", frozenset())
    )  # that parser's own doing
    assert strict == plain
    assert strict["clash", frozenset()] == -2


def test_ten_thousand_hostile_values_and_helps_come_back_as_they_were(registry: MetricsRegistry) -> None:
    draw = random.Random(7)
    values: set[str] = set()
    while len(values) < 10_000:
        values.add("".join(draw.choice(HOSTILE) for _ in range(draw.randint(0, 12))))
    counter = Counter("app_total", "Things.", registry, ("a",), max_series=20_000)
    helps = {}
    for index, value in enumerate(sorted(values)):
        counter.labels(value).inc()
        Gauge(f"app_{index}", f"x{value}x", registry)
        helps[f"app_{index}"] = f"x{value}x".encode("utf-8", "backslashreplace").decode()
    families = {family.name: family for family in parsed(page(registry))}
    got = {sample.labels["a"] for sample in families.pop("app").samples}
    assert got == {value.encode("utf-8", "backslashreplace").decode() for value in values}
    assert {name: family.documentation for name, family in families.items()} == helps


def test_an_observation_leads_to_its_trace(registry: MetricsRegistry) -> None:
    slot = Histogram("app_seconds", "Time.", registry, ("kind",), buckets=(0.1, 1)).labels("x")
    slot.observe(0.05, "a" * 32)
    slot.observe(0.06)
    slot.observe(5, "b" * 32)
    slot.observe(6, "c" * 32)
    (family,) = parsed(page(registry))
    found = {sample.labels["le"]: sample.exemplar for sample in family.samples if "le" in sample.labels}
    assert found["0.1"] is not None
    assert (found["0.1"].labels, found["0.1"].value) == ({"trace_id": "a" * 32}, 0.05)
    assert found["1.0"] is None
    assert found["+Inf"] is not None
    assert found["+Inf"].labels == {"trace_id": "c" * 32}, "the latest of its bucket"
    assert "trace_id" not in render_now(registry).decode(), "the text format has no exemplars"


@pytest.mark.parametrize("trace_id", ['x"} 1\n# EOF\n', "\ud800", "y" * 65, "", "a b"], ids=range(5))
def test_what_is_no_trace_id_is_left_out(registry: MetricsRegistry, trace_id: str) -> None:
    slot = Histogram("app_seconds", "Time.", registry, buckets=(1,)).labels()
    slot.observe(0.5, trace_id)
    (family,) = parsed(page(registry))
    assert [sample.exemplar for sample in family.samples if sample.exemplar is not None] == []
    assert slot.cumulative() == [1, 1]


def test_a_histogram_of_negative_values_has_no_sum(registry: MetricsRegistry) -> None:
    Histogram("app_degrees", "Warmth.", registry, buckets=(-10, 0, 10)).labels().observe(-3)
    (family,) = parsed(page(registry))
    assert {sample.name for sample in family.samples} == {"app_degrees_bucket"}
