"""The observers turn what cache, jobs and web tell into the metrics of the catalogue."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aioinfra.cache.observer import CacheObserver
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.observer import JobObserver
from aioinfra.metrics.catalogue import BY_NAME, CATALOGUE
from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.observers import CacheMetrics, HttpMetrics, JobMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.web.observer import HttpObserver


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


def value(registry: MetricsRegistry, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(render_now(registry).decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    raise AssertionError(f"no {name} with {labels}")


def test_the_cache_group(registry: MetricsRegistry) -> None:
    observer: CacheObserver = CacheMetrics(registry)
    observer.operation("get", "hit", 0.002)
    observer.operation("get", "hit", 0.002)
    observer.operation("get", "error", 3)
    observer.keys("mget", 5, 3)
    assert value(registry, "aioinfra_cache_operations_total", operation="get", outcome="hit") == 2
    assert value(registry, "aioinfra_cache_operations_total", operation="get", outcome="error") == 1
    assert value(registry, "aioinfra_cache_operation_seconds_count", operation="get") == 3
    assert value(registry, "aioinfra_cache_operation_seconds_bucket", operation="get", le="0.0025") == 2
    assert value(registry, "aioinfra_cache_keys_total", operation="mget", result="hit") == 5
    assert value(registry, "aioinfra_cache_keys_total", operation="mget", result="miss") == 3


def series(registry: MetricsRegistry, name: str, label: str) -> set[str]:
    """The values of one label of one metric."""
    families = text_string_to_metric_families(render_now(registry).decode())
    return {sample.labels[label] for family in families for sample in family.samples if sample.name == name}


def test_names_of_tasks_that_nobody_knows_make_no_series(registry: MetricsRegistry) -> None:
    observer = JobMetrics(registry, known_tasks={"refused": 1})
    observer.started("email", "send", 0.4)
    for index in range(5_000):
        observer.finished("email", f"junk-{index}", "released", 0)
        observer.enqueued("email", f"junk-{index}")
    observer.finished("email", "send", "succeeded", 1)
    observer.finished("email", "refused", "failed", 0)
    observer.enqueued("email", "refused")
    assert series(registry, "aioinfra_jobs_finished_total", "task") == {"__unknown__", "send", "refused"}
    assert series(registry, "aioinfra_jobs_run_seconds_count", "task") == {"__unknown__", "send", "refused"}
    enqueued = series(registry, "aioinfra_jobs_enqueued_total", "task")
    assert {"__other__", "refused", "junk-0"} < enqueued
    assert len(enqueued) == 202
    unknown = {"queue": "email", "task": "__unknown__", "outcome": "released"}
    assert value(registry, "aioinfra_jobs_finished_total", **unknown) == 5_000
    assert value(registry, "aioinfra_jobs_enqueued_total", queue="email", task="__other__") == 4_800


def test_long_label_values_are_cut(registry: MetricsRegistry) -> None:
    observer = JobMetrics(registry)
    observer.enqueued("q" * 1_000_000, "t" * 1_000_000)
    observer.started("email", "s" * 1_000, 0.1)
    observer.depth("q" * 1_000_000, 3)
    assert value(registry, "aioinfra_jobs_enqueued_total", queue="q" * 128, task="t" * 128) == 1
    assert value(registry, "aioinfra_jobs_started_total", queue="email", task="s" * 128) == 1
    assert len(render_now(registry)) < 20_000


def test_the_jobs_group(registry: MetricsRegistry) -> None:
    observer: JobObserver = JobMetrics(registry)
    observer.enqueued("email", "send")
    observer.claimed("email", 7)
    observer.started("email", "send", 0.4)
    observer.finished("email", "send", "succeeded", 1.5)
    observer.finished("email", "send", "failed", 0.5)
    observer.recorded(20, 0.003)
    observer.store_error("claim")
    observer.depth("email", 12)
    observer.depth("email", 9)
    observer.slots(3, 10)
    assert value(registry, "aioinfra_jobs_enqueued_total", queue="email", task="send") == 1
    assert value(registry, "aioinfra_jobs_claimed_total", queue="email") == 7
    assert value(registry, "aioinfra_jobs_started_total", queue="email", task="send") == 1
    assert value(registry, "aioinfra_jobs_wait_seconds_sum", queue="email") == 0.4
    finished = "aioinfra_jobs_finished_total"
    assert value(registry, finished, queue="email", task="send", outcome="succeeded") == 1
    assert value(registry, finished, queue="email", task="send", outcome="failed") == 1
    assert value(registry, "aioinfra_jobs_run_seconds_sum", queue="email", task="send") == 2
    assert value(registry, "aioinfra_jobs_recorded_total") == 20
    assert value(registry, "aioinfra_jobs_record_seconds_count") == 1
    assert value(registry, "aioinfra_jobs_store_errors_total", step="claim") == 1
    assert value(registry, "aioinfra_jobs_queue_depth", queue="email") == 9
    assert value(registry, "aioinfra_jobs_running") == 3
    assert value(registry, "aioinfra_jobs_slots") == 10


def test_the_http_group(registry: MetricsRegistry) -> None:
    observer: HttpObserver = HttpMetrics(registry)
    observer.request_started()
    observer.request_started()
    observer.request_finished("GET", "/users/{id}", 200, 0.01)
    assert value(registry, "aioinfra_http_requests_in_flight") == 1
    assert (
        value(registry, "aioinfra_http_requests_total", method="GET", route="/users/{id}", status="200") == 1
    )
    assert value(registry, "aioinfra_http_request_seconds_count", method="GET", route="/users/{id}") == 1


def test_names_from_outside_cost_a_bounded_amount(registry: MetricsRegistry) -> None:
    """A dead letter's task name is whatever somebody put on the queue."""
    observer = JobMetrics(registry)
    for index in range(15_000):
        observer.finished("email", f"unknown{index}", "dead", 0.1)
    assert len(render_now(registry).splitlines()) < 30_000
    assert len(observer._ends) <= 10_000
    total = sum(slot.value for slot in registry.counter("aioinfra_jobs_finished_total").slots())
    assert total == 15_000


def test_every_metric_of_the_catalogue_can_be_made_and_is_named_by_convention(
    registry: MetricsRegistry,
) -> None:
    assert len(BY_NAME) == len(CATALOGUE)
    for spec in CATALOGUE:
        made = getattr(registry, spec.kind)(spec.name)
        assert made is getattr(registry, spec.kind)(spec.name), "one of each"
        assert made.label_names == spec.labels
        assert (spec.kind == "counter") == spec.name.endswith("_total")
        assert (spec.kind == "histogram") == bool(spec.buckets)
        assert spec.kind != "histogram" or spec.name.endswith("_seconds")
        assert spec.name.startswith(f"aioinfra_{spec.group}_")
    pages = {family.name for family in text_string_to_metric_families(render_now(registry).decode())}
    assert pages == {spec.name.removesuffix("_total") for spec in CATALOGUE}


def test_observers_of_one_registry_share_their_metrics(registry: MetricsRegistry) -> None:
    CacheMetrics(registry).operation("get", "hit", 0.1)
    CacheMetrics(registry).operation("get", "hit", 0.1)
    assert value(registry, "aioinfra_cache_operations_total", operation="get", outcome="hit") == 2


def test_names_outside_the_catalogue_are_refused(registry: MetricsRegistry) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        registry.counter("made_up_total")
    with pytest.raises(InvalidArgument, match="name"):
        registry.gauge("aioinfra_cache_operations_total")
