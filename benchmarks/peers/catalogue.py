"""Every contestant of `aioinfra bench`: what is installed, how it is set, and where its documentation says so.

A new one is an adapter beside this file, its environment here if it needs one, and a row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FAMILIES: Final = ("jobs", "cache", "local")

OWN: Final = ""
"""The environment that runs the harness, which has aioinfra."""

HIREDIS: Final = (
    "hiredis==3.5.0"  # redis-py's README: "for faster performance, install redis with hiredis support"
)
MSGSPEC: Final = "msgspec==0.22.0"

ENVIRONMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "charts": ("matplotlib==3.11.2",),
    # queues
    "arq": ("arq==0.28.0", "redis==5.3.1", HIREDIS),
    "saq": (
        "saq[redis]==0.26.4",
        "redis==7.4.1",
        HIREDIS,
        "typing-extensions==4.16.0",
    ),  # it imports that and does not say so
    "streaq": ("streaq==7.2.0", "coredis==6.9.0"),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "redis==8.1.0", HIREDIS),
    "celery": ("celery[redis]==5.7.0", "kombu==5.7.0", "redis==8.1.0", HIREDIS),
    "dramatiq": ("dramatiq[redis]==2.2.1", "redis==8.1.0", HIREDIS),
    "rq": ("rq==3.0.0", "redis==8.1.0", HIREDIS),
    "huey": ("huey==3.5.4", "redis==8.1.0", HIREDIS),
    # caches
    "redis5": ("redis==5.3.1", HIREDIS, MSGSPEC),
    "redis8": ("redis==8.1.0", HIREDIS, MSGSPEC),
    "coredis": ("coredis==6.9.0", MSGSPEC),
    "glide": ("valkey-glide==2.6.0", MSGSPEC),
    "cashews": ("cashews[redis]==7.6.0", "redis==8.1.0", HIREDIS),
    "aiocache": ("aiocache[redis]==0.12.3", "redis==8.1.0", HIREDIS),
    "fastapi-cache2": (
        "fastapi-cache2[redis]==0.2.2",
        "redis==4.6.0",
        HIREDIS,
        "jinja2==3.1.6",  # it imports that by way of starlette and does not say so
    ),
    # within the process
    "cachetools": ("cachetools==8.0.1", "cachetools-async==0.0.5"),
    "cachebox": ("cachebox==6.2.10",),
    "moka-py": ("moka-py==0.5.0",),
    "theine": ("theine==2.0.0",),
    "async-lru": ("async-lru==2.4.0",),
}
"""Requirements by environment: the contestant and what its speed depends on, pinned."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant.

    Attributes:
        name: as printed; unique.
        family: of `FAMILIES`.
        environment: of `ENVIRONMENTS`, or `OWN`.
        factory: ``module:name`` within ``benchmarks.peers``.
        options: keyword arguments of the factory; must survive JSON.
        packages: distributions whose versions are printed.
        setting: how it is set, in words.
        source: where its documentation says so.
        share: fraction of the jobs that it gets, for one that would take too long.
    """

    name: str
    family: str
    environment: str
    factory: str
    packages: tuple[str, ...]
    setting: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0

    def matches(self, part: str) -> bool:
        return part.lower() in self.name.lower()


CORES: Final = os.cpu_count() or 1

JOBS: Final = (
    Row(
        "aioinfra",
        "jobs",
        OWN,
        "aioinfra_service:ServiceJobs",
        ("aioinfra", "redis"),
        "100 jobs at a time; results, metrics and correlation on, JSON",
        "defaults",
        {"concurrency": 100},
    ),
    Row(
        "aioinfra ArqWorker",
        "jobs",
        OWN,
        "aioinfra_arq:DropIn",
        ("aioinfra", "arq"),
        "arq's client and codec, our worker; 100 jobs at a time, results looked for every 10 ms",
        "defaults but for max_jobs, as for arq",
        {"settings": {"max_jobs": 100}, "result_poll": 0.01},
    ),
    Row(
        "arq",
        "jobs",
        "arq",
        "arq_stock:ArqStock",
        ("arq", "redis"),
        "max_jobs 100, poll_delay 10 ms, results looked for every 10 ms",
        "API Reference: arq.worker.Worker, Job.result",
        {"settings": {"max_jobs": 100, "poll_delay": 0.01}, "result_poll": 0.01},
    ),
    Row(
        "saq",
        "jobs",
        "saq",
        "saq_jobs:Saq",
        ("saq", "redis"),
        "concurrency 10; the result by Job.refresh (pushed), again after 0.1 s",
        "README: Example",
        {"concurrency": 10},
    ),
    Row(
        "streaq",
        "jobs",
        "streaq",
        "streaq_jobs:Streaq",
        ("streaq", "coredis"),
        "concurrency 16 (its default; more is not faster); enqueue_many",
        "API: Worker, Worker.enqueue_many",
        {"concurrency": 16},
        share=0.5,
    ),
    Row(
        "taskiq stream",
        "jobs",
        "taskiq",
        "taskiq_jobs:Taskiq",
        ("taskiq", "taskiq-redis", "redis"),
        "RedisStreamBroker, 1 worker process, 100 tasks, check_interval 10 ms",
        "taskiq-redis README: Brokers; taskiq worker --help",
        {"kind": "stream", "concurrency": 100, "result_poll": 0.01},
    ),
    Row(
        "taskiq list",
        "jobs",
        "taskiq",
        "taskiq_jobs:Taskiq",
        ("taskiq", "taskiq-redis", "redis"),
        "ListQueueBroker (loses jobs with its worker), else as the stream",
        "taskiq-redis README: Brokers; taskiq worker --help",
        {"kind": "list", "concurrency": 100, "result_poll": 0.01},
    ),
    Row(
        "celery",
        "jobs",
        "celery",
        "celery_jobs:CeleryJobs",
        ("celery", "kombu", "redis"),
        "prefork, a child a core, prefetch multiplier 128; without gossip, mingle, heartbeat; group()",
        "User Guide: Optimizing, Prefetch Limits",
        {"processes": CORES, "prefetch": 128},
        share=0.5,
    ),
    Row(
        "dramatiq",
        "jobs",
        "dramatiq",
        "dramatiq_jobs:Dramatiq",
        ("dramatiq", "redis"),
        "1 process, 8 threads (its default), Results on Redis",
        "dramatiq --help; API: Results",
        {"threads": 8},
    ),
    Row(
        "rq",
        "jobs",
        "rq",
        "rq_jobs:Rq",
        ("rq", "redis"),
        "SimpleWorker, which does not fork; enqueue_many; latest_result, which is pushed",
        "Notes on Performance; API: Queue.enqueue_many, Job.latest_result",
        share=0.2,
    ),
    Row(
        "huey",
        "jobs",
        "huey",
        "huey_jobs:Huey",
        ("huey", "redis"),
        "4 threads, blocking pops, notify_result",
        "Consumer: Options; release notes of 3.0.0: notify_result",
        {"threads": 4},
    ),
)

CACHES: Final = (
    Row(
        "aioinfra",
        "cache",
        OWN,
        "aioinfra_cache:Cache",
        ("aioinfra", "redis"),
        "CacheManager, L1 off: JSON, metrics, fallback",
        "defaults",
    ),
    Row(
        "redis-py 5",
        "cache",
        "redis5",
        "redis_py:RedisPy",
        ("redis", "msgspec"),
        "default pool, msgspec JSON",
        "API: redis.asyncio.ConnectionPool",
    ),
    Row(
        "redis-py 8",
        "cache",
        "redis8",
        "redis_py:RedisPy",
        ("redis", "msgspec"),
        "default pool with room for 2,000 connections (by default it fails at 101), msgspec JSON",
        "API: redis.asyncio.ConnectionPool",
        {"most": 2000},
    ),
    Row(
        "redis-py 8, blocking pool",
        "cache",
        "redis8",
        "redis_py:RedisPy",
        ("redis", "msgspec"),
        "BlockingConnectionPool(50), msgspec JSON",
        "API: redis.asyncio.BlockingConnectionPool",
        {"pool": 50},
    ),
    Row(
        "coredis",
        "cache",
        "coredis",
        "coredis_cache:Coredis",
        ("coredis", "msgspec"),
        "at most 50 connections, which it multiplexes; msgspec JSON",
        "Handbook: Connections",
        {"connections": 50},
    ),
    Row(
        "valkey-glide",
        "cache",
        "glide",
        "glide_cache:Glide",
        ("valkey-glide", "msgspec"),
        "one multiplexed connection as it comes, msgspec JSON",
        "defaults",
    ),
    Row(
        "cashews",
        "cache",
        "cashews",
        "cashews_cache:Cashews",
        ("cashews", "redis"),
        "50 connections in a blocking pool, pickle, no client side cache",
        "README: Available Backends, Redis",
        {"connections": 50},
    ),
    Row(
        "aiocache",
        "cache",
        "aiocache",
        "aiocache_cache:Aiocache",
        ("aiocache", "redis"),
        "pool_max_size 2,000 (whoever finds none free fails), PickleSerializer",
        "API: RedisCache, PickleSerializer",
        {"connections": 2000},
    ),
    Row(
        "fastapi-cache2",
        "cache",
        "fastapi-cache2",
        "fastapi_cache_cache:FastapiCache",
        ("fastapi-cache2", "redis"),
        "decorated function, 50 connections in a blocking pool, PickleCoder",
        "README: Initialization, Custom coder",
        {"connections": 50},
    ),
)

LOCAL: Final = (
    Row(
        "dict, bare coroutine",
        "local",
        OWN,
        "plain_local:Plain",
        (),
        "a dict without bound; a coroutine that returns None: the floor",
        "",
    ),
    Row(
        "dict, by hand",
        "local",
        OWN,
        "plain_local:ByHand",
        (),
        "a dict without bound or time to live; an async function that looks into it first",
        "",
    ),
    Row(
        "aioinfra",
        "local",
        OWN,
        "aioinfra_local:Local",
        ("aioinfra",),
        "the bounded map of memory mode (a TTL each); @cached in memory mode: a hit in L1",
        "defaults",
    ),
    Row(
        "cachetools LRU",
        "local",
        "cachetools",
        "cachetools_local:Cachetools",
        ("cachetools", "cachetools-async"),
        "LRUCache by []; cachetools-async's decorator",
        "cachetools: Cache implementations; cachetools-async: README",
        {"kind": "lru"},
    ),
    Row(
        "cachetools TTL",
        "local",
        "cachetools",
        "cachetools_local:Cachetools",
        ("cachetools", "cachetools-async"),
        "TTLCache by []; cachetools-async's decorator",
        "cachetools: Cache implementations; cachetools-async: README",
        {"kind": "ttl"},
    ),
    Row(
        "cachebox LRU",
        "local",
        "cachebox",
        "cachebox_local:Cachebox",
        ("cachebox",),
        "LRUCache; its decorator as it comes",
        "README: Examples; API: cached",
        {"kind": "lru"},
    ),
    Row(
        "cachebox TTL",
        "local",
        "cachebox",
        "cachebox_local:Cachebox",
        ("cachebox",),
        "TTLCache; its decorator as it comes",
        "README: Examples; API: cached",
        {"kind": "ttl"},
    ),
    Row(
        "moka-py",
        "local",
        "moka-py",
        "moka_local:MokaPy",
        ("moka-py",),
        "TinyLFU with ttl",
        "README: Using moka_py.Moka, As a decorator",
    ),
    Row(
        "theine",
        "local",
        "theine",
        "theine_local:Theine",
        ("theine",),
        "nolock=True; the decorator with a key function",
        "README: Thread Safety by Default, Cache Decorator",
    ),
    Row(
        "async-lru",
        "local",
        "async-lru",
        "async_lru_local:AsyncLru",
        ("async-lru",),
        "alru_cache with ttl",
        "README: Usage",
    ),
    Row(
        "fastapi-cache2",
        "local",
        "fastapi-cache2",
        "decorators_local:FastapiCacheMemory",
        ("fastapi-cache2",),
        "@cache on InMemoryBackend, PickleCoder",
        "README: InMemoryBackend, Custom coder",
    ),
    Row(
        "aiocache",
        "local",
        "aiocache",
        "decorators_local:AiocacheMemory",
        ("aiocache",),
        "@cached on its SimpleMemoryCache",
        "README: Usage",
    ),
    Row(
        "cashews",
        "local",
        "cashews",
        "decorators_local:CashewsMemory",
        ("cashews",),
        "@cache on mem:// with a key template",
        "README: In-memory, Template Keys",
    ),
)

CATALOGUE: Final = JOBS + CACHES + LOCAL


def rows_of(family: str, only: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """A family's contestants; with ``only`` those whose name contains one of its parts, and always aioinfra.

    Raises:
        LookupError: a part is in no name.
    """
    rows = tuple(row for row in CATALOGUE if row.family == family)
    for part in only:
        if not any(row.matches(part) for row in rows):
            raise LookupError(part)
    return tuple(
        row for row in rows if not only or row.name == "aioinfra" or any(row.matches(part) for part in only)
    )
