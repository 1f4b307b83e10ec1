"""The composition root: the only place that knows cache, jobs, logs and metrics at once.

A `Service` records an intent. Environment and files are read, servers found and connections opened at
``async with``, in order; everything is closed in reverse, whatever was opened when something fails on the way.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

import msgspec

from aioinfra.cache.decorator import CachedFunction, CachedSettings, cached, default_cache
from aioinfra.cache.manager import CacheManager
from aioinfra.config import Settings
from aioinfra.connection.locate import Located, locate_async, locate_jobs
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import ConfigError, InvalidArgument, LifecycleError, StoreError
from aioinfra.jobs.arq import ArqWorker, EngineOptions
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.client import JobClient, default_client
from aioinfra.jobs.eviction import await_safe_server
from aioinfra.jobs.job import Progress
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.jobs.run import RunOptions
from aioinfra.jobs.task import Task, TaskDecorator, TaskSettings, adopted_task, tasks_of
from aioinfra.logs.setup import current_logging, setup_logging
from aioinfra.metrics.observers import CacheMetrics, JobMetrics
from aioinfra.metrics.registry import MetricsRegistry

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("aioinfra.service")

DEFAULT_WEIGHTS: Mapping[str, int] = {"reports": 5, "email": 3, "analytics": 2, "cleanup": 1}
"""Weights of queues that carry these names; others have 1."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a service is made of.

    Attributes:
        include: names of the modules that hold its tasks, imported when the service opens.
        queues: weight of each queue that its workers serve; queues named by tasks alone have 1.
        settings: instead of the environment.
        redis_url: instead of what the settings say.
        configure_logging: whether opening the service sets up logging.
        cache_ttl: seconds that cached values live unless a call says otherwise.
        process_default: whether `cached`, `task` and the like use this service while it is open; of several
            services that are open at once in a process, one may.
    """

    include: Sequence[str] = ()
    queues: Mapping[str, int] = field(default_factory=dict)
    settings: Settings | None = None
    redis_url: str | None = field(default=None, repr=False)  # may hold a password
    configure_logging: bool = True
    cache_ttl: float = 300.0
    process_default: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.include, str):
            raise InvalidArgument("include", "must be a list of module names, not one string")
        if self.queues:
            QueueOptions(self.queues)


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How one worker process of a service works.

    Attributes:
        queues: weights of the queues to serve, or None for all of the service.
        concurrency: jobs that run at once.
        lease: seconds after which a killed worker's jobs run elsewhere.
        grace: seconds that running jobs get on SIGTERM.
        burst: end when the queues are empty.
    """

    queues: Mapping[str, int] | None = None
    concurrency: int = 100
    lease: float = 15.0
    grace: float = 15.0
    burst: bool = False


@dataclass(slots=True)
class _Open:
    """What exists while a service is open; owned by its exit stack."""

    settings: Settings
    jobs_url: str
    cache: CacheManager
    jobs: JobClient
    job_store: RedisJobStore
    cache_redis: RedisClient
    jobs_redis: RedisClient


