"""A real Prometheus server scrapes the page, in both formats, and promtool has nothing to say about it."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable

import pytest

from aioinfra.metrics.catalogue import CATALOGUE
from aioinfra.metrics.exposition import render_now
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.registry import MetricsRegistry
from tests.metrics.conftest import Prometheus, serving

HOSTILE = [*'"\\\n\r\t {},=#na', "é", "\x00", "\x85", "\u2028", "\ud800", "😀"]
TRACE = "0123456789abcdef0123456789abcdef"


def hostile(count: int) -> set[str]:
    draw = random.Random(11)
    texts: set[str] = set()
    while len(texts) < count:
        texts.add("".join(draw.choice(HOSTILE) for _ in range(draw.randint(0, 12))))
    return texts


def encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def full_page() -> MetricsRegistry:
    """Every metric of the catalogue with a series, and those of an application."""
    registry = MetricsRegistry()
    for spec in CATALOGUE:
        family = getattr(registry, spec.kind)(spec.name)
        slot = family.labels(*("x" for _ in spec.labels))
        if spec.kind == "histogram":
            slot.observe(0.2, TRACE)
        else:
            slot.inc()
    return registry


@pytest.mark.timeout(90)
async def test_a_prometheus_server_reads_every_value_as_it_was(
    prometheus: Callable[[str], Prometheus],
) -> None:
    registry, values = full_page(), hostile(10_000)
    counter = Counter("app_total", "Things.", registry, ("a",), max_series=20_000)
    for value in values:
        counter.labels(value).inc()
    helps = {f"app_help_{index}": f"x{text}x" for index, text in enumerate(sorted(hostile(500)))}
    for name, text in helps.items():
        Gauge(name, text, registry)
    Counter("app_plain", "A counter without the suffix.", registry).labels().inc()
    async with serving(registry) as port:
        server = prometheus(
            f"  - {{job_name: negotiated, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
            f"  - {{job_name: text, metrics_path: /text, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}"
        )
        targets = await server.scraped(2)
        assert {(target["health"], target["lastError"]) for target in targets.values()} == {("up", "")}
        for job in ("negotiated", "text"):
            found = await server.until(lambda job=job: server.samples(f'app_total{{job="{job}"}}'))  # type: ignore[misc]  # a default binds the loop's value
            assert sorted(labels.get("a", "") for labels, _ in found) == sorted(map(encodable, values))
            assert server.samples(f'app_plain{{job="{job}"}}')[0][1] == 1, "its name is the same in both"
        documents = server.ask("targets/metadata", match_target='{job="negotiated"}')
        told = {entry["metric"]: entry["help"] for entry in documents}
        assert {name: told[name] for name in helps} == {name: encodable(text) for name, text in helps.items()}
        bucket = "aioinfra_http_request_seconds_bucket"
        (series,) = server.ask("query_exemplars", query=bucket, start="0", end="9999999999")
        assert series["exemplars"][0]["labels"] == {"trace_id": TRACE}
        assert float(series["exemplars"][0]["value"]) == 0.2


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH")
def test_promtool_finds_nothing_to_say_about_the_page() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render_now(full_page()),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH")
def test_promtool_would_say_something() -> None:
    registry = MetricsRegistry()
    Histogram("app_milliseconds", "Time.", registry)
    Counter("app_things", "Things.", registry)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render_now(registry),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
