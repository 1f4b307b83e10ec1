"""What a service is made of, and how one of its workers works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aioinfra.cache.keys import check_key
from aioinfra.cache.options import DEFAULT_OPTIONS as CACHE_DEFAULTS
from aioinfra.cache.options import (
    MOST_ENTRIES,
    MOST_MEMORY_TTL,
    CacheOptions,
    Serialization,
    make_codec,
)
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.codec.pickle import SigningKey
from aioinfra.config import Settings
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.middleware import JobMiddleware, check_middleware
from aioinfra.jobs.routing import Routes
from aioinfra.jobs.supervised import Supervised
from aioinfra.metrics.loop_lag import DEFAULT_OPTIONS as LOOP_LAG_DEFAULTS
from aioinfra.metrics.loop_lag import LoopLagOptions


@dataclass(frozen=True, slots=True)
class CacheSetup:
    """How the cache of a service keeps values: the arguments of `CacheManager` that are not the service's own.

    Attributes:
        namespace: what its keys begin with on the server; None: CACHE_NAMESPACE, else that of `CacheManager`.
        serialization: "json", "msgpack" or "pickle", the latter with a signing key.
        signing_key: of pickled values, or several, newest first; None: CACHE_SIGNING_KEY.
        memory_cache_size: most values in L1, and in memory while the server is gone; 0 keeps none.
        memory_cache_ttl: longest life of a value in memory during an outage, seconds.
        enable_compression: zstd for values over 1 KB, where it saves a tenth.
        options: the rarely changed settings.

    Raises:
        InvalidArgument: naming the attribute.
    """

    namespace: str | None = None
    serialization: Serialization = "json"
    signing_key: SigningKey | None = field(default=None, repr=False)
    memory_cache_size: int = 1000
    memory_cache_ttl: float = 300.0
    enable_compression: bool = True
    options: CacheOptions = CACHE_DEFAULTS

    def __post_init__(self) -> None:
        if self.namespace is not None:
            check_key(self.namespace, "namespace")
        if (
            self.serialization != "pickle" or self.signing_key is not None
        ):  # else it may be in the environment
            make_codec(self.serialization, self.signing_key)
        check_whole("memory_cache_size", self.memory_cache_size, 0, MOST_ENTRIES)
        check_number("memory_cache_ttl", self.memory_cache_ttl, 0.001, MOST_MEMORY_TTL)
        if not isinstance(self.options, CacheOptions):
            raise InvalidArgument("options", "must be CacheOptions")


DEFAULT_CACHE_SETUP: Final = CacheSetup()


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a service is made of.

    Attributes:
        include: names of the modules that hold its tasks, imported when the service opens.
        queues: weight of each queue that its workers serve; queues named by tasks alone have 1.
        settings: instead of the environment.
        redis_url: the server of cache and jobs, instead of what the settings say.
        cache_redis_url, jobs_redis_url: their own servers, where they have any.
        cache: how the cache keeps values: namespace, serialization, L1 and the like.
        loop_lag: how the event loop is watched for what blocks it; None: it is not.
        configure_logging: whether opening the service sets up logging.
        cache_ttl: seconds that cached values live unless a call says otherwise.
        autodiscover: names of packages whose modules hold its tasks, imported with all their submodules when the
            service opens, or of plain modules.
        routes: queues of tasks that name none, by patterns of their names: ``{"shop.mail.*": "email"}``. The
            first that matches wins, in the order given; see `Routes`.
        middleware: around every enqueue and run of its tasks, the first one outermost; see `JobMiddleware`.
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
    autodiscover: Sequence[str] = ()
    routes: Mapping[str, str] = field(default_factory=dict)
    middleware: Sequence[JobMiddleware] = ()
    cache_redis_url: str | None = field(default=None, repr=False)
    jobs_redis_url: str | None = field(default=None, repr=False)
    cache: CacheSetup = DEFAULT_CACHE_SETUP
    loop_lag: LoopLagOptions | None = LOOP_LAG_DEFAULTS

    def __post_init__(self) -> None:
        if not isinstance(self.cache, CacheSetup):
            raise InvalidArgument(
                "cache", "must be a CacheSetup; the cache itself is made when the service opens"
            )
        for argument in ("include", "autodiscover"):
            check_modules(argument, getattr(self, argument))
        Routes(self.routes)
        check_middleware("middleware", self.middleware)
        if self.queues:
            QueueOptions(self.queues)


def check_modules(argument: str, names: object) -> None:
    """Raise InvalidArgument unless it is a list of absolute module names."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidArgument(argument, "must be a list of module names, not one string")
    for name in names:
        if not isinstance(name, str) or not all(name.split(".")):
            raise InvalidArgument(argument, "must be names of modules, such as 'shop.tasks'")


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How one worker process of a service works.

    Attributes:
        queues: weights of the queues to serve, or None for all of the service.
        concurrency: jobs that run at once.
        lease: seconds after which a killed worker's jobs run elsewhere.
        grace: seconds that running jobs get on SIGTERM.
        burst: end when the queues are empty.
        process_slots: processes for tasks with ``run_in="process"``; None: as many as there are processors.
        jobs_per_process: jobs after which such a process is replaced.
        supervised: the supervisor of this worker process, or None.
        limits: the most jobs of a queue that run in this worker at once; queues that are not named have none.
        strict: serve a queue only while all queues of a higher weight are empty.
    """

    queues: Mapping[str, int] | None = None
    concurrency: int = 100
    lease: float = 15.0
    grace: float = 15.0
    burst: bool = False
    process_slots: int | None = None
    jobs_per_process: int = 1_000
    supervised: Supervised | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    strict: bool = False


DEFAULT_OPTIONS: Final = ServiceOptions()
DEFAULT_SETUP: Final = WorkerSetup()
