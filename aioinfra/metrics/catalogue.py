"""Every metric of aioinfra: one table. Dashboards and alerts use these names and no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

_CALL: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_JOB: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its group (cache, jobs, http, metrics), name, kind, HELP text, labels, a histogram's buckets."""

    group: str
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


CATALOGUE: Final = (
    MetricSpec(
        "cache", "aioinfra_cache_operations_total", "counter", "Calls to the cache.", ("operation", "outcome")
    ),
    MetricSpec(
        "cache",
        "aioinfra_cache_operation_seconds",
        "histogram",
        "Duration of a call to the cache.",
        ("operation",),
        _CALL,
    ),
    MetricSpec(
        "cache", "aioinfra_cache_keys_total", "counter", "Keys that reads looked up.", ("operation", "result")
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_enqueued_total", "counter", "Jobs stored by this process.", ("queue", "task")
    ),
    MetricSpec("jobs", "aioinfra_jobs_claimed_total", "counter", "Jobs claimed by this process.", ("queue",)),
    MetricSpec("jobs", "aioinfra_jobs_started_total", "counter", "Runs started.", ("queue", "task")),
    MetricSpec(
        "jobs",
        "aioinfra_jobs_wait_seconds",
        "histogram",
        "Time from due to start of a run.",
        ("queue",),
        _JOB,
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_finished_total", "counter", "Runs ended.", ("queue", "task", "outcome")
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_run_seconds", "histogram", "Duration of a run.", ("queue", "task"), _JOB
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_recorded_total", "counter", "Ends of runs that the server has recorded."
    ),
    MetricSpec(
        "jobs",
        "aioinfra_jobs_record_seconds",
        "histogram",
        "Round trip that records a batch of ends.",
        (),
        _CALL,
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_store_errors_total", "counter", "Calls that the server failed.", ("step",)
    ),
    MetricSpec(
        "jobs", "aioinfra_jobs_queue_depth", "gauge", "Jobs on a queue, running ones included.", ("queue",)
    ),
    MetricSpec("jobs", "aioinfra_jobs_running", "gauge", "Jobs that run in this process."),
    MetricSpec("jobs", "aioinfra_jobs_slots", "gauge", "Jobs that may run in this process at once."),
    MetricSpec(
        "http", "aioinfra_http_requests_total", "counter", "Requests answered.", ("method", "route", "status")
    ),
    MetricSpec(
        "http",
        "aioinfra_http_request_seconds",
        "histogram",
        "Duration of a request.",
        ("method", "route"),
        _REQUEST,
    ),
    MetricSpec("http", "aioinfra_http_requests_in_flight", "gauge", "Requests being answered."),
    MetricSpec(
        "metrics",
        "aioinfra_metrics_overflow_total",
        "counter",
        "Uses of label values beyond the bound.",
        ("metric",),
    ),
)

BY_NAME: Final = {spec.name: spec for spec in CATALOGUE}
