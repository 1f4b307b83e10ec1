"""What exists while a service is open: found, opened in order, and handed to an exit stack that closes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from aioinfra.cache.default import default_cache
from aioinfra.cache.manager import CacheManager
from aioinfra.cache.observer import CacheObserver
from aioinfra.cache.options import DEFAULT_NAMESPACE
from aioinfra.config import Settings
from aioinfra.connection.default import default_redis
from aioinfra.connection.locate import locate_async, locate_jobs
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import ConfigError, StoreError
from aioinfra.jobs.client import ClientOptions, JobClient, default_client
from aioinfra.jobs.job import Progress
from aioinfra.jobs.middleware import JobMiddleware
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.retry import Retry
from aioinfra.jobs.routing import Routes
from aioinfra.logs.setup import current_logging, setup_logging
from aioinfra.metrics.observers import CacheMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.service.options import ServiceOptions
from aioinfra.service.pools import show_pools
from aioinfra.tracing import CacheSpans, TracedJobs, TracingOptions, initialize

logger = logging.getLogger("aioinfra.service")


@dataclass(frozen=True, slots=True)
class Parts:
    """What exists while a service is open; owned by its exit stack.

    Attributes:
        redis: the application's. Cache and jobs have pools of their own: its blocking commands do not starve them.
    """

    settings: Settings
    jobs_url: str
    cache: CacheManager
    jobs: JobClient
    job_store: RedisJobStore
    cache_redis: RedisClient
    jobs_redis: RedisClient
    redis: RedisClient
    middleware: Sequence[JobMiddleware] = ()

    async def health(self) -> dict[str, Any]:
        """See `Service.health`."""
        cache, jobs = await asyncio.gather(self._cache_health(), _ping(self.jobs_redis))
        well = cache["ok"] and cache["state"] == "healthy"
        status = ("ok" if well else "degraded") if jobs["ok"] else "down"
        return {"status": status, "cache": cache, "jobs": jobs}

    async def _cache_health(self) -> dict[str, Any]:
        """The server's answer, and what the cache makes of it: an outage is its breaker, open."""
        ping, state = await asyncio.gather(_ping(self.cache_redis), self.cache.health_check())
        return {
            **ping,
            "state": state.status,
            "reason": state.reason,
            "outage_seconds": state.outage_seconds,
            "remembered_keys": state.remembered_keys,
            "l1": state.l1,
            "l1_entries": state.l1_entries,
        }

    async def record_progress(self, job_id: str, progress: Progress) -> None:
        """Best effort: a server that is away for a moment must not fail a job that is well."""
        try:
            await self.job_store.set_progress(job_id, msgspec.json.encode(progress))
        except StoreError as error:
            logger.warning("progress of a job was not recorded (%s)", type(error).__name__)


def set_up_logging(options: ServiceOptions, settings: Settings, stack: AsyncExitStack) -> None:
    """Set up logging, unless that is not wanted or the application has done it itself."""
    if not options.configure_logging or current_logging() is not None:
        return
    logs = setup_logging(settings.log_level, settings.environment, settings.log_format, settings.service_name)
    stack.push_async_callback(logs.aflush)


async def open_parts(
    options: ServiceOptions,
    settings: Settings,
    metrics: MetricsRegistry,
    observer: JobObserver,
    stack: AsyncExitStack,
) -> Parts:
    """Find the servers and open cache and jobs; what was opened is the stack's at once, also when this fails."""
    app_url, cache_url, jobs_url = await _locate(options, settings, stack)
    middleware, observed = _traced(options.middleware, CacheMetrics(metrics), settings, stack)
    pool = PoolOptions(max_connections=settings.redis_max_connections)
    redis, cache_redis, jobs_redis = [RedisClient(url, pool) for url in (app_url, cache_url, jobs_url)]
    pools = {"app": redis, "cache": cache_redis, "jobs": jobs_redis}
    show_pools(metrics, pools, stack)
    for opened in pools.values():
        await stack.enter_async_context(opened)
    cache = _make_cache(options, settings, cache_redis, observed)
    await stack.enter_async_context(cache)
    client = ClientOptions(routes=Routes(options.routes), middleware=middleware)
    jobs = JobClient(jobs_redis, options=client, observer=observer)
    stack.push_async_callback(jobs.aclose)
    return Parts(
        settings, jobs_url, cache, jobs, RedisJobStore(jobs_redis), cache_redis, jobs_redis, redis, middleware
    )


def _make_cache(
    options: ServiceOptions, settings: Settings, client: RedisClient, observer: CacheObserver
) -> CacheManager:
    """What the options say; where they are silent, the settings."""
    setup = options.cache
    namespace = settings.cache_namespace if setup.namespace is None else setup.namespace
    signing_key = settings.cache_signing_keys() if setup.signing_key is None else setup.signing_key
    if setup.serialization == "pickle" and signing_key is None:
        raise ConfigError(
            "pickled values must be signed: set CACHE_SIGNING_KEY, or CacheSetup(signing_key=...)"
        )
    return CacheManager(
        client=client,
        default_ttl=options.cache_ttl,
        namespace=DEFAULT_NAMESPACE if namespace is None else namespace,
        memory_cache_size=setup.memory_cache_size,
        memory_cache_ttl=setup.memory_cache_ttl,
        enable_compression=setup.enable_compression,
        serialization=setup.serialization,
        signing_key=signing_key,
        options=setup.options,
        observer=observer,
    )


def _traced(
    middleware: Sequence[JobMiddleware], observer: CacheMetrics, settings: Settings, stack: AsyncExitStack
) -> tuple[Sequence[JobMiddleware], CacheObserver]:
    """What is around jobs, and who is told of the cache: with tracing if spans go anywhere."""
    token = settings.logfire_token
    tracing = initialize(
        TracingOptions(
            service_name=settings.service_name,
            environment=settings.environment,
            logfire_token=None if token is None else token.get_secret_value(),
        )
    )
    if tracing is None:
        return middleware, observer
    stack.push_async_callback(tracing.aflush)
    return (TracedJobs(tracing, (Retry,)), *middleware), CacheSpans(tracing, observer)


def install_defaults(parts: Parts, stack: AsyncExitStack) -> None:
    """Make cache, jobs and client the process defaults, until the stack unwinds."""
    default_cache.install(parts.cache)
    stack.callback(default_cache.withdraw, parts.cache)
    default_client.install(parts.jobs)
    stack.callback(default_client.withdraw, parts.jobs)
    default_redis.install(parts.redis)
    stack.callback(default_redis.withdraw, parts.redis)


async def _locate(options: ServiceOptions, settings: Settings, stack: AsyncExitStack) -> tuple[str, str, str]:
    """The URLs of the base server, which is the application's, of the cache's and of the jobs'."""
    base = await locate_async(settings, url=options.redis_url)
    if base.embedded is not None:
        stack.push_async_callback(base.embedded.aclose)
        logger.info("no Redis is configured: using %s", base.origin)
    cache_url, jobs_url = options.cache_redis_url, options.jobs_redis_url
    if options.redis_url is None:  # else the options say it all
        own, jobs = settings.own_cache_url(), locate_jobs(settings)
        if cache_url is None and own is not None:
            cache_url = own[0].get_secret_value()
        if jobs_url is None and jobs is not None:
            jobs_url = jobs.url
    return base.url, cache_url or base.url, jobs_url or base.url


async def _ping(client: RedisClient) -> dict[str, Any]:
    try:
        seconds = await client.ping()
    except StoreError as error:
        return {"ok": False, "server": client.location, "error": type(error).__name__}
    return {"ok": True, "server": client.location, "seconds": round(seconds, 6)}
