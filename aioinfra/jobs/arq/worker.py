"""`ArqWorker`: an `arq.Worker` whose run loop, claim, run and finish are the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import arq.worker
from arq.connections import ArqRedis, create_pool, log_redis_info
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from aioinfra.connection.address import parse_address
from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.arq.compose import compose, engine_of_tasks, places_of_tasks, stand_ins
from aioinfra.jobs.arq.duties import HEARTBEAT, beating, cancel_aborted, surviving
from aioinfra.jobs.arq.settings import EngineOptions, url_of_pool
from aioinfra.jobs.context import ProgressSink
from aioinfra.jobs.eviction import warn_of_eviction
from aioinfra.jobs.executors import Places
from aioinfra.jobs.job import Outcome, Released, Retried, Run, Succeeded
from aioinfra.jobs.task import Task
from aioinfra.jobs.uncancelled import uncancelled
from aioinfra.jobs.worker import JobWorker

logger = logging.getLogger("arq.worker")

_GOODBYE = 2.0


class ArqWorker(arq.worker.Worker):
    """An arq worker on the engine: same constructor, attributes, hooks and messages.

    Args:
        functions: as in arq.
        engine: what arq has no setting for.
        settings: every other argument of `arq.Worker`, by its name there. ``poll_delay`` and
            ``queue_read_limit`` have no meaning here.

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
        self._url: str | None = None
        self._places: Places | None = None
        self._picks = True
        self._signals = 0
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
        """A worker of a service's tasks: JSON only, strict about what it cannot read, patient at the start.

        Args:
            tasks: what it runs.
            url: the jobs server.
            engine: queues, lease, observer; what is None is filled in.
            progress: takes the jobs' progress.
            concurrency: jobs that run at once.
            settings: further arguments of `arq.Worker`, such as ``burst``.
        """
        places = places_of_tasks(tasks, engine, concurrency)
        filled = engine_of_tasks(tasks, engine, places, progress)
        assert filled.queues is not None  # noqa: S101 - narrows the type
        settings.setdefault("allow_abort_jobs", True)
        # Where arq's own parts say that they are.
        settings.setdefault("queue_name", next(iter(filled.queues.weights)))
        worker = cls(stand_ins(tasks), engine=filled, max_jobs=concurrency, **settings)
        worker._url, worker._places = url, places
        return worker

    # arq's life cycle

    async def main(self) -> None:
        """Work until stopped; as `arq.Worker.main`."""
        try:
            if self._pool is None:
                self._pool = await self._open_pool()
            self._heed_stop()
            async with RedisClient(self._url or url_of_pool(self.pool), self.engine.pool) as client:
                await self._main(client)
        finally:
            self._signals = 0

    def _heed_stop(self) -> None:
        """End the start-up when a signal has come before there was a task to cancel, or whose cancellation was
        lost: in Python 3.11 `asyncio.wait_for`, which redis-py uses, may swallow one that comes with the answer."""
        if self._signals:
            raise asyncio.CancelledError

    async def _open_pool(self) -> ArqRedis:
        if self._url is None:
            pool = await create_pool(self.redis_settings)
        else:  # without a first PING: the server may come later
            kind, arguments = parse_address(self._url).async_connection()
            timeout = self.engine.pool.socket_timeout
            connections = ConnectionPool(
                connection_class=kind, **arguments, socket_timeout=timeout, socket_connect_timeout=timeout
            )
            pool = ArqRedis(connections)
        pool.job_serializer, pool.job_deserializer = self.job_serializer, self.job_deserializer
        pool.default_queue_name, pool.expires_extra_ms = self.queue_name, self.expires_extra_ms
        return pool

    async def _main(self, client: RedisClient) -> None:
        logger.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        try:
            await log_redis_info(self.pool, logger.info)
        except (RedisError, OSError) as error:  # it may be forbidden, or the server be away for now
            logger.info("no information about redis: %s", type(error).__name__)
        if self._url is None:  # a service refuses such a server at its start
            await warn_of_eviction(client)
        self._heed_stop()
        self.ctx["redis"] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        self._heed_stop()
        worker = self._job_worker = compose(self, self.engine, client, self._count)
        self.tasks = self.job_tasks = worker.tasks
        if not self._picks:
            worker.pause()
        if self.burst:  # what is to run at startup belongs to the burst
            await self.heart_beat()
            self._heed_stop()
        started = self.jobs_complete + self.jobs_retried + self.jobs_failed
        limit = self.max_burst_jobs if self.max_burst_jobs < 0 else max(0, self.max_burst_jobs - started)
        async with beating(self._beat):
            try:
                await worker.run(burst=self.burst, burst_limit=limit)
            finally:
                self._job_worker = None
                if self._places is not None:
                    await uncancelled(asyncio.create_task(self._places.aclose()))

    # arq's periodic duties

    async def _beat(self) -> None:
        await self.heart_beat()
        if self.allow_abort_jobs and self.tasks:  # an idle worker has nothing to abort
            await surviving(cancel_aborted(self.pool, self._job_worker))

    async def heart_beat(self) -> None:
        """Record the health and enqueue cron jobs. Neither waits for the other, nor fails with the server."""
        last_health = self._last_health_check
        if not await surviving(self.record_health()):
            self._last_health_check = last_health
        now = datetime.fromtimestamp(self.engine.clock.time(), tz=self.timezone)
        await surviving(self.run_cron(now, max(self.poll_delay_s, HEARTBEAT)))

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """As in arq, but a tick that could not be enqueued is not over: it is tried again."""
        planned = [(job, job.next_run) for job in self.cron_jobs]
        try:
            await super().run_cron(n, delay, num_windows)
        except BaseException:
            for job, next_run in planned:
                job.next_run = next_run
            raise

    # Stopping

    @property
    def outliving(self) -> int:
        """Jobs and threads that have not ended although they were told to, or are over their limit."""
        stuck = 0 if self._places is None else self._places.threads.stuck
        return max(len(self.tasks), stuck)

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
        """Stop: running jobs get the engine's grace, if there is one, and are given back without counting a try.

        A second signal gives them back at once.
        """
        self._log_shutdown(signal.Signals(signum), "ongoing to cancel")
        self._stop(self.engine.grace or 0.0, signum)

    def handle_sig_wait_for_completion(self, signum: signal.Signals) -> None:
        """Stop, giving running jobs ``job_completion_wait`` seconds. A second signal gives them back at once."""
        logger.info("Setting allow_pick_jobs to `False`")
        self._picks = False
        self._log_shutdown(signal.Signals(signum), "to be completed")
        wait = float(self._job_completion_wait) if self.engine.grace is None else self.engine.grace
        self._stop(wait, signum)

    def _stop(self, grace: float, signum: signal.Signals) -> None:
        self._signals += 1
        if self._job_worker is not None and self._signals == 1 and grace:
            self._job_worker.stop(grace)
        elif self.main_task is not None:
            if self._job_worker is not None:
                self._job_worker.hurry()
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
        self._signals = 0
        if not self._pool:
            return
        try:
            with contextlib.suppress(RedisError, OSError, TimeoutError):  # the server may be gone by now
                async with asyncio.timeout(_GOODBYE):
                    await self.pool.delete(self.health_check_key)
            if self.on_shutdown:
                await self.on_shutdown(self.ctx)
        finally:
            pool, self._pool = self.pool, None
            # Cut short, redis-py would leave the descriptors of what it had not closed yet.
            await uncancelled(asyncio.create_task(pool.aclose(close_connection_pool=True)))

    def _count(self, _run: Run, outcome: Outcome) -> None:
        if isinstance(outcome, Succeeded):
            self.jobs_complete += 1
        elif isinstance(outcome, Retried | Released):
            self.jobs_retried += 1
        else:
            self.jobs_failed += 1


def _warn_of_pickle() -> None:
    """arq's default is kept for compatibility; said once a process by the warnings filter."""
    warnings.warn(
        "ArqWorker reads pickled jobs, as arq does: whoever can write to the Redis can run code here. "
        "Give job_serializer and job_deserializer to change that.",
        RuntimeWarning,
        stacklevel=3,
    )
