"""The operations pages of one process on a port of its own: of a worker, or of one of several web processes.

Several processes that share a port answer a scrape by turns, each with its own counts. So each has one of its own:
`PROMETHEUS_PORT` and its index, or the next that is free; `aioinfra.web.scrape_targets` keeps the list of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from aioinfra.codec.bounds import check_whole
from aioinfra.errors import ConfigError
from aioinfra.jobs.uncancelled import uncancelled
from aioinfra.metrics.system import SystemMetrics
from aioinfra.service import Service
from aioinfra.web.routes import service_routes
from aioinfra.web.scrape_targets import ScrapeTarget

TARGETS_NAME: Final = "metrics-targets.json"
"""The list's name in the directory AIOINFRA_STATE_DIR."""
_SHUTDOWN_TIMEOUT: Final = 2
_ATTEMPTS: Final = 1_000
_HIGHEST: Final = 65_535
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound

logger = logging.getLogger("aioinfra.web")


@dataclass(frozen=True, slots=True)
class OperationsOptions:
    """Where a process serves its operations pages.

    Attributes:
        port: the first process' port; None: PROMETHEUS_PORT; 0: any.
        index: of this process among several; added to the port. One that is taken is left out for the next.
        host: address to listen on.
        targets: path of the list that Prometheus reads; None: ``metrics-targets.json`` in AIOINFRA_STATE_DIR.
        role: label of everything scraped here, such as worker or web.
    """

    port: int | None = None
    index: int = 0
    host: str = "127.0.0.1"
    targets: Path | None = None
    role: str = "worker"

    def __post_init__(self) -> None:
        if self.port is not None:
            check_whole("port", self.port, 0, _HIGHEST)
        check_whole("index", self.index, 0, _HIGHEST)


DEFAULT_OPERATIONS: Final = OperationsOptions()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process belongs to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def operations_server(
    service: Service, options: OperationsOptions = DEFAULT_OPERATIONS
) -> AsyncIterator[int]:
    """Serve ``/metrics``, with the system group, and ``/health`` while the block runs; yields the port.

    The service must be open. A list that cannot be written is a warning: the pages are there without it.

    Raises:
        ConfigError: the host is not this machine's, or no port is free.
        LifecycleError: the service is not open.
    """
    settings = service.settings
    first = settings.prometheus_port if options.port is None else options.port
    listener = listen(options.host, first and first + options.index)
    port: int = listener.getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        await stack.enter_async_context(_serving(service, listener))
        stack.callback(SystemMetrics(service.metrics).close)
        path = options.targets or settings.aioinfra_state_dir / TARGETS_NAME
        labels = {"service": settings.service_name, "role": options.role}
        await stack.enter_async_context(
            _listed(service, ScrapeTarget(path, _address(options.host, port), labels))
        )
        logger.info("metrics are on port %d", port)
        yield port


@contextlib.asynccontextmanager
async def _serving(service: Service, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        Starlette(routes=service_routes(service)),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="aioinfra-operations-server")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.shield(asyncio.wait([task], timeout=2 * _SHUTDOWN_TIMEOUT))
        task.cancel()


@contextlib.asynccontextmanager
async def _listed(service: Service, target: ScrapeTarget) -> AsyncIterator[None]:
    """Every scrape takes dead processes off the list: as often as Prometheus would ask them."""
    try:
        await uncancelled(asyncio.create_task(asyncio.to_thread(target.enter)))
        service.metrics.before_scrape(target.refresh, blocking=True)
        yield
    finally:
        service.metrics.forget(target.refresh)
        await uncancelled(asyncio.create_task(asyncio.to_thread(target.leave)))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on the first free port from ``port`` on; 0: on any.

    Raises:
        ConfigError: the host is not this machine's, or no port is free.
    """
    for candidate in range(port, min(port + _ATTEMPTS, _HIGHEST + 1)):
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, candidate))
            listener.listen()  # two may be bound to one port; one may listen
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"port {candidate} of {host} cannot be used: {error.strerror}") from None
        except BaseException:
            listener.close()
            raise
        else:
            return listener
    raise ConfigError(f"no port of {host} is free from {port} on")


def _address(host: str, port: int) -> str:
    """Where others find this process: one that listens everywhere goes by the machine's name."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
