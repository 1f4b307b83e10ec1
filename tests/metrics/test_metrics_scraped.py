"""Figures that are read at a scrape: a cache's own totals, and the machine's."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping

import psutil
import pytest
from aioprometheus.renderer import render as stock_render
from prometheus_client.parser import text_string_to_metric_families

from aioinfra.cache.manager import CacheManager
from aioinfra.cache.observer import TotalsObserver
from aioinfra.metrics.exposition import render, render_now
from aioinfra.metrics.instruments import Gauge
from aioinfra.metrics.observers import CacheMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.metrics.system import SystemMetrics


@pytest.fixture
def registry() -> MetricsRegistry:
    return MetricsRegistry()


def samples(page: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


async def test_what_the_cache_counts_by_itself_is_on_the_page(
    registry: MetricsRegistry, valkey_url: str, prefix: str
) -> None:
    observer: TotalsObserver = CacheMetrics(registry)
    cache = CacheManager(valkey_url, namespace=prefix)

    def totals() -> Mapping[str, float]:
        return {**cache.get_stats(), "l1_state:up": 1}

    async def load() -> dict[str, str]:
        return {"text": "x" * 5_000}

    for opening in (1, 2):
        async with cache:
            observer.watch(totals)
            health = await cache.health_check()
            while health.l1 != "up":
                await asyncio.sleep(0.01)
                health = await cache.health_check()
            await cache.delete("a")
            for _ in range(5):
                await cache.get_or_load("a", load)
            page = samples(await render(registry))
            assert page["aioinfra_cache_loads_total", ()] == opening
            assert page["aioinfra_cache_l1_entries", ()] == 1
            assert page["aioinfra_cache_l1_bytes", ()] > 100
            assert page["aioinfra_cache_l1_state", ("up",)] == 1
            observer.unwatch(totals)
        page = samples(await render(registry))
        assert page["aioinfra_cache_l1_entries", ()] == page["aioinfra_cache_l1_state", ("up",)] == 0
        stats = cache.get_stats()
        assert page["aioinfra_cache_l1_hits_total", ()] == stats["l1_hits"] >= 3 * opening
        wanted = stats["hits"] + stats["misses"] - stats["l1_hits"]
        assert page["aioinfra_cache_l1_misses_total", ()] == wanted >= opening
        assert page["aioinfra_cache_compression_input_bytes_total", ()] == stats["compressed_from"] > 5_000
        assert 0 < page["aioinfra_cache_compression_output_bytes_total", ()] == stats["compressed_to"] < 5_000


def test_several_caches_add_up_and_counts_survive_their_ends(registry: MetricsRegistry) -> None:
    first, second = {"l1_hits": 100.0, "l1_entries": 2}, {"l1_hits": 0.0, "l1_entries": 3}
    one, other = CacheMetrics(registry), CacheMetrics(registry)

    def of_first() -> Mapping[str, float]:
        return first

    def of_second() -> Mapping[str, float]:
        return second

    one.watch(of_first)
    other.watch(of_second)
    first["l1_hits"], second["l1_hits"] = 107, 5
    page = samples(render_now(registry))
    assert page["aioinfra_cache_l1_hits_total", ()] == 12, (
        "what was counted before it opened is not counted again"
    )
    assert page["aioinfra_cache_l1_entries", ()] == 5
    first["l1_hits"] = 110
    one.unwatch(of_first)
    one.unwatch(of_first)
    second["l1_hits"] = 0  # one that went down would be a new one: never a decrease
    page = samples(render_now(registry))
    assert page["aioinfra_cache_l1_hits_total", ()] == 15
    assert page["aioinfra_cache_l1_entries", ()] == 3


def test_a_cache_that_fails_is_asked_no_longer(
    registry: MetricsRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    observer, broken = CacheMetrics(registry), False

    def source() -> Mapping[str, float]:
        if broken:
            raise RuntimeError
        return {"l1_entries": 4}

    observer.watch(source)
    broken = True
    assert samples(render_now(registry))["aioinfra_cache_l1_entries", ()] == 0
    render_now(registry)
    assert caplog.text.count("figures cannot be read") == 1


async def test_the_system_group_agrees_with_the_kernel(registry: MetricsRegistry) -> None:
    system = SystemMetrics(registry)
    page = samples(await render(registry))
    assert page["aioinfra_system_memory_bytes", ("total",)] == psutil.virtual_memory().total
    assert 0 < page["aioinfra_system_memory_bytes", ("available",)] <= psutil.virtual_memory().total
    assert page["aioinfra_system_cpus", ()] == os.cpu_count()
    assert page["aioinfra_system_process_memory_bytes", ()] > 1 << 20
    assert page["aioinfra_system_process_start_time_seconds", ()] == psutil.Process().create_time()
    for name in ("disk_io_bytes", "disk_io_operations"):
        assert page[f"aioinfra_system_{name}_total", ("read",)] >= 0
    for name in ("network_io_bytes", "network_io_packets"):
        assert page[f"aioinfra_system_{name}_total", ("receive",)] >= 0
    before = page["aioinfra_system_process_cpu_seconds_total", ("user",)]
    while os.times().user < before + 0.05:
        sum(range(10_000))
    later = samples(await render(registry))
    assert later["aioinfra_system_process_cpu_seconds_total", ("user",)] > before
    system.close()
    assert samples(await render(registry)) == later, "closed, it reads no more"


async def test_the_operating_system_is_asked_off_the_loop(registry: MetricsRegistry) -> None:
    asked: list[int] = []
    registry.before_scrape(lambda: asked.append(threading.get_ident()), blocking=True)
    registry.before_scrape(lambda: asked.append(threading.get_ident()))
    await render(registry)
    assert asked[0] != threading.get_ident() == asked[1]


async def test_a_reading_that_fails_costs_its_own_figures_only(
    registry: MetricsRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    slot = Gauge("app_things", "Things.", registry).labels()

    def fail() -> None:
        raise PermissionError

    registry.before_scrape(fail, blocking=True)
    registry.before_scrape(fail)
    registry.before_scrape(lambda: slot.set(5))
    assert samples(await render(registry))["app_things", ()] == 5
    await render(registry)
    assert caplog.text.count("figures cannot be read") == 1


def test_aioprometheus_own_renderer_sees_the_same_figures(registry: MetricsRegistry) -> None:
    slot = Gauge("app_things", "Things.", registry).labels()
    registry.before_scrape(slot.inc)
    content, _ = stock_render(registry, [])
    assert samples(content)["app_things", ()] == 1
