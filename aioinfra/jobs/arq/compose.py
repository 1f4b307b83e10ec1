"""Builds a worker's collaborators from arq's settings and the engine's options."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
import arq.worker

from aioinfra.connection.pool import RedisClient
from aioinfra.jobs.arq.codec import ArqCodec
from aioinfra.jobs.arq.log import ArqLog
from aioinfra.jobs.arq.runnable import ArqRunnable
from aioinfra.jobs.arq.settings import EngineOptions
from aioinfra.jobs.claim import Claimer, QueueOptions
from aioinfra.jobs.context import ProgressSink
from aioinfra.jobs.execute import Runnable
from aioinfra.jobs.executors import Places, TaskRunnable
from aioinfra.jobs.finish import Finisher
from aioinfra.jobs.job import Claim, Outcome, Run
from aioinfra.jobs.joblog import ServiceLog
from aioinfra.jobs.lease import LeaseKeeper
from aioinfra.jobs.middleware import layers_with
from aioinfra.jobs.observer import JobObserver, guarded
from aioinfra.jobs.parts import WorkerParts
from aioinfra.jobs.payload import JsonCodec
from aioinfra.jobs.processes import ProcessOptions, ProcessPool
from aioinfra.jobs.records import printable
from aioinfra.jobs.redis_store import RedisJobStore, RedisLeaseStore, script_time
from aioinfra.jobs.routing import DEFAULT_QUEUE
from aioinfra.jobs.run import JobRunner, RunOptions
from aioinfra.jobs.surround import HookedRunner, Runner, SurroundedRunnable
from aioinfra.jobs.task import Task
from aioinfra.jobs.threads import Threads
from aioinfra.jobs.wake import Wake
from aioinfra.jobs.worker import JobWorker, WorkerOptions

logger = logging.getLogger("arq.worker")


def compose(
    worker: arq.worker.Worker,
    engine: EngineOptions,
    client: RedisClient,
    on_ended: Callable[[Run, Outcome], None],
) -> JobWorker:
    """The engine's worker behind an arq worker. No I/O.

    Args:
        worker: whose settings, functions and hooks are used.
        engine: what arq has no setting for.
        client: the jobs server; owned by the caller.
        on_ended: told of every run's outcome.
    """
    queues = engine.queues or QueueOptions({worker.queue_name: 1})
    store = RedisJobStore(client, now_ms=script_time(engine.clock))
    observer = guarded(engine.observer)
    finisher = Finisher(store, observer)
    parts = WorkerParts(
        Claimer(store, queues, lease=engine.lease.duration, aborts=worker.allow_abort_jobs),
        _runner(worker, engine, store, finisher, observer),
        finisher,
        Wake(client, list(queues.weights)),
        _lease_keeper(engine, client, finisher, observer),
        observer,
    )
    grace = float(worker._job_completion_wait) if engine.grace is None else engine.grace  # noqa: SLF001 - arq keeps it under this name alone
    options = WorkerOptions(worker.max_jobs, engine.lease, engine.safety_poll, grace)
    return JobWorker(parts, options, on_ended=on_ended)


def _runner(
    worker: arq.worker.Worker,
    engine: EngineOptions,
    store: RedisJobStore,
    finisher: Finisher,
    observer: JobObserver,
) -> Runner:
    functions: Mapping[str, Runnable] = {
        name: ArqRunnable(worker, function) for name, function in worker.functions.items()
    }
    runner = JobRunner(
        {**functions, **engine.runnables},
        engine.codec or ArqCodec(worker.job_serializer, worker.job_deserializer),
        finisher,
        store=store,
        observer=observer,
        log=engine.log or ArqLog(worker.functions.get, worker.log_results),
        options=engine.runs or RunOptions(unknown_task_grace=0, bury_unreadable=False),
    )
    return HookedRunner(runner, engine.hooks) if engine.hooks.end else runner


def _lease_keeper(
    engine: EngineOptions, client: RedisClient, finisher: Finisher, observer: JobObserver
) -> LeaseKeeper:
    now_ms = script_time(engine.clock)

    def report(claims: Sequence[Claim]) -> None:
        for claim in claims:
            if not finisher.is_under_way(
                claim
            ):  # else it may be gone because it is recorded; the answer will tell
                logger.warning(
                    "the lease of job %s is lost; what it returns will not be recorded",
                    printable(claim.job_id),
                )

    return LeaseKeeper(
        lambda: RedisLeaseStore(client.blocking_connection(), now_ms=now_ms),
        engine.lease,
        on_lost=report,
        on_error=lambda: observer.store_error("lease"),
        clock=engine.clock,
    )


def places_of_tasks(tasks: Sequence[Task[..., Any]], engine: EngineOptions, concurrency: int) -> Places:
    """Threads for every slot, and processes if a task wants one. Nothing is started; the caller closes them."""
    threads = Threads(anyio.CapacityLimiter(concurrency), engine.on_stuck)
    modules = {task.target.partition(":")[0] for task in tasks if task.task_options.run_in == "process"}
    if not modules:
        return Places(threads)
    options = engine.processes or ProcessOptions()
    return Places(threads, ProcessPool(replace(options, modules=(*options.modules, *sorted(modules)))))


def engine_of_tasks(
    tasks: Sequence[Task[..., Any]], engine: EngineOptions, places: Places, progress: ProgressSink
) -> EngineOptions:
    """The options filled in for a worker of tasks: JSON only, and strict about what it cannot read."""
    return replace(
        engine,
        codec=engine.codec or JsonCodec(),
        runnables={task.name: _runnable(task, engine, places, progress) for task in tasks},
        log=engine.log or ServiceLog(),
        runs=engine.runs or RunOptions(),
        queues=engine.queues or _weights_of(tasks),
    )


def _runnable(
    task: Task[..., Any], engine: EngineOptions, places: Places, progress: ProgressSink
) -> Runnable:
    """How the engine runs a task: with nothing around it if there is nothing to be around it."""
    runnable = TaskRunnable(task, places, progress)
    layers = layers_with("run", engine.middleware)
    if not layers and not engine.hooks.of_jobs:
        return runnable
    return SurroundedRunnable(runnable, layers, engine.hooks, progress)


def stand_ins(tasks: Sequence[Task[..., Any]]) -> list[arq.worker.Function]:
    """What arq lists in the tasks' place; the engine runs the tasks themselves."""
    return [arq.worker.func(_stand_in(task), name=task.name) for task in tasks]


def _weights_of(tasks: Sequence[Task[..., Any]]) -> QueueOptions:
    """Every queue that a task names, with equal weights."""
    return QueueOptions(dict.fromkeys((task.task_options.queue or DEFAULT_QUEUE for task in tasks), 1))


def _stand_in(task: Task[..., Any]) -> Callable[..., Any]:
    async def stand_in(_ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
        return await cast("Awaitable[Any]", task(*args, **kwargs))

    return stand_in
