"""Latencies of the cache: right within their buckets, in constant memory, handed on unchanged."""

from __future__ import annotations

import random
import statistics
import sys

import pytest

from aioinfra.cache.latency import Latencies, Latency
from aioinfra.cache.manager import CacheManager


@pytest.mark.parametrize("typical", [3e-6, 0.0004, 0.2, 30])
def test_quantiles_are_off_by_less_than_a_twentieth(typical: float) -> None:
    chance = random.Random(7)
    latency = Latency()
    times = [typical * chance.lognormvariate(0, 0.5) for _ in range(5000)]
    for seconds in times:
        latency.record(seconds)
    assert latency.count == 5000
    assert latency.mean == pytest.approx(statistics.fmean(times))
    times.sort()
    assert latency.quantile(0.5) == pytest.approx(times[2499], rel=0.05)
    assert latency.quantile(0.99) == pytest.approx(times[4949], rel=0.05)


def test_any_time_fits_and_nothing_grows() -> None:
    latency = Latency()
    assert (latency.mean, latency.quantile(0.5)) == (0.0, 0.0)
    size = sys.getsizeof(latency._buckets)
    for seconds in (0.0, -1.0, 1e-12, 1e-6, 1e9):
        latency.record(seconds)
    assert latency.count == 5
    assert latency.quantile(1.0) > 100
    assert sys.getsizeof(latency._buckets) == size
    latencies = Latencies()
    for number in range(1000):
        latencies.operation(f"operation{number}", "ok", 0.1)
    assert len(latencies.as_dict()) == 32 * 4


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, object, object]] = []

    def operation(self, operation: str, outcome: str, seconds: float) -> None:
        self.told.append((operation, outcome, seconds))

    def keys(self, operation: str, hits: int, misses: int) -> None:
        self.told.append((operation, hits, misses))


async def test_what_a_cache_tells_is_kept_and_handed_on(redis_url: str, prefix: str) -> None:
    recorder = Recorder()
    latencies = Latencies(recorder)
    async with CacheManager(redis_url, namespace=prefix, observer=latencies) as cache:
        await cache.set("a", 1)
        await cache.get("a")
        await cache.get("nothing")
        await cache.mget(["a", "b"])
    latencies.operation("get", "fallback", 0.0)
    found = latencies.as_dict()
    assert (found["set_count"], found["get_count"], found["mget_count"]) == (1, 2, 1)
    for operation in ("set", "get", "mget"):
        assert 0 < found[f"{operation}_p50"] <= found[f"{operation}_p99"] < 5
        assert 0 < found[f"{operation}_mean"] < 5
    assert [one[0] for one in recorder.told if isinstance(one[1], str)] == [
        "set",
        "get",
        "get",
        "mget",
        "get",
    ]
    assert ("mget", 1, 1) in recorder.told
