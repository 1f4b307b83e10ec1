"""``aioinfra worker``: run a service's tasks, or an arq application's settings, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from aioinfra.jobs.supervised import Supervised
    from aioinfra.service import Service, WorkerSetup


def worker(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="package.module:service, or an arq settings class: package.module.WorkerSettings"
        ),
    ],
    queues: Annotated[
        str | None,
        typer.Option(help="Serve only these: names with commas, a weight after '=': email=3,reports=5"),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(help="The most jobs of a queue that run here at once: reports=2,email=20"),
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Serve a queue only while all of a higher weight are empty.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs that run at once (service targets).")] = 100,
    lease: Annotated[
        float, typer.Option(min=0.5, help="Seconds after which a killed worker's jobs run elsewhere.")
    ] = 15.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running jobs get on SIGTERM.")] = 15.0,
    burst: Annotated[bool, typer.Option(help="Stop when the queues are empty.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Serve /metrics on this port, or the next free one; by default on PROMETHEUS_PORT if that is set.",
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address that /metrics is served on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    metrics_targets: Annotated[
        Path | None,
        typer.Option(help="The list of all processes' pages, for Prometheus' file_sd_configs."),
    ] = None,
    process_slots: Annotated[
        int | None,
        typer.Option(min=1, help='Processes for tasks with run_in="process"; all CPUs by default.'),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Run so many workers under a supervisor that replaces them.")
    ] = None,
    max_jobs_per_child: Annotated[
        int | None, typer.Option(min=1, help="Replace a worker after so many jobs (with a supervisor).")
    ] = None,
    max_rss: Annotated[
        int | None,
        typer.Option(min=1, help="Replace a worker above so many MiB of memory (with a supervisor)."),
    ] = None,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C: claims stop, running jobs get their grace, the rest is given back."""
    from aioinfra.errors import AioinfraError, InvalidArgument

    try:
        if processes is not None or max_jobs_per_child is not None or max_rss is not None:
            from aioinfra.cli.supervise import supervise

            raise typer.Exit(supervise(context.params))
        from aioinfra.cli.target import load_target
        from aioinfra.jobs.supervised import Supervised
        from aioinfra.service import Service, WorkerSetup

        found, supervised = load_target(target), Supervised.from_environment()
        if isinstance(found, Service):
            setup = WorkerSetup(
                queues=_numbers("--queues", queues, default=1),
                concurrency=concurrency,
                lease=lease,
                grace=grace,
                burst=burst,
                process_slots=process_slots,
                supervised=supervised,
                limits=_numbers("--limits", limits) or {},
                strict=strict,
            )
            asyncio.run(_run_service(found, setup, _Pages(metrics_port, metrics_host, metrics_targets)))
        else:
            if queues is not None or limits is not None or strict or metrics_port is not None:
                raise InvalidArgument(
                    "--queues, --limits, --strict, --metrics-port",
                    "are for services; arq settings name one queue",
                )
            asyncio.run(_run_arq(found, supervised, lease=lease, burst=burst))
    except AioinfraError as error:
        typer.echo(f"aioinfra worker: {error}", err=True)
        raise typer.Exit(2) from None


class _Pages(NamedTuple):
    """Where the worker's operations pages are."""

    port: int | None
    host: str
    targets: Path | None


async def _run_service(service: Service, setup: WorkerSetup, pages: _Pages) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(service)
        await _serve(pages, service, setup, stack)
        abandoned = await service.run_worker(setup)
    if abandoned:
        _leave()


async def _serve(pages: _Pages, service: Service, setup: WorkerSetup, stack: AsyncExitStack) -> None:
    """Serve the operations pages, if the command or the environment names their port."""
    settings = service.settings
    told = settings.prometheus_enabled and "prometheus_port" in settings.model_fields_set
    if pages.port is None and not told:
        return
    try:
        from aioinfra.web.operations_server import OperationsOptions, operations_server
    except ModuleNotFoundError as error:
        if pages.port is not None:
            raise
        logging.getLogger("aioinfra.cli").warning("no /metrics on PROMETHEUS_PORT: %s", error)
        return
    index = 0 if setup.supervised is None else setup.supervised.index
    options = OperationsOptions(pages.port, index, pages.host, pages.targets)
    await stack.enter_async_context(operations_server(service, options))


def _leave() -> None:
    """End the process although jobs go on that were given back: the loop's own end would wait for them."""
    from aioinfra.logs.setup import current_logging

    logs = current_logging()
    if logs is not None:
        logs.flush()
    os._exit(0)


async def _run_arq(settings: Any, supervised: Supervised | None, *, lease: float, burst: bool) -> None:
    from aioinfra.jobs.arq import EngineOptions, worker_from_settings
    from aioinfra.jobs.lease import LeaseOptions
    from aioinfra.logs.setup import current_logging, setup_logging

    overrides = {"burst": True} if burst else {}
    if current_logging() is None:
        setup_logging()
    logging.captureWarnings(True)  # the one about pickle is a line like others
    arq_worker = worker_from_settings(settings, engine=EngineOptions(lease=LeaseOptions(lease)), **overrides)
    if supervised is not None:
        supervised.watch(lambda: arq_worker.jobs_complete + arq_worker.jobs_failed + arq_worker.jobs_retried)
        supervised.ready()
    try:
        await arq_worker.async_run()
    except asyncio.CancelledError:
        # arq's way to stop: its signal handler cancels the main task.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    finally:
        await arq_worker.close()
    if arq_worker.tasks:
        _leave()


def _numbers(option: str, text: str | None, default: int | None = None) -> dict[str, int] | None:
    """``a=3,b`` as {a: 3, b: default}. Raises typer.BadParameter."""
    if text is None:
        return None
    numbers: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        number = number or str(default or "")
        if not name or not number.isascii() or not number.isdigit() or not 0 < int(number[:10]) < 10**9:
            reason = "must be names with commas, each with '=' and a whole number of at least 1"
            raise typer.BadParameter(reason, param_hint=option)
        numbers[name] = int(number)
    return numbers
