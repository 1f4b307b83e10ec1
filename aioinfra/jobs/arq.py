"""The adapter to arq, and the only importer of it: `ArqWorker` is an `arq.Worker` whose run loop, claim, run and
finish are the engine's.

The drop-in keeps arq's constructor, attributes, hooks, ctx, log messages and pickle default. A `Service`'s worker
is an `ArqWorker` too, built by `from_tasks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import pickle
import signal
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote, urlencode

import anyio
import arq.worker
import msgspec
from arq.connections import ArqRedis, RedisSettings, create_pool, log_redis_info
from arq.constants import abort_jobs_ss, keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import SerializationError, serialize_job, serialize_result
from arq.utils import args_to_string, truncate
from redis.asyncio.connection import SSLConnection
from redis.exceptions import RedisError

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, PayloadTooLarge
from aioinfra.jobs.claim import Claimer, QueueOptions
from aioinfra.jobs.context import ProgressSink
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.executors import TaskRunnable, limited
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.job import (
    NO_HEADERS,
    Aborted,
    Claim,
    ErrorRecord,
    Failed,
    Job,
    Outcome,
    Released,
    Retried,
    Succeeded,
)
from aioinfra.jobs.joblog import ServiceLog
from aioinfra.jobs.lease import LeaseKeeper, LeaseOptions
from aioinfra.jobs.observer import JobObserver, SilentObserver
from aioinfra.jobs.payload import MAX_PAYLOAD, JobCodec, JsonCodec, ResultInfo, Run, error_of
from aioinfra.jobs.redis_store import RedisJobStore, RedisLeaseStore
from aioinfra.jobs.retry import Retry
from aioinfra.jobs.run import JobLog, JobRunner, RunOptions
from aioinfra.jobs.task import Task
from aioinfra.jobs.wake import Wake
from aioinfra.jobs.worker import JobWorker, WorkerOptions, WorkerParts

logger = logging.getLogger("arq.worker")

_HEARTBEAT = 0.5


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the engine adds to arq's settings.

    Attributes:
        queues: several queues with weights; None serves arq's one ``queue_name``.
        lease: how long a silent worker keeps its jobs.
        runs: what becomes of jobs that cannot simply run.
        safety_poll: seconds after which the queues are looked at although nothing was heard.
        grace: seconds that running jobs get on SIGTERM; None: arq's ``job_completion_wait``.
        codec: how jobs are written; None: arq's serialisers.
        runnables: tasks that are not arq functions, by name.
        observer, log: told of every run.
        pool: bounds of the engine's connections.
    """

    queues: QueueOptions | None = None
    lease: LeaseOptions = field(default_factory=LeaseOptions)
    runs: RunOptions = field(default_factory=lambda: RunOptions(unknown_task_grace=0, bury_unreadable=False))
    safety_poll: float = 1.0
    grace: float | None = None
    codec: JobCodec | None = None
    runnables: Mapping[str, Runnable] = field(default_factory=dict)
    observer: JobObserver = field(default_factory=SilentObserver)
    log: JobLog | None = None
    pool: PoolOptions = field(default_factory=lambda: PoolOptions(max_connections=8))


