"""The convenience methods, trackers and decorators: what they record, in seconds, for every kind of function."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aioinfra import context
from aioinfra.errors import InvalidArgument
from aioinfra.metrics.collector import MetricsCollector, default_registry
from aioinfra.metrics.decorators import counted, in_progress, timed
from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.negotiation import OPENMETRICS
from aioinfra.metrics.registry import MetricsRegistry


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


@pytest.fixture
def metrics(registry: MetricsRegistry) -> MetricsCollector:
    return MetricsCollector(registry)


def value(registry: MetricsRegistry, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(render_now(registry).decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    raise AssertionError(f"no {name} with {labels}")


def test_each_method_fills_its_group(registry: MetricsRegistry, metrics: MetricsCollector) -> None:
    metrics.record_cache_operation("get", hit=True, duration=0.005)
    metrics.record_cache_operation("set", error=True)
    metrics.record_db_query_duration("SELECT", "table", 0.025)
    metrics.set_db_connections(active=3, idle=7)
    metrics.record_request("/users/{id}", "GET", 200, 0.01)
    metrics.record_model_request("llama", 1.5, "chat")
    metrics.record_job("send", 0.5, queue="email")
    assert value(registry, "aioinfra_cache_operations_total", operation="get", outcome="hit") == 1
    assert value(registry, "aioinfra_cache_operations_total", operation="set", outcome="error") == 1
    assert value(registry, "aioinfra_cache_operation_seconds_sum", operation="get") == 0.005
    assert value(registry, "aioinfra_cache_keys_total", operation="get", result="hit") == 1
    assert value(registry, "aioinfra_database_query_seconds_sum", operation="SELECT", table="table") == 0.025
    assert value(registry, "aioinfra_database_connections", state="idle") == 7
    answered = {"method": "GET", "route": "/users/{id}", "status": "200"}
    assert value(registry, "aioinfra_http_requests_total", **answered) == 1
    assert value(registry, "aioinfra_http_requests_in_flight") == 0
    assert value(registry, "aioinfra_model_request_seconds_sum", model="llama", operation="chat") == 1.5
    finished = {"queue": "email", "task": "send", "outcome": "succeeded"}
    assert value(registry, "aioinfra_jobs_finished_total", **finished) == 1


async def test_a_tracked_request_has_the_status_that_was_set(
    registry: MetricsRegistry, metrics: MetricsCollector
) -> None:
    async with metrics.track_request_duration("/users", "GET") as tracker:
        assert value(registry, "aioinfra_http_requests_in_flight") == 1
        await asyncio.sleep(0.02)
        tracker.set_status(204)
    with suppress(KeyError), metrics.track_request_duration("/users", "GET"):
        raise KeyError
    gone = metrics.track_request_duration("/users", "GET")
    with suppress(asyncio.CancelledError), gone:
        raise asyncio.CancelledError
    assert value(registry, "aioinfra_http_requests_in_flight") == 0
    for status in ("204", "500", "499"):
        assert (
            value(registry, "aioinfra_http_requests_total", method="GET", route="/users", status=status) == 1
        )
    spent = value(registry, "aioinfra_http_request_seconds_sum", method="GET", route="/users")
    assert 0.02 <= spent < 5


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda made: made.record_cache_operation("get", duration=-1), "duration"),
        (lambda made: made.record_db_query_duration("SELECT", "t", float("nan")), "duration"),
        (lambda made: made.record_request("/", "GET", 200, "1"), "duration"),
        (lambda made: made.record_request("/", "GET", True, 1), "status"),
        (lambda made: made.record_model_request("m", float("inf")), "duration"),
        (lambda made: made.set_db_connections(-1), "active"),
        (lambda made: made.track_request_duration("/", "GET").set_status(42), "status"),
        (lambda made: made.track_model_request("m").add_tokens(written=-1), "written"),
    ],
    ids=range(8),
)
def test_what_does_not_fit_is_named_and_leaves_no_trace(
    registry: MetricsRegistry, metrics: MetricsCollector, call: Any, argument: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        call(metrics)
    assert raised.value.argument == argument
    assert not [line for line in render_now(registry).decode().splitlines() if line.endswith(" 1")]


def test_before_a_service_it_counts_by_itself_and_then_there(registry: MetricsRegistry) -> None:
    metrics = MetricsCollector()

    @metrics.track_db_query("SELECT", "users")
    def query() -> None: ...

    query()
    own = metrics.registry
    default_registry.install(registry)
    try:
        query()
        query()
        counted_there = value(
            registry, "aioinfra_database_queries_total", operation="SELECT", table="users", outcome="ok"
        )
    finally:
        default_registry.withdraw(registry)
    assert counted_there == 2
    assert metrics.registry is own
    assert value(own, "aioinfra_database_queries_total", operation="SELECT", table="users", outcome="ok") == 1


async def test_every_kind_of_function_is_timed_to_its_end(registry: MetricsRegistry) -> None:
    seconds = Histogram("app_seconds", "Time.", registry, ("kind",))

    @timed(seconds, "async")
    async def wait() -> str:
        await asyncio.sleep(0.02)
        return "waited"

    @timed(seconds, "stream")
    async def stream() -> AsyncGenerator[int, None]:
        for item in range(2):
            await asyncio.sleep(0.02)
            yield item

    @timed(seconds, "plain")
    def block() -> str:
        time.sleep(0.02)
        return "blocked"

    @timed(seconds, "generator")
    def produce() -> Iterator[int]:
        time.sleep(0.02)
        yield 1

    started = stream()  # as long as nobody asks, nothing runs and nothing is measured
    assert [slot.cumulative()[-1] for slot in seconds.slots()] == [0, 0, 0, 0]
    assert (await wait(), block(), list(produce())) == ("waited", "blocked", [1])
    assert [item async for item in started] == [0, 1]
    for kind, least in (("async", 0.02), ("stream", 0.04), ("plain", 0.02), ("generator", 0.02)):
        slot = seconds.labels(kind)
        assert slot.cumulative()[-1] == 1
        assert least <= slot.total < 5
    assert wait.__name__ == "wait"
    assert asyncio.iscoroutinefunction(wait)


async def test_outcomes_of_calls_that_overlap(registry: MetricsRegistry) -> None:
    counter = Counter("app_calls_total", "Calls.", registry, ("what", "outcome"))
    running = Gauge("app_running", "Calls.", registry)
    go = asyncio.Event()

    @counted(counter, "wait")
    @in_progress(running)
    async def wait(*, fail: bool = False) -> None:
        await go.wait()
        if fail:
            raise ValueError

    calls = [asyncio.create_task(wait(fail=fail)) for fail in (False, False, True, False)]
    await asyncio.sleep(0)
    assert running.labels().value == 4
    calls[0].cancel()
    go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert running.labels().value == 0
    found = {slot.values: slot.value for slot in counter.slots()}
    assert found == {("wait", "ok"): 2, ("wait", "error"): 1, ("wait", "cancelled"): 1}


def test_labels_that_do_not_fit_are_refused_where_they_are_given(registry: MetricsRegistry) -> None:
    with pytest.raises(InvalidArgument, match="labels"):
        timed(Histogram("app_seconds", "Time.", registry, ("kind",)))
    with pytest.raises(InvalidArgument, match="labels"):
        counted(Counter("app_total", "Calls.", registry, ("outcome",)), "too many")


async def test_a_streaming_model_tells_its_first_item_and_its_end(
    registry: MetricsRegistry, metrics: MetricsCollector
) -> None:
    ready = asyncio.Event()

    @metrics.track_model_request("llama", "chat")
    async def answer() -> AsyncGenerator[str, str]:
        got = yield "first"
        await ready.wait()
        yield got

    labels = {"model": "llama", "operation": "chat"}
    async with aclosing(answer()) as stream:
        assert await anext(stream) == "first"
        assert value(registry, "aioinfra_model_first_item_seconds_count", **labels) == 1
        assert value(registry, "aioinfra_model_requests_in_flight", model="llama") == 1
        ready.set()
        assert await stream.asend("sent") == "sent"
    assert value(registry, "aioinfra_model_requests_in_flight", model="llama") == 0
    assert value(registry, "aioinfra_model_first_item_seconds_count", **labels) == 1
    assert value(registry, "aioinfra_model_requests_total", **labels, outcome="ok") == 1, (
        "closed early is no error"
    )
    with metrics.track_model_request("llama") as tracker:
        tracker.add_tokens(read=12, written=30)
    assert value(registry, "aioinfra_model_tokens_total", model="llama", direction="output") == 30


def test_an_observation_carries_the_correlation_id(
    registry: MetricsRegistry, metrics: MetricsCollector
) -> None:
    trace = context.new_id()
    with context.bound(request_id=trace):
        metrics.record_db_query_duration("SELECT", "users", 0.02)
    assert f'# {{trace_id="{trace}"}} 0.02 ' in render_now(registry, OPENMETRICS).decode()