class Service:
    """Cache, jobs, logs and metrics of one application, opened and closed together.

    Args:
        options: see `ServiceOptions`.

    Example::

        service = Service.from_env(include=["shop.tasks"])
        async with service:
            job = await send_email.delay("ada@example.org", subject="hello")
    """

    def __init__(self, options: ServiceOptions = ServiceOptions()) -> None:
        self._options = options
        self._tasks: dict[str, Task[..., Any]] = {}
        self._own_tasks: list[Task[..., Any]] = []  # those that enqueue with this service's client
        self._open: _Open | None = None
        self._stack: AsyncExitStack | None = None
        self.metrics = MetricsRegistry()
        self._job_metrics = JobMetrics(self.metrics, known_tasks=self._tasks)

    @classmethod
    def from_env(
        cls, *, include: Sequence[str] = (), queues: Mapping[str, int] | None = None, cache_ttl: float = 300.0
    ) -> Service:
        """A service whose settings come from the environment when it opens. No I/O now.

        Args:
            include: names of the modules that hold its tasks.
            queues: weights of its queues.
            cache_ttl: seconds that cached values live unless a call says otherwise.

        Raises:
            InvalidArgument: names what does not fit.
        """
        return cls(
            ServiceOptions(
                tuple(include) if not isinstance(include, str) else include, queues or {}, cache_ttl=cache_ttl
            )
        )

    # Parts

    @property
    def cache(self) -> CacheManager:
        """The cache. Raises LifecycleError while the service is not open."""
        return self._opened().cache

    @property
    def jobs(self) -> JobClient:
        """The job client. Raises LifecycleError while the service is not open."""
        return self._opened().jobs

    @property
    def settings(self) -> Settings:
        """The settings in force. Raises LifecycleError while the service is not open."""
        return self._opened().settings

    @property
    def is_open(self) -> bool:
        """Whether the service is open."""
        return self._open is not None

    @property
    def tasks(self) -> tuple[Task[..., Any], ...]:
        """The tasks found so far: those of the included modules once the service has been opened."""
        return tuple(self._tasks.values())

    def add_task(self, task: Task[..., Any]) -> None:
        """Let the service's workers run a task that is in none of the included modules.

        Raises:
            InvalidArgument: another task has its name.
        """
        known = self._tasks.setdefault(task.name, task)
        if known is not task:
            raise InvalidArgument("task", f"two tasks are named {task.name!r}")

    def task(self, **settings: Unpack[TaskSettings]) -> TaskDecorator:
        """As `aioinfra.task`, for this service: its workers run the task, and ``delay`` enqueues with its client.

        For processes with several services; a task of a module that is included needs no service of its own.
        Always with parentheses: ``@service.task(queue="email")``.
        """

        def adopt(task: Task[..., Any]) -> None:
            self.add_task(task)
            self._own_tasks.append(task)
            if self._open is not None:
                task.client = self._open.jobs

        return adopted_task(adopt, **settings)

    def cached(
        self, **settings: Unpack[CachedSettings]
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], CachedFunction[P, R]]:
        """As `aioinfra.cached`, with this service's cache. Always with parentheses: ``@service.cached(ttl=60)``."""
        return cached(cache=lambda: self.cache, **settings)

    def _opened(self) -> _Open:
        if self._open is None:
            raise LifecycleError("the service is not open: use it inside `async with service:`")
        return self._open

    # Life

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise LifecycleError("the service is open already")
        stack = self._stack = AsyncExitStack()
        try:
            self._open = await self._enter(stack)
        except BaseException:
            self._stack = None
            await stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack, self._open = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _enter(self, stack: AsyncExitStack) -> _Open:
        settings = self._options.settings or Settings.from_env()
        self._set_up_logging(settings, stack)
        for notice in settings.notices:
            logger.warning("%s", notice)
        self._collect_tasks()
        base, jobs_url = await self._locate(settings, stack)
        cache_redis = await self._client(
            base.url, PoolOptions(max_connections=settings.redis_max_connections), stack
        )
        jobs_redis = await self._client(
            jobs_url, PoolOptions(max_connections=settings.redis_max_connections), stack
        )
        cache = CacheManager(
            client=cache_redis, default_ttl=self._options.cache_ttl, observer=CacheMetrics(self.metrics)
        )
        await stack.enter_async_context(cache)
        jobs = JobClient(jobs_redis, observer=self._job_metrics)
        stack.push_async_callback(jobs.aclose)
        self._install(cache, jobs, stack)
        return _Open(settings, jobs_url, cache, jobs, RedisJobStore(jobs_redis), cache_redis, jobs_redis)

    def _set_up_logging(self, settings: Settings, stack: AsyncExitStack) -> None:
        if not self._options.configure_logging or current_logging() is not None:
            return  # the application has set up logging itself
        logs = setup_logging(
            settings.log_level, settings.environment, settings.log_format, settings.service_name
        )
        stack.push_async_callback(logs.aflush)

    def _collect_tasks(self) -> None:
        for name in self._options.include:
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                    raise  # the module is there, and imports something that is not
                raise ConfigError(f"include: there is no module {error.name!r}") from None
            for task in tasks_of(module):
                self.add_task(task)

    async def _locate(self, settings: Settings, stack: AsyncExitStack) -> tuple[Located, str]:
        base = await locate_async(settings, url=self._options.redis_url)
        if base.embedded is not None:
            stack.push_async_callback(base.embedded.aclose)
            logger.info("no Redis is configured: using %s", base.origin)
        jobs = locate_jobs(settings) if self._options.redis_url is None else None
        return base, base.url if jobs is None else jobs.url

    async def _client(self, url: str, options: PoolOptions, stack: AsyncExitStack) -> RedisClient:
        return await stack.enter_async_context(RedisClient(url, options))

    def _install(self, cache: CacheManager, jobs: JobClient, stack: AsyncExitStack) -> None:
        """Make the parts the process defaults, until the service closes."""
        self._bind_own_tasks(jobs)
        stack.callback(self._bind_own_tasks, None)
        if self._options.process_default:
            default_cache.install(cache)
            stack.callback(default_cache.withdraw, cache)
            default_client.install(jobs)
            stack.callback(default_client.withdraw, jobs)

    def _bind_own_tasks(self, client: JobClient | None) -> None:
        for task in self._own_tasks:
            task.client = client

    # Health

    async def health(self) -> dict[str, Any]:
        """How the parts are: ``status`` is ok, degraded (the cache's server is gone, memory answers) or down.

        Two round trips, bounded by the pools' timeouts. Never raises for a server that does not answer.
        """
        opened = self._opened()
        cache, jobs = await asyncio.gather(_ping(opened.cache_redis), _ping(opened.jobs_redis))
        status = "ok" if cache["ok"] and jobs["ok"] else "degraded" if jobs["ok"] else "down"
        return {"status": status, "cache": cache, "jobs": jobs}

    # Workers

    def worker(self, setup: WorkerSetup = WorkerSetup(), **settings: Any) -> ArqWorker:
        """A worker of the service's tasks, not yet running. The service must be open while it runs.

        Args:
            setup: see `WorkerSetup`.
            settings: further arguments of `arq.Worker`, such as ``handle_signals``.

        Raises:
            ConfigError: the service has no tasks.
            LifecycleError: the service is not open.
        """
        opened = self._opened()
        if not self._tasks:
            raise ConfigError("the service has no tasks: name their modules in include=[...]")
        engine = EngineOptions(
            queues=QueueOptions(self._weights(setup)),
            lease=LeaseOptions(setup.lease),
            runs=RunOptions(),
            grace=setup.grace,
            observer=self._job_metrics,
        )
        return ArqWorker.from_tasks(
            self.tasks,
            opened.jobs_url,
            engine=engine,
            progress=self._record_progress,
            concurrency=setup.concurrency,
            burst=setup.burst,
            **settings,
        )

    async def run_worker(self, setup: WorkerSetup = WorkerSetup()) -> int:
        """Run a worker until SIGTERM, SIGINT or, in a burst, until the queues are empty.

        A jobs server that does not answer is waited for.

        Returns:
            How many jobs did not end when they were cancelled, and so were given back while they go on here: a
            process that ends by waiting for them would wait for as long as they please.

        Raises:
            ConfigError: the jobs server may evict keys, which loses jobs silently; or there are no tasks.
        """

        async def check(_ctx: dict[Any, Any]) -> None:
            await await_safe_server(self._opened().jobs_redis)

        worker = self.worker(setup, on_startup=check)
        try:
            await worker.async_run()
        except asyncio.CancelledError:
            # A signal during the start, or a second one, cancels the worker's main task, not this one.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            await worker.close()
        return len(worker.tasks)

    def _weights(self, setup: WorkerSetup) -> dict[str, int]:
        weights = dict(self._options.queues)
        for task in self.tasks:
            queue = task.task_options.queue
            weights.setdefault(queue, DEFAULT_WEIGHTS.get(queue, 1))
        if setup.queues is None:
            return weights
        for queue in setup.queues.keys() - weights.keys():
            logger.warning("no task of the service names the queue %r, which this worker is to serve", queue)
        return dict(setup.queues)

    async def _record_progress(self, job_id: str, progress: Progress) -> None:
        """Best effort: a server that is away for a moment must not fail a job that is well."""
        try:
            await self._opened().job_store.set_progress(job_id, msgspec.json.encode(progress))
        except StoreError as error:
            logger.warning("progress of a job was not recorded (%s)", type(error).__name__)


async def _ping(client: RedisClient) -> dict[str, Any]:
    try:
        seconds = await client.ping()
    except StoreError as error:
        return {"ok": False, "server": client.location, "error": type(error).__name__}
    return {"ok": True, "server": client.location, "seconds": round(seconds, 6)}
