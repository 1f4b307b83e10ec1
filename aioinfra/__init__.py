"""Async-first toolkit for asyncio services: cache, background jobs, metrics and correlation logging.

Names are loaded when they are first used: `import aioinfra` alone reads no other module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioinfra.backoff import Backoff
    from aioinfra.cache.cached_many import cached_many
    from aioinfra.cache.decorator import cached
    from aioinfra.cache.default import use_cache
    from aioinfra.cache.freshness import Freshness
    from aioinfra.cache.glob import escape
    from aioinfra.cache.manager import CacheManager
    from aioinfra.cache.options import CacheOptions, NearOptions
    from aioinfra.cache.store import MISS, NO_EXPIRY
    from aioinfra.cache.warm import WarmOptions
    from aioinfra.connection.default import get_redis_client
    from aioinfra.connection.pool import RedisClient
    from aioinfra.context import bound, clear_request_context, set_request_context
    from aioinfra.jobs.context import JobContext
    from aioinfra.jobs.handle import JobHandle
    from aioinfra.jobs.job import JobStatus
    from aioinfra.jobs.limits import SoftTimeLimit
    from aioinfra.jobs.middleware import JobMiddleware
    from aioinfra.jobs.retry import Retry
    from aioinfra.jobs.task import task
    from aioinfra.logs.setup import get_logger, setup_logging
    from aioinfra.service import CacheSetup, Service

__version__ = "0.1.0"

_HOMES = {
    "Backoff": "aioinfra.backoff",
    "CacheManager": "aioinfra.cache.manager",
    "JobContext": "aioinfra.jobs.context",
    "JobHandle": "aioinfra.jobs.handle",
    "JobMiddleware": "aioinfra.jobs.middleware",
    "JobStatus": "aioinfra.jobs.job",
    "CacheOptions": "aioinfra.cache.options",
    "CacheSetup": "aioinfra.service",
    "Freshness": "aioinfra.cache.freshness",
    "NearOptions": "aioinfra.cache.options",
    "MISS": "aioinfra.cache.store",
    "NO_EXPIRY": "aioinfra.cache.store",
    "RedisClient": "aioinfra.connection.pool",
    "Retry": "aioinfra.jobs.retry",
    "Service": "aioinfra.service",
    "SoftTimeLimit": "aioinfra.jobs.limits",
    "WarmOptions": "aioinfra.cache.warm",
    "bound": "aioinfra.context",
    "cached": "aioinfra.cache.decorator",
    "cached_many": "aioinfra.cache.cached_many",
    "clear_request_context": "aioinfra.context",
    "escape": "aioinfra.cache.glob",
    "get_logger": "aioinfra.logs.setup",
    "get_redis_client": "aioinfra.connection.default",
    "set_request_context": "aioinfra.context",
    "setup_logging": "aioinfra.logs.setup",
    "task": "aioinfra.jobs.task",
    "use_cache": "aioinfra.cache.default",
}

__all__ = [
    "MISS",
    "NO_EXPIRY",
    "Backoff",
    "CacheManager",
    "CacheOptions",
    "CacheSetup",
    "Freshness",
    "JobContext",
    "JobHandle",
    "JobMiddleware",
    "JobStatus",
    "NearOptions",
    "RedisClient",
    "Retry",
    "Service",
    "SoftTimeLimit",
    "WarmOptions",
    "bound",
    "cached",
    "cached_many",
    "clear_request_context",
    "escape",
    "get_logger",
    "get_redis_client",
    "set_request_context",
    "setup_logging",
    "task",
    "use_cache",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
