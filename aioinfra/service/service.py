"""`Service`: what an application holds.

A `Service` records an intent. Environment and files are read, servers found and connections opened at
``async with``, in order; everything is closed in reverse, whatever was opened when something fails on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from aioinfra.cache.decorator import CachedFunction, CachedSettings, cached
from aioinfra.cache.manager import CacheManager
from aioinfra.config import Settings
from aioinfra.connection.pool import RedisClient
from aioinfra.errors import ConfigError, LifecycleError
from aioinfra.jobs.admin import JobAdmin
from aioinfra.jobs.arq import ArqWorker
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.eviction import await_safe_server
from aioinfra.jobs.hooks import EndHook, JobHooks, LifeHook, StartHook, check_hook
from aioinfra.jobs.middleware import JobMiddleware
from aioinfra.jobs.task import Task, TaskDecorator, TaskSettings, adopted_task
from aioinfra.metrics.loop_lag import LoopLag
from aioinfra.metrics.observers import JobMetrics
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.service.options import (
    DEFAULT_CACHE_SETUP,
    DEFAULT_OPTIONS,
    DEFAULT_SETUP,
    CacheSetup,
    ServiceOptions,
    WorkerSetup,
    check_modules,
)
from aioinfra.service.parts import Parts, install_defaults, open_parts, set_up_logging
from aioinfra.service.tasks import TaskCollection
from aioinfra.service.worker import engine_options, queue_weights, run_to_end, with_hooks

P = ParamSpec("P")
R = TypeVar("R")
LifeHookT = TypeVar("LifeHookT", bound=LifeHook)
StartHookT = TypeVar("StartHookT", bound=StartHook)
EndHookT = TypeVar("EndHookT", bound=EndHook)

logger = logging.getLogger("aioinfra.service")


class Service:
    """Cache, jobs, logs and metrics of one application, opened and closed together.

    Args:
        options: see `ServiceOptions`.

    Example::

        service = Service.from_env(include=["shop.tasks"])
        async with service:
            job = await send_email.delay("ada@example.org", subject="hello")
    """

    def __init__(self, options: ServiceOptions = DEFAULT_OPTIONS) -> None:
        self._options = options
        self._tasks = TaskCollection()
        self._packages: list[str] = []
        self._hooks = JobHooks()
        self._open: Parts | None = None
        self._stack: AsyncExitStack | None = None
        self._loop_lag: LoopLag | None = None
        self.metrics = MetricsRegistry()
        self._job_metrics = JobMetrics(self.metrics, known_tasks=self._tasks.by_name)

    @classmethod
    def from_env(
        cls,
        *,
        include: Sequence[str] = (),
        autodiscover: Sequence[str] = (),
        queues: Mapping[str, int] | None = None,
        routes: Mapping[str, str] | None = None,
        cache_ttl: float = 300.0,
        middleware: Sequence[JobMiddleware] = (),
        cache: CacheSetup = DEFAULT_CACHE_SETUP,
    ) -> Service:
        """A service whose settings come from the environment when it opens. No I/O now.

        Args:
            include: names of the modules that hold its tasks.
            autodiscover: names of packages that hold its tasks, submodules included.
            queues: weights of its queues.
            routes: queues of tasks that name none: ``{"shop.mail.*": "email"}``; see `ServiceOptions`.
            cache_ttl: seconds that cached values live unless a call says otherwise.
            middleware: around every enqueue and run of its tasks.
            cache: how its cache keeps values: ``CacheSetup(namespace="shop:")``.

        Raises:
            InvalidArgument: names what does not fit.
        """
        return cls(
            ServiceOptions(
                include,
                queues or {},
                cache_ttl=cache_ttl,
                autodiscover=autodiscover,
                routes=routes or {},
                middleware=middleware,
                cache=cache,
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
    def admin(self) -> JobAdmin:
        """Controls of the jobs server: pause, requeue, run now. Raises LifecycleError while not open."""
        return JobAdmin(self._opened().jobs_redis)

    @property
    def redis(self) -> RedisClient:
        """The base server itself, as of `get_redis_client`. The service closes it; cache and jobs do not share it.

        Raises LifecycleError while the service is not open.
        """
        return self._opened().redis

    @property
    def loop_lag(self) -> LoopLag | None:
        """What watches the event loop, and knows what blocked it last; also of a service that has been closed."""
        return self._loop_lag

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
        return tuple(self._tasks.by_name.values())

    def add_task(self, task: Task[..., Any]) -> None:
        """Let the service's workers run a task that is in none of the included modules.

        Raises:
            InvalidArgument: another task has its name.
        """
        self._tasks.add(task)

    def autodiscover(self, *packages: str) -> None:
        """Let the service find its tasks in packages, submodules included, or in plain modules.

        An intent, as ``include``: they are imported when the service opens, in the order of their names.
        ``__main__`` modules are left out, since to import one is to run it; so are directories without
        ``__init__.py``.

        Raises:
            InvalidArgument: not the name of a module.
            LifecycleError: the service is open already.
        """
        if self._stack is not None:
            raise LifecycleError("autodiscover: the service is open already")
        check_modules("autodiscover", packages)
        self._packages += packages

    def task(self, **settings: Unpack[TaskSettings]) -> TaskDecorator:
        """As `aioinfra.task`, for this service: its workers run the task, and ``delay`` enqueues with its client.

        For processes with several services; a task of a module that is included needs no service of its own.
        Always with parentheses: ``@service.task(queue="email")``.
        """
        return adopted_task(self._tasks.adopt, **settings)

    def cached(
        self, **settings: Unpack[CachedSettings]
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], CachedFunction[P, R]]:
        """As `aioinfra.cached`, with this service's cache. Always with parentheses: ``@service.cached(ttl=60)``."""
        return cached(cache=lambda: self.cache, **settings)

    def _opened(self) -> Parts:
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

    async def _enter(self, stack: AsyncExitStack) -> Parts:
        options = self._options
        settings = options.settings or Settings.from_env()
        set_up_logging(options, settings, stack)
        for notice in settings.notices:
            logger.warning("%s", notice)
        self._tasks.include(options.include)
        self._tasks.discover((*options.autodiscover, *self._packages))
        parts = await open_parts(options, settings, self.metrics, self._job_metrics, stack)
        self._tasks.bind(parts.jobs)
        stack.callback(self._tasks.bind, None)
        if options.process_default:
            install_defaults(parts, stack)
        if (
            options.loop_lag is not None
        ):  # last: what imports and opens takes its time, and nobody waits for it yet
            self._loop_lag = await stack.enter_async_context(LoopLag(self.metrics, options.loop_lag))
        return parts

    # Health

    async def health(self) -> dict[str, Any]:
        """How the parts are: ``status`` is ok, degraded (memory answers for the cache's server, or keeps what
        it does not take) or down.

        Three round trips, bounded by the pools' timeouts. Never raises for a server that does not answer.
        """
        return await self._opened().health()

    # Hooks of its workers: see `JobHooks` for when they are called, and register them before the worker is made

    def on_startup(self, hook: LifeHookT) -> LifeHookT:
        """Decorator: call it when a worker starts, before it claims anything. An error ends the worker."""
        check_hook("on_startup", hook)
        self._hooks.startup.append(hook)
        return hook

    def on_shutdown(self, hook: LifeHookT) -> LifeHookT:
        """Decorator: call it when a worker has ended; the last one registered is called first."""
        check_hook("on_shutdown", hook)
        self._hooks.shutdown.append(hook)
        return hook

    def on_job_start(self, hook: StartHookT) -> StartHookT:
        """Decorator: call it with the `JobContext` before a job's task. An error is logged, and the job goes on."""
        check_hook("on_job_start", hook)
        self._hooks.start.append(hook)
        return hook

    def on_job_end(self, hook: EndHookT) -> EndHookT:
        """Decorator: call it with the `JobContext` and the `Outcome` of a job that was started."""
        check_hook("on_job_end", hook)
        self._hooks.end.append(hook)
        return hook

    # Workers

    def worker(self, setup: WorkerSetup = DEFAULT_SETUP, **settings: Any) -> ArqWorker:
        """A worker of the service's tasks, not yet running. The service must be open while it runs.

        Args:
            setup: see `WorkerSetup`.
            settings: further arguments of `arq.Worker`, such as ``handle_signals``.

        Raises:
            ConfigError: the service has no tasks.
            LifecycleError: the service is not open.
        """
        opened = self._opened()
        if not self._tasks.by_name:
            raise ConfigError("the service has no tasks: name their modules in include=[...]")
        weights = queue_weights(self.tasks, opened.jobs.queue_of, self._options.queues, setup)
        engine = engine_options(setup, weights, self._job_metrics, opened.settings)
        return ArqWorker.from_tasks(
            self.tasks,
            opened.jobs_url,
            engine=replace(engine, middleware=opened.middleware, hooks=self._hooks),
            progress=opened.record_progress,
            concurrency=setup.concurrency,
            burst=setup.burst,
            **with_hooks(settings, self._hooks),
        )

    async def run_worker(self, setup: WorkerSetup = DEFAULT_SETUP) -> int:
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
            if setup.supervised is not None:
                setup.supervised.ready()

        return await run_to_end(self.worker(setup, on_startup=check), setup.supervised)
