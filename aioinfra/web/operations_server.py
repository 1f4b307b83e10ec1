"""The operations pages of a process that serves nothing else: a worker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette

from aioinfra.errors import ConfigError
from aioinfra.service import Service
from aioinfra.web.routes import service_routes

_SHUTDOWN_TIMEOUT = 2


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process belongs to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def operations_server(service: Service, port: int, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve ``/metrics`` and ``/health`` while the block runs; yields the port, also when 0 was asked for.

    Raises:
        ConfigError: the port is taken.
    """
    listener = _listen(host, port)
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
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.shield(asyncio.wait([task], timeout=2 * _SHUTDOWN_TIMEOUT))
        task.cancel()
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} of {host} cannot be used: {error.strerror}") from None
    return listener
