"""What the engine adds to arq's settings, and where arq's settings say that the server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from arq.connections import ArqRedis
from redis.asyncio.connection import SSLConnection

from aioinfra.clock import SYSTEM_CLOCK, ThreadClock
from aioinfra.connection.pool import PoolOptions
from aioinfra.errors import InvalidArgument
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.hooks import NO_HOOKS, JobHooks
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.middleware import JobMiddleware
from aioinfra.jobs.observer import JobObserver, SilentObserver
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.processes import ProcessOptions
from aioinfra.jobs.run import JobLog, RunOptions


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the engine adds to arq's settings.

    Attributes:
        queues: several queues with weights; None serves arq's one ``queue_name``.
        lease: how long a silent worker keeps its jobs.
        runs: what becomes of jobs that cannot simply run; None: for a worker of tasks `RunOptions`' own
            defaults, for arq's functions as in arq: they fail at once and leave no dead letter.
        safety_poll: seconds after which the queues are looked at although nothing was heard.
        grace: seconds that running jobs get on SIGTERM; None: arq's ``job_completion_wait``.
        codec: how jobs are written; None: arq's serialisers.
        runnables: tasks that are not arq functions, by name.
        middleware, hooks: around the runs of tasks, and told of them; arq's functions have arq's own hooks.
        observer, log: told of every run.
        pool: bounds of the engine's connections.
        processes: keeps the processes of tasks that have some; None: as many as there are processors.
        on_stuck: told that a thread is over its limit and the process should be replaced; None: nobody does.
        clock: whose time makes jobs due and leases lapse: the server's and this machine's, but in tests.
    """

    queues: QueueOptions | None = None
    lease: LeaseOptions = field(default_factory=LeaseOptions)
    runs: RunOptions | None = None
    safety_poll: float = 1.0
    grace: float | None = None
    codec: JobCodec | None = None
    runnables: Mapping[str, Runnable] = field(default_factory=dict)
    middleware: Sequence[JobMiddleware] = ()
    hooks: JobHooks = NO_HOOKS
    observer: JobObserver = field(default_factory=SilentObserver)
    log: JobLog | None = None
    pool: PoolOptions = field(default_factory=lambda: PoolOptions(max_connections=8))
    processes: ProcessOptions | None = None
    on_stuck: Callable[[str], None] | None = None
    clock: ThreadClock = SYSTEM_CLOCK


def url_of_pool(pool: ArqRedis) -> str:
    """The URL of the server that an arq pool talks to, for the engine's own connections.

    Raises:
        InvalidArgument: the pool is a Sentinel's, which the engine does not follow yet, or needs what a URL
            cannot say.
    """
    connections = pool.connection_pool
    options: dict[str, Any] = connections.connection_kwargs
    if hasattr(connections, "sentinel_manager"):
        raise InvalidArgument("redis_settings", "Sentinel is not supported by the engine yet")
    for name in ("credential_provider", "ssl_ca_data"):
        if options.get(name):
            raise InvalidArgument("redis_settings", f"{name} is not supported by the engine")
    query = {"db": options.get("db") or 0}
    if "path" in options:
        for name in ("username", "password"):
            if options.get(name):
                query[name] = options[name]
        return f"unix://{quote(options['path'])}?{urlencode(query)}"
    scheme = "redis"
    if issubclass(connections.connection_class, SSLConnection):
        scheme = "rediss"
        wanted = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
        query |= {name: options[name] for name in wanted if options.get(name) is not None}
    login = ""
    if options.get("password") or options.get("username"):
        login = f"{quote(options.get('username') or '', safe='')}:{quote(options.get('password') or '', safe='')}@"
    host = options.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{login}{host}:{options.get('port', 6379)}?{urlencode(query)}"
