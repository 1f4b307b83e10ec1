"""The operations pages of a service: ``/metrics``, ``/health/live``, ``/health/ready``.

Live means that the event loop answers. Ready means that the service can do its work: 200 also while it is degraded
(the cache's server is gone, memory answers), 503 when jobs cannot be stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aioinfra.metrics.exposition import answer
from aioinfra.metrics.registry import MetricsRegistry
from aioinfra.service import Service
from aioinfra.web.middleware import App, Receive, Scope, Send

_HEALTH_TIMEOUT = 5.0

logger = logging.getLogger("aioinfra.web")


def metrics_route(registry: MetricsRegistry, path: str = "/metrics") -> Route:
    """The page that Prometheus scrapes, in the format that it asks for: OpenMetrics has the exemplars.

    Rendered in chunks between which the loop goes on.
    """

    async def metrics(request: Request) -> Response:
        page, content_type = await answer(registry, request.headers.get("accept"))
        return Response(page, media_type=content_type)

    return Route(path, metrics)


def health_routes(check: Callable[[], Awaitable[Mapping[str, Any]]], prefix: str = "/health") -> list[Route]:
    """``live`` and ``ready`` below ``prefix``.

    Args:
        check: answers a mapping whose ``status`` is ok, degraded or down; given 5 seconds.
        prefix: path that both stand below.
    """

    async def live(_: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(_: Request) -> Response:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                health = await check()
        except TimeoutError:
            health = {"status": "down", "error": f"no answer within {_HEALTH_TIMEOUT:g} s"}
        except Exception as error:
            logger.exception("the health check failed")
            health = {"status": "down", "error": type(error).__name__}  # its text may hold credentials
        return _json(health, 503 if health["status"] == "down" else 200)

    return [Route(f"{prefix}/live", live), Route(f"{prefix}/ready", ready)]


def service_routes(service: Service) -> list[BaseRoute]:
    """All operations pages of a service, to put beside an application's own routes."""

    async def check() -> Mapping[str, Any]:
        return await service.health() if service.is_open else {"status": "down", "error": "not open"}

    return [metrics_route(service.metrics), *health_routes(check)]


def operations_app(service: Service) -> App:
    """All operations pages as one ASGI application, to mount where an application's routes are not Starlette's."""
    pages = Starlette(routes=service_routes(service))

    async def operations(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            tidy = (
                f"/{scope['path'].strip('/')}"  # Litestar gives "/metrics/" to what it mounts, or "metrics/"
            )
            if tidy != scope["path"]:
                scope = {**scope, "path": tidy}
        await pages(scope, receive, send)

    return operations


def service_lifespan(service: Service) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan that holds the service open while the application runs."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with service:
            yield

    return lifespan


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
