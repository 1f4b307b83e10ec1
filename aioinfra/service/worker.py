"""A service's workers: which queues they serve and how much of each, and a run from start to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aioinfra.config import Settings
from aioinfra.jobs.arq import ArqWorker, EngineOptions
from aioinfra.jobs.claim import QueueOptions
from aioinfra.jobs.hooks import JobHooks
from aioinfra.jobs.lease import LeaseOptions
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.process_messages import ChildSetup
from aioinfra.jobs.processes import ProcessOptions
from aioinfra.jobs.run import RunOptions
from aioinfra.jobs.supervised import Supervised
from aioinfra.jobs.task import Task
from aioinfra.logs.setup import current_logging
from aioinfra.service.options import WorkerSetup

logger = logging.getLogger("aioinfra.service")

DEFAULT_WEIGHTS: Mapping[str, int] = {"reports": 5, "email": 3, "analytics": 2, "cleanup": 1}
"""Weights of queues that carry these names; others have 1."""


def engine_options(
    setup: WorkerSetup, weights: Mapping[str, int], observer: JobObserver, settings: Settings
) -> EngineOptions:
    """The engine's options for one worker."""
    supervised = setup.supervised
    return EngineOptions(
        queues=QueueOptions(weights, setup.limits, setup.strict),
        lease=LeaseOptions(setup.lease),
        runs=RunOptions(),
        grace=setup.grace,
        observer=observer,
        processes=ProcessOptions(setup.process_slots, setup.jobs_per_process, _same_logging(settings)),
        on_stuck=None if supervised is None else supervised.leave,
    )


def _same_logging(settings: Settings) -> ChildSetup | None:
    """Has a process child write its log lines as this process does; None where the application sees to logging."""
    if current_logging() is None:
        return None
    return ChildSetup(
        "aioinfra.logs.setup:setup_logging",
        {
            "log_level": settings.log_level,
            "environment": settings.environment,
            "log_format": settings.log_format,
            "service_name": settings.service_name,
        },
    )


def queue_weights(
    tasks: Iterable[Task[..., Any]],
    queue_of: Callable[[str], str],
    queues: Mapping[str, int],
    setup: WorkerSetup,
) -> dict[str, int]:
    """The queues that a worker serves: those of the service and of its tasks, or those that its setup names.

    Args:
        tasks: the service's.
        queue_of: the queue of a task that names none.
        queues: the service's weights.
        setup: the worker's.
    """
    weights = dict(queues)
    for task in tasks:
        queue = task.task_options.queue or queue_of(task.name)
        weights.setdefault(queue, DEFAULT_WEIGHTS.get(queue, 1))
    if setup.queues is None:
        return weights
    for queue in setup.queues.keys() - weights.keys():
        logger.warning("no task of the service names the queue %r, which this worker is to serve", queue)
    return dict(setup.queues)


def with_hooks(settings: Mapping[str, Any], hooks: JobHooks) -> dict[str, Any]:
    """arq's settings with the service's startup hooks after their own, and its shutdown hooks before their own."""
    startup, shutdown = settings.get("on_startup"), settings.get("on_shutdown")
    begun = False

    async def on_startup(ctx: dict[Any, Any]) -> None:
        nonlocal begun
        if startup is not None:
            await startup(ctx)
        begun = True
        await hooks.starting()

    async def on_shutdown(ctx: dict[Any, Any]) -> None:
        nonlocal begun
        if begun:  # a worker may be closed that never began
            begun = False
            await hooks.stopping()
        if shutdown is not None:
            await shutdown(ctx)

    return {**settings, "on_startup": on_startup, "on_shutdown": on_shutdown}


async def run_to_end(worker: ArqWorker, supervised: Supervised | None = None) -> int:
    """Run a worker until it is stopped, and close it; how many jobs outlived their cancellation."""
    if supervised is not None:
        supervised.watch(lambda: worker.jobs_complete + worker.jobs_failed + worker.jobs_retried)
    try:
        await worker.async_run()
    except asyncio.CancelledError:
        # A signal during the start, or a second one, cancels the worker's main task, not this one.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    finally:
        await worker.close()
    return worker.outliving