class ArqWorker(arq.worker.Worker):
    """An arq worker on the engine: same constructor, attributes, hooks and messages.

    Args:
        functions: as in arq.
        engine: what arq has no setting for.
        settings: every other argument of `arq.Worker`, by its name there.

    Raises:
        TypeError: a setting that arq does not know.
        InvalidArgument: a Redis setting that the engine does not support.
    """

    def __init__(
        self,
        functions: Sequence[Any] = (),
        *,
        engine: EngineOptions | None = None,
        **settings: Any,
    ) -> None:
        self._job_worker: JobWorker | None = None
        self._picks = True
        self._after_contexts: dict[str, dict[Any, Any]] = {}
        self.engine = engine or EngineOptions()
        super().__init__(functions, **settings)
        if self.engine.codec is None and self.job_deserializer is None:
            _warn_of_pickle()

    @classmethod
    def from_tasks(
        cls,
        tasks: Sequence[Task[..., Any]],
        url: str,
        *,
        engine: EngineOptions,
        progress: ProgressSink,
        concurrency: int = 100,
        **settings: Any,
    ) -> ArqWorker:
        """A worker of a service's tasks: JSON only, and strict about what it cannot read.

        Args:
            tasks: what it runs.
            url: the jobs server.
            engine: queues, lease, observer; codec and runnables are filled in.
            progress: takes the jobs' progress.
            concurrency: jobs that run at once.
            settings: further arguments of `arq.Worker`, such as ``burst``.
        """
        threads = anyio.CapacityLimiter(concurrency)
        runnables = {task.name: TaskRunnable(task, threads, progress) for task in tasks}
        filled = replace(
            engine,
            codec=engine.codec or JsonCodec(),
            runnables=runnables,
            log=engine.log or ServiceLog(),
            queues=engine.queues or _weights_of(tasks),
        )
        functions = [arq.worker.func(_stand_in(task), name=task.name) for task in tasks]
        settings.setdefault("redis_settings", RedisSettings.from_dsn(url))
        worker = cls(functions, engine=filled, max_jobs=concurrency, **settings)
        worker._url = url
        return worker

    _url: str | None = None

    # arq's life cycle

    async def main(self) -> None:
        """Work until stopped; as `arq.Worker.main`."""
        if self._pool is None:
            self._pool = await create_pool(
                self.redis_settings,
                job_deserializer=self.job_deserializer,
                job_serializer=self.job_serializer,
                default_queue_name=self.queue_name,
                expires_extra_ms=self.expires_extra_ms,
            )
        logger.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        await log_redis_info(self.pool, logger.info)
        self.ctx["redis"] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        async with RedisClient(self._url or url_of_pool(self.pool), self.engine.pool) as client:
            await self._work(client)

    async def _work(self, client: RedisClient) -> None:
        worker = self._job_worker = self._compose(client)
        self.tasks = self.job_tasks = worker.tasks
        if not self._picks:
            worker.pause()
        heart = asyncio.create_task(self._beat_heart(), name="aioinfra-arq-heartbeat")
        try:
            await worker.run(burst=self.burst, burst_limit=self.max_burst_jobs)
        finally:
            heart.cancel()
            await asyncio.wait([heart])

    def _compose(self, client: RedisClient) -> JobWorker:
        engine = self.engine
        queues = engine.queues or QueueOptions({self.queue_name: 1})
        store = RedisJobStore(client)
        observer = engine.observer
        finisher = Finisher(store, observer)
        codec = engine.codec or ArqCodec(self.job_serializer, self.job_deserializer)
        functions = {name: ArqRunnable(self, function) for name, function in self.functions.items()}
        runner = JobRunner(
            {**functions, **engine.runnables},
            codec,
            finisher,
            observer=observer,
            log=engine.log or ArqLog(self.log_results),
            options=engine.runs,
        )
        parts = WorkerParts(
            Claimer(store, queues, lease=engine.lease.duration, aborts=self.allow_abort_jobs),
            runner,
            finisher,
            Wake(client, list(queues.weights)),
            LeaseKeeper(
                lambda: RedisLeaseStore(client.blocking_connection()),
                engine.lease,
                on_lost=_report_lost,
                on_error=lambda: observer.store_error("lease"),
            ),
            observer,
        )
        grace = float(self._job_completion_wait) if engine.grace is None else engine.grace
        options = WorkerOptions(self.max_jobs, engine.lease, engine.safety_poll, grace)
        return JobWorker(parts, options, on_ended=self._count)

    async def _beat_heart(self) -> None:
        """arq's periodic duties: health key, cron jobs, abort requests. An outage of the server is waited out."""
        while True:
            try:
                await self.heart_beat()
                if self.allow_abort_jobs:
                    await self._cancel_aborted_jobs()
            except (RedisError, OSError) as error:
                logger.warning("heart beat failed: %s", type(error).__name__)
            await asyncio.sleep(_HEARTBEAT)

    async def _cancel_aborted_jobs(self) -> None:
        requested = [
            job_id.decode(errors="replace") for job_id in await self.pool.zrange(abort_jobs_ss, 0, -1)
        ]
        if self._job_worker is None:
            return
        aborted = [job_id for job_id in requested if self._job_worker.abort(job_id)]
        if aborted:
            await self.pool.zrem(abort_jobs_ss, *aborted)

    @property
    def allow_pick_jobs(self) -> bool:
        """Whether new jobs are claimed; may be set at any time."""
        return self._picks

    @allow_pick_jobs.setter
    def allow_pick_jobs(self, value: bool) -> None:
        self._picks = value
        if self._job_worker is not None:
            (self._job_worker.resume if value else self._job_worker.pause)()

    def handle_sig(self, signum: signal.Signals) -> None:
        """Stop: running jobs get the grace, if there is one, and are given back without counting a try."""
        self._log_shutdown(signal.Signals(signum), "ongoing to cancel")
        worker, first = self._job_worker, not self._asked_to_stop
        self._asked_to_stop = True
        if worker is not None and first and self.engine.grace:
            worker.stop()
        elif self.main_task is not None:
            self.main_task.cancel()
        if self.on_stop:
            self.on_stop(signal.Signals(signum))

    _asked_to_stop = False

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """Stop, giving running jobs ``job_completion_wait`` seconds."""
        logger.info("Setting allow_pick_jobs to `False`")
        self._picks = False
        self._log_shutdown(signal.Signals(signum), "to be completed")
        if self._job_worker is not None:
            self._job_worker.stop(float(self._job_completion_wait))
        elif self.main_task is not None:
            self.main_task.cancel()
        if self.on_stop:
            self.on_stop(signal.Signals(signum))

    def _log_shutdown(self, signum: signal.Signals, what: str) -> None:
        logger.info(
            "shutdown on %s ◆ %d jobs complete ◆ %d failed ◆ %d retries ◆ %d %s",
            signum.name,
            self.jobs_complete,
            self.jobs_failed,
            self.jobs_retried,
            len(self.tasks),
            what,
        )

    async def close(self) -> None:
        """End the run if it goes on, then close what it used; as `arq.Worker.close`."""
        if not self._handle_signals:
            self.handle_sig(signal.SIGUSR1)
        main = self.main_task
        if main is not None and not main.done() and main is not asyncio.current_task():
            await asyncio.wait([main])
        if not self._pool:
            return
        with contextlib.suppress(RedisError, OSError):  # the server may be gone by now
            await self.pool.delete(self.health_check_key)
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.pool.close(close_connection_pool=True)
        self._pool = None

    def _count(self, _claim: Claim, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            self.jobs_complete += 1
        elif isinstance(outcome, Retried | Released):
            self.jobs_retried += 1
        else:
            self.jobs_failed += 1

    # What an `ArqRunnable` needs

    def context_of(self, claim: Claim, job: Job) -> dict[Any, Any]:
        """The ctx dictionary that arq hands to functions and hooks."""
        return {
            **self.ctx,
            "job_id": claim.job_id,
            "job_try": claim.attempt,
            "enqueue_time": datetime.fromtimestamp(job.enqueued_ms / 1000, UTC),
            "score": claim.score,
        }

    def keep_for_after(self, claim: Claim, ctx: dict[Any, Any]) -> None:
        """Remember the ctx of a run for ``after_job_end``."""
        if self.after_job_end:
            self._after_contexts[claim.token] = ctx

    def take_for_after(self, claim: Claim) -> dict[Any, Any] | None:
        """The remembered ctx, once."""
        return self._after_contexts.pop(claim.token, None)


class ArqRunnable:
    """An arq function or cron job as the engine runs it, hooks included."""

    def __init__(self, worker: ArqWorker, function: arq.worker.Function | CronJob) -> None:
        self._worker = worker
        self._function = function
        self.name = function.name
        self.finishes_later = worker.after_job_end is not None
        self.keep_lease = float(keep_cronjob_progress) if isinstance(function, CronJob) else 0.0
        forever = function.keep_result_forever
        forever = worker.keep_result_forever if forever is None else forever
        kept = worker.keep_result_s if function.keep_result_s is None else function.keep_result_s
        self.keep_result = None if forever else float(kept or 0)
        self._timeout = worker.job_timeout_s if function.timeout_s is None else function.timeout_s
        self._max_tries = worker.max_tries if function.max_tries is None else function.max_tries

    def refuse(self, claim: Claim) -> Outcome | None:
        if claim.attempt <= self._max_tries:
            return None
        logger.warning("%s:%s max retries %d exceeded", claim.job_id, self.name, self._max_tries)
        return Failed(arq.worker.JobExecutionFailed(f"max {self._max_tries} retries exceeded"), bury=False)

    async def call(self, claim: Claim, job: Job) -> object:
        worker = self._worker
        ctx = worker.context_of(claim, job)
        if worker.on_job_start:
            await worker.on_job_start(ctx)
        worker.keep_for_after(claim, ctx)
        try:
            return await limited(self._function.coroutine(ctx, *job.args, **job.kwargs), self._timeout)
        finally:
            if worker.on_job_end:
                await worker.on_job_end(ctx)

    def judge(self, error: BaseException, claim: Claim) -> Outcome:  # noqa: ARG002 - the engine's signature
        if self._worker.retry_jobs:
            if isinstance(error, arq.worker.Retry):
                return Retried((error.defer_score or 0) / 1000)
            if isinstance(error, Retry):
                return Retried(error.delay or 0.0)
            if isinstance(error, asyncio.CancelledError | arq.worker.RetryJob):
                return Retried(0.0)
        return Failed(error, bury=False)

    async def after(self, claim: Claim, job: Job) -> None:  # noqa: ARG002 - the engine's signature
        ctx = self._worker.take_for_after(claim)
        if ctx is not None and self._worker.after_job_end:
            await self._worker.after_job_end(ctx)


class ArqCodec:
    """arq's own serialisers as a `JobCodec`: pickle unless the application chose others.

    Args:
        serializer, deserializer: as for `arq.Worker`; None is pickle, which runs whatever code a payload names:
            only for servers that nobody else can write to.
    """

    def __init__(
        self,
        serializer: Callable[[dict[str, Any]], bytes] | None = None,
        deserializer: Callable[[bytes], dict[str, Any]] | None = None,
    ) -> None:
        self._serializer = serializer
        self._load: Callable[[bytes], Any] = deserializer or pickle.loads

    def encode_job(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        enqueued_ms: int,
        headers: Mapping[str, str],
    ) -> bytes:
        def with_headers(data: dict[str, Any]) -> bytes:
            return (self._serializer or pickle.dumps)({**data, "h": dict(headers)} if headers else data)

        try:
            return serialize_job(function, args, dict(kwargs), None, enqueued_ms, serializer=with_headers)
        except SerializationError as error:
            raise EncodeError(function, "the arguments cannot be serialised") from error

    def decode_job(self, payload: bytes) -> Job:
        if len(payload) > MAX_PAYLOAD:
            raise PayloadTooLarge(f"a job of {len(payload)} bytes, {MAX_PAYLOAD} are allowed")
        try:
            data = self._load(payload)
            headers = data.get("h") or NO_HEADERS
            return Job(
                str(data["f"]), tuple(data["a"]), dict(data["k"]), int(data["et"]), data["t"],
                msgspec.convert(headers, dict[str, str]),
            )  # fmt: skip
        except Exception as error:
            raise DecodeError("unable to deserialize job") from error

    def encode_result(self, run: Run, outcome: Outcome) -> tuple[bytes, bool]:
        claim, job, started, finished = run
        value: Any = outcome.value if isinstance(outcome, Succeeded) else None
        if isinstance(outcome, Failed):
            value = outcome.error
        elif isinstance(outcome, Aborted):
            value = asyncio.CancelledError()
        data = serialize_result(
            job.function, job.args, job.kwargs, claim.attempt, job.enqueued_ms,
            isinstance(outcome, Succeeded), value, started, finished, f"{claim.job_id}:{job.function}",
            claim.queue, claim.job_id, serializer=self._serializer,
        )  # fmt: skip
        # arq's own stand-in for what cannot be serialised is a plain failed result.
        return data or b"", True

    def decode_result(self, payload: bytes) -> ResultInfo:
        try:
            data = self._load(payload)
            value = data["r"]
            if isinstance(value, asyncio.CancelledError):
                value = error_of(Aborted())
            elif isinstance(value, BaseException):
                value = error_of(Failed(value))
            elif not data["s"]:
                value = ErrorRecord("unknown", str(value))
            return ResultInfo(
                data["s"], value, data["f"], data["t"], data["et"], data["st"], data["ft"],
                data.get("q", "<unknown>"), data.get("id", "<unknown>"),
            )  # fmt: skip
        except Exception as error:
            raise DecodeError("unable to deserialize job result") from error


class ArqLog:
    """arq's own log messages, which people have alerts on."""

    def __init__(self, log_results: bool) -> None:
        self._log_results = log_results

    def started(self, claim: Claim, job: Job) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        waited = claim.claimed_ms - claim.score
        extra = f" try={claim.attempt}" if claim.attempt > 1 else ""
        if waited > 1200:
            extra += f" delayed={waited / 1000:0.2f}s"
        since = (claim.claimed_ms - job.enqueued_ms) / 1000
        text = args_to_string(job.args, job.kwargs)
        logger.info("%6.2fs → %s(%s)%s", since, _reference(claim, job), text, extra)

    def ended(self, claim: Claim, job: Job, outcome: Outcome, seconds: float) -> None:
        if isinstance(outcome, Failed):
            error = outcome.error
            told = (type(error), error, error.__traceback__)
            name = error.__class__.__name__
            logger.error(
                "%6.2fs ! %s failed, %s: %s", seconds, _reference(claim, job), name, error, exc_info=told
            )
        elif logger.isEnabledFor(logging.INFO):
            logger.info(self._line(outcome), seconds, _reference(claim, job), self._rest(outcome))

    def _line(self, outcome: Outcome) -> str:
        if isinstance(outcome, Succeeded):
            return "%6.2fs ← %s ● %s"
        if isinstance(outcome, Retried):
            return "%6.2fs ↻ %s retrying job in %s"
        return "%6.2fs ⊘ %s aborted%s" if isinstance(outcome, Aborted) else "%6.2fs ↻ %s %s"

    def _rest(self, outcome: Outcome) -> str:
        if isinstance(outcome, Retried):
            return f"{outcome.delay:0.2f}s"
        if isinstance(outcome, Released):
            return "cancelled, will be run again"
        if not isinstance(outcome, Succeeded) or outcome.value is None or not self._log_results:
            return ""
        try:
            return truncate(repr(outcome.value))
        except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything; the job has succeeded
            return f"<repr raised {type(error).__name__}>"


def worker_from_settings(
    settings: Any, *, engine: EngineOptions | None = None, **overrides: Any
) -> ArqWorker:
    """An `ArqWorker` from an arq settings class, inherited attributes included, or from a dictionary.

    Args:
        settings: ``WorkerSettings``, or a mapping with the same names.
        engine: what arq has no setting for.
        overrides: win over the settings.

    Raises:
        InvalidArgument: ``settings`` has no functions and no cron jobs.
    """
    known = set(inspect.signature(arq.worker.Worker).parameters)
    if isinstance(settings, Mapping):
        found = {name: value for name, value in settings.items() if name in known}
    else:
        found = {name: getattr(settings, name) for name in known if hasattr(settings, name)}
    found.update(overrides)
    if not found.get("functions") and not found.get("cron_jobs"):
        raise InvalidArgument("settings", "has neither functions nor cron_jobs")
    return ArqWorker(engine=engine, **found)


def url_of_pool(pool: ArqRedis) -> str:
    """The URL of the server that an arq pool talks to, for the engine's own connections.

    Raises:
        InvalidArgument: the pool is a Sentinel's, which the engine does not follow yet.
    """
    connections = pool.connection_pool
    options: dict[str, Any] = connections.connection_kwargs
    if hasattr(connections, "sentinel_manager"):
        raise InvalidArgument("redis_settings", "Sentinel is not supported by the engine yet")
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


def _reference(claim: Claim, job: Job) -> str:
    return f"{claim.job_id}:{job.function or '<unknown>'}"


def _report_lost(claims: Sequence[Claim]) -> None:
    for claim in claims:
        logger.warning("the lease of job %s is lost; what it returns will not be recorded", claim.job_id)


def _warn_of_pickle() -> None:
    """arq's default is kept for compatibility; said once a process by the warnings filter."""
    warnings.warn(
        "ArqWorker reads pickled jobs, as arq does: whoever can write to the Redis can run code here. "
        "Give job_serializer and job_deserializer to change that.",
        RuntimeWarning,
        stacklevel=3,
    )


def _weights_of(tasks: Sequence[Task[..., Any]]) -> QueueOptions:
    """Every queue that a task names, with equal weights."""
    return QueueOptions(dict.fromkeys((task.task_options.queue for task in tasks), 1))


def _stand_in(task: Task[..., Any]) -> Callable[..., Any]:
    """A coroutine function under which arq lists the task; the engine runs the task itself."""

    async def stand_in(_ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
        return await cast("Awaitable[Any]", task(*args, **kwargs))

    return stand_in
